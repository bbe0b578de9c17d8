// One token: its dose by layer, and what else could have been said, with the cartridges and without.

import { byId, h, percent, shown, visible } from "./dom.js";
import { barPlot } from "./plot.js";
import { nameOf } from "./state.js";

let shownNow = null;

/** Opens the inspector on a token of an answer. */
export function openInspector(answer, index) {
  const panel = byId("inspector");
  const wasOpen = !panel.hidden;
  if (!wasOpen) returnTo = document.activeElement;
  shownNow = { answer, index };
  mark(answer, index);
  const token = answer.tokens[index];
  const here = answer.scores[index];
  const steered = answer.cartridges.length > 0;
  const doses = Object.entries(token.layers);
  const base = h("div", { class: "alternatives" }, h("h3", {}, "base"), h("p", { class: "quiet" }, "…"));
  panel.replaceChildren(
    h(
      "div",
      { class: "row" },
      h("h2", { id: "inspector-title" }, "Token ", h("code", { dir: "auto" }, visible(token.token))),
      h("button", { type: "button", class: "close", "aria-label": "Close", onclick: closeInspector }, "×"),
    ),
    h(
      "div",
      { class: "row" },
      step("Previous", answer, index - 1),
      step("Next", answer, index + 1),
      h("span", { class: "quiet" }, `${index + 1} of ${answer.tokens.length}, id ${token.id}`),
    ),
    h("p", {}, `Dose ${shown(token.dose)} of ${nameOf(answer.cartridges)}`),
    doses.length
      ? barPlot({ title: "dose by layer", pairs: doses })
      : h("p", { class: "quiet" }, "Nothing acted on the row that it was chosen from."),
    h(
      "div",
      { class: "pair" },
      steered ? alternatives(nameOf(answer.cartridges), here, token) : null,
      base,
    ),
  );
  panel.hidden = false;
  if (!wasOpen) panel.focus();
  fillBase(base, answer, index, steered ? null : here);
}

let returnTo = null;

/** Closes it; the focus goes back to where it was. */
export function closeInspector() {
  if (shownNow === null) return;
  byId("inspector").hidden = true;
  shownNow = null;
  unmark();
  returnTo?.focus();
}

function step(name, answer, index) {
  const there = index >= 0 && index < answer.tokens.length;
  const open = () => {
    openInspector(answer, index);
    byId("inspector").querySelector(`[data-step="${name}"]`).focus();
  };
  return h("button", { type: "button", "data-step": name, disabled: !there, onclick: open }, name);
}

async function fillBase(element, answer, index, known) {
  const token = answer.tokens[index];
  try {
    const score = known ?? (await answer.baseScore(index));
    if (shownNow?.answer !== answer || shownNow.index !== index) return;
    element.replaceWith(alternatives("base", score, token));
  } catch (error) {
    element.replaceChildren(h("p", { class: "error" }, error.message));
  }
}

function alternatives(name, score, token) {
  const probability = Math.exp(score?.logprob ?? NaN);
  const own = `said with ${Number.isFinite(probability) ? percent(probability) : "–"}`;
  return h(
    "table",
    { class: "alternatives" },
    h("caption", {}, h("strong", {}, name), h("br"), own),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "token"), h("th", { scope: "col" }, "probability"))),
    h(
      "tbody",
      {},
      (score?.top ?? []).map((one) =>
        h(
          "tr",
          { class: one.token === token.token ? "own" : null },
          h("td", {}, h("code", { dir: "auto" }, visible(one.token))),
          h("td", { class: "number", vars: { "--share": Math.exp(one.logprob) } }, percent(Math.exp(one.logprob))),
        ),
      ),
    ),
  );
}

function mark(answer, index) {
  unmark();
  const spans = answer.element?.querySelectorAll("[data-index]") ?? [];
  let found = null;
  for (const span of spans) if (Number(span.dataset.index) <= index) found = span;
  found?.classList.add("open");
  found?.scrollIntoView({ block: "nearest" });
}

function unmark() {
  for (const span of document.querySelectorAll(".text .open")) span.classList.remove("open");
}

addEventListener("keydown", (event) => {
  if (event.key === "Escape" && shownNow && !document.querySelector("dialog[open]")) closeInspector();
});

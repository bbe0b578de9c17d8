// The cartridges: what is known of each, and adding and removing them.

import { call, upload } from "./api.js";
import { addColumn } from "./columns.js";
import { byId, h, say, shown } from "./dom.js";
import { evaluated } from "./evaluation.js";
import { barPlot } from "./plot.js";
import { placed, world } from "./state.js";

const MOST_TEXTS = 8;
const then = { changed: async () => {}, open: () => {} };

/** Listens to the form and to files that are dropped; `changed` is called when there is another. */
export function bindCards(changed, open) {
  const form = byId("upload");
  const section = byId("cartridges");
  then.changed = changed;
  then.open = open;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    addAll([...byId("upload-file").files]);
  });
  section.addEventListener("dragover", (event) => {
    event.preventDefault();
    form.classList.add("over");
  });
  section.addEventListener("dragleave", () => form.classList.remove("over"));
  section.addEventListener("drop", (event) => {
    event.preventDefault();
    form.classList.remove("over");
    if (event.dataTransfer.files.length) addAll([...event.dataTransfer.files]);
  });
}

/** Adds files one after the other; the id that is written is for one alone. */
async function addAll(files) {
  const id = files.length === 1 ? byId("upload-id").value.trim() : "";
  const query = id ? `?id=${encodeURIComponent(id)}` : "";
  const added = [];
  const faults = [];
  for (const file of files) {
    say(`Uploading ${file.name} …`);
    try {
      added.push((await upload(`v1/cartridges${query}`, file)).id);
    } catch (error) {
      faults.push(`${file.name}: ${error.message}`);
    }
  }
  try {
    if (added.length) await then.changed();
  } catch (error) {
    faults.push(error.message);
  }
  if (!faults.length) byId("upload").reset();
  const told = added.length ? [`${added.join(", ")} ${added.length === 1 ? "is" : "are"} there.`] : [];
  say([...faults, ...told].join(" "), faults.length > 0);
}

async function remove(cartridge) {
  if (!confirm(`Remove ${cartridge.id}? Its file stays in the server's folder.`)) return;
  try {
    await call(`v1/cartridges/${encodeURIComponent(cartridge.id)}`, undefined, { method: "DELETE" });
    await then.changed();
    say(`${cartridge.id} is removed.`);
  } catch (error) {
    say(error.message, true);
  }
}

/** Draws a card for each cartridge, and says which files were left out. */
export function drawCards() {
  const cards = world.cartridges.map(card);
  const none = h("p", {}, "The server has no cartridge yet. Train one with llamacart train, and add it here.");
  const left = world.leftOut.map((one) => h("p", { class: "error" }, `${one.file} was left out: ${one.reason}`));
  byId("cards").replaceChildren(...(cards.length ? cards : [none]), ...left);
}

function card(cartridge) {
  const use = () => {
    if (addColumn([placed(cartridge)])) then.open();
    else say("There are four columns already. Remove one first.", true);
  };
  const kind = cartridge.made_for.name || cartridge.made_for.architecture;
  return h(
    "article",
    { class: "card", "aria-label": cartridge.id },
    h("h2", {}, cartridge.id),
    h("p", { dir: "auto" }, cartridge.description || "Without a description."),
    h(
      "dl",
      {},
      fact("own α", shown(cartridge.default_alpha)),
      fact("made for", `${kind}, weights ${cartridge.made_for.weights_hash.slice(0, 12)}`),
      ...otherWeights(cartridge.made_for),
      fact("acts on", `${cartridge.active_neurons} neurons in ${cartridge.layers.length} layers`),
      ...(cartridge.when.length ? [fact("waits for", waitsFor(cartridge.when))] : []),
      fact("size", `${shown(cartridge.size_bytes / 1e6)} MB`),
      fact("fit", [cartridge.solver, ...counts(cartridge.diagnostics)].filter(Boolean).join(", ") || "–"),
      fact("made", [cartridge.created.slice(0, 10), cartridge.tool_version].filter(Boolean).join(", ") || "–"),
    ),
    ...[fitted, evaluated, tuned].map((part) => safely(part, cartridge.diagnostics)),
    h(
      "div",
      { class: "row" },
      h("button", { type: "button", class: "primary", onclick: use }, "Use in a new column"),
      h("button", { type: "button", onclick: () => remove(cartridge) }, "Remove"),
    ),
  );
}

function fact(name, value) {
  return h("div", {}, h("dt", {}, name), h("dd", {}, value));
}

/** How much the fit was made from. */
function counts(diagnostics) {
  const names = ["pairs", "answers", "facts", "neutral texts"];
  return names.filter((name) => diagnostics[name] > 0).map((name) => `${diagnostics[name]} ${name}`);
}

/** What the model is, where it is not the one that a cartridge was made for. */
function otherWeights({ weights_hash: own }) {
  if (!world.weightsHash || own === world.weightsHash) return [];
  return [fact("the model", h("span", { class: "error" }, `has other weights: ${world.weightsHash.slice(0, 12)}`))];
}

/** The texts from which on a cartridge acts. */
function waitsFor(texts) {
  const rest = texts.length - MOST_TEXTS;
  return `${texts.slice(0, MOST_TEXTS).join(", ")}${rest > 0 ? ` and ${rest} more` : ""}`;
}

/** A part of a card. Anything may stand in a file's figures, and one card must not take all away. */
function safely(part, diagnostics) {
  try {
    return part(diagnostics);
  } catch {
    return h("p", { class: "quiet" }, "Some figures in the file have a form that this page does not know.");
  }
}

function fitted({ layers = [] }) {
  const pairs = layers.filter((one) => Number.isFinite(one.r2) && Number.isFinite(one.layer)).map((one) => [one.layer, one.r2]);
  return pairs.length ? barPlot({ title: "how well the fit explains (R²)", pairs }) : null;
}

/** What `llamacart tune` left in the file. */
function tuned({ tune }) {
  if (!tune) return null;
  const rows = [
    ["test", tune.test],
    ["chosen", tune.chosen],
    ...(tune.runners_up ?? []).map((one) => ["behind it", one]),
  ].filter(([, one]) => one);
  const known = ["settings", "prompts", "shortfall", "cost"];
  const figures = [...new Set(rows.flatMap(([, one]) => Object.keys(one)))].filter((name) => !known.includes(name));
  const settings = (one) => Object.entries(one.settings ?? {}).map(([name, value]) => `${name} ${show(value)}`);
  return h(
    "details",
    {},
    h("summary", {}, `Search: ${tune.trials} trials, ${tune.objective}`),
    h(
      "div",
      { class: "scroll", tabindex: 0, role: "region", "aria-label": "Results of the search" },
      h(
        "table",
        {},
        h("thead", {}, h("tr", {}, ["", "shortfall", "cost", ...figures, "settings"].map((name) => h("th", { scope: "col" }, name)))),
        h(
          "tbody",
          {},
          rows.map(([name, one]) =>
            h(
              "tr",
              {},
              h("th", { scope: "row" }, name),
              ["shortfall", "cost", ...figures].map((key) => h("td", { class: "number" }, show(one[key]))),
              h("td", {}, settings(one).join(", ")),
            ),
          ),
        ),
      ),
    ),
  );
}

function show(value) {
  if (typeof value === "number") return shown(value);
  return value === undefined || value === null ? "–" : String(value);
}

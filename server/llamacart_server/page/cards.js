// The cartridges: what is known of each, and adding and removing them.

import { call, upload } from "./api.js";
import { addColumn } from "./columns.js";
import { byId, h, say, shown } from "./dom.js";
import { barPlot } from "./plot.js";
import { placed, world } from "./state.js";

/** Listens to the form and to files that are dropped; `changed` is called when there is another. */
export function bindCards(changed, open) {
  const form = byId("upload");
  const section = byId("cartridges");
  drawCards.changed = changed;
  drawCards.open = open;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    add(byId("upload-file").files[0]);
  });
  section.addEventListener("dragover", (event) => {
    event.preventDefault();
    form.classList.add("over");
  });
  section.addEventListener("dragleave", () => form.classList.remove("over"));
  section.addEventListener("drop", (event) => {
    event.preventDefault();
    form.classList.remove("over");
    if (event.dataTransfer.files.length) add(event.dataTransfer.files[0]);
  });
}

async function add(file) {
  const id = byId("upload-id").value.trim();
  say(`Uploading ${file.name} …`);
  try {
    const query = id ? `?id=${encodeURIComponent(id)}` : "";
    const made = await upload(`v1/cartridges${query}`, file);
    byId("upload").reset();
    await drawCards.changed();
    say(`${made.id} is there.`);
  } catch (error) {
    say(`${file.name}: ${error.message}`, true);
  }
}

async function remove(cartridge) {
  if (!confirm(`Remove ${cartridge.id}? Its file stays in the server's folder.`)) return;
  try {
    await call(`v1/cartridges/${encodeURIComponent(cartridge.id)}`, undefined, { method: "DELETE" });
    await drawCards.changed();
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
    if (addColumn([placed(cartridge)])) drawCards.open();
    else say("There are four columns already. Remove one first.", true);
  };
  const layers = (cartridge.diagnostics.layers ?? []).filter((layer) => Number.isFinite(layer.r2));
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
      fact("acts on", `${cartridge.active_neurons} neurons in ${cartridge.layers.length} layers`),
      fact("size", `${shown(cartridge.size_bytes / 1e6)} MB`),
      fact("fit", [cartridge.solver, ...counts(cartridge.diagnostics)].filter(Boolean).join(", ") || "–"),
      fact("made", [cartridge.created.slice(0, 10), cartridge.tool_version].filter(Boolean).join(", ") || "–"),
    ),
    layers.length ? barPlot({ title: "how well the fit explains (R²)", pairs: layers.map((one) => [one.layer, one.r2]) }) : null,
    cartridge.diagnostics.tune ? tuned(cartridge.diagnostics.tune) : null,
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
  return names.filter((name) => diagnostics[name]).map((name) => `${diagnostics[name]} ${name}`);
}

/** What `llamacart tune` left in the file. */
function tuned(tune) {
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

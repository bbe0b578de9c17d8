// The columns: which cartridges act in each, how strongly and where.

import { byId, h } from "./dom.js";
import { MOST_COLUMNS, PLACES, cartridgeOf, nameOf, newColumn, placed, state, world } from "./state.js";

/** Draws the heads of all columns. */
export function drawColumns() {
  const box = byId("columns");
  box.style.setProperty("--columns", state.columns.length);
  box.replaceChildren(...state.columns.map(head));
  byId("turns").style.setProperty("--columns", state.columns.length);
  byId("add-column").hidden = state.columns.length >= MOST_COLUMNS;
}

/** Adds a column, or gives false where there is no room. */
export function addColumn(cartridges) {
  if (state.columns.length >= MOST_COLUMNS) return false;
  state.columns.push(newColumn(cartridges));
  drawColumns();
  return true;
}

function head(column, index) {
  const title = h("h2", {}, nameOf(column.cartridges));
  const changed = () => {
    title.textContent = nameOf(column.cartridges);
  };
  const others = world.cartridges.filter((one) => !column.cartridges.some(({ id }) => id === one.id));
  return h(
    "section",
    { class: "head", "aria-label": `Column ${index + 1}`, "data-column": index },
    h(
      "div",
      { class: "row" },
      title,
      state.columns.length > 1 &&
        h("button", {
          type: "button", class: "close", "aria-label": `Remove column ${index + 1}`,
          onclick: () => {
            state.columns.splice(index, 1);
            drawColumns();
          },
        }, "×"),
    ),
    column.cartridges.map((one) => dial(column, one, changed)),
    others.length > 0 && adder(column, others, index),
  );
}

function adder(column, others, index) {
  const add = (event) => {
    column.cartridges.push(placed(cartridgeOf(event.target.value)));
    drawColumns();
  };
  return h(
    "select",
    { "aria-label": `Add a cartridge to column ${index + 1}`, onchange: add },
    h("option", { value: "" }, "Add a cartridge…"),
    others.map((one) => h("option", { value: one.id }, one.id)),
  );
}

function dial(column, one, changed) {
  const own = cartridgeOf(one.id);
  const reach = Math.max(2, Math.ceil(own.default_alpha * 2));
  const slider = h("input", {
    type: "range", min: -1, max: reach, step: 0.05, value: one.alpha, "aria-label": `α of ${one.id}`,
  });
  const exact = h("input", {
    type: "number", min: -10, max: 10, step: "any", value: one.alpha,
    "aria-label": `α of ${one.id} as a number`,
  });
  const take = (from, to) => () => {
    if (!from.validity.valid || from.value === "") return;
    one.alpha = Number(from.value);
    to.value = from.value;
    changed();
  };
  slider.addEventListener("input", take(slider, exact));
  exact.addEventListener("input", take(exact, slider));
  const place = h(
    "select",
    {
      "aria-label": `Where ${one.id} acts`,
      onchange: (event) => {
        one.apply_to = event.target.value;
        changed();
      },
    },
    PLACES.map((name) => h("option", { value: name, selected: name === one.apply_to }, name)),
  );
  const remove = () => {
    column.cartridges.splice(column.cartridges.indexOf(one), 1);
    drawColumns();
  };
  return h(
    "div",
    { class: "dial" },
    h("span", { class: "name", title: own.description }, one.id),
    h("button", { type: "button", class: "close", "aria-label": `Remove ${one.id}`, onclick: remove }, "×"),
    slider,
    exact,
    place,
  );
}

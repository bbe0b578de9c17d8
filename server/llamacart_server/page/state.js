// What the user has set up, and its form in the page's address.

export const MOST_COLUMNS = 4;
export const PLACES = ["all", "prompt", "generated"];
export const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "max_tokens", "seed"];
const TABS = ["chat", "complete", "sweep", "cartridges", "make"];

/**
 * What the server offers; filled once it has been asked.
 *
 * @type {{ base: string, hasTemplate: boolean, trains: boolean, weightsHash: string,
 *   cartridges: import("./schema").CartridgeInfo[], leftOut: import("./schema").LeftOutFile[] }}
 */
export const world = { base: "", hasTemplate: true, cartridges: [], leftOut: [], trains: false, weightsHash: "" };

/** What the user has set up. */
export const state = {
  tab: "chat",
  system: "",
  sampling: {
    temperature: 0.7, top_p: null, top_k: null, min_p: null, max_tokens: 128, seed: null, stop: "",
  },
  measure: true,
  draft: "",
  columns: [],
  sweep: { prompt: "", kind: "chat", cartridge: "", from: 0, to: 1.5, steps: 7, target: "" },
};

let lastColumn = 0;

/** A new column with these cartridges. */
export function newColumn(cartridges = []) {
  lastColumn += 1;
  return { id: lastColumn, cartridges };
}

/** A cartridge as a column holds it, at its own α. */
export function placed(cartridge) {
  return { id: cartridge.id, alpha: cartridge.default_alpha, apply_to: "all" };
}

/** The cartridge with an id, or undefined. */
export function cartridgeOf(id) {
  return world.cartridges.find((cartridge) => cartridge.id === id);
}

/** What acts in a column, for people. */
export function nameOf(cartridges) {
  if (!cartridges.length) return "base";
  const part = (one) =>
    `${one.id} ${Number(one.alpha.toFixed(3))}${one.apply_to === "all" ? "" : ` (${one.apply_to})`}`;
  return cartridges.map(part).join(" + ");
}

/** The state as a fragment of an address. */
export function toFragment() {
  const bytes = new TextEncoder().encode(JSON.stringify({ ...state, v: 1 }));
  let binary = "";
  for (const byte of bytes) binary += String.fromCharCode(byte);
  return `#s=${btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "")}`;
}

/** Takes over the state of a fragment, as far as it makes sense; false where there is none. */
export function fromFragment(fragment) {
  if (!fragment.startsWith("#s=")) return false;
  let given;
  try {
    const binary = atob(fragment.slice(3).replaceAll("-", "+").replaceAll("_", "/"));
    const bytes = Uint8Array.from(binary, (char) => char.charCodeAt(0));
    given = JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    return false;
  }
  if (given === null || typeof given !== "object") return false;
  if (TABS.includes(given.tab)) state.tab = given.tab;
  for (const name of ["system", "draft"]) state[name] = text(given[name], state[name]);
  if (typeof given.measure === "boolean") state.measure = given.measure;
  const sampling = given.sampling ?? {};
  for (const name of NUMBERS) {
    state.sampling[name] = sampling[name] === null ? null : number(sampling[name], state.sampling[name]);
  }
  state.sampling.stop = text(sampling.stop, "");
  const sweep = given.sweep ?? {};
  for (const name of ["prompt", "cartridge", "target"]) state.sweep[name] = text(sweep[name], "");
  for (const name of ["from", "to", "steps"]) {
    state.sweep[name] = number(sweep[name], state.sweep[name]);
  }
  if (["chat", "complete"].includes(sweep.kind)) state.sweep.kind = sweep.kind;
  if (Array.isArray(given.columns)) {
    const columns = given.columns.slice(0, MOST_COLUMNS).map(column);
    if (columns.length) state.columns = columns;
  }
  return true;
}

function column(given) {
  const items = Array.isArray(given?.cartridges) ? given.cartridges : [];
  const first = (item, i) => items.findIndex((one) => one?.id === item.id) === i;
  const known = items.filter((item, i) => cartridgeOf(item?.id) && first(item, i));
  return newColumn(
    known.map((item) => ({
      id: item.id,
      alpha: number(item.alpha, cartridgeOf(item.id).default_alpha),
      apply_to: PLACES.includes(item.apply_to) ? item.apply_to : "all",
    })),
  );
}

function text(value, otherwise) {
  return typeof value === "string" ? value : otherwise;
}

function number(value, otherwise) {
  return typeof value === "number" && Number.isFinite(value) ? value : otherwise;
}

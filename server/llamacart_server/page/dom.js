// Elements from plain values. Text is only ever set as text; the page's policy forbids HTML.

const SVG = "http://www.w3.org/2000/svg";

/**
 * An element. Functions named `on…` listen; `vars` sets CSS variables; null and false are left out.
 *
 * @param {string} tag
 * @param {Record<string, any>} props
 * @param {any[]} children
 * @returns {any}
 */
export function h(tag, props = {}, ...children) {
  return build(document.createElement(tag), props, children);
}

/**
 * An SVG element.
 *
 * @param {string} tag
 * @param {Record<string, any>} props
 * @param {any[]} children
 * @returns {any}
 */
export function svg(tag, props = {}, ...children) {
  return build(document.createElementNS(SVG, tag), props, children);
}

function build(element, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "vars") setVars(element, value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Sets CSS variables of an element. */
export function setVars(element, vars) {
  for (const [name, value] of Object.entries(vars)) element.style.setProperty(name, String(value));
}

/**
 * The element with an id, which is there.
 *
 * @param {string} id
 * @returns {any}
 */
export function byId(id) {
  return document.getElementById(id);
}

/** Tells everybody, screen readers too, what happened. */
export function say(text, isError = false) {
  const status = byId("status");
  status.textContent = text;
  status.classList.toggle("error", isError);
}

/** A number for people: three significant digits. */
export function shown(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  return String(Number(value.toPrecision(3)));
}

/** A share of 1 for people. */
export function percent(value) {
  return value < 0.0005 ? "<0.1 %" : `${(value * 100).toFixed(1)} %`;
}

/** A token's text with its blanks made visible. */
export function visible(text) {
  return text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll(" ", "␣") || "∅";
}

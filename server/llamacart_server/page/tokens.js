// A text whose tokens are tinted by their dose.

import { byId, h, setVars, shown } from "./dom.js";
import { openInspector } from "./inspector.js";

let greatest = 0;

/** Shows an answer's text; `paint` takes over what has come since. */
export class TokenText {
  constructor(answer) {
    this.answer = answer;
    this.groups = 0;
    this.element = h("div", { class: "text", dir: "auto", onclick: (event) => this.#open(event) });
  }

  paint() {
    const { tokens, characters } = this.answer;
    if (!tokens.length) {
      // What is there stays: a long answer would be written anew for each of its tokens.
      this.element.append(characters.slice(this.written ?? 0).join(""));
      this.written = characters.length;
      return;
    }
    if (this.written) {
      this.element.replaceChildren();
      this.written = 0;
    }
    // The last one may have been cut where the text was: it is painted again.
    if (this.groups) {
      this.groups -= 1;
      this.element.lastChild.remove();
    }
    let first = this.first ?? 0;
    while (first < tokens.length) {
      const { start } = tokens[first];
      let next = first + 1;
      // Tokens that share a character begin at the same place.
      while (next < tokens.length && tokens[next].start === start) next += 1;
      const text = characters.slice(start, tokens[next]?.start).join("");
      this.element.append(this.#token(text, first, tokens.slice(first, next)));
      this.groups += 1;
      this.first = first;
      first = next;
    }
    noteGreatest(tokens.slice(this.noted ?? 0));
    this.noted = tokens.length;
  }

  #token(text, index, tokens) {
    const dose = tokens[tokens.length - 1].dose;
    if (dose === null) return h("span", { "data-index": index }, text);
    const title = `dose ${shown(dose)}`;
    return h("span", { class: "token", "data-index": index, title, vars: { "--dose": dose } }, text);
  }

  #open(event) {
    const index = event.target.dataset?.index;
    // A selection of text is meant to be copied.
    if (index !== undefined && getSelection().isCollapsed) openInspector(this.answer, Number(index));
  }
}

/** All tints are shares of the greatest dose that the page has seen. */
function noteGreatest(tokens) {
  for (const { dose } of tokens) greatest = Math.max(greatest, dose ?? 0);
  if (!greatest) return;
  setVars(document.documentElement, { "--greatest": greatest });
  byId("legend").hidden = false;
  byId("legend-max").textContent = shown(greatest);
}

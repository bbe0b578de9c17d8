// An answer's request in forms that work elsewhere.

import { byId, h, say } from "./dom.js";
import { forms } from "./requests.js";

/** Shows how to get an answer again without the page. */
export function openCopy(answer) {
  const dialog = byId("copy-dialog");
  dialog.replaceChildren(
    h("h2", { id: "copy-title" }, "Copy as"),
    ...forms(answer.kind, answer.body, answer.cartridges).map(([name, text]) =>
      h(
        "section",
        { "data-form": name },
        h(
          "div",
          { class: "row" },
          h("h3", {}, name),
          h("button", { type: "button", class: "small", onclick: () => copy(text), "aria-label": `Copy ${name}` }, "Copy"),
        ),
        h("pre", { tabindex: 0, role: "region", "aria-label": name }, text),
      ),
    ),
    h("button", { type: "button", onclick: () => dialog.close() }, "Close"),
  );
  dialog.showModal();
}

/** Puts a text into the clipboard, where the browser lets a page do that. */
export async function copy(text, done = "Copied.") {
  try {
    await navigator.clipboard.writeText(text);
    say(done);
    return true;
  } catch {
    say("This browser does not let the page copy here. Select the text and copy it.", true);
    return false;
  }
}

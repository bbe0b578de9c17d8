// Conversations and continued texts: one answer a column, side by side.

import { Answer } from "./answer.js";
import { openCopy } from "./copy.js";
import { byId, h, say, shown } from "./dom.js";
import { openInspector } from "./inspector.js";
import { chooseSeed, messagesOf } from "./requests.js";
import { nameOf, state } from "./state.js";
import { TokenText } from "./tokens.js";
import { addTurn, allOf, before, newRoot, pathOf, versionOf } from "./turns.js";

const ROOTS = { chat: newRoot(), complete: newRoot() };
const HINTS = { chat: "Enter sends, Shift+Enter begins a line.", complete: "Ctrl+Enter sends." };
const LABELS = { chat: "Message", complete: "Text to continue" };
let editing = null;

function kind() {
  return state.tab === "complete" ? "complete" : "chat";
}

function running() {
  const answers = Object.values(ROOTS).flatMap(allOf).flatMap((turn) => [...turn.answers.values()]);
  return answers.filter((answer) => answer.status === "running");
}

/** Listens to the composer. */
export function bindTalk() {
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  byId("prompt").addEventListener("keydown", (event) => {
    const sends = kind() === "chat" ? !event.shiftKey : event.ctrlKey || event.metaKey;
    if (event.key === "Enter" && sends && !event.isComposing) {
      event.preventDefault();
      send();
    }
  });
  byId("prompt").addEventListener("input", (event) => {
    state.draft = event.target.value;
  });
  byId("stop-all").addEventListener("click", () => running().forEach((answer) => answer.stop()));
  byId("cancel-edit").addEventListener("click", () => edit(null));
  byId("clear").addEventListener("click", () => {
    allOf(ROOTS[kind()]).forEach((turn) => turn.answers.forEach((answer) => answer.stop()));
    ROOTS[kind()] = newRoot();
    edit(null);
    drawTalk();
    byId("prompt").focus();
  });
}

/** Draws the turns of the kind that is open. */
export function drawTalk() {
  byId("prompt-label").textContent = LABELS[kind()];
  byId("hint").textContent = HINTS[kind()];
  byId("prompt").value = state.draft;
  byId("system").parentElement.hidden = kind() !== "chat";
  const turns = pathOf(ROOTS[kind()]);
  for (const turn of turns) drawVersions(turn);
  byId("turns").replaceChildren(...turns.map((turn) => turn.element));
  drawButtons();
}

function drawButtons() {
  const busy = running().length > 0;
  byId("send").disabled = busy;
  byId("stop-all").hidden = !busy;
  byId("cancel-edit").hidden = editing === null;
  byId("send").textContent = editing === null ? "Send" : "Send instead";
}

function edit(turn) {
  editing = turn;
  state.draft = turn === null ? "" : turn.said;
  byId("prompt").value = state.draft;
  drawButtons();
  if (turn !== null) byId("prompt").focus();
}

function send() {
  const said = byId("prompt").value;
  if (!said.trim() || running().length) return;
  const path = pathOf(ROOTS[kind()]);
  // What was there stays as another version, and what followed it follows that one.
  const instead = editing?.kind === "chat" && kind() === "chat";
  const parent = instead ? editing.parent : (path.at(-1) ?? ROOTS[kind()]);
  editing = null;
  const turn = addTurn(parent, said, kind());
  if (turn.kind === "chat") state.draft = "";
  ask(turn);
}

/** Has a turn answered, in every column that there is now. */
async function ask(turn) {
  const seed = chooseSeed();
  turn.answers = new Map();
  for (const column of state.columns) {
    const content = turn.kind === "chat" ? messagesOf(pairs(before(turn), column.id), turn.said) : turn.said;
    turn.answers.set(column.id, new Answer(turn.kind, column.cartridges, content, seed));
  }
  const cells = [...turn.answers.values()].map(cell);
  turn.element = drawTurn(turn, cells);
  drawTalk();
  turn.element.scrollIntoView({ block: "end" });
  await Promise.all([...turn.answers.values()].map((answer, i) => answer.run(cells[i].paint)));
  drawButtons();
  const failed = [...turn.answers.values()].find((answer) => answer.status === "failed");
  say(failed ? failed.error : "", failed !== undefined);
}

/** What was said and answered before, as a column knows it. */
function pairs(turns, columnId) {
  return turns
    .map((turn) => {
      const own = turn.answers.get(columnId) ?? [...turn.answers.values()][0];
      return [turn.said, own.text];
    })
    .filter(([, answer]) => answer);
}

function again(turn) {
  if (running().length) return;
  ask(turn.kind === "chat" ? addTurn(turn.parent, turn.said, turn.kind) : turn);
}

/** Lets one go from version to version of a turn, where there are several. */
function drawVersions(turn) {
  const [place, count] = versionOf(turn);
  const to = (label, text, there) =>
    h("button", {
      type: "button", class: "small", "aria-label": label, disabled: there < 0 || there >= count,
      onclick: () => {
        turn.parent.chosen = there;
        drawTalk();
        // The same button of the version that is shown now, or the other where that was the last.
        const { versions } = turn.parent.next[there];
        (versions.querySelector(`[aria-label="${label}"]:enabled`) ?? versions.querySelector(":enabled")).focus();
      },
    }, text);
  turn.versions.replaceChildren(
    ...(count > 1
      ? [
          to("Earlier version", "‹", place - 1),
          h("span", { class: "quiet" }, `${place + 1} of ${count}`),
          to("Later version", "›", place + 1),
        ]
      : []),
  );
}

function drawTurn(turn, cells) {
  turn.versions = h("span", { class: "row versions", role: "group", "aria-label": "Versions of this message" });
  return h(
    "section",
    { class: "turn" },
    h(
      "div",
      { class: "said" },
      h("div", { class: "text", dir: "auto" }, turn.said),
      h(
        "div",
        { class: "row" },
        turn.versions,
        h("button", { type: "button", class: "small", onclick: () => edit(turn) }, "Edit"),
        h("button", { type: "button", class: "small", onclick: () => again(turn) }, "Regenerate"),
      ),
    ),
    h("div", { class: "answers" }, cells.map(({ element }) => element)),
  );
}

/** An answer's element, and what brings it up to date. */
function cell(answer) {
  const text = new TokenText(answer);
  answer.element = text.element;
  const name = nameOf(answer.cartridges);
  const facts = h("span", { class: "quiet facts" });
  const error = h("p", { class: "error", hidden: true });
  const stop = h("button", { type: "button", class: "small", onclick: () => answer.stop() }, "Stop");
  const inspect = h(
    "button",
    { type: "button", class: "small", hidden: true, onclick: () => openInspector(answer, 0) },
    "Inspect",
  );
  const copy = h("button", { type: "button", class: "small", onclick: () => openCopy(answer) }, "Copy as…");
  const element = h(
    "article",
    { class: "answer", "aria-label": `Answer of ${name}`, "data-status": answer.status },
    h("h3", {}, name),
    text.element,
    error,
    h("div", { class: "row" }, stop, inspect, copy, facts),
  );
  const paint = () => {
    text.paint();
    element.dataset.status = answer.status;
    stop.hidden = answer.status !== "running";
    inspect.hidden = !answer.tokens.length;
    error.hidden = !answer.error;
    error.textContent = answer.error;
    facts.textContent = factsOf(answer);
    if (answer.status !== "running") drawButtons();
  };
  return { element, paint };
}

function factsOf(answer) {
  const n = answer.tokens.length;
  const ends = { length: "cut at the limit", stop: "" };
  return [
    n ? `${n} tokens` : "",
    n && answer.seconds ? `${shown(n / answer.seconds)}/s` : "",
    answer.dose === null ? "" : `dose ${shown(answer.dose)}`,
    `seed ${answer.seed}`,
    answer.status === "stopped" ? "stopped" : (ends[answer.finish] ?? ""),
  ]
    .filter(Boolean)
    .join(" · ");
}

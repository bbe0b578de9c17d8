// Makes a cartridge: a lesson is sent to the server, which learns it in a process of its own.

import { Answer } from "./answer.js";
import { call } from "./api.js";
import { byId, h, say } from "./dom.js";
import { factsOf } from "./facts.js";
import { chooseSeed } from "./requests.js";
import { cartridgeOf, state, world } from "./state.js";

const POLL_MS = 1000;
/** While the view is closed, which needs to know of the end alone. */
const POLL_AWAY_MS = 5000;
const MOST_FILE_BYTES = 64e6;
const FROM = { prompt: "a prompt", pairs: "pairs", facts: "facts" };
const shown = new Map();
let timer = null;
let round = 0;
let changed = async () => {};
let previewed = [];

/** Listens to the forms; `onmade` is called when a cartridge has been made. */
export function bindMake(onmade) {
  changed = onmade;
  byId("make-kind").addEventListener("change", drawKind);
  byId("make-form").addEventListener("submit", (event) => {
    event.preventDefault();
    guarded(train);
  });
  byId("make-try").addEventListener("click", preview);
  for (const kind of ["pairs", "facts"]) {
    byId(`make-${kind}-file`).addEventListener("change", (event) => guarded(() => read(event.target, `make-${kind}`)));
  }
  drawKind();
}

function drawKind() {
  const kind = byId("make-kind").value;
  for (const element of byId("make-form").querySelectorAll("[data-kind]")) {
    const mine = element.dataset.kind === kind;
    element.hidden = !mine;
    for (const field of element.querySelectorAll("textarea")) field.required = mine;
  }
}

async function guarded(work) {
  try {
    await work();
  } catch (error) {
    say(error.message, true);
  }
}

/** Puts the text of a chosen file into a field. */
async function read(input, field) {
  const [file] = input.files;
  if (!file) return;
  input.value = ""; // the same file can be chosen again once it is mended
  if (file.size > MOST_FILE_BYTES) throw new Error(`${file.name} has ${Math.round(file.size / 1e6)} MB; that is no list of texts.`);
  const bytes = await file.arrayBuffer();
  try {
    byId(field).value = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new Error(`${file.name} is no text in UTF-8.`);
  }
  say(`${file.name} is read.`);
}

async function train() {
  const kind = byId("make-kind").value;
  const id = byId("make-id").value.trim();
  const given = byId(`make-${kind}`).value;
  const body = { id, [kind]: kind === "facts" ? factsOf(given) : given };
  if (cartridgeOf(id) && !confirm(`There is a cartridge ${id} already. Replace it?`)) return;
  const job = await call("v1/train_jobs", body);
  shown.set(job.id, card(job.id));
  shown.get(job.id).update(job);
  say(`${job.cartridge} is being made.`);
  await watch();
}

/** What the model answers without the prompt and behind it. */
async function preview() {
  if (!byId("make-prompt").value.trim()) {
    byId("make-prompt").focus();
    say("Write a prompt first.", true);
    return;
  }
  previewed.forEach((answer) => answer.stop());
  const question = { role: "user", content: byId("make-question").value };
  const system = { role: "system", content: byId("make-prompt").value };
  const seed = chooseSeed();
  const asked = [["without the prompt", [question]], ["behind the prompt", [system, question]]];
  const answers = asked.map(([, messages]) => new Answer("chat", [], messages, seed));
  previewed = answers;
  const texts = asked.map(() => h("div", { class: "text", dir: "auto" }));
  byId("make-preview").replaceChildren(
    ...asked.map(([name], i) => h("article", { class: "answer", "aria-label": name }, h("h2", {}, name), texts[i])),
  );
  const paint = (answer, i) => () => {
    texts[i].textContent = answer.error || answer.text;
  };
  await Promise.all(answers.map((answer, i) => answer.run(paint(answer, i))));
}

/** Shows the jobs, again and again while one of them is not over. */
export async function watch() {
  clearTimeout(timer);
  round += 1;
  const mine = round;
  let jobs;
  try {
    jobs = (await call("v1/train_jobs")).data;
  } catch (error) {
    if (mine !== round) return;
    say(error.message, true);
    // A key that is missing stays missing; all else may pass.
    if (error.status === 0 || error.status === 429 || error.status >= 500) timer = setTimeout(watch, POLL_AWAY_MS);
    return;
  }
  // Another round has begun meanwhile, and knows more.
  if (mine !== round) return;
  const made = jobs.filter((job) => job.status === "finished" && shown.get(job.id)?.open);
  for (const job of jobs) {
    if (!shown.has(job.id)) shown.set(job.id, card(job.id));
    shown.get(job.id).update(job);
  }
  const elements = jobs.map((job) => shown.get(job.id).element);
  // Those that are there stay where they are, or a log that is being read would jump.
  const there = byId("jobs").children;
  if (there.length !== elements.length || elements.some((element, i) => there[i] !== element)) {
    byId("jobs").replaceChildren(...elements);
  }
  if (jobs.some(isOpen)) timer = setTimeout(watch, state.tab === "make" ? POLL_MS : POLL_AWAY_MS);
  if (made.length) {
    await guarded(changed);
    say(`${made.map((job) => job.cartridge).join(", ")}: made. It stands among the cartridges.`);
  }
}

/** Goes on watching where jobs were seen before. */
export function watchOn() {
  if (shown.size && world.trains) watch();
}

function isOpen(job) {
  return job.status === "running" || job.status === "queued";
}

function card(id) {
  const cancel = () => guarded(async () => {
    await call(`v1/train_jobs/${id}`, undefined, { method: "DELETE" });
    await watch();
  });
  const title = h("h2", {});
  const bar = h("progress", { max: 1, "aria-label": "Progress" });
  const line = h("p", { class: "quiet" });
  const error = h("p", { class: "error" });
  const log = h("pre", { tabindex: 0, role: "region", "aria-label": "Log" });
  const details = h("details", { ontoggle: () => guarded(readLog) }, h("summary", {}, "Log"), log);
  // Long, so it is asked for where it is looked at alone.
  const readLog = async () => {
    if (!details.open) return;
    const text = (await call(`v1/train_jobs/${id}`)).log.join("\n");
    const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 4;
    log.textContent = text;
    if (atEnd) log.scrollTop = log.scrollHeight;
  };
  const stop = h("button", { type: "button", class: "small", onclick: cancel }, "Cancel");
  const element = h(
    "article",
    { class: "card" },
    h("div", { class: "row" }, title, stop),
    bar,
    line,
    error,
    details,
  );
  const one = { element, open: false };
  one.update = (job) => {
    const wasOpen = one.open;
    one.open = isOpen(job);
    element.dataset.status = job.status;
    element.setAttribute("aria-label", `${job.cartridge}: ${job.status}`);
    title.textContent = `${job.cartridge}, from ${FROM[job.kind]}: ${job.status}`;
    bar.hidden = !isOpen(job);
    if (job.share === null) bar.removeAttribute("value");
    else bar.value = job.share;
    stop.hidden = !isOpen(job);
    line.textContent = isOpen(job) ? job.progress : "";
    error.textContent = job.error ?? "";
    if (one.open || wasOpen) guarded(readLog);
  };
  return one;
}

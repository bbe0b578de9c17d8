// Makes a cartridge: a lesson is sent to the server, which learns it in a process of its own.

import { Answer } from "./answer.js";
import { call } from "./api.js";
import { byId, h, say } from "./dom.js";
import { chooseSeed } from "./requests.js";
import { state } from "./state.js";

const POLL_MS = 1000;
const shown = new Map();
let timer = null;
let changed = async () => {};

/** Listens to the forms; `onmade` is called when a cartridge has been made. */
export function bindMake(onmade) {
  changed = onmade;
  byId("make-kind").addEventListener("change", drawKind);
  byId("make-form").addEventListener("submit", (event) => {
    event.preventDefault();
    guarded(train);
  });
  byId("make-try").addEventListener("click", preview);
  byId("make-file").addEventListener("change", async (event) => {
    const [file] = event.target.files;
    if (file) byId("make-pairs").value = await file.text();
  });
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

async function train() {
  const kind = byId("make-kind").value;
  const job = await call("v1/train_jobs", { id: byId("make-id").value.trim(), [kind]: byId(`make-${kind}`).value });
  shown.set(job.id, card(job.id));
  shown.get(job.id).update(job);
  say(`${job.cartridge} is being made.`);
  await watch();
}

/** What the model answers without the prompt and behind it. */
async function preview() {
  const question = { role: "user", content: byId("make-question").value };
  const system = { role: "system", content: byId("make-prompt").value };
  const seed = chooseSeed();
  const asked = [["without the prompt", [question]], ["behind the prompt", [system, question]]];
  const answers = asked.map(([, messages]) => new Answer("chat", [], messages, seed));
  const texts = asked.map(() => h("div", { class: "text", dir: "auto" }));
  byId("make-preview").replaceChildren(
    ...asked.map(([name], i) => h("article", { class: "answer", "aria-label": name }, h("h2", {}, name), texts[i])),
  );
  const paint = (answer, i) => () => {
    texts[i].textContent = answer.error || answer.text;
  };
  await Promise.all(answers.map((answer, i) => answer.run(paint(answer, i))));
}

/** Shows the jobs, again and again while the view is open and one of them is not over. */
export async function watch() {
  clearTimeout(timer);
  if (state.tab !== "make") return;
  let jobs;
  try {
    jobs = (await call("v1/train_jobs")).data;
  } catch (error) {
    say(error.message, true);
    return;
  }
  const made = jobs.filter((job) => job.status === "finished" && shown.get(job.id)?.open);
  for (const job of jobs) {
    if (!shown.has(job.id)) shown.set(job.id, card(job.id));
    shown.get(job.id).update(job);
  }
  const elements = jobs.map((job) => shown.get(job.id).element);
  // Those that are there stay where they are, or a log that is being read would jump.
  if (elements.some((element, i) => byId("jobs").children[i] !== element)) byId("jobs").replaceChildren(...elements);
  if (made.length) {
    await changed();
    say(`${made.map((job) => job.cartridge).join(", ")}: made. It stands among the cartridges.`);
  }
  if (jobs.some(isOpen)) timer = setTimeout(watch, POLL_MS);
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
  const stop = h("button", { type: "button", class: "small", onclick: cancel }, "Cancel");
  const element = h(
    "article",
    { class: "card" },
    h("div", { class: "row" }, title, stop),
    bar,
    line,
    error,
    h("details", {}, h("summary", {}, "Log"), log),
  );
  const one = { element, open: false };
  one.update = (job) => {
    one.open = isOpen(job);
    element.dataset.status = job.status;
    element.setAttribute("aria-label", `${job.cartridge}: ${job.status}`);
    title.textContent = `${job.cartridge}, from ${job.kind === "prompt" ? "a prompt" : "pairs"}: ${job.status}`;
    bar.hidden = !isOpen(job);
    if (job.share === null) bar.removeAttribute("value");
    else bar.value = job.share;
    stop.hidden = !isOpen(job);
    line.textContent = isOpen(job) ? job.progress : "";
    error.textContent = job.error ?? "";
    log.textContent = job.log.join("\n");
  };
  return one;
}

// One prompt under many strengths of one cartridge, and what changes on the way.

import { Answer } from "./answer.js";
import { call } from "./api.js";
import { byId, h, say } from "./dom.js";
import { distinctPairs, steps } from "./figures.js";
import { linePlot } from "./plot.js";
import { chooseSeed, messagesOf, pathOf } from "./requests.js";
import { cartridgeOf, state, world } from "./state.js";
import { TokenText } from "./tokens.js";

let answers = [];

/** Fills the form from the state and listens to it. */
export function bindSweep() {
  const select = byId("sweep-cartridge");
  select.replaceChildren(...world.cartridges.map((one) => h("option", { value: one.id }, one.id)));
  for (const [name, value] of Object.entries(state.sweep)) {
    const field = byId(`sweep-${name}`);
    // One that is there no more leaves the first in its place.
    if (name !== "cartridge" || cartridgeOf(value)) field.value = value;
    field.onchange = () => {
      state.sweep[name] = field.type === "number" ? Number(field.value) : field.value;
    };
  }
  byId("sweep-form").onsubmit = (event) => {
    event.preventDefault();
    run().catch((error) => say(error.message, true));
  };
  byId("sweep-stop").onclick = () => answers.forEach((answer) => answer.stop());
}

async function run() {
  const { prompt, kind, from, to, steps: n, target } = state.sweep;
  const cartridge = byId("sweep-cartridge").value;
  if (!cartridge) throw new Error("Choose a cartridge to sweep.");
  const alphas = steps(from, to, n);
  const seed = chooseSeed();
  const content = kind === "chat" ? messagesOf([], prompt) : prompt;
  answers = alphas.map((alpha) => {
    const acting = alpha === 0 ? [] : [{ id: cartridge, alpha, apply_to: "all" }];
    const answer = new Answer(kind, acting, content, seed);
    answer.measures = true;
    return answer;
  });
  const rows = answers.map((answer, i) => row(answer, alphas[i]));
  byId("sweep-texts").replaceChildren(...rows.map(({ element }) => element));
  byId("plots").replaceChildren();
  busy(true);
  try {
    await Promise.all(answers.map((answer, i) => answer.run(rows[i].paint)));
    const failed = answers.find((answer) => answer.status === "failed");
    if (failed) throw new Error(failed.error);
    if (answers.some((answer) => answer.status === "stopped")) return;
    const [losses, chances] = await Promise.all([lossesOf(answers), chancesOf(answers, target)]);
    draw(alphas, losses, chances, target, (i) => rows[i].element.scrollIntoView({ block: "nearest" }));
  } finally {
    busy(false);
  }
}

function busy(is) {
  byId("sweep-run").disabled = is;
  byId("sweep-stop").hidden = !is;
}

function draw(alphas, losses, chances, target, onpick) {
  const plot = (title, ys) => linePlot({ title, xLabel: "α", xs: alphas, ys, onpick });
  const pairs = answers.map((answer) => distinctPairs(answer.tokens.map((token) => token.id)));
  byId("plots").replaceChildren(
    plot("dose", answers.map((answer) => answer.dose ?? 0)),
    plot("distinct pairs of tokens", pairs),
    plot("NLL under base, a token", losses),
    ...(chances ? [plot(`probability of ${JSON.stringify(target)}`, chances)] : []),
  );
}

/** How unlikely the base model finds each text: minus the mean log-probability of its tokens. */
async function lossesOf(texts) {
  const prompt = await texts[0].promptIds();
  const there = texts.filter((answer) => answer.tokens.length);
  if (!there.length) return texts.map(() => null);
  const prompts = there.map((answer) => [...prompt, ...answer.tokens.map((token) => token.id)]);
  const body = { model: world.base, prompt: prompts, max_tokens: 0, echo: true, logprobs: 0 };
  const { choices } = await call(pathOf("complete"), body);
  const found = new Map(there.map((answer, i) => [answer, -meanOfLast(choices[i], answer.tokens.length)]));
  return texts.map((answer) => found.get(answer) ?? null);
}

/** How likely a text is to follow the prompt, under each strength; null where there is none. */
async function chancesOf(texts, target) {
  if (!target) return null;
  const prompt = await texts[0].promptIds();
  const { tokens } = await call("tokenize", { content: target });
  const ask = async ({ cartridges }) => {
    const body = {
      model: world.base, cartridges, prompt: [...prompt, ...tokens], max_tokens: 0, echo: true, logprobs: 0,
    };
    const { choices } = await call(pathOf("complete"), body);
    return Math.exp(meanOfLast(choices[0], tokens.length) * tokens.length);
  };
  return Promise.all(texts.map(ask));
}

function meanOfLast(choice, n) {
  return choice.logprobs.token_logprobs.slice(-n).reduce((sum, value) => sum + value, 0) / n;
}

function row(answer, alpha) {
  const text = new TokenText(answer);
  answer.element = text.element;
  const error = h("p", { class: "error", hidden: true });
  const element = h(
    "article",
    { class: "answer", "aria-label": `Text at α ${alpha}`, "data-alpha": alpha },
    h("h2", {}, `α ${alpha}`),
    text.element,
    error,
  );
  const paint = () => {
    text.paint();
    error.hidden = !answer.error;
    error.textContent = answer.error;
  };
  return { element, paint };
}

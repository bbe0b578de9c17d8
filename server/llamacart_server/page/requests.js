// Bodies of requests, and the same as texts to copy.

import { state, world, cartridgeOf } from "./state.js";

const PATHS = { chat: "v1/chat/completions", complete: "v1/completions" };
const N_TOP = 8;

/** Where a kind of request goes, below the page's own address. */
export function pathOf(kind) {
  return PATHS[kind];
}

/** The messages of a conversation: pairs of what was said and answered, then what is said now. */
export function messagesOf(pairs, said) {
  const messages = state.system ? [{ role: "system", content: state.system }] : [];
  for (const [user, answer] of pairs) {
    messages.push({ role: "user", content: user });
    if (answer) messages.push({ role: "assistant", content: answer });
  }
  messages.push({ role: "user", content: said });
  return messages;
}

/** What asks for an answer. `content` is what `messagesOf` gives, or a text to continue. */
export function bodyOf(kind, cartridges, content, seed) {
  const { stop, seed: _seed, ...sampling } = state.sampling;
  const body = { model: world.base };
  if (cartridges.length) body.cartridges = cartridges.map(item);
  Object.assign(body, kind === "chat" ? { messages: content } : { prompt: content });
  for (const [name, value] of Object.entries(sampling)) if (value !== null) body[name] = value;
  if (seed !== null) body.seed = seed;
  if (stop) body.stop = [stop];
  return body;
}

/** A body that also asks what happens at each token. */
export function measured(kind, body) {
  const top = kind === "chat" ? { logprobs: true, top_logprobs: N_TOP } : { logprobs: N_TOP };
  return { ...body, telemetry: "tokens", ...top };
}

function item({ id, alpha, apply_to }) {
  return apply_to === "all" ? { id, alpha } : { id, alpha, apply_to };
}

/** A seed that all columns of a round share. */
export function chooseSeed() {
  return state.sampling.seed ?? crypto.getRandomValues(new Uint32Array(1))[0] % 4294967295;
}

/** The model id that says what acts; null where none can, because not all rows are steered. */
export function modelId(cartridges) {
  if (!cartridges.length) return world.base;
  if (cartridges.some((one) => one.apply_to !== "all")) return null;
  const part = ({ id, alpha }) => (alpha === cartridgeOf(id)?.default_alpha ? id : `${id}@${alpha}`);
  return `${world.base}:${cartridges.map(part).join("+")}`;
}

/** Forms in which a body can be used elsewhere: pairs of a heading and a text. */
export function forms(kind, body, cartridges) {
  const root = new URL(".", location.href).href;
  const id = modelId(cartridges);
  const { cartridges: items, ...rest } = body;
  const named = id === null ? body : { ...rest, model: id };
  return [
    ...(id === null ? [] : [["Model id", id]]),
    ["curl", curl(root + pathOf(kind), named)],
    ["Python", python(kind, `${root}v1`, id === null ? { ...rest, items } : named)],
    ["A chat front end", `Base URL: ${root}v1\nAPI key: the server's, or any text\nModel: ${id ?? world.base}`],
  ];
}

function curl(url, body) {
  const json = JSON.stringify(body, null, 2).replaceAll("'", "'\\''");
  return `curl -s ${url} \\\n  -H 'Content-Type: application/json' \\\n  -H "Authorization: Bearer $LLAMACART_API_KEY" \\\n  -d '${json}'`;
}

const EXTRA = ["top_k", "min_p"];

function python(kind, base, { items, ...body }) {
  const extra = {};
  const lines = [];
  if (items) extra.cartridges = items;
  for (const [name, value] of Object.entries(body)) {
    if (EXTRA.includes(name)) extra[name] = value;
    else lines.push(`    ${name}=${literal(value)},`);
  }
  if (Object.keys(extra).length) lines.push(`    extra_body=${literal(extra)},`);
  const made = kind === "chat" ? "chat.completions" : "completions";
  const shown = kind === "chat" ? "answer.choices[0].message.content" : "answer.choices[0].text";
  return [
    "import os",
    "",
    "from openai import OpenAI",
    "",
    `key = os.environ.get("LLAMACART_API_KEY", "none")`,
    `client = OpenAI(base_url=${literal(base)}, api_key=key)`,
    `answer = client.${made}.create(`,
    ...lines,
    ")",
    `print(${shown})`,
  ].join("\n");
}

/** JSON that is Python too: the bodies hold no null, true or false. */
function literal(value) {
  return JSON.stringify(value);
}

// One answer as it comes: its text, and what is known of each of its tokens.

import { call, stream } from "./api.js";
import { mean } from "./figures.js";
import { bodyOf, measured, pathOf } from "./requests.js";
import { state, world } from "./state.js";

/** A generated text. `status` is running, done, stopped or failed. */
export class Answer {
  /**
   * @param kind chat or complete
   * @param cartridges what acts on it
   * @param content messages, or the text to continue
   * @param seed of its sampling
   */
  constructor(kind, cartridges, content, seed) {
    this.kind = kind;
    this.cartridges = cartridges.map((one) => ({ ...one }));
    this.content = content;
    this.seed = seed;
    this.measures = state.measure;
    this.body = bodyOf(kind, this.cartridges, content, seed);
    this.characters = [];
    this.tokens = [];
    this.scores = [];
    this.status = "running";
    this.finish = "";
    this.error = "";
    this.seconds = 0;
    this.aborter = new AbortController();
    /** @type {Promise<number[]> | undefined} */
    this.prompt = undefined;
  }

  get text() {
    return this.characters.join("");
  }

  /** Mean dose of its tokens; null where nothing acted. */
  get dose() {
    return mean(this.tokens.map((token) => token.dose));
  }

  /** Gives up the request, which frees its row on the server. */
  stop() {
    this.aborter.abort();
  }

  /** Asks for it; calls `changed` whenever something has come. */
  async run(changed) {
    const begun = performance.now();
    const body = this.measures ? measured(this.kind, this.body) : this.body;
    try {
      for await (const event of stream(pathOf(this.kind), body, this.aborter.signal)) {
        for (const choice of event.choices) this.#take(choice);
        this.seconds = (performance.now() - begun) / 1000;
        changed();
      }
      this.status = "done";
    } catch (error) {
      this.status = error.name === "AbortError" ? "stopped" : "failed";
      this.error = this.status === "failed" ? error.message : "";
    }
    changed();
  }

  #take(choice) {
    const text = this.kind === "chat" ? (choice.delta.content ?? "") : choice.text;
    this.characters.push(...text);
    this.tokens.push(...(choice.telemetry?.tokens ?? []));
    this.scores.push(...scoresOf(this.kind, choice.logprobs));
    if (choice.finish_reason) this.finish = choice.finish_reason;
  }

  /** The tokens that it was made from. */
  promptIds() {
    const body = this.kind === "chat" ? { messages: this.content } : { prompt: this.content };
    this.prompt ??= keptOnce(this, "prompt", call("tokenize", body).then((answer) => answer.tokens));
    return this.prompt;
  }

  /** What the base model would have said in place of token `index`, in the form of `scores`. */
  async baseScore(index) {
    const token = this.tokens[index];
    token.base ??= keptOnce(token, "base", this.#askBase(index));
    return token.base;
  }

  async #askBase(index) {
    const before = this.tokens.slice(0, index).map((token) => token.id);
    // The bias makes it choose this very token; what it reports is from before the bias.
    const body = {
      model: world.base,
      prompt: [...(await this.promptIds()), ...before],
      max_tokens: 1,
      temperature: 0,
      logprobs: 8,
      ignore_eos: true,
      logit_bias: { [this.tokens[index].id]: 100 },
    };
    return scoresOf("complete", (await call(pathOf("complete"), body)).choices[0].logprobs)[0];
  }
}

/** Log-probabilities of tokens, each with the likeliest, whatever the route calls them. */
function scoresOf(kind, logprobs) {
  if (!logprobs) return [];
  if (kind === "chat") {
    return logprobs.content.map(({ logprob, top_logprobs: top }) => ({ logprob, top }));
  }
  return logprobs.token_logprobs.map((logprob, i) => {
    const pairs = Object.entries(logprobs.top_logprobs[i] ?? {});
    const top = pairs.map(([token, value]) => ({ token, logprob: value }));
    return { logprob, top: top.sort((a, b) => b.logprob - a.logprob).slice(0, 8) };
  });
}

/** A promise that `where` is to forget should it fail, so that it is asked for again. */
function keptOnce(where, name, promise) {
  promise.catch(() => {
    where[name] = undefined;
  });
  return promise;
}

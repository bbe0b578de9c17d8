// Requests to the server: the key, errors as the server words them, and streams.

import { byId } from "./dom.js";

const STORED = "llamacart-key";
let asking = null;
let waiting = null;

/** What the server says is wrong; status 0 where it did not answer. */
export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** Asks for a key; gives whether one was given. Several that ask at once see one dialog. */
export function askForKey(reason) {
  asking ??= new Promise((resolve) => {
    const dialog = byId("key-dialog");
    byId("key-reason").textContent = reason;
    byId("key-input").value = "";
    dialog.returnValue = "cancel";
    dialog.addEventListener(
      "close",
      () => {
        asking = null;
        const key = byId("key-input").value.trim();
        const given = dialog.returnValue === "use" && key !== "";
        if (given) sessionStorage.setItem(STORED, key);
        resolve(given);
      },
      { once: true },
    );
    dialog.showModal();
  });
  return asking;
}

function headers(type) {
  const key = sessionStorage.getItem(STORED);
  return {
    ...(type ? { "Content-Type": type } : {}),
    ...(key ? { Authorization: `Bearer ${key}` } : {}),
  };
}

async function send(path, { method, content, type, signal = undefined }) {
  for (;;) {
    const sent = sessionStorage.getItem(STORED);
    let response;
    try {
      response = await fetch(path, { method, body: content, headers: headers(type), signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      serverIsGone();
      throw new ApiError(0, "gone", "the server does not answer");
    }
    if (response.ok) return response;
    const error = await errorOf(response);
    const needsKey = error.status === 401 || error.code === "admin_key_needed";
    // Another request may have been given a key while this one was under way.
    if (needsKey && sessionStorage.getItem(STORED) !== sent) continue;
    if (!needsKey || !(await askForKey(reasonFor(error, sent)))) throw error;
  }
}

/** Why a key is asked for; the server's own words are for programs. */
function reasonFor(error, sent) {
  const admin = error.code === "admin_key_needed" || error.message.startsWith("the admin key");
  const wanted = admin ? "its admin key" : "an API key";
  return `${sent ? "That key is not the right one. " : ""}The server needs ${wanted}.`;
}

async function errorOf(response) {
  let said = null;
  try {
    said = (await response.json()).error;
  } catch {
    // Not this server's words, perhaps a proxy's.
  }
  const message = said?.message ?? `${response.status} ${response.statusText}`;
  return new ApiError(response.status, said?.code ?? "", message);
}

/**
 * GET, or POST a JSON body; gives the JSON answer.
 *
 * @type {import("./schema").Call}
 */
export const call = async (path, body = undefined, options = undefined) => {
  const content = body === undefined ? undefined : JSON.stringify(body);
  const method = options?.method ?? (content === undefined ? "GET" : "POST");
  const type = content === undefined ? undefined : "application/json";
  return (await send(path, { method, content, type, signal: options?.signal })).json();
};

/**
 * POST a file; gives the JSON answer.
 *
 * @param {string} path
 * @param {File} file
 * @returns {Promise<import("./schema").CartridgeInfo>}
 */
export async function upload(path, file) {
  const given = { method: "POST", content: file, type: "application/octet-stream" };
  return (await send(path, given)).json();
}

/** POST a body and yield the events of its stream; an error among them is thrown. */
export async function* stream(path, body, signal) {
  const content = JSON.stringify({ ...body, stream: true });
  const response = await send(path, { method: "POST", content, type: "application/json", signal });
  let rest = "";
  try {
    for await (const piece of texts(response.body)) {
      const frames = (rest + piece).split("\n\n");
      rest = frames.pop();
      for (const frame of frames) {
        if (!frame.startsWith("data: ")) continue;
        const data = frame.slice(6);
        if (data === "[DONE]") return;
        const event = JSON.parse(data);
        if (event.error) throw new ApiError(200, event.error.code, event.error.message);
        yield event;
      }
    }
  } catch (error) {
    if (error instanceof ApiError || error.name === "AbortError") throw error;
    serverIsGone();
  }
  throw new ApiError(0, "gone", "the server broke off");
}

async function* texts(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    // Nobody reads on: the server is to stop as well.
    await reader.cancel().catch(() => {});
  }
}

/** Shows that the server is gone, until it is back. */
function serverIsGone() {
  byId("gone").hidden = false;
  waiting ??= setInterval(async () => {
    try {
      if (!(await fetch("ready")).ok) return;
    } catch {
      return;
    }
    clearInterval(waiting);
    waiting = null;
    byId("gone").hidden = true;
    dispatchEvent(new Event("back"));
  }, 2000);
}

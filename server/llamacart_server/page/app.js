// The playground: asks the server what there is, and brings the views to life.

import { askForKey, call } from "./api.js";
import { bindCards, drawCards } from "./cards.js";
import { addColumn, drawColumns } from "./columns.js";
import { copy } from "./copy.js";
import { byId, say } from "./dom.js";
import { closeInspector } from "./inspector.js";
import { bindMake, watch, watchOn } from "./make.js";
import { NUMBERS, cartridgeOf, fromFragment, newColumn, placed, state, toFragment, world } from "./state.js";
import { bindSweep } from "./sweep.js";
import { bindTalk, drawTalk } from "./talk.js";

const VIEWS = { chat: "talk", complete: "talk", sweep: "sweep", cartridges: "cartridges", make: "make" };

/** Asks the server for its model and its cartridges. */
async function load() {
  const [models, cartridges] = await Promise.all([call("v1/models"), call("v1/cartridges")]);
  const [base] = models.data;
  world.base = base.id;
  world.hasTemplate = !base.chat_template.startsWith("builtin");
  world.cartridges = cartridges.data;
  world.leftOut = cartridges.left_out;
  world.trains = cartridges.train_jobs;
  world.weightsHash = cartridges.weights_hash;
  byId("make-tab").hidden = !world.trains;
  byId("model").textContent = base.id;
}

/** After a change of the cartridges: those that are gone act nowhere any more. */
async function reload() {
  const before = JSON.stringify([world.cartridges, world.leftOut]);
  await load();
  // A slider under somebody's finger stays where nothing has changed.
  if (JSON.stringify([world.cartridges, world.leftOut]) === before) return;
  for (const column of state.columns) column.cartridges = column.cartridges.filter(({ id }) => cartridgeOf(id));
  drawAll();
}

function drawAll() {
  drawColumns();
  drawCards();
  bindSweep();
  drawTalk();
}

/** The views, the first columns and the settings, as a first visit or an address wants them. */
function begin() {
  if (!fromFragment(location.hash) && !world.hasTemplate) {
    state.tab = "complete";
    state.sweep.kind = "complete";
  }
  if (state.tab === "make" && !world.trains) state.tab = "chat";
  if (!state.columns.length) {
    state.columns = [newColumn(), ...world.cartridges.slice(0, 1).map((one) => newColumn([placed(one)]))];
  }
  for (const name of NUMBERS) {
    const field = byId(name);
    field.value = state.sampling[name] ?? "";
    field.addEventListener("change", () => {
      if (field.validity.valid) state.sampling[name] = field.value === "" ? null : Number(field.value);
    });
  }
  bindText("system", state, "system");
  bindText("stop", state.sampling, "stop");
  byId("measure").checked = state.measure;
  byId("measure").addEventListener("change", (event) => {
    state.measure = event.target.checked;
  });
  drawAll();
  show(state.tab);
}

function bindText(id, where, name) {
  byId(id).value = where[name];
  byId(id).addEventListener("input", (event) => {
    where[name] = event.target.value;
  });
}

function show(tab) {
  state.tab = tab;
  closeInspector();
  for (const id of Object.values(VIEWS)) byId(id).hidden = id !== VIEWS[tab];
  for (const button of byId("tabs").children) {
    if (button.dataset.tab === tab) button.setAttribute("aria-current", "page");
    else button.removeAttribute("aria-current");
  }
  drawTalk();
  if (tab === "make") watch();
  // Another tab, or another administrator, may have changed them.
  if (tab === "cartridges") guarded(reload);
}

async function guarded(work) {
  try {
    await work();
  } catch (error) {
    say(error.message, true);
  }
}

async function share() {
  history.replaceState(null, "", toFragment());
  await copy(location.href, "The address is copied. It opens the page as it is now, without the answers.");
}

async function start() {
  try {
    await load();
  } catch (error) {
    say(error.message, true);
    return false;
  }
  say("");
  begin();
  return true;
}

byId("tabs").addEventListener("click", (event) => {
  if (event.target.dataset.tab) show(event.target.dataset.tab);
});
byId("add-column").addEventListener("click", () => addColumn([]));
byId("share").addEventListener("click", share);
bindTalk();
bindMake(reload);
bindCards(reload, () => show(world.hasTemplate ? "chat" : "complete"));

let begun = await start();
byId("key").addEventListener("click", async () => {
  if (!(await askForKey("The key goes with every request from now on.")) || begun) return;
  begun = await start();
});
addEventListener("back", () =>
  guarded(async () => {
    if (!begun) begun = await start();
    else {
      await reload();
      watchOn();
    }
  }),
);
// A file that misses its place would take the page's, and every conversation with it.
const keepPage = (event) => {
  if (event.dataTransfer.types.includes("Files")) event.preventDefault();
};
addEventListener("dragover", keepPage);
addEventListener("drop", keepPage);

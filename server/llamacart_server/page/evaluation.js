// What an evaluation has found of a cartridge, as its file keeps it.

import { h, shown } from "./dom.js";
import { linePlot, pointPlot } from "./plot.js";

/** What each figure is, for people; the first of a list that was measured is the one that is drawn. */
const NAMES = {
  removed: "way to the prompted model gone",
  behaviour: "behaviour",
  efficacy: "facts that are known",
  paraphrases: "known in other words",
  neighbours: "other subjects as before",
  log_odds: "log-odds of the target",
  nll: "NLL a token",
  nll_settled: "NLL behind the first tokens",
  kl: "KL on other texts",
  kl_prompted: "KL to the prompted model",
  agreement: "same choice as behind the prompt",
  distinct: "distinct pairs of tokens",
  repetition: "repetition",
  ended: "answers that end",
  written: "texts long enough",
  length: "tokens of an answer",
};
const GAINS = ["removed", "behaviour", "efficacy", "log_odds"];
const COSTS = { removed: ["kl", "nll"], efficacy: ["kl", "nll"] };

/** Plots and a table; null where a file holds no evaluation. */
export function evaluated({ evaluation }) {
  if (!evaluation) return null;
  const { points, test, unsteered, alpha } = evaluation;
  const has = (name) => points.some((point) => Number.isFinite(point.figures[name]));
  const gain = GAINS.find(has);
  const cost = (COSTS[gain] ?? ["nll", "kl"]).find(has);
  const several = points.length > 1;
  return h(
    "details",
    { class: "evaluation" },
    h("summary", {}, `Measured: ${headline(test, alpha)}`),
    h(
      "div",
      { class: "plots" },
      several && gain ? overAlpha(points, gain) : null,
      several && cost ? overAlpha(points, cost) : null,
      several && gain && cost ? frontier(points, cost, gain) : null,
    ),
    figures(test, unsteered, alpha),
    h("p", { class: "quiet", dir: "auto" }, provenance(evaluation)),
  );
}

function nameOf(figure) {
  return NAMES[figure] ?? figure.replaceAll("_", " ");
}

function headline(test, alpha) {
  const gain = GAINS.find((name) => test[name]);
  const said = gain ? `${nameOf(gain)} ${shown(test[gain][0])}` : "figures";
  return `${said} at α ${shown(alpha)}`;
}

function overAlpha(points, figure) {
  return linePlot({
    title: nameOf(figure), xLabel: "α",
    xs: points.map((point) => point.alpha), ys: points.map((point) => point.figures[figure] ?? null),
  });
}

/** What is won over what it costs; those that none beats in everything are full. */
function frontier(points, cost, gain) {
  const there = points.filter(({ figures: all }) => Number.isFinite(all[cost]) && Number.isFinite(all[gain]));
  return pointPlot({
    title: `${nameOf(gain)} over ${nameOf(cost)}`, xLabel: nameOf(cost),
    points: there.map((point) => ({
      x: point.figures[cost], y: point.figures[gain], name: `α ${shown(point.alpha)}`, full: point.frontier === true,
    })),
  });
}

function figures(test, unsteered, alpha) {
  const names = Object.keys(NAMES).filter((name) => test[name] || unsteered[name]);
  const cell = (side, name) => h("td", { class: "number" }, side[name] ? interval(side[name]) : "–");
  const head = ["", `α ${shown(alpha)}`, "without"].map((text) => h("th", { scope: "col" }, text));
  return h(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": "Figures of the test" },
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, head)),
      h("tbody", {}, names.map((name) =>
        h("tr", {}, h("th", { scope: "row" }, nameOf(name)), cell(test, name), cell(unsteered, name)))),
    ),
  );
}

function interval([value, low, high]) {
  return [`${shown(value)} `, h("span", { class: "quiet" }, `${shown(low)} to ${shown(high)}`)];
}

function provenance({ tested_on: tested, chosen_on: chosen, behaviour, created }) {
  const on = chosen ? `α was chosen on ${chosen}, and tested on others: ${tested}.` : `Tested on ${tested}.`;
  return `${on} Behaviour: ${behaviour}. ${String(created ?? "").slice(0, 10)}`;
}

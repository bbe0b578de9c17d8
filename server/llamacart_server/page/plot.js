// Plots as SVG: a line over numbers, bars over layers, points in a plane.

import { h, shown, svg } from "./dom.js";

const WIDTH = 300;
const HEIGHT = 180;
const LEFT = 46;
const RIGHT = 10;
const TOP = 12;
const BOTTOM = 34;

/** A range of values, a little wider than they are, and a step for its marks. */
function scale(values, { zero = false } = {}) {
  let low = Math.min(...values, ...(zero ? [0] : []));
  let high = Math.max(...values, ...(zero ? [0] : []));
  if (low === high) {
    low -= 0.5;
    high += 0.5;
  }
  const rough = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough);
  return { low: Math.floor(low / step + 1e-9) * step, high: Math.ceil(high / step - 1e-9) * step, step };
}

function marks({ low, high, step }) {
  const count = Math.round((high - low) / step);
  return Array.from({ length: count + 1 }, (_, i) => Number((low + i * step).toPrecision(6)));
}

function frame({ title, xLabel, xs, ys, xScale, yScale }) {
  const x = (value) => LEFT + ((value - xScale.low) / (xScale.high - xScale.low)) * (WIDTH - LEFT - RIGHT);
  const y = (value) =>
    HEIGHT - BOTTOM - ((value - yScale.low) / (yScale.high - yScale.low)) * (HEIGHT - TOP - BOTTOM);
  const summary = xs.map((value, i) => `${shown(value)}: ${shown(ys[i])}`).join(", ");
  const image = svg(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title} by ${xLabel}: ${summary}` },
    marks(yScale).flatMap((value) => [
      svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }),
      svg("text", { class: "mark end", x: LEFT - 6, y: y(value) + 4 }, shown(value)),
    ]),
    marks(xScale).map((value) =>
      svg("text", { class: "mark middle", x: x(value), y: HEIGHT - BOTTOM + 16 }, shown(value)),
    ),
    svg("text", { class: "mark middle", x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 4 }, xLabel),
  );
  const figure = h("figure", { class: "plot" }, h("figcaption", {}, title), image);
  return { figure, image, x, y };
}

/** Values over numbers; those that are null have no point. `onpick` is given a point's place. */
export function linePlot({ title, xLabel, xs, ys, onpick = null }) {
  const places = xs.map((_, i) => i).filter((i) => ys[i] !== null && Number.isFinite(ys[i]));
  const there = places.map((i) => ys[i]);
  const drawn = frame({
    title, xLabel, xs: places.map((i) => xs[i]), ys: there,
    xScale: scale(xs), yScale: scale(there.length ? there : [0]),
  });
  const points = places.map((i) => `${drawn.x(xs[i])},${drawn.y(ys[i])}`).join(" ");
  drawn.image.append(
    svg("polyline", { class: "line", points }),
    ...places.map((i) =>
      svg(
        "circle",
        {
          class: "point", cx: drawn.x(xs[i]), cy: drawn.y(ys[i]), r: 4.5,
          "data-x": xs[i], "data-y": ys[i], onclick: onpick && (() => onpick(i)),
        },
        svg("title", {}, `${xLabel} ${shown(xs[i])}: ${shown(ys[i])}`),
      ),
    ),
  );
  return drawn.figure;
}

/** A bar for each of pairs of a layer and a value. */
export function barPlot({ title, pairs, xLabel = "layer" }) {
  const xs = pairs.map(([x]) => Number(x));
  const ys = pairs.map(([, y]) => y);
  const xScale = { low: Math.min(...xs) - 0.5, high: Math.max(...xs) + 0.5, step: 1 };
  const drawn = frame({ title, xLabel, xs, ys, xScale: { ...xScale, step: 1e9 }, yScale: scale(ys, { zero: true }) });
  for (const mark of drawn.image.querySelectorAll(".mark.middle:not(:last-child)")) mark.remove();
  const every = Math.max(1, Math.ceil(xs.length / 9));
  const width = Math.max(2, (drawn.x(1) - drawn.x(0)) * 0.75);
  drawn.image.append(
    ...pairs.map(([, value], i) =>
      svg(
        "rect",
        {
          class: "bar", x: drawn.x(xs[i]) - width / 2, width, "data-x": xs[i], "data-y": value,
          y: Math.min(drawn.y(value), drawn.y(0)), height: Math.max(0.5, Math.abs(drawn.y(0) - drawn.y(value))),
        },
        svg("title", {}, `${xLabel} ${xs[i]}: ${shown(value)}`),
      ),
    ),
    ...xs
      .filter((_, i) => i % every === 0)
      .map((x) => svg("text", { class: "mark middle", x: drawn.x(x), y: HEIGHT - BOTTOM + 16 }, String(x))),
  );
  return drawn.figure;
}

/** Where a point's name stands: above it, or below one at the top. */
function besides(y) {
  return y < TOP + 10 ? y + 17 : y - 8;
}

/** Points in a plane, each with a name; those that are full are joined. */
export function pointPlot({ title, xLabel, points }) {
  const xs = points.map((point) => point.x);
  const ys = points.map((point) => point.y);
  const some = (values) => (values.length ? values : [0]);
  const drawn = frame({ title, xLabel, xs, ys, xScale: scale(some(xs)), yScale: scale(some(ys)) });
  const at = (point) => `${drawn.x(point.x)},${drawn.y(point.y)}`;
  const best = points.filter((point) => point.full).sort((a, b) => a.x - b.x);
  drawn.image.append(
    svg("polyline", { class: "line", points: best.map(at).join(" ") }),
    ...points.flatMap((point) => [
      svg(
        "circle",
        {
          class: point.full ? "point" : "point hollow", cx: drawn.x(point.x), cy: drawn.y(point.y), r: 4.5,
          "data-x": point.x, "data-y": point.y,
        },
        svg("title", {}, `${point.name}: ${shown(point.y)} at ${shown(point.x)}`),
      ),
      svg("text", { class: "mark middle", x: drawn.x(point.x), y: besides(drawn.y(point.y)) }, point.name),
    ]),
  );
  return drawn.figure;
}

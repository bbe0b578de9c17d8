// Figures of texts, without the server.

/** The share of pairs of neighbours that come once only: 1 where nothing is repeated. */
export function distinctPairs(ids) {
  if (ids.length < 2) return null;
  const seen = new Set();
  for (let i = 1; i < ids.length; i += 1) seen.add(`${ids[i - 1]} ${ids[i]}`);
  return seen.size / (ids.length - 1);
}

/** The mean of the numbers among values; null where there is none. */
export function mean(values) {
  const numbers = values.filter((value) => Number.isFinite(value));
  return numbers.length ? numbers.reduce((sum, value) => sum + value, 0) / numbers.length : null;
}

/** n numbers from a to b. */
export function steps(from, to, n) {
  return Array.from({ length: n }, (_, i) => Number((from + ((to - from) * i) / (n - 1)).toFixed(4)));
}

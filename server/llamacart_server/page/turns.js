// Conversations as trees: each turn has those that may follow it, one of which is chosen.

/** What a conversation begins from; it says nothing itself. */
export function newRoot() {
  return { next: [], chosen: 0, parent: null };
}

/** A turn that follows `parent`, and is chosen there. */
export function addTurn(parent, said, kind) {
  const turn = { said, kind, answers: new Map(), element: null, versions: null, next: [], chosen: 0, parent };
  parent.chosen = parent.next.push(turn) - 1;
  return turn;
}

/** The turns that are chosen, from the first on. */
export function pathOf(root) {
  const turns = [];
  for (let turn = root.next[root.chosen]; turn; turn = turn.next[turn.chosen]) turns.push(turn);
  return turns;
}

/** The turns before one, from the first on. */
export function before(turn) {
  const turns = [];
  for (let one = turn.parent; one?.parent; one = one.parent) turns.unshift(one);
  return turns;
}

/** All turns of a tree, whatever is chosen. */
export function allOf(root) {
  return root.next.flatMap((turn) => [turn, ...allOf(turn)]);
}

/** Which of how many versions a turn is, counted from 0. */
export function versionOf(turn) {
  return [turn.parent.next.indexOf(turn), turn.parent.next.length];
}

"""Reads GBNF as llama.cpp does, to refuse what its sampler would hang or die on.

llama.cpp refuses plain mistakes itself, but a grammar comes from a request, and on some it
recurses until the stack ends, repeats without end, or ends the process:

- left recursion behind a rule that is empty only through another rule (`a ::= b a "x"`,
  `b ::= c`, `c ::= ""`), which it does not see
- rules that lead only to themselves, so that no text begins with them
- repetitions with a maximum below their minimum, or of long parts
- deep nesting, and rules that branch into very many ways to begin
- token rules (`<…>`), whose check and advance disagree in the middle of a token

What remains open to an ill-meant grammar is ambiguity: rules that can read the same text in
exponentially many ways take as many steps.
"""

from __future__ import annotations

import re

from llamacart.errors import InputError

MAX_BYTES = 2**18
MAX_NESTING = 64
MAX_ELEMENTS = 50_000
"""Terminals, references and ends of all rules after repetitions are written out."""
MAX_REPEAT = 2000
"""`MAX_REPETITION_THRESHOLD` of llama.cpp."""
MAX_BEGINNINGS = 4096
"""Ways for one rule to reach its first character."""

Alternative = list[int]
"""Ids of the rules referred to, in order; -1 stands for a character."""

_CHARACTER = -1
# Possessive quantifiers throughout: hostile text must not make a pattern try again.
_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*+)*+")
_SPACE_AND_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*+)*+")
_NAME = re.compile(r"[a-zA-Z0-9-]+")
_ESCAPE = r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[trn\\\"\[\]-])"
_LITERAL = re.compile(rf'"((?:{_ESCAPE}|[^"\\])*+)"')
_CLASS = re.compile(rf"\[(\^?(?:{_ESCAPE}|[^\]\\])*+)\]")
_ONE = re.compile(rf"{_ESCAPE}|.", re.DOTALL)
_REPEAT = re.compile(
    r"\{S([0-9]{1,9}+)S(,?+)S([0-9]{1,9}+)?+S\}".replace("S", _SPACE_AND_LINES.pattern)
)


def check_grammar(text: str) -> bytes:
    """The grammar as llama.cpp takes it.

    Raises:
        InputError: It is no GBNF, has no rule `root`, or is of a kind listed above; `param` is
            `grammar`.
    """
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        raise _error("holds half of a surrogate pair") from None
    if b"\0" in raw:
        raise _error("holds a NUL character")
    if len(raw) > MAX_BYTES:
        raise _error(f"has {len(raw)} bytes; at most {MAX_BYTES} are read")
    reader = _Reader(text)
    reader.read()
    _check_beginnings(reader)
    return raw


def _error(what: str) -> InputError:
    return InputError(f"the grammar {what}", param="grammar")


class _Reader:
    """`llama_grammar_parser`, keeping of each rule only what it may begin with."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.rules: dict[int, list[Alternative]] = {}
        self.names: list[str] = []
        self._ids: dict[str, int] = {}
        self._n_elements = 0

    def read(self) -> None:
        """Read the text into `rules`."""
        self._skip(lines=True)
        while self.at < len(self.text):
            rule = self._id(self._match(_NAME, "a rule's name").group())
            self._skip()
            self._expect("::=")
            self._skip(lines=True)
            self.rules[rule] = self._alternatives(0)
            if self.at < len(self.text) and self.text[self.at] not in "\r\n":
                raise self._expected("a new line or the end")
            self._skip(lines=True)
        for rule, name in enumerate(self.names):
            if rule not in self.rules:
                raise _error(f"refers to a rule {name!r} that it does not define")
        if "root" not in self._ids:
            raise _error("has no rule 'root'")

    def _alternatives(self, depth: int) -> list[Alternative]:
        if depth > MAX_NESTING:
            raise _error(f"nests parentheses more than {MAX_NESTING} deep")
        found = [self._sequence(depth)]
        while self._at("|"):
            self.at += 1
            self._skip(lines=True)
            found.append(self._sequence(depth))
        self._count(len(found))
        return found

    def _sequence(self, depth: int) -> Alternative:
        out: Alternative = []
        last = 0  # where the item that a repetition would repeat begins
        while self.at < len(self.text):
            character = self.text[self.at]
            if character in "*+?{":
                low, high = self._repetition()
                if last == len(out):
                    raise self._expected(f"something before {character!r}")
                item = out[last:]
                out[last:] = self._repeat(item, low, high)
                self._skip(lines=depth > 0)
                continue
            item_start = len(out)
            if character == '"':
                content = self._match(_LITERAL, "the end of a string").group(1)
                out += [_CHARACTER] * len(_ONE.findall(content))
            elif character == "[":
                content = self._match(_CLASS, "the end of a character class").group(1)
                if not content.removeprefix("^"):
                    raise _error("has an empty character class")
                self._count(len(content))
                out.append(_CHARACTER)
            elif character == ".":
                self.at += 1
                out.append(_CHARACTER)
            elif character == "(":
                self.at += 1
                self._skip(lines=True)
                group = self._id(f"({self.at}")
                self.rules[group] = self._alternatives(depth + 1)
                self._expect(")")
                out.append(group)
            elif _NAME.match(character):
                out.append(self._id(self._match(_NAME, "a name").group()))
            elif character in "<!":
                raise _error("has a token rule (<…>), which is not supported")
            else:
                break
            last = item_start
            self._skip(lines=depth > 0)
        self._count(len(out))
        return out

    def _repetition(self) -> tuple[int, int | None]:
        """(minimum, maximum) of the operator here; None means no maximum."""
        simple = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(self.text[self.at])
        if simple is not None:
            self.at += 1
            return simple
        found = self._match(_REPEAT, "a repetition like {2}, {2,} or {2,5}")
        low = int(found.group(1))
        if low > MAX_REPEAT:
            raise _error(f"repeats something {low} times; at most {MAX_REPEAT} are possible")
        if not found.group(2):
            if found.group(3):
                raise self._expected("a comma in a repetition")
            return low, low
        high = None if found.group(3) is None else int(found.group(3))
        if high is not None and high < low:
            raise _error(f"has a repetition of at least {low} and at most {high}")
        return low, None if high is not None and high > MAX_REPEAT else high

    def _repeat(self, item: Alternative, low: int, high: int | None) -> Alternative:
        """What stands for the repeated item, with the rules that llama.cpp makes for it."""
        n_optional = 1 if high is None else high - low
        self._count((low + n_optional) * (len(item) + 2))
        out = item * low
        rest = -1
        for i in range(n_optional):
            rule = self._id(f"{{{self.at} {i}")
            more = [rule] if high is None else [rest] if i else []
            self.rules[rule] = [item + more, []]
            rest = rule
        return [*out, rest] if n_optional else out

    def name(self, rule: int) -> str:
        """For messages: a name, or what a group or a repetition lies at."""
        name = self.names[rule]
        return repr(name) if _NAME.match(name) else f"at character {name[1:].split()[0]}"

    # --- characters -------------------------------------------------------------------------

    def _id(self, name: str) -> int:
        if name not in self._ids:
            self._ids[name] = len(self.names)
            self.names.append(name)
        return self._ids[name]

    def _count(self, n: int) -> None:
        self._n_elements += n
        if self._n_elements > MAX_ELEMENTS:
            raise _error(f"has more than {MAX_ELEMENTS} elements with its repetitions")

    def _at(self, text: str) -> bool:
        return self.text.startswith(text, self.at)

    def _expect(self, text: str) -> None:
        if not self._at(text):
            raise self._expected(repr(text))
        self.at += len(text)

    def _match(self, pattern: re.Pattern[str], what: str) -> re.Match[str]:
        found = pattern.match(self.text, self.at)
        if found is None:
            raise self._expected(what)
        self.at = found.end()
        return found

    def _skip(self, *, lines: bool = False) -> None:
        found = (_SPACE_AND_LINES if lines else _SPACE).match(self.text, self.at)
        self.at = found.end() if found else self.at

    def _expected(self, what: str) -> InputError:
        line = self.text.count("\n", 0, self.at) + 1
        return _error(f"needs {what} at {self.text[self.at : self.at + 20]!r} (line {line})")


def _check_beginnings(reader: _Reader) -> None:
    """Refuse rules that begin with themselves, with nothing, or in too many ways.

    Linear in the number of elements, as a grammar may be made to be slow to check.
    """
    rules, empty = reader.rules, _may_be_empty(reader.rules)
    first: dict[int, list[int]] = {}  # rules that each rule may begin with
    begun_by: dict[int, list[int]] = {rule: [] for rule in rules}
    begins = set()  # rules that lead to a character
    for rule, alternatives in rules.items():
        found = first[rule] = []
        for alternative in alternatives:
            for i, element in enumerate(alternative):
                if element == _CHARACTER:
                    begins.add(rule)
                    break
                # A rule that ends with itself, like (x*)*, is at the same place again.
                if element != rule or i + 1 < len(alternative):
                    found.append(element)
                    begun_by[element].append(rule)
                if element not in empty:
                    break
    todo = list(begins)
    while todo:
        for user in begun_by[todo.pop()]:
            if user not in begins:
                begins.add(user)
                todo.append(user)
    for rule in rules:
        if rule not in begins and rule not in empty:
            raise _error(f"has a rule {reader.name(rule)} that leads only to itself")
    ways = dict.fromkeys(rules, 1)
    waiting = {rule: len(found) for rule, found in first.items()}
    todo = [rule for rule, n in waiting.items() if not n]
    n_done = 0
    while todo:
        rule = todo.pop()
        n_done += 1
        if ways[rule] > MAX_BEGINNINGS:
            raise _error(f"has a rule {reader.name(rule)} with too many ways to begin")
        for user in begun_by[rule]:
            ways[user] += ways[rule]
            waiting[user] -= 1
            if not waiting[user]:
                todo.append(user)
    if n_done < len(rules):
        culprit = next(rule for rule, n in waiting.items() if n)
        raise _error(f"is left-recursive: rule {reader.name(culprit)} may begin with itself")


def _may_be_empty(rules: dict[int, list[Alternative]]) -> set[int]:
    occurrences: dict[int, list[tuple[int, int]]] = {rule: [] for rule in rules}
    left: dict[tuple[int, int], int] = {}  # elements of an alternative not known to be empty
    todo, empty = [], set()
    for rule, alternatives in rules.items():
        for i, alternative in enumerate(alternatives):
            left[rule, i] = len(alternative)
            if not alternative:
                todo.append(rule)
            for element in alternative:
                if element != _CHARACTER:
                    occurrences[element].append((rule, i))
    while todo:
        rule = todo.pop()
        if rule in empty:
            continue
        empty.add(rule)
        for place in occurrences[rule]:
            left[place] -= 1
            if not left[place]:
                todo.append(place[0])
    return empty

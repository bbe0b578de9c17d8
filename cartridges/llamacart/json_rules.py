"""GBNF rules for JSON: any value, the formats of strings, integers between two bounds."""

from __future__ import annotations

BASE_RULES = {
    "ws": r'| " " | "\n" [ \t]{0,20}',
    "hex": r"[0-9a-fA-F]",
    # A surrogate can only be written as an escape, which might be left without its other half.
    "char": r'[^"\\\x00-\x1F\x7F] | "\\" '
    r'(["\\/bfnrt] | "u" ([0-9a-cefA-CEF] hex hex hex | [dD] [0-7] hex hex))',
    "keychar": r'[^"\\\x00-\x1F\x7F]',
    "string": r'"\"" char* "\""',
    "integer": r'"-"? ("0" | [1-9] [0-9]{0,15})',
    "number": r'integer ("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,2})?',
    "boolean": r'"true" | "false"',
    "null": r'"null"',
    "value": r"object | array | string | number | boolean | null",
    "object": r'"{" ws (member ("," ws member)*)? "}"',
    "member": r'string ":" ws value ws',
    "array": r'"[" ws (element ("," ws element)*)? "]"',
    "element": r"value ws",
}
_YEAR = "[0-9]{4}"
_DATE = (
    f'{_YEAR} "-" (("0" [13578] | "10" | "12") "-" ("0" [1-9] | [12] [0-9] | "3" [01]) | '
    '("0" [469] | "11") "-" ("0" [1-9] | [12] [0-9] | "30") | '
    '"02-" ("0" [1-9] | "1" [0-9] | "2" [0-8]))'
)
_CLOCK = '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9]'
_TIME = f'{_CLOCK} ":" [0-5] [0-9] ("." [0-9]{{1,6}})? ("Z" | [-+] {_CLOCK})'
FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f'{_DATE} "T" {_TIME}',
    "uuid": 'hex{8} "-" hex{4} "-" hex{4} "-" hex{4} "-" hex{12}',
}

MAX_DIGITS = 16
_LARGEST = 10**MAX_DIGITS - 1


def integers(low: int | None, high: int | None) -> str:
    """GBNF for the integers low..high as JSON writes them; None means 16 nines.

    Raises:
        ValueError: There are none, or a bound has more than 16 digits.
    """
    for bound in (low, high):
        if bound is not None and abs(bound) > _LARGEST:
            raise ValueError(f"has the bound {bound}; at most {MAX_DIGITS} digits are supported")
    low = -_LARGEST if low is None else low
    high = _LARGEST if high is None else high
    if low > high:
        raise ValueError(f"asks for an integer of at least {low} and at most {high}")
    parts = []
    if low < 0:
        parts.append(f'"-" ({_naturals(max(1, -high), -low)})')
    if high >= 0:
        parts.append(_naturals(max(0, low), high))
    return " | ".join(parts)


def _naturals(low: int, high: int) -> str:
    parts = []
    for n_digits in range(len(str(low)), len(str(high)) + 1):
        first = max(low, 10 ** (n_digits - 1) if n_digits > 1 else 0)
        last = min(high, 10**n_digits - 1)
        parts.append(_between(str(first), str(last)))
    return " | ".join(parts)


def _between(low: str, high: str) -> str:
    """Digits of the numbers low..high, which have equally many."""
    if low == high:
        return f'"{low}"'
    n = len(low) - 1
    if n == 0:
        return f"[{low}-{high}]"
    zeros, nines = "0" * n, "9" * n
    if low[0] == high[0]:
        return f'"{low[0]}" ({_between(low[1:], high[1:])})'
    parts = []
    first, last = int(low[0]), int(high[0])
    if low[1:] != zeros:
        parts.append(f'"{first}" ({_between(low[1:], nines)})')
        first += 1
    ending = ""
    if high[1:] != nines:
        ending = f'"{last}" ({_between(zeros, high[1:])})'
        last -= 1
    if first <= last:
        parts.append(f"[{first}-{last}] [0-9]{{{n}}}")
    return " | ".join([*parts, ending] if ending else parts)

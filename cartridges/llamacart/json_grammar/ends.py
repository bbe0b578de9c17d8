"""Which definitions of a schema no finite text can follow."""

from __future__ import annotations

from typing import Any

_SCALARS = frozenset(["string", "number", "integer", "boolean", "null"])


def endless(definitions: dict[str, Any]) -> list[str]:
    """Names of definitions whose every text would have to hold another text of the same.

    Args:
        definitions: As `llamacart.json_grammar.rewriter` makes them; all references are to these.
    """
    ending: set[str] = set()
    grew = True
    while grew:
        more = {n for n, node in definitions.items() if n not in ending and _ends(node, ending)}
        grew = bool(more)
        ending |= more
    return [name for name in definitions if name not in ending]


def _ends(node: Any, ending: set[str]) -> bool:
    """Whether a text of `node` can end, given definitions of which that is known."""
    if not isinstance(node, dict):
        return True
    if "$ref" in node and node["$ref"].rpartition("/")[2] not in ending:
        return False
    for key, combine in (("anyOf", any), ("oneOf", any), ("allOf", all)):
        if key in node and not combine(_ends(part, ending) for part in node[key]):
            return False
    types = node.get("type")
    if types is None or "enum" in node or "const" in node or _SCALARS.intersection(types):
        return True
    return ("array" in types and _array_ends(node, ending)) or (
        "object" in types and _object_ends(node, ending)
    )


def _array_ends(node: dict[str, Any], ending: set[str]) -> bool:
    n_needed = node.get("minItems", 0)
    prefix = node.get("prefixItems", [])
    needed = prefix[:n_needed] + ([node.get("items", {})] if n_needed > len(prefix) else [])
    return all(_ends(item, ending) for item in needed)


def _object_ends(node: dict[str, Any], ending: set[str]) -> bool:
    members, other = node.get("properties", {}), node.get("additionalProperties", {})
    return all(_ends(members.get(name, other), ending) for name in node.get("required", ()))

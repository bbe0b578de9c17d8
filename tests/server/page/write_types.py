"""Writes the page's types of the API from the server's OpenAPI document.

They are for whoever works on the page: an editor reads them, and so does `tsc` where it is
installed (`make types`). Browsers do not.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from llamacart_server import routes
from llamacart_server.app import create_app
from llamacart_server.library.library import CartridgeLibrary
from llamacart_server.openapi import operations
from llamacart_server.served import ServedModel
from llamacart_server.settings import ServeSettings

PAGE = Path(routes.__file__).parents[1] / "page"
TYPES = PAGE / "schema.d.ts"
_HEAD = """\
// Types of the API, written by tests/server/page/write_types.py from the server's OpenAPI document.
"""
_CALL = """\
/** Asks the API: a GET, a POST with a body, or a DELETE. */
export interface Call {
  <P extends keyof Get>(path: P): Promise<Get[P]["answer"]>;
  <P extends keyof Post>(
    path: P, body: Post[P]["body"], options?: { method?: "POST"; signal?: AbortSignal },
  ): Promise<Post[P]["answer"]>;
  <P extends keyof Delete>(
    path: P, body: undefined, options: { method: "DELETE"; signal?: AbortSignal },
  ): Promise<Delete[P]["answer"]>;
}
"""
_JSON = "application/json"
_WORDS = {
    "string": "string",
    "integer": "number",
    "number": "number",
    "boolean": "boolean",
    "null": "null",
}


def types_of(document: dict[str, Any]) -> str:
    """The declarations: one a schema, then what each method takes and answers by path."""
    schemas = document["components"]["schemas"]
    parts = [_HEAD]
    parts += [f"export type {name} = {_type(schemas[name])};\n" for name in sorted(schemas)]
    for method in ("get", "post", "delete"):
        entries = [
            f"  {_key(path)}: {_exchange(operation)};"
            for path, operation in operations(document)
            if operation is document["paths"][path].get(method) and _answer(operation)
        ]
        name = method.capitalize()
        parts.append("\n".join([f"export interface {name} {{", *entries, "}\n"]))
    return "\n".join([*parts, _CALL])


def _key(path: str) -> str:
    """A path relative to the page's own; its parameters are any text."""
    relative = path.removeprefix("/")
    if "{" not in relative:
        return json.dumps(relative)
    return f"[path: `{re.sub(r'{[^}]*}', '${string}', relative)}`]"


def _exchange(operation: dict[str, Any]) -> str:
    content = operation.get("requestBody", {}).get("content", {})
    body = _type(content[_JSON]["schema"]) if _JSON in content else "undefined"
    return f"{{ body: {body}; answer: {_type(_answer(operation))} }}"


def _answer(operation: dict[str, Any]) -> dict[str, Any]:
    """The schema of what is answered as JSON where all went well; empty where nothing is."""
    for code, response in operation["responses"].items():
        if code.startswith("2") and _JSON in response.get("content", {}):
            schema: dict[str, Any] = response["content"][_JSON]["schema"]
            return schema
    return {}


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " | ".join(dict.fromkeys(_type(one) for one in schema[key]))
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return " | ".join(map(json.dumps, schema["enum"]))
    kind = schema.get("type")
    if kind == "array":
        return f"({_type(schema.get('items', {}))})[]"
    if kind == "object":
        return _object(schema)
    return _WORDS.get(kind or "", "any")


def _object(schema: dict[str, Any]) -> str:
    # A field that answers always have is one that they state, whether or not it has a default.
    needed = schema.get("required", [])
    fields = [
        f"{json.dumps(name)}{'' if name in needed else '?'}: {_type(field)}"
        for name, field in schema.get("properties", {}).items()
    ]
    more = schema.get("additionalProperties")
    if isinstance(more, dict):
        fields.append(f"[name: string]: {_type(more)}")
    elif more is True or not fields:
        fields.append("[name: string]: any")
    return "{ " + "; ".join(fields) + " }"


def document() -> dict[str, Any]:
    """The document of a server; what it says of types depends on no model."""
    nothing: Any = None
    model = ServedModel("model", (), 512, nothing, nothing)
    embedder: Any = object()  # with all routes
    app = create_app(nothing, CartridgeLibrary(), model, ServeSettings(), embedder)
    described: dict[str, Any] = app.openapi()
    return described


if __name__ == "__main__":
    TYPES.write_text(types_of(document()), "utf-8")

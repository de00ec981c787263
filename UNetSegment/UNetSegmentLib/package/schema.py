"""Check JSON against the part of JSON Schema (draft 2020-12) that our schemas use, with the standard library alone.

The panel reads manifests before anything is installed into Slicer, so the ``jsonschema`` package cannot be asked
there. A test holds this checker to that package's verdicts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_TYPES: dict[str, Any] = {
    "object": lambda x: isinstance(x, dict),
    "array": lambda x: isinstance(x, list),
    "string": lambda x: isinstance(x, str),
    "boolean": lambda x: isinstance(x, bool),
    "null": lambda x: x is None,
    "integer": lambda x: not isinstance(x, bool) and (isinstance(x, int) or (isinstance(x, float) and x.is_integer())),
    "number": lambda x: isinstance(x, int | float) and not isinstance(x, bool),
}
_BOUNDS: dict[str, tuple[Any, Any, str]] = {
    "minimum": ("number", lambda x, n: x >= n, "is smaller than {}"),
    "maximum": ("number", lambda x, n: x <= n, "is larger than {}"),
    "exclusiveMinimum": ("number", lambda x, n: x > n, "must be greater than {}"),
    "minLength": ("string", lambda x, n: len(x) >= n, "is shorter than {} characters"),
    "maxLength": ("string", lambda x, n: len(x) <= n, "is longer than {} characters"),
    "minItems": ("array", lambda x, n: len(x) >= n, "has fewer than {} items"),
    "maxItems": ("array", lambda x, n: len(x) <= n, "has more than {} items"),
    "pattern": ("string", lambda x, n: re.search(n, x) is not None, "does not look like {}"),
}
_KNOWN = {*_BOUNDS, "$schema", "$defs", "$ref", "title", "description", "type", "enum", "required", "properties"} | {
    "additionalProperties",
    "propertyNames",
    "items",
    "anyOf",
}


def load_json(path: Path, limit: int = 4 << 20) -> Any:
    """Read a JSON file strictly: UTF-8, no repeated keys, no NaN, at most ``limit`` bytes.

    Raises:
        ValueError: What is wrong, as a clause that fits behind the file's name.
        OSError: The file cannot be read.
    """
    return parse_json(read_text(path, limit))


def read_text(path: Path, limit: int = 4 << 20) -> str:
    """Read a file of UTF-8, at most ``limit`` bytes; raises as :func:`load_json` does."""
    if path.stat().st_size > limit:
        raise ValueError(f"is larger than {limit >> 20} MiB")
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None


def parse_json(text: str) -> Any:
    """Read JSON strictly: no repeated keys, no NaN; raises ``ValueError`` as :func:`load_json` does."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if len(set(keys)) != len(keys):
            raise ValueError(f"names '{next(k for k in keys if keys.count(k) > 1)}' twice")
        return dict(pairs)

    def refuse(text: str) -> float:
        raise ValueError(f"holds {text}, which is not a number in JSON")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON (line {error.lineno}: {error.msg})") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def problems(value: Any, schema: dict[str, Any], root: dict[str, Any] | None = None, at: str = "") -> Iterator[str]:
    """Yield what in ``value`` breaks ``schema``, each as ``place: what``; nothing where it fits."""
    root = schema if root is None else root
    if unknown := set(schema) - _KNOWN:
        raise AssertionError(f"the schema uses {sorted(unknown)}, which this checker does not know")
    if "$ref" in schema:
        target: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        yield from problems(value, target, root, at)
    here = at or "the file"
    if "anyOf" in schema:
        branches = [list(problems(value, branch, root, at)) for branch in schema["anyOf"]]
        if all(branches):
            yield min(branches, key=len)[0]
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else types
    if types and not any(_TYPES[name](value) for name in types):
        yield f"{here}: {_brief(value)} is not of type {' or '.join(types)}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{here}: {_brief(value)} is not one of {', '.join(map(str, schema['enum']))}"
    for keyword, (kind, fits, words) in _BOUNDS.items():
        if keyword in schema and _TYPES[kind](value) and not fits(value, schema[keyword]):
            yield f"{here}: {_brief(value)} {words.format(schema[keyword])}"
    if isinstance(value, dict):
        yield from _object_problems(value, schema, root, at)
    if isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            yield from problems(item, schema["items"], root, f"{at}[{index}]")


def _object_problems(value: dict[str, Any], schema: dict[str, Any], root: dict[str, Any], at: str) -> Iterator[str]:
    known, other = schema.get("properties", {}), schema.get("additionalProperties")
    for key in schema.get("required", []):
        if key not in value:
            yield f"{at or 'the file'}: '{key}' is missing"
    for key, item in value.items():
        if any(problems(key, schema.get("propertyNames", {}), root)):
            yield f"{at or 'the file'}: '{key}' is not a known entry"
        elif key in known:
            yield from problems(item, known[key], root, f"{at}.{key}" if at else key)
        elif isinstance(other, dict):
            yield from problems(item, other, root, f"{at}.{key}" if at else key)
        elif other is False:
            yield f"{at or 'the file'}: '{key}' is not a known entry"


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."

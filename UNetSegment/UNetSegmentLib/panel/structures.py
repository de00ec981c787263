"""Which of a model's structures are wanted, in plain Python: kept by model as text, so that a scene can hold it."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection

from ..package import Manifest


def wanted(text: str, model: str, manifest: Manifest | None) -> set[int] | None:
    """Label values of the structures that are wanted of a model; None: all.

    Args:
        text: What :func:`remember` gave, or nothing. Names that the model does not have are passed over.
        model: Name of the model.
        manifest: Of the model.
    """
    names = _read(text).get(model)
    if names is None or manifest is None:
        return None
    values = {label.value for label in manifest.segments if label.name in names}
    return None if len(values) == len(manifest.segments) else values


def remember(text: str, model: str, manifest: Manifest, values: Collection[int]) -> str:
    """``text`` with the wanted structures of one model replaced; where all are wanted, nothing is kept of it."""
    known = _read(text)
    known.pop(model, None)
    names = [label.name for label in manifest.segments if label.value in values]
    if len(names) < len(manifest.segments):
        known[model] = names
    return json.dumps(known, ensure_ascii=False, sort_keys=True) if known else ""


def title(manifest: Manifest | None, values: Collection[int] | None, tr: Callable[[str], str] = lambda t: t) -> str:
    """The title of the folded section: ``Structures: all 2``, ``Structures: 3 of 104``."""
    if manifest is None:
        return tr("Structures")
    count = len(manifest.segments)
    if values is None:
        return tr("Structures: all {count}").format(count=count)
    return tr("Structures: {kept} of {count}").format(kept=len(values), count=count)


def _read(text: str) -> dict[str, list[str]]:
    try:
        known = json.loads(text or "{}")
    except ValueError:  # a scene that something else wrote
        return {}
    items = known.items() if isinstance(known, dict) else ()
    return {str(name): [str(each) for each in names] for name, names in items if isinstance(names, list)}

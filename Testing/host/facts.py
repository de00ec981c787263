"""What real Slicer shows of each class, read from the recording beside the module's tests."""

import functools
import json
from pathlib import Path

RECORDING = Path(__file__).resolve().parents[2] / "UNetSegment" / "Testing" / "Python" / "slicer_facts.json"
ALWAYS = {"exec_", "raise_", "print_", "name"}  # PythonQt's aliases, which dir() does not list


@functools.cache
def _recording() -> dict:
    return json.loads(RECORDING.read_text(encoding="utf8"))["classes"] if RECORDING.exists() else {}


@functools.cache
def of_application() -> frozenset:
    """The names on ``slicer.app``."""
    recorded = json.loads(RECORDING.read_text(encoding="utf8"))["slicer.app"] if RECORDING.exists() else ""
    return frozenset(recorded.split())


@functools.cache
def of_class(name: str) -> dict[str, frozenset] | None:
    """``callable``, ``properties`` and ``signals`` of a class, None if it was not recorded."""
    entry = _recording().get(name)
    if entry is None:
        return None
    base = of_class(entry["like"]) if "like" in entry else {}
    result = {}
    for kind in ("callable", "properties", "signals"):
        plus, minus = (entry.get(p + kind, ()) for p in ("", "no_"))
        plus, minus = (v.split() if isinstance(v, str) else v for v in (plus, minus))
        result[kind] = (base.get(kind, frozenset()) - frozenset(minus)) | frozenset(plus)
    return result


@functools.cache
def property_names(name: str) -> frozenset | None:
    """The names of a class's Qt properties."""
    recorded = of_class(name)
    return None if recorded is None else frozenset(p.removesuffix(" (read-only)") for p in recorded["properties"])

"""SNOMED CT codes of structures, looked up by name in 3D Slicer's terminology table; nothing is guessed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from UNetSegmentLib.package import schema

from .dataset import DatasetError

TABLE = Path(__file__).with_name("terminology.json")
"""3D Slicer's 'General Anatomy' list, cut to names and codes; ``source`` in the file tells where it is from."""
_SYNONYMS = {
    "oesophagus": "esophagus",
    "gall bladder": "gallbladder",
    "suprarenal gland": "adrenal gland",
    "caudate": "caudate nucleus",
    "grey matter": "gray matter",
    "oedema": "edema",
    "haemorrhage": "hemorrhage",
}
_KEYS = {"CodingSchemeDesignator": "scheme", "CodeValue": "value", "CodeMeaning": "meaning"}


def add_codes(labels: list[dict[str, Any]], table: Path | None = None) -> None:
    """Give each of a manifest's labels without ``terminology`` the codes of its name, where the table has it.

    Args:
        labels: The manifest's entries; changed in place. The background stays as it is.
        table: A terminology in Slicer's JSON format; by default the one that comes with this package.

    Raises:
        DatasetError: The table cannot be read.
    """
    known = Terms(table or TABLE)
    for label in labels:
        if label["value"] != 0 and not label.get("terminology") and (codes := known.find(label["name"])):
            label["terminology"] = codes


class Terms:
    """A table's structures by name: exact, with a side in front or behind, singular for plural, few synonyms."""

    def __init__(self, table: Path) -> None:
        try:
            categories = schema.load_json(table)["SegmentationCodes"]["Category"]
            meanings: dict[str, Any] = {}
            names: dict[str, Any] = {}
            for category in categories:
                for kind in category["Type"]:
                    codes = {"category": _code(category), "type": _code(kind)}
                    _note(meanings, kind["CodeMeaning"], codes)
                    _note(names, kind.get("3dSlicerLabel", ""), codes)
                    for modifier in kind.get("Modifier", []):
                        sided = codes | {"modifier": _code(modifier)}
                        _note(meanings, f"{modifier['CodeMeaning']} {kind['CodeMeaning']}", sided)
                        _note(names, modifier.get("3dSlicerLabel", ""), sided)
                        if kind.get("3dSlicerLabel"):
                            _note(names, f"{modifier['CodeMeaning']} {kind['3dSlicerLabel']}", sided)
        except OSError as error:
            raise DatasetError(f"The terminology '{table}' cannot be read ({error.strerror or error}).") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DatasetError(f"'{table}' is not a terminology in 3D Slicer's JSON format.") from None
        self._known = names | meanings  # what the code means wins over what Slicer calls it

    def find(self, name: str) -> dict[str, Any] | None:
        """Codes as a manifest holds them; None where the table does not have the name, or has two structures of it."""
        plain = _plain(name)
        side = re.fullmatch(r"(?:(left|right) (.+)|(.+) (left|right))", plain)
        first = [side[1] or side[4]] if side else []
        rest = (side[2] or side[3]) if side else plain
        for word in (rest, _SYNONYMS.get(rest), rest[:-1] if rest.endswith("s") else None):
            if word and (codes := self._known.get(" ".join([*first, word]))):
                return {key: dict(code) for key, code in codes.items()}
        return None


def _note(known: dict[str, Any], name: str, codes: dict[str, Any]) -> None:
    """Remember ``codes`` by name; two different ones by the same name are remembered as none."""
    if key := _plain(name):
        before = known.get(key, codes)
        same = before and before["type"]["value"] == codes["type"]["value"] and before.keys() == codes.keys()
        known[key] = before if same else None


def _plain(name: str) -> str:
    return " ".join(re.sub(r"[\W_]+", " ", name.lower()).split())


def _code(entry: dict[str, Any]) -> dict[str, str]:
    return {ours: str(entry[theirs]) for theirs, ours in _KEYS.items()}

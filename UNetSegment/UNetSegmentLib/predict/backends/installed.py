"""What is installed, and whether it is whole: told by metadata and files, nothing is imported."""

from __future__ import annotations

import csv
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

_LIBRARY = re.compile(r"\.(so(\.\d+)*|pyd|dll|dylib)$")
_MAYBE = (".so", ".pyd", ".dll", ".dylib")


@dataclass(frozen=True)
class State:
    """A distribution on this computer.

    Args:
        version: As it is noted; empty where it is not there.
        fault: Why it cannot be used, in words that go on from "it is damaged:"; empty where nothing is wrong.
        remains: What pip cannot remove by itself, because no record of it is left.
    """

    version: str = ""
    fault: str = ""
    remains: tuple[Path, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether it is there and can be used."""
        return bool(self.version) and not self.fault


def is_installed(distribution: str) -> bool:
    """Whether a package is installed and whole; nothing is imported."""
    return state(distribution).is_whole


def state(distribution: str, places: Sequence[str] | None = None) -> State:
    """Look for a distribution whose one import package has its name, as with all that this program asks for.

    pip writes a package's files first and the record of them last, and moves what it replaces to folders whose names
    begin with ``~``: that is how an installation which was stopped halfway is told.

    Args:
        distribution: E.g. ``openvino``.
        places: Folders to look in, in this order; those of ``sys.path`` by default.
    """
    remains: list[Path] = []
    places = list(sys.path if places is None else places)
    for place in map(Path, places):
        notes, folder, moved = _look(place, distribution)
        if notes:
            return _judge(place, distribution, notes, folder, moved)
        remains += [folder] if folder is not None else []
        remains += moved
    for found in metadata.distributions(name=distribution, path=places):  # noted in another way, e.g. as an egg
        return State(found.version)
    return State("", "its installation was stopped halfway" if remains else "", tuple(remains))


def _look(place: Path, distribution: str) -> tuple[list[Path], Path | None, list[Path]]:
    """In a folder of packages: the notes (``.dist-info``), the package's folder, and what pip has moved aside."""
    try:
        names = os.listdir(place)
    except OSError:  # a zip, or not there
        return [], None, []
    wanted = _plain(distribution)
    notes = [name for name in names if name.endswith(".dist-info") and _plain(name.split("-")[0]) == wanted]
    moved = [name for name in names if name.startswith("~") and _was(name, wanted)]
    package = wanted.replace("-", "_")
    is_place = bool(moved) or any(name.endswith(".dist-info") for name in names)  # not just any folder on the path
    folder = place / package if is_place and (place / package / "__init__.py").is_file() else None
    return [place / name for name in notes], folder, [place / name for name in moved]


def _judge(place: Path, distribution: str, notes: list[Path], folder: Path | None, moved: list[Path]) -> State:
    versions = [note.name.removesuffix(".dist-info").split("-", 1)[-1] for note in notes]
    version = versions[0]
    strays = (*notes, *([folder] if folder is not None else []), *moved)
    if len(notes) > 1:
        return State(version, f"it is noted as version {' and as '.join(sorted(versions))}", strays)
    if not (notes[0] / "METADATA").is_file():
        return State(version, "its installation was stopped halfway", strays)
    try:
        record = (notes[0] / "RECORD").read_text("utf-8", errors="replace")
    except OSError:
        by = notes[0] / "INSTALLER"
        if by.is_file() and by.read_text("utf-8", errors="replace").strip() != "pip":
            return State(version)  # some distributors keep no record
        return State(version, "its installation was stopped halfway", strays)
    package = f"{_plain(distribution).replace('-', '_')}/__init__.py"
    ends = [package, *(end for end in _MAYBE if end in record)]
    lines = [line for line in record.splitlines() if any(end in line for end in ends)]
    paths = [row[0] for row in csv.reader(lines) if row and (row[0] == package or _LIBRARY.search(row[0]))]
    lost = [path for path in paths if not (place / path).is_file()]
    if lost:
        return State(version, f"{len(lost)} of its files are missing, such as {Path(lost[0]).name}", tuple(moved))
    return State(version)


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _was(name: str, wanted: str) -> bool:
    """Whether pip may have given a folder this name to set it aside: the first letters of its own are hidden."""
    name = name.removesuffix(".dist-info").rsplit("-", 1)[0] if name.endswith(".dist-info") else name
    rest = name.lstrip("~-.=%0123456789")
    return len(name) == len(wanted) and len(rest) > 1 and wanted.endswith(_plain(rest))

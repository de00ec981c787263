"""How fast models ran on this computer: noted in the user's cache after each run, so that the next one can be foretold.

``speeds/MODEL.json`` holds, for each computer and way to run, the last runs and the time of the reference patch. The
computer is part of the key, so that a cache folder can be copied or shared.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import OutputError
from ..package import Manifest, cache_folder, records
from ..volume import Grid
from . import forecast
from .focus import Region
from .forecast import Measured, Work
from .modes import Configuration

KEPT = 8
"""Runs that are kept of a model in one configuration; the oldest goes."""


def note_run(manifest: Manifest, options: Mapping[str, Any], ran: Mapping[str, str], run: Measured) -> None:
    """Write down a run.

    Args:
        manifest: Of the model.
        options: What was asked of :class:`Predictor`.
        ran: What it then ran on, :meth:`Predictor.description`: runs on something else say nothing any more.
        run: What was measured.
    """

    def add(entry: dict[str, Any]) -> None:
        row = [run.work.networks, run.work.voxels, round(run.network, 4), round(run.beside, 4)]
        entry["runs"] = [*entry.get("runs", []), row][-KEPT:]

    _change(manifest, options, ran, add)


def note_proof(manifest: Manifest, options: Mapping[str, Any], ran: Mapping[str, str], seconds: float) -> None:
    """Write down how long one network run on the reference patch took; the arguments are those of :func:`note_run`."""
    _change(manifest, options, ran, lambda entry: entry.update(proof=round(seconds, 4)))


def runs(manifest: Manifest, options: Mapping[str, Any]) -> tuple[list[Measured], float | None, dict[str, str]]:
    """Runs of a model here, seconds of its reference patch or None, and what they ran on; empty where there were none."""
    entry = _mine(_path(manifest)).get(_key(manifest, options), {})
    try:
        proof = entry.get("proof")
        return _runs(entry), None if proof is None else float(proof), dict(entry.get("ran", {}))
    except (TypeError, ValueError):  # something else wrote there
        return [], None, {}


def expected(
    manifest: Manifest,
    options: Mapping[str, Any],
    grid: Grid,
    region: Region | None = None,
    ran: Mapping[str, str] | None = None,
) -> float | None:
    """Seconds that a run will take here; None where nothing was measured that tells it.

    Args:
        manifest: Of the model.
        options: For :class:`Predictor`.
        grid: Of the image.
        region: As for :meth:`Predictor.predict`.
        ran: What it would run on, where that is known.

    Raises:
        InputError: The region is not inside of the image.
        BackendError: The options do not fit the model.
    """
    known, proof, where = runs(manifest, options)
    if ran is not None and where != _what(ran):
        return None
    chosen = Configuration.of(manifest, options.get("mode", "auto"), options.get("mirror"))
    ahead = forecast.work(grid, manifest, chosen, options.get("folds", "all"), region)
    return forecast.seconds(ahead, known, proof, () if known else other_runs(manifest))


def other_runs(manifest: Manifest) -> list[Measured]:
    """Runs of all other models here."""
    found: list[Measured] = []
    for path in sorted((cache_folder() / "speeds").glob("*.json")):
        if path != _path(manifest):
            with suppress(TypeError, ValueError):
                for entry in _mine(path).values():
                    found += _runs(entry)
    return found


def _change(manifest: Manifest, options: Mapping[str, Any], ran: Mapping[str, str], change: Any) -> None:
    path, key, where = _path(manifest), _key(manifest, options), _what(ran)
    whole, mine = records.read(path), _mine(path)
    entry = mine.get(key, {})
    if entry.get("ran") != where or not isinstance(entry.get("runs", []), list):
        entry = {"ran": where}
    change(entry)
    with suppress(OutputError):  # a cache that cannot be written: nothing is foretold
        records.write(path, {**whole, _computer(): {**mine, key: entry}})


def _runs(entry: Mapping[str, Any]) -> list[Measured]:
    rows = [[float(number) for number in row] for row in entry.get("runs", [])]
    return [Measured(Work(int(n), int(voxels)), network, beside) for n, voxels, network, beside in rows]


def _mine(path: Path) -> dict[str, dict[str, Any]]:
    """What is noted for this computer, by way to run."""
    mine = records.read(path).get(_computer())
    return {key: entry for key, entry in mine.items() if isinstance(entry, dict)} if isinstance(mine, dict) else {}


def _what(ran: Mapping[str, str]) -> dict[str, str]:
    return {name: ran.get(name, "") for name in ("backend", "device", "precision", "reference_dice")}


def _key(manifest: Manifest, options: Mapping[str, Any]) -> str:
    """What decides how fast a network runs; not how often: mirroring, and which folds where not all."""
    chosen = {name: options.get(name) or "auto" for name in ("device", "backend", "threads", "mode")}
    chosen["folds"] = "all" if options.get("folds", "all") == "all" else "some"
    return json.dumps(chosen)


def _path(manifest: Manifest) -> Path:
    text = json.dumps(manifest.raw, sort_keys=True)
    return cache_folder() / "speeds" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def _computer() -> str:
    text = f"{platform.node()} {platform.machine()} {platform.system()} {os.cpu_count()}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]

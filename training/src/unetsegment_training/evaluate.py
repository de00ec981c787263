"""Measure a packed model on cases it has not seen, through the very predictor that runs in the clinic."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.progress import track
from UNetSegmentLib import package
from UNetSegmentLib.errors import UNetSegmentError
from UNetSegmentLib.predict import Predictor, gather
from UNetSegmentLib.volume import Volume

from .compare import compare
from .dataset import Case
from .metrics import NAMES, measure, summarize
from .report import write_report
from .report_pictures import overlay


def evaluate(
    cases: Sequence[Case],
    model: Path | str,
    output: Path,
    backend: str = "auto",
    run: Path | None = None,
    previous: Path | None = None,
    mirror: bool = False,
) -> list[dict[str, Any]]:
    """Segment every case and compare with the expert.

    Args:
        cases: With labels.
        model: A package folder or the name of an installed model.
        output: Folder for ``cases.csv`` (a row per case and label), ``cases.json``, ``summary.json`` and ``report.html``.
        backend: As in :class:`UNetSegmentLib.predict.Predictor`.
        run: Run folder whose learning curves the report shows.
        previous: Folder of an earlier evaluation that the report compares with.
        mirror: Average mirrored copies.

    Returns:
        The summary: an entry per label.
    """
    loaded = package.load(model)
    predictor = Predictor(loaded, backend=backend, mirror=mirror)
    rows: list[dict[str, Any]] = []
    pictures: dict[str, str] = {}
    for case in track(cases, "evaluate", disable=None):
        image, expert = case.load()
        channels = [Volume(image.array[c : c + 1], image.grid, (name,)) for c, name in enumerate(image.channels)]
        try:
            answer = predictor.predict(gather(channels, loaded.manifest)).labels
        except UNetSegmentError as error:
            raise type(error)(f"Case '{case.name}': {error}") from None
        for label in loaded.manifest.segments:
            scores = measure(answer.array == label.value, expert.array == label.value, image.grid.spacing)
            rows.append({"case": case.name, "label": label.value, "name": label.name, **scores})
        pictures[case.name] = overlay(image, expert, answer)
    summary = summarize(rows)
    output.mkdir(parents=True, exist_ok=True)
    with (output / "cases.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["case", "label", "name", *NAMES])
        writer.writeheader()
        writer.writerows({k: f"{v:.5f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    (output / "cases.json").write_text(json.dumps(_finite(rows), indent=1), "utf-8")
    (output / "summary.json").write_text(json.dumps(summary, indent=1), "utf-8")
    differences = compare(previous, output)[0] if previous is not None else []
    manifest = loaded.manifest
    lead = f"Version {manifest.version}, {len(cases)} cases, backend {predictor.place.backend}{', mirrored' * mirror}."
    write_report(
        output / "report.html", manifest.title, lead, rows, summary, pictures, run, str(previous or ""), differences
    )
    return summary


def _finite(value: Any) -> Any:
    """JSON has no NaN: an undefined metric becomes null."""
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and value != value else value

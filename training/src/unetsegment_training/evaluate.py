"""Measure a packed model on cases it has not seen, through the very predictor that runs in the clinic."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.progress import track
from UNetSegmentLib import package
from UNetSegmentLib.errors import UNetSegmentError
from UNetSegmentLib.labels import Label
from UNetSegmentLib.predict import Prediction, Predictor, gather
from UNetSegmentLib.volume import LabelMap, Volume

from .compare import compare
from .dataset import Case
from .metrics import NAMES, measure, summarize
from .report import write_report
from .report_pictures import overlay


class Answer(NamedTuple):
    """A case as image (C, I, J, K), expert and model see it, on one grid."""

    case: str
    image: Volume
    expert: LabelMap
    labels: LabelMap


def evaluate(
    cases: Sequence[Case],
    model: Path | str,
    output: Path,
    backend: str = "auto",
    run: Path | None = None,
    previous: Path | None = None,
    mirror: bool = False,
    folds: str = "all",
    seen: str = "Whether the model was trained on them is not known here.",
) -> list[dict[str, Any]]:
    """Segment every case and compare with the expert, in the structures that the expert's labels tell of.

    Args:
        cases: With labels.
        model: A package folder or the name of an installed model.
        output: Folder for ``cases.csv`` (a row per case and label), ``cases.json``, ``summary.json`` and ``report.html``.
        backend: As in :class:`UNetSegmentLib.predict.Predictor`.
        run: Run folder whose learning curves the report shows.
        previous: Folder of an earlier evaluation that the report compares with.
        mirror: Average mirrored copies.
        folds: Which of the model's networks answer, as in :class:`UNetSegmentLib.predict.Predictor`.
        seen: A sentence for the report: whether the model was trained on the cases.

    Returns:
        The summary: an entry per label.
    """
    loaded = package.load(model)
    predictor = Predictor(loaded, backend=backend, mirror=mirror, folds=folds)
    manifest = loaded.manifest
    answers = (answer(predictor, case) for case in track(cases, "evaluate", disable=None))
    how = f"{', mirrored' * mirror}{f', folds {folds}' * (folds != 'all')}"
    lead = f"Version {manifest.version}, {len(cases)} case{'s' * (len(cases) != 1)}, backend {predictor.place.backend}{how}. {seen}"
    runs = [run] if run is not None else []
    told = {value for case in cases for _, value in case.renumber}
    segments = [label for label in manifest.segments if label.value in told] if told else manifest.segments
    return write_evaluation(output, manifest.title, lead, segments, answers, runs, previous)


def answer(predictor: Predictor, case: Case) -> Answer:
    """What a model answers to a case, beside the expert's labels."""
    image, expert = case.load()
    return Answer(case.name, image, expert, predict(predictor, case, image).labels)


def predict(predictor: Predictor, case: Case, image: Volume, **options: Any) -> Prediction:
    """What a model predicts for a case's ``image``; an error names the case. ``options`` go to the predictor."""
    channels = [Volume(image.array[c : c + 1], image.grid, (name,)) for c, name in enumerate(image.channels)]
    try:
        return predictor.predict(gather(channels, predictor.package.manifest), **options)
    except UNetSegmentError as error:
        raise type(error)(f"Case '{case.name}': {error}") from None


def write_evaluation(
    output: Path,
    title: str,
    lead: str,
    segments: Sequence[Label],
    answers: Iterable[Answer],
    runs: Sequence[Path] = (),
    previous: Path | None = None,
) -> list[dict[str, Any]]:
    """Measure answers and write ``cases.csv``, ``cases.json``, ``summary.json`` and ``report.html``; returns the summary.

    Args:
        output: Folder to write to.
        title: Of the report.
        lead: A line about data and model.
        segments: Labels to measure.
        answers: One at a time; they are not kept.
        runs: Run folders whose learning curves the report shows.
        previous: Folder of an earlier evaluation that the report compares with.
    """
    rows: list[dict[str, Any]] = []
    pictures: dict[str, str] = {}
    for case, image, expert, labels in answers:
        for label in segments:
            scores = measure(labels.array == label.value, expert.array == label.value, image.grid.spacing)
            rows.append({"case": case, "label": label.value, "name": label.name, **scores})
        pictures[case] = overlay(image, expert, labels)
    summary = summarize(rows)
    output.mkdir(parents=True, exist_ok=True)
    with (output / "cases.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["case", "label", "name", *NAMES])
        writer.writeheader()
        writer.writerows({k: f"{v:.5f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    (output / "cases.json").write_text(json.dumps(_finite(rows), indent=1), "utf-8")
    (output / "summary.json").write_text(json.dumps(summary, indent=1), "utf-8")
    differences = compare(previous, output)[0] if previous is not None else []
    write_report(output / "report.html", title, lead, rows, summary, pictures, runs, str(previous or ""), differences)
    return summary


def _finite(value: Any) -> Any:
    """JSON has no NaN: an undefined metric becomes null."""
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and value != value else value

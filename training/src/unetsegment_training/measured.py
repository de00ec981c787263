"""Pack runs with figures from cases that their networks did not train on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from UNetSegmentLib.package import Package

from .config import FitConfig
from .crossval import decided, finished
from .dataset import Dataset, DatasetError
from .evaluate import evaluate
from .pack import one_kind, pack
from .run_folder import stored


def runs_of(places: Sequence[Path]) -> list[Path]:
    """Run folders, a folder of ``cross-validate`` replaced by its finished folds."""
    runs = []
    for place in places:
        if (place / "config.json").exists() and not any(place.glob("fold_*/config.json")):
            runs.append(place)
        elif any(place.glob("fold_*/config.json")):
            runs += [fold.run for fold in finished(place)]
        else:
            raise DatasetError(f"'{place}' is not a run folder; make it with 'unetsegment-train fit'.")
    return runs


def pack_measured(
    runs: Sequence[Path],
    dataset: Dataset,
    output: Path,
    card: dict[str, Any],
    snapshot: bool = False,
    terminology: Path | None = None,
    cross_validated: Path | None = None,
) -> tuple[Package, list[dict[str, Any]]]:
    """Pack one run, or the mean of several, with metrics in the manifest.

    Where cases validated every run, the model itself is measured on them (``RUN/evaluation`` of the first). The folds of
    one cross-validation together have seen every case: their model takes the figures of the single networks on the
    cases that each did not see, and the post-processing that was decided there. A run on all cases has no figures but those
    of ``cross_validated``, a cross-validation with the same settings, which are then an estimate.

    Returns:
        The package, and the summary of :func:`evaluate.evaluate` that went into it (empty: there is none).

    Raises:
        DatasetError: A run has not finished, the runs are not of one kind, their folds were never evaluated together, or
            ``cross_validated`` is of another kind than they are, or no estimate is needed.
    """
    draft = one_kind(runs)
    folds = [FitConfig.load(run / "config.json").fold for run in runs]
    options: dict[str, Any] = {"snapshot": snapshot, "terminology": terminology}
    if cross_validated is not None:
        if max(folds) >= 0:
            raise DatasetError(
                f"'{runs[folds.index(max(folds))]}' held cases out and is measured on them; "
                "the figures of a cross-validation are for runs on all cases."
            )
        told, draft = _estimate(cross_validated, runs)
        words = f"{told['measured_on']}; the packed network was trained on all its cases"
        packed = pack(runs, dataset, output, card, summary=told["summary"], measured_on=words, draft=draft, **options)
        return packed, told["summary"]
    if all(fold < 0 for fold in folds):
        return pack(runs, dataset, output, card, **options), []
    parts = [stored(run / "split.json")[fold] for run, fold in zip(runs, folds) if fold >= 0]
    unseen = {case.name for case in dataset.cases} - {name for part in parts for name in part["train"]}
    if unseen and min(folds) >= 0:
        pack(runs, dataset, output, card, draft=draft, **options)
        cases = [case for case in dataset.cases if case.name in unseen]
        known = "No network of the model was trained on them."
        summary = evaluate(cases, output, runs[0] / "evaluation", run=runs[0], seen=known)
        words = f"fold {folds[0]} validation"
        packed = pack(runs, dataset, output, card, summary=summary, measured_on=words, draft=draft, **options)
        return packed, summary
    folder = runs[0].parent
    if snapshot or any(run.parent.resolve() != folder.resolve() for run in runs):
        raise DatasetError(
            "Together these runs have trained on every case, so nothing is left to measure their model on; "
            "pack folds of one folder that 'unetsegment-train cross-validate' has finished."
        )
    told = decided(folder, runs)
    whole = one_kind([folder, *runs])  # of all cases, and of the same kind
    whole["postprocessing"] = told["postprocessing"]
    words = f"{told['measured_on']}, one network per case"
    packed = pack(runs, dataset, output, card, summary=told["summary"], measured_on=words, draft=whole, **options)
    return packed, told["summary"]


def _estimate(folder: Path, runs: Sequence[Path]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a cross-validation found, and the draft of runs on all cases with the post-processing that it decided."""
    folds = [fold.run for fold in finished(folder)]
    told, draft = decided(folder, folds), one_kind([runs[0], folder, *folds])
    same = {
        "fold": -1,
        "seed": 0,
        "validate_every": 1,
        "spacing": None,
        "slice_axis": None,
    }  # the last two as drafts say
    expected = FitConfig.load(folder / "config.json").changed(**same).model_dump()
    for run in runs:
        config = FitConfig.load(run / "config.json").changed(**same).model_dump()
        if wrong := next((key for key, value in config.items() if value != expected[key]), None):
            raise DatasetError(
                f"'{run}' was trained with {wrong} = {config[wrong]}, the cross-validation '{folder}' with {expected[wrong]}; "
                "its figures say nothing about this run."
            )
    return told, draft | {"postprocessing": told["postprocessing"]}

"""Which of several cross-validated configurations is best: decided on cases that none of their answers was trained on."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .compare import LEVEL, compare, holm, rows
from .crossval import DECISIONS, validate_mean
from .dataset import Dataset, DatasetError
from .finetune import seen_by
from .safely import replace_text


def choose(
    folders: Sequence[Path], output: Path, ensembles: Dataset | None = None, backend: str = "auto"
) -> dict[str, Any]:
    """Choose among folders of ``cross-validate`` by mean Dice, over cases of the mean over labels (nnU-Net's measure).

    What is compared is what would ship: answers with the post-processing that was kept. Of equals the first named wins.
    Every other one is compared with the best, paired by case; p is corrected for the number of these comparisons (Holm).

    A package holds one configuration. The mean of two is measured where that is asked for, to tell what is given up; it
    is not chosen.

    Args:
        folders: Of the same dataset, split and folds; the simplest first.
        output: Folder for ``decisions.json``, and for the evaluations of means (``A+B``).
        ensembles: The dataset, to measure the mean of each two as well.
        backend: As in :class:`UNetSegmentLib.predict.Predictor`, for these.

    Returns:
        ``chosen`` (the folder), ``why``, ``candidates`` with their Dice, ``differences`` to the chosen one, and ``means``
        with theirs. It is what ``decisions.json`` holds.

    Raises:
        DatasetError: There are fewer than two, one is not finished, or they differ in split or cases.
    """
    if len(folders) < 2:
        raise DatasetError("Give two or more folders that 'unetsegment-train cross-validate' made.")
    tables = [_table(folder) for folder in folders]
    for folder, table in zip(folders[1:], tables[1:], strict=True):
        if _split(folder) != _split(folders[0]) or table.keys() != tables[0].keys():
            raise DatasetError(
                f"'{folders[0]}' and '{folder}' were not measured on the same cases and labels with the same folds; "
                "finish the same folds of both."
            )
    candidates = [_candidate(folder, table) for folder, table in zip(folders, tables, strict=True)]
    best = max(range(len(folders)), key=lambda n: float(np.mean(list(tables[n].values()))))
    others = [folder for n, folder in enumerate(folders) if n != best]
    differences = _against(others, folders[best])
    means = []
    for pair in itertools.combinations(folders, 2) if ensembles is not None else ():
        means.append(output / "+".join(folder.name for folder in pair))
        validate_mean(seen_by(pair[0], ensembles), pair, means[-1], backend)  # type: ignore[arg-type]
    gains = _against(means, folders[best])
    why = [_sentence(folders[best].name, entry) for entry in differences]
    why += [_of_mean(folders[best].name, entry) for entry in gains]
    told = {
        "chosen": str(folders[best]),
        "why": " ".join(why),
        "candidates": candidates,
        "differences": differences,
        "means": [_candidate(folder, _table(folder)) | entry for folder, entry in zip(means, gains, strict=True)],
    }
    replace_text(output / DECISIONS, json.dumps(told, indent=1))
    return told


def _against(folders: Sequence[Path], best: Path) -> list[dict[str, Any]]:
    """Each folder compared with the best: the best minus it, of the mean over labels."""
    pairs = [compare(folder / "evaluation", best / "evaluation")[0][-1] for folder in folders]
    corrected = holm({n: difference.p for n, difference in enumerate(pairs)})
    return [
        asdict(pair) | {"folder": str(folder), "p_holm": corrected[n]}
        for n, (folder, pair) in enumerate(zip(folders, pairs, strict=True))
    ]


def _candidate(folder: Path, table: dict[tuple[str, int], float]) -> dict[str, Any]:
    names = {row["label"]: row["name"] for row in rows(folder / "evaluation")}
    labels = {names[value]: _mean(table, value) for value in names}
    return {"folder": str(folder), "dice": round(float(np.mean(list(table.values()))), 5), "labels": labels}


def _table(folder: Path) -> dict[tuple[str, int], float]:
    """Dice per case and label value."""
    if not (folder / DECISIONS).exists():
        raise DatasetError(f"'{folder}' has no {DECISIONS}; run 'unetsegment-train cross-validate' first.")
    return {(row["case"], row["label"]): row["dice"] for row in rows(folder / "evaluation")}


def _split(folder: Path) -> Any:
    return json.loads((folder / "split.json").read_text("utf-8"))


def _mean(table: dict[tuple[str, int], float], value: int) -> float:
    return round(float(np.mean([dice for (_, label), dice in table.items() if label == value])), 5)


def _sentence(best: str, entry: dict[str, Any]) -> str:
    low, high = entry["interval"]
    sure = entry["p_holm"] < LEVEL and low > 0
    words = "more than chance" if sure else "no more than chance: the cheaper of the two will do as well"
    numbers = f"{entry['difference']:+.4f} Dice (95 % {low:+.4f} to {high:+.4f}, p {entry['p_holm']:.2g})"
    return f"'{best}' over '{Path(entry['folder']).name}': {numbers}, {words}."


def _of_mean(best: str, entry: dict[str, Any]) -> str:
    low, high = (-end for end in reversed(entry["interval"]))
    sure = entry["p_holm"] < LEVEL and low > 0
    numbers = f"{-entry['difference']:+.4f} Dice (95 % {low:+.4f} to {high:+.4f}, p {entry['p_holm']:.2g})"
    words = "more than chance, but a model holds one configuration" if sure else "not better by more than chance"
    return f"The mean '{Path(entry['folder']).name}' over '{best}': {numbers}, {words}."

"""Which of several cross-validated configurations is best: decided on cases that none of their answers was trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .compare import LEVEL, Difference, compare, holm
from .crossval import DECISIONS
from .dataset import DatasetError
from .safely import replace_text


def choose(folders: Sequence[Path], output: Path | None = None) -> dict[str, Any]:
    """Choose among folders of ``cross-validate`` by mean Dice, over cases of the mean over labels (nnU-Net's measure).

    What is compared is what would ship: answers with the post-processing that was kept. Of equals the first named wins.
    Every other one is compared with the best, paired by case; p is corrected for the number of these comparisons (Holm).

    Args:
        folders: Of the same dataset, split and folds; the simplest first.
        output: JSON file to write.

    Returns:
        ``chosen`` (the folder's name), ``why``, ``candidates`` with their Dice, and the ``differences`` to the best.

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
    names = _labels(folders[0])
    candidates = [
        {
            "folder": str(folder),
            "dice": round(float(np.mean(list(table.values()))), 5),
            "labels": {names[value]: _mean(table, value) for value in names},
        }
        for folder, table in zip(folders, tables, strict=True)
    ]
    best = max(range(len(folders)), key=lambda n: float(np.mean(list(tables[n].values()))))
    others = [n for n in range(len(folders)) if n != best]
    pairs = {n: compare(folders[n] / "evaluation", folders[best] / "evaluation")[0][-1] for n in others}
    corrected = holm({n: difference.p for n, difference in pairs.items()})
    differences = [asdict(pairs[n]) | {"folder": str(folders[n]), "p_holm": corrected[n]} for n in others]
    told = {
        "chosen": str(folders[best]),
        "why": " ".join(_sentence(folders[best], folders[n], pairs[n], corrected[n]) for n in others),
        "candidates": candidates,
        "differences": differences,
    }
    if output is not None:
        replace_text(output, json.dumps(told, indent=1))
    return told


def _table(folder: Path) -> dict[tuple[str, int], float]:
    """Dice per case and label value."""
    if not (folder / DECISIONS).exists():
        raise DatasetError(f"'{folder}' has no {DECISIONS}; run 'unetsegment-train cross-validate' first.")
    return {(row["case"], row["label"]): row["dice"] for row in _rows(folder)}


def _rows(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "evaluation" / "cases.json").read_text("utf-8"))


def _labels(folder: Path) -> dict[int, str]:
    return {row["label"]: row["name"] for row in _rows(folder)}


def _split(folder: Path) -> Any:
    return json.loads((folder / "split.json").read_text("utf-8"))


def _mean(table: dict[tuple[str, int], float], value: int) -> float:
    return round(float(np.mean([dice for (_, label), dice in table.items() if label == value])), 5)


def _sentence(best: Path, other: Path, difference: Difference, p: float) -> str:
    low, high = difference.interval
    sure = p < LEVEL and low > 0
    numbers = f"{difference.difference:+.4f} Dice (95 % {low:+.4f} to {high:+.4f}, p {p:.2g})"
    words = "more than chance" if sure else "no more than chance: the cheaper of the two will do as well"
    return f"'{best.name}' over '{other.name}': {numbers}, {words}."

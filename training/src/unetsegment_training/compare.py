"""Two models on the same cases, paired: is the difference more than chance?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from scipy import stats

from .dataset import DatasetError
from .metrics import NAMES, bootstrap

ERRORS = ("volume_error_ml", "volume_error_percent")
LESS_IS_BETTER = ("hd95_mm", *ERRORS)
COMPARED = tuple(name for name in NAMES if name not in ("volume_ml", "expert_ml"))
"""Metrics of which more, or less, is better."""
FEWEST = 6
"""Cases below which Wilcoxon's two-sided test cannot reach :data:`LEVEL`, whatever the differences: p >= 2 / 2 ** n."""
LEVEL = 0.05
"""What counts as more than chance."""
Key = TypeVar("Key")


@dataclass(frozen=True)
class Difference:
    """The second model minus the first, for one structure.

    Args:
        label: Name of the structure, or "mean of all".
        cases: That both have.
        first: Mean of the first model.
        second: Mean of the second.
        difference: Mean of second minus first.
        interval: 95 % bootstrap interval of that mean over cases.
        p: Of Wilcoxon's signed-rank test, two-sided; 1 where no case differs.
        p_holm: The same, corrected for the number of structures (Holm 1979).
        better: Cases on which the second model is better.
        worse: Cases on which it is worse.
        verdict: In words.
    """

    label: str
    cases: int
    first: float
    second: float
    difference: float
    interval: list[float]
    p: float
    p_holm: float
    better: int
    worse: int
    verdict: str


def compare(first: Path, second: Path, metric: str = "dice") -> tuple[list[Difference], list[str]]:
    """Compare two folders that ``evaluate`` wrote.

    A difference counts as more than chance where Wilcoxon's test, corrected for the number of structures, is below 0.05
    and the bootstrap interval leaves out zero. Errors of volumes are compared by their size, without their sign.

    Returns:
        A difference per structure and one of the mean over structures, and the cases that only one folder has.

    Raises:
        DatasetError: A folder is no evaluation, the metric is unknown, or they share fewer than two cases.
    """
    if metric not in COMPARED:
        raise DatasetError(f"There is no metric '{metric}' to compare; choose one of {', '.join(COMPARED)}.")
    tables = [_table(folder, metric) for folder in (first, second)]
    cases = [{case for case, _ in table} for table in tables]
    shared = sorted(cases[0] & cases[1])
    if len(shared) < 2:
        raise DatasetError(
            f"'{first}' and '{second}' share {len(shared)} cases; two models are compared on the same ones."
        )
    names = _names(second)  # both were measured against the expert's value: a model's own name for it does not matter
    values = {value for _, value in tables[0]} & {value for _, value in tables[1]}
    if not values:
        raise DatasetError(f"'{first}' and '{second}' have no label value in common.")
    labels = [names[value] for value in sorted(values)]
    columns = {
        names[value]: np.array([[table.get((case, value), np.nan) for table in tables] for case in shared])
        for value in sorted(values)
    }
    if len(labels) > 1:
        columns["mean of all"] = np.mean([columns[name] for name in labels], axis=0)
    known = {name: pairs[np.isfinite(pairs).all(axis=1)] for name, pairs in columns.items()}
    raw = {name: _wilcoxon(pairs) for name, pairs in known.items()}
    corrected = holm({name: p for name, p in raw.items() if name in labels})
    told = [
        _difference(name, pairs, raw[name], corrected.get(name, raw[name]), metric) for name, pairs in known.items()
    ]
    return told, sorted(cases[0] ^ cases[1])


def write(path: Path, told: list[Difference], first: Path, second: Path, metric: str) -> None:
    """``comparison.json``."""
    content = {"first": str(first), "second": str(second), "metric": metric, "structures": [asdict(x) for x in told]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1), "utf-8")


def _table(folder: Path, metric: str) -> dict[tuple[str, int], float]:
    """The metric per case and label value."""
    try:
        sized = abs if metric in ERRORS else float
        found = ((r["case"], r["label"], r[metric]) for r in rows(folder))
        return {(case, label): float("nan") if value is None else sized(value) for case, label, value in found}
    except (KeyError, TypeError):
        raise DatasetError(
            f"'{folder}' holds no cases.json with '{metric}'; run 'unetsegment-train evaluate'."
        ) from None


def _names(folder: Path) -> dict[int, str]:
    return {row["label"]: row["name"] for row in rows(folder)}


def rows(folder: Path) -> list[dict[str, Any]]:
    """What an evaluation measured: one entry per case and label.

    Raises:
        DatasetError: The folder is no evaluation.
    """
    try:
        return json.loads((folder / "cases.json").read_text("utf-8"))
    except (OSError, ValueError):
        raise DatasetError(f"'{folder}' holds no cases.json; run 'unetsegment-train evaluate'.") from None


def _wilcoxon(pairs: np.ndarray) -> float:
    steps = pairs[:, 1] - pairs[:, 0]
    return float(stats.wilcoxon(steps).pvalue) if len(steps) and np.any(steps != 0) else 1.0


def holm(values: Mapping[Key, float]) -> dict[Key, float]:
    """Holm 1979: the smallest p times the number of tests, the next times one less, never falling."""
    result, highest = {}, 0.0
    for rank, (name, p) in enumerate(sorted(values.items(), key=lambda item: item[1])):
        highest = max(highest, min(1.0, p * (len(values) - rank)))
        result[name] = highest
    return result


def _difference(name: str, pairs: np.ndarray, p: float, p_holm: float, metric: str) -> Difference:
    steps = pairs[:, 1] - pairs[:, 0]
    low, high = bootstrap(steps.tolist()) or [float("nan")] * 2
    sign = -1 if metric in LESS_IS_BETTER else 1
    better, worse = int((sign * steps > 0).sum()), int((sign * steps < 0).sum())
    mean = float(steps.mean()) if len(steps) else float("nan")
    if p_holm < LEVEL and (low > 0 or high < 0):
        verdict = f"the second is {'higher' if mean > 0 else 'lower'}, by more than chance"
    elif better + worse and len(pairs) < FEWEST:
        verdict = f"too few cases to tell; fewer than {FEWEST} cannot rule out chance"
    else:
        verdict = "no difference beyond chance"
    first, second = (float(x) for x in pairs.mean(axis=0)) if len(pairs) else (float("nan"),) * 2
    return Difference(name, len(pairs), first, second, mean, [low, high], p, p_holm, better, worse, verdict)

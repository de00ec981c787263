"""How well two label maps agree: overlap, surface distances and volumes; the distances are computed by MONAI."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice

TOLERANCE_MM = 1.0
NAMES = (
    "dice", "iou", "hd95_mm", "surface_dice", "volume_ml", "expert_ml", "accuracy", "volume_error_ml",
    "volume_error_percent",
)  # fmt: skip


def measure(answer: np.ndarray, expert: np.ndarray, spacing: Sequence[float]) -> dict[str, float]:
    """Compare two masks.

    Args:
        answer: Boolean (I, J, K). An axis of one voxel is left out: a picture has outlines, not surfaces.
        expert: Boolean (I, J, K).
        spacing: Millimetres.

    Returns:
        ``dice`` and ``iou`` (1 where both masks are empty), ``hd95_mm`` (the larger of the 95th percentiles
        of the distances from one surface to the other and back; NaN where either mask is empty), ``surface_dice`` (share of
        both surfaces within 1 mm of each other, after Nikolov et al. 2021 but counted in voxels at the border, not in areas;
        0 where one mask is empty, 1 where both are), both volumes in ml, ``accuracy`` (share of all voxels on which
        both agree), and the answer's volume minus the expert's, in ml and in percent of the expert's (NaN where that
        is empty).
    """
    both, mine, theirs = int((answer & expert).sum()), int(answer.sum()), int(expert.sum())
    total, voxel = mine + theirs, float(np.prod(spacing)) / 1000
    result = {
        "dice": 2 * both / total if total else 1.0,
        "iou": both / (total - both) if total else 1.0,
        "hd95_mm": float("nan"),
        "surface_dice": 1.0 if total == 0 else 0.0,
        "volume_ml": mine * voxel,
        "expert_ml": theirs * voxel,
        "accuracy": 1 - (total - 2 * both) / answer.size,
        "volume_error_ml": (mine - theirs) * voxel,
        "volume_error_percent": 100 * (mine - theirs) / theirs if theirs else float("nan"),
    }
    if mine and theirs:
        axes = [axis for axis in range(answer.ndim) if answer.shape[axis] > 1]
        axes = axes if len(axes) > 1 else list(range(answer.ndim))
        space = [float(spacing[axis]) for axis in axes]
        # a margin, so that a structure that touches the border has a surface there too
        pair = [
            torch.from_numpy(np.pad(mask.reshape([mask.shape[axis] for axis in axes]), 1))[None, None].float()
            for mask in (answer, expert)
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of MONAI, about how it calls itself
            distance = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=space)
            surface = compute_surface_dice(*pair, [TOLERANCE_MM], include_background=True, spacing=space)
        result |= {"hd95_mm": float(distance[0, 0]), "surface_dice": float(surface[0, 0])}
    return result


def bootstrap(values: Sequence[float], resamples: int = 2000) -> list[float] | None:
    """95 % interval of the mean over cases, by the percentile bootstrap (Efron 1979), seed 0; None for fewer than two."""
    known = np.array([v for v in values if np.isfinite(v)], float)
    if len(known) < 2:
        return None
    means = np.random.default_rng(0).choice(known, (resamples, len(known))).mean(axis=1)
    return [round(float(q), 5) for q in np.percentile(means, (2.5, 97.5))]


def summarize(rows: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Mean of each metric per label over the cases that have it, with its 95 % bootstrap interval (``*_ci95``).

    A metric that no case has is None; where some lack it, ``*_cases`` is how many have it. ``absent``: how many cases have
    the structure neither in the answer nor at the expert's.
    """
    summary: list[dict[str, object]] = []
    for value in sorted({int(row["label"]) for row in rows}):  # type: ignore[call-overload]
        mine = [row for row in rows if row["label"] == value]
        entry: dict[str, object] = {"label": value, "name": mine[0]["name"], "cases": len(mine)}
        for name in NAMES:
            values = np.array([row[name] for row in mine], float)
            known = values[np.isfinite(values)]
            entry[name] = round(float(known.mean()), 5) if len(known) else None
            entry[f"{name}_ci95"] = bootstrap(values.tolist())
            if len(known) < len(mine):
                entry[f"{name}_cases"] = len(known)
        entry["absent"] = sum(not row["volume_ml"] and not row["expert_ml"] for row in mine)
        summary.append(entry)
    return summary

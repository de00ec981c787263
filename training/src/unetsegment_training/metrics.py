"""How well two label maps agree: overlap and surface distances, computed by MONAI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice

TOLERANCE_MM = 1.0
NAMES = ("dice", "iou", "hd95_mm", "surface_dice", "volume_ml", "expert_ml")


def measure(answer: np.ndarray, expert: np.ndarray, spacing: Sequence[float]) -> dict[str, float]:
    """Compare two masks.

    Args:
        answer: Boolean (I, J, K).
        expert: Boolean (I, J, K).
        spacing: Millimetres.

    Returns:
        ``dice`` and ``iou`` (1 where both masks are empty), ``hd95_mm`` (95th percentile of the symmetric surface
        distance; NaN where either mask is empty), ``surface_dice`` (share of both surfaces within 1 mm of each other;
        Nikolov et al. 2021; 0 where one mask is empty), and both volumes in ml.
    """
    both, total = int((answer & expert).sum()), int(answer.sum()) + int(expert.sum())
    voxel = float(np.prod(spacing)) / 1000
    result = {
        "dice": 2 * both / total if total else 1.0,
        "iou": both / (total - both) if total else 1.0,
        "hd95_mm": float("nan"),
        "surface_dice": 1.0 if total == 0 else 0.0,
        "volume_ml": float(answer.sum()) * voxel,
        "expert_ml": float(expert.sum()) * voxel,
    }
    if answer.any() and expert.any():
        # a margin, so that a structure that touches the border has a surface there too
        pair = [torch.from_numpy(np.pad(mask, 1))[None, None].float() for mask in (answer, expert)]
        space = list(map(float, spacing))
        distance = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=space)
        surface = compute_surface_dice(*pair, [TOLERANCE_MM], include_background=True, spacing=space)
        result |= {"hd95_mm": float(distance[0, 0]), "surface_dice": float(surface[0, 0])}
    return result


def summarize(rows: Sequence[Mapping[str, object]], resamples: int = 2000) -> list[dict[str, object]]:
    """Mean of each metric per label, with a 95 % bootstrap interval of the mean Dice over cases."""
    rng = np.random.default_rng(0)
    summary: list[dict[str, object]] = []
    for value in sorted({int(row["label"]) for row in rows}):  # type: ignore[call-overload]
        mine = [row for row in rows if row["label"] == value]
        entry: dict[str, object] = {"label": value, "name": mine[0]["name"], "cases": len(mine)}
        for name in NAMES:
            entry[name] = round(float(np.nanmean([row[name] for row in mine])), 5)  # type: ignore[misc]
        dice = np.array([row["dice"] for row in mine], float)
        means = rng.choice(dice, (resamples, len(dice))).mean(axis=1)
        entry["dice_ci95"] = [round(float(q), 5) for q in np.percentile(means, (2.5, 97.5))]
        summary.append(entry)
    return summary

"""How far two label maps agree."""

from __future__ import annotations

from typing import Any

import numpy as np


def agreement(a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
    """Voxels that differ, their share, and the lowest Dice of a label that either map holds (background included)."""
    if a.shape != b.shape:
        raise ValueError(f"label maps of shapes {a.shape} and {b.shape} cannot be compared")
    size = int(max(a.max(), b.max())) + 1
    first, second = np.bincount(a.ravel(), minlength=size), np.bincount(b.ravel(), minlength=size)
    both = np.bincount(a[a == b].ravel(), minlength=size)
    present = np.flatnonzero(first + second)
    dice = 2 * both[present] / (first + second)[present]
    different = int(a.size - both.sum())
    return {
        "voxels": int(a.size),
        "different": different,
        "equal": 1 - different / a.size,
        "dice_min": float(dice.min()),
        "dice_min_label": int(present[dice.argmin()]),
        "dice_min_voxels": int(np.maximum(first, second)[present][dice.argmin()]),
        "labels": len(present),
    }


def pooled(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Several agreements as one: voxels summed, the lowest Dice of all."""
    worst = min(parts, key=lambda part: part["dice_min"])
    voxels, different = (sum(part[key] for part in parts) for key in ("voxels", "different"))
    sums = {"voxels": voxels, "different": different, "equal": 1 - different / voxels}
    return worst | sums | {"labels": max(part["labels"] for part in parts), "cases": len(parts)}

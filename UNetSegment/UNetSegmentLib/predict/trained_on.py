"""What a manifest tells of the images its model was trained on, for `sanity` to compare with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..package import Manifest


class TrainedOn:
    """What the manifest tells of the training images; whatever is missing or odd in its fingerprint is None.

    Lengths are sorted, shortest first: fingerprints differ in the order of their axes, and boxes turned by 90 degrees
    are the same box.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        raw = manifest.raw.get("fingerprint")
        self.raw: dict[str, Any] = raw if isinstance(raw, dict) else {}
        spacing, size, size_mm = (_range(self.raw.get(name)) for name in ("spacing", "size", "size_mm"))
        if not size_mm:
            size_mm = {way: size[way] * spacing[way] for way in size if way in spacing}
        if not spacing and all(manifest.preprocessing.spacing):
            spacing = {"median": np.asarray(manifest.preprocessing.spacing, float)}
        self.spacing = {way: np.sort(lengths) for way, lengths in spacing.items()}
        self.size = {way: np.sort(lengths) for way, lengths in size_mm.items()}
        self.unplaced = (number(self.raw.get("unplaced")) or 0.0) > 0

    def patch(self, spacing: tuple[float, float, float]) -> np.ndarray:
        """Sides of the patch in mm, sorted; 0 across the slices of a 2D network."""
        how = self.manifest.preprocessing.spacing
        if all(how):
            voxel = [float(s) for s in how]  # type: ignore[arg-type]
        else:
            voxel = [spacing[axis] if s is None else float(s) for axis, s in enumerate(how)]
        sides = np.asarray(self.manifest.inference.patch_size, float) * voxel
        if self.manifest.dimensions == 2:
            sides[0] = 0
        return np.sort(sides)

    def intensity(self, index: int) -> dict[str, Any]:
        """The fingerprint's entry of a channel."""
        rows = self.raw.get("intensity")
        row = rows[index] if isinstance(rows, list) and index < len(rows) else None
        return row if isinstance(row, dict) else {}

    def cases(self, index: int) -> dict[str, tuple[float, float]]:
        """Least and greatest value of each statistic over the training images; see :meth:`Appearance.statistics`."""
        cases = self.intensity(index).get("cases")
        low, high = (cases.get(way) if isinstance(cases, dict) else None for way in ("min", "max"))
        if not isinstance(low, dict) or not isinstance(high, dict):
            return {}
        pairs = {name: (number(low[name]), number(high[name])) for name in low if name in high}
        return {name: pair for name, pair in pairs.items() if None not in pair}  # type: ignore[misc]


def number(value: Any) -> float | None:
    """A finite number of a size that can be reckoned with; None for anything else."""
    fine = isinstance(value, int | float) and abs(value) < 1e30 and math.isfinite(value)
    return float(value) if fine else None


def _range(entry: Any) -> dict[str, np.ndarray]:
    """``min``, ``median`` and ``max`` of three positive numbers each, where they are that."""
    found = {}
    for way in ("min", "median", "max"):
        values = entry.get(way) if isinstance(entry, dict) else None
        numbers = [number(v) for v in values] if isinstance(values, list) and len(values) == 3 else []
        if numbers and all(n is not None and 1e-9 < n < 1e9 for n in numbers):
            found[way] = np.asarray(numbers, float)
    return found

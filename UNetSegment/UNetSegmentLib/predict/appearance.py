"""What an image looks like, in a few numbers that cost next to nothing: for fingerprints, and for checks against them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

ENOUGH = 150_000
"""Voxels that are looked at, spread evenly; all of them in smaller images."""
_PERCENTS = (0.1, 0.5, 5, 25, 50, 75, 95, 99.5, 99.9)


@dataclass(frozen=True, eq=False)
class Appearance:
    """One channel of an image as a sample of its voxels.

    Args:
        values: The sampled intensities, flat, float64, finite.
        quantiles: Their percentiles 0.1, 0.5, 5, 25, 50, 75, 95, 99.5 and 99.9.
        steps: Absolute differences between sampled voxels and their next neighbours, along all axes.
        plateau: Share of equal neighbours among those that are neither at the sample's least nor at its greatest value:
            near 1 in a label map, small in an image.
        is_finite: Whether no sampled voxel was NaN or infinite.
    """

    values: np.ndarray
    quantiles: tuple[float, ...]
    steps: np.ndarray
    plateau: float
    is_finite: bool = True

    @classmethod
    def of(cls, array: np.ndarray) -> Appearance:
        """Look at a channel (I, J, K) of any real type; voxels that are not finite are passed over."""
        step = _stride(array.shape)
        thin = array[tuple(slice(min(step // 2, n - 1), None, step) for n in array.shape)]
        values = np.asarray(thin, np.float64).ravel()
        finite = np.isfinite(values)
        values = values[finite] if finite.any() else np.zeros(1)
        least, most = values.min(), values.max()
        pairs = [_neighbours(array, step, axis) for axis in range(3)]
        here, there = (np.concatenate(side) for side in zip(*pairs, strict=True))
        inner = (here > least) & (here < most)
        equal = float((here == there)[inner].mean()) if inner.sum() > 50 else 0.0
        return cls(
            values,
            tuple(float(q) for q in np.percentile(values, _PERCENTS)),
            np.abs(here - there),
            equal,
            bool(finite.all()),
        )

    @property
    def is_constant(self) -> bool:
        """Whether every sampled voxel has one value."""
        return bool(self.values.min() == self.values.max())

    @property
    def is_whole(self) -> bool:
        """Whether every sampled value is a whole number, as a scanner stores them."""
        return bool((self.values == np.round(self.values)).all())

    @property
    def spread(self) -> float:
        """From the 5th to the 95th percentile; between the outer ones where most of the image has one value."""
        q = self.quantiles
        return q[6] - q[2] or q[7] - q[1] or q[8] - q[0]

    def share(self, low: float, high: float) -> float:
        """Share of voxels with ``low`` <= intensity <= ``high``, 0 to 1."""
        return float(((self.values >= low) & (self.values <= high)).mean())

    def statistics(self) -> dict[str, float]:
        """The numbers that a fingerprint keeps of each training image.

        ``p00_5``, ``p50`` and ``p99_5`` are in the image's units. The others do not depend on its scale, which means
        nothing in MR: distances of percentiles from the median (``least`` ... ``most``: 0.1, 0.5, 25, 75, 99.5, 99.9),
        the median itself (``middle``: tells an offset) and the mean difference of neighbours (``roughness``), all in
        units of :attr:`spread`; and the share of voxels that are ``zero``. An image of one value has the first three.
        """
        q, spread = self.quantiles, self.spread
        found = {"p00_5": q[1], "p50": q[4], "p99_5": q[7], "zero": float((self.values == 0).mean())}
        if np.isfinite(spread) and spread > 0:
            names = {"least": 0, "low": 1, "below": 3, "above": 5, "high": 7, "most": 8}
            found |= {name: (q[index] - q[4]) / spread for name, index in names.items()}
            found["middle"] = q[4] / spread
            found["roughness"] = float(self.steps.mean()) / spread if self.steps.size else 0.0
        return {name: float(number) for name, number in found.items() if np.isfinite(number)}

    def is_ct(self) -> bool:
        """Whether these look like Hounsfield units: air at -1000 beside soft tissue at 0, or soft tissue and fat alone.

        Whole numbers are asked for in the second case: a standardised MR image lies around 0, too.
        """
        q = self.quantiles
        if not (-5000 < q[0] < -50 and 50 < q[8] < 32000):
            return False
        air, tissue = self.share(-1100, -850), self.share(-200, 200)
        if air > 0.01 and tissue > 0.03 and self.share(-1e9, -1100) < 0.5:
            return True
        return self.is_whole and tissue > 0.5 and q[8] - q[0] > 150 and q[0] > -1100

    def is_raised_ct(self) -> bool:
        """Whether these look like Hounsfield units stored without their offset of -1024: soft tissue in a narrow peak
        around 1050, air near 0, and little in between."""
        tissue = self.share(924, 1224)
        between = self.share(500, 800)
        air = self.share(-100, 300)
        return bool(self.quantiles[0] >= -200 and tissue > 0.1 and between < 0.3 * tissue and air > 0.05)

    def is_labels(self) -> bool:
        """Whether this looks like a label map: few whole numbers in plateaus, or a mask of two values."""
        distinct = len(np.unique(self.values))
        return distinct == 2 or (self.plateau > 0.6 and self.is_whole and distinct <= 512)

    def is_copy_of(self, other: Appearance) -> bool:
        """Whether both samples hold the same voxels, or one is the other in another scale."""
        a, b = self.values, other.values
        if a.shape != b.shape or self.is_constant or other.is_constant:
            return False
        if np.array_equal(a, b):
            return True
        a, b = a - a.mean(), b - b.mean()
        return bool((a * b).sum() > 0.99999 * np.sqrt((a * a).sum() * (b * b).sum()))


def summary(rows: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """``min``, ``median`` and ``max`` over images of what all of them have of :meth:`Appearance.statistics`."""
    names = [name for name in rows[0] if all(name in row for row in rows)]
    ways: tuple[tuple[str, Any], ...] = (("min", np.min), ("median", np.median), ("max", np.max))
    return {way: {n: round(float(f([row[n] for row in rows])), 4) for n in names} for way, f in ways}


def _stride(shape: tuple[int, ...]) -> int:
    step = 1
    while np.prod([-(-n // step) for n in shape]) > ENOUGH:
        step += 1
    return step


def _neighbours(array: np.ndarray, step: int, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Sampled voxels and the next one along an axis, flat; empty where there is only one."""
    cuts = [slice(min(step // 2, n - 1), None, step) for n in array.shape]
    starts = range(*cuts[axis].indices(array.shape[axis] - 1)) if array.shape[axis] > 1 else range(0)
    if not len(starts):
        return np.zeros(0), np.zeros(0)
    first, stop = starts[0], starts[-1] + 1
    sides = []
    for shift in (0, 1):
        cuts[axis] = slice(first + shift, stop + shift, step)
        sides.append(np.asarray(array[tuple(cuts)], np.float64).ravel())
    fine = np.isfinite(sides[0]) & np.isfinite(sides[1])
    return sides[0][fine], sides[1][fine]

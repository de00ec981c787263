"""Linear interpolation along one axis: with three of them, trilinear interpolation between two aligned grids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Lerp:
    """Each output sample lies between two input samples, ``upper`` weighing ``weight``; outside, the edge repeats."""

    lower: np.ndarray
    upper: np.ndarray
    weight: np.ndarray
    size: int

    @classmethod
    def between(cls, size: int, new_size: int, spacing: float, new_spacing: float) -> Lerp:
        """From ``size`` samples at ``spacing`` mm to ``new_size`` at ``new_spacing``; the first samples coincide."""
        if size == new_size and abs(new_spacing / spacing - 1) < 1e-9:
            position = np.arange(size, dtype=np.float64)
        else:
            position = np.clip(np.arange(new_size) * (new_spacing / spacing), 0, size - 1)
        lower = np.minimum(position.astype(np.int64), max(size - 2, 0))
        upper = np.minimum(lower + 1, size - 1)
        return cls(lower, upper, (position - lower).astype(np.float32), size)

    @property
    def is_identity(self) -> bool:
        """Whether input and output samples are the same."""
        return len(self.lower) == self.size and bool(np.all(self.lower + self.weight == np.arange(self.size)))

    def apply(self, array: np.ndarray, axis: int) -> np.ndarray:
        """Interpolate along ``axis``; the same array where nothing changes."""
        if self.is_identity:
            return array
        shape = [1] * array.ndim
        shape[axis] = -1
        weight = self.weight.reshape(shape)
        below, above = array.take(self.lower, axis), array.take(self.upper, axis)
        return below + (above - below) * weight

    def rows(self, start: int, stop: int) -> tuple[int, int]:
        """The input samples ``first..last`` (both included) that output samples ``start..stop - 1`` need."""
        return int(self.lower[start]), int(self.upper[stop - 1])

    def part(self, start: int, stop: int, first: int, size: int) -> Lerp:
        """This interpolation for output ``start..stop - 1`` on a piece of the input that begins at ``first``."""
        cut = slice(start, stop)
        return Lerp(self.lower[cut] - first, self.upper[cut] - first, self.weight[cut], size)

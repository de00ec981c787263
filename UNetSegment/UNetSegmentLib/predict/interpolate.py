"""Interpolation between two aligned grids: linear or nearest along each axis, and nnU-Net's cubic for images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import BackendError
from . import passes


@dataclass(frozen=True)
class Lerp:
    """Each output sample lies between two input samples, ``upper`` weighing ``weight``; outside, the edge repeats."""

    lower: np.ndarray
    upper: np.ndarray
    weight: np.ndarray
    size: int

    @classmethod
    def at(cls, position: np.ndarray, size: int) -> Lerp:
        """Linear interpolation of ``size`` samples at float64 positions, in samples."""
        position = np.clip(position, 0, size - 1)
        lower = np.minimum(position.astype(np.int64), max(size - 2, 0))
        return cls(lower, np.minimum(lower + 1, size - 1), (position - lower).astype(np.float32), size)

    @classmethod
    def nearest_to(cls, position: np.ndarray, size: int) -> Lerp:
        """The sample nearest to each position; of two that are equally near, the later one."""
        index = np.clip(np.floor(position + 0.5), 0, size - 1).astype(np.int64)
        return cls(index, index, np.zeros(len(index), np.float32), size)

    @classmethod
    def identity(cls, size: int) -> Lerp:
        """Nothing changes."""
        return cls.nearest_to(np.arange(size, dtype=np.float64), size)

    @classmethod
    def between(cls, size: int, new_size: int, spacing: float, new_spacing: float, order: int = 1) -> Lerp:
        """From ``size`` samples at ``spacing`` mm to ``new_size`` at ``new_spacing``; the first samples coincide."""
        if size == new_size and abs(new_spacing / spacing - 1) < 1e-9:
            return cls.identity(size)
        position = np.arange(new_size) * (new_spacing / spacing)
        return cls.at(position, size) if order else cls.nearest_to(position, size)

    @classmethod
    def edges(cls, size: int, new_size: int, order: int = 1) -> Lerp:
        """From ``size`` samples to ``new_size`` that fill the same interval: their outer edges coincide."""
        if size == new_size:
            return cls.identity(size)
        position = (size / new_size) * (np.arange(new_size) + 0.5) - 0.5
        return cls.at(position, size) if order else cls.nearest_to(position, size)

    def within(self, start: int, stop: int) -> tuple[Lerp, slice]:
        """The interpolation of input samples ``start..stop - 1`` alone, and the output samples that they take part in.

        Beyond the outermost of them their value repeats.
        """
        lower_in = (self.lower >= start) & (self.lower < stop)
        upper_in = (self.upper >= start) & (self.upper < stop) & (self.weight > 0)
        reached = np.flatnonzero(lower_in | upper_in)
        outputs = slice(int(reached[0]), int(reached[-1]) + 1) if len(reached) else slice(0, 0)
        lower, upper = (np.clip(x[outputs], start, stop - 1) - start for x in (self.lower, self.upper))
        return Lerp(lower, upper, self.weight[outputs], stop - start), outputs

    @property
    def is_identity(self) -> bool:
        """Whether input and output samples are the same."""
        return len(self.lower) == self.size and bool(np.all(self.lower + self.weight == np.arange(self.size)))

    def apply(self, array: np.ndarray, axis: int, threads: int = 1) -> np.ndarray:
        """Interpolate along ``axis``, part by part in threads; the same array where nothing changes."""
        if self.is_identity:
            return array
        shape = (*array.shape[:axis], len(self.lower), *array.shape[axis + 1 :])
        result = np.empty(shape, array.dtype)
        is_linear = bool(self.weight.any())
        weight = self.weight.reshape(-1, *[1] * (array.ndim - 1 - axis))

        def work(cut: slice) -> None:
            for part in passes.blocks(cut, result[:1].size):
                values, along = (array, part) if axis == 0 else (array[part], slice(None))
                below = values.take(self.lower[along], axis)
                if not is_linear:
                    result[part] = below
                    continue
                above = values.take(self.upper[along], axis)
                above -= below
                above *= weight[along]
                np.add(above, below, out=result[part])

        passes.share(work, shape[0], threads if result.size >= passes.THREADED_FROM else 1)
        return result

    def needed(self, start: int, stop: int) -> tuple[int, int]:
        """The input samples ``first..last`` (both included) that output samples ``start..stop - 1`` need."""
        return int(self.lower[start]), int(self.upper[stop - 1])


def scipy_ndimage() -> Any:
    """SciPy's image functions, which only models of nnU-Net need; Slicer brings them.

    Raises:
        BackendError: SciPy is not installed.
    """
    try:
        from scipy import ndimage
    except ImportError:
        raise BackendError("Models of nnU-Net need SciPy to prepare images; install it: pip install scipy") from None
    return ndimage


def cubic(image: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Third-order spline interpolation to another size, edges aligned, kept within the image's range; float32.

    The same as ``skimage.transform.resize(order=3, mode="edge", anti_aliasing=False)``, which nnU-Net uses, and which
    asks SciPy for the same in double precision.
    """
    if image.shape == tuple(shape):
        return image
    ndimage = scipy_ndimage()
    factors = [new / old for new, old in zip(shape, image.shape, strict=True)]
    result = ndimage.zoom(image.astype(np.float64), factors, order=3, mode="nearest", grid_mode=True)
    return np.clip(result, image.min(), image.max(), out=result).astype(np.float32)

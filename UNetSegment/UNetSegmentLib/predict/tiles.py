"""Where the network looks: patch positions and the weight of each voxel in a patch.

Placement and weights are those of MONAI's ``sliding_window_inference`` (Project MONAI, ``monai.inferers.utils``), so
that a package gives the same answer under stock MONAI.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..package import Inference


@dataclass(frozen=True)
class Tiling:
    """How an image is covered by patches.

    Args:
        shape: Size of the image (i, j, k).
        patch: Size of a patch.
        before: Voxels of zero padding before the image on each axis, where it is smaller than the patch.
        padded: Size of the padded image.
        starts: Per axis, the ascending first indices of patches in the padded image; patches are their product.
    """

    shape: tuple[int, int, int]
    patch: tuple[int, int, int]
    before: tuple[int, int, int]
    padded: tuple[int, int, int]
    starts: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

    @classmethod
    def cover(cls, shape: Sequence[int], patch: Sequence[int], overlap: float) -> Tiling:
        """Cover ``shape`` by patches that overlap by the fraction ``overlap``; the last one ends at the border."""
        padded = tuple(max(n, p) for n, p in zip(shape, patch, strict=True))
        before = tuple((m - n) // 2 for n, m in zip(shape, padded, strict=True))
        starts = tuple(_starts(m, p, overlap) for m, p in zip(padded, patch, strict=True))
        return cls(tuple(shape), tuple(patch), before, padded, starts)  # type: ignore[arg-type]

    @property
    def count(self) -> int:
        """Number of patches."""
        return int(np.prod([len(s) for s in self.starts]))

    def in_plane(self) -> list[tuple[int, int]]:
        """The (j, k) starts of the patches of one slab."""
        return list(itertools.product(self.starts[1], self.starts[2]))

    def pad(self, array: np.ndarray) -> np.ndarray:
        """The image (C, I, J, K) with zeros around it where it is smaller than a patch."""
        if self.padded == self.shape:
            return array
        after = [m - n - b for n, m, b in zip(self.shape, self.padded, self.before, strict=True)]
        return np.pad(array, [(0, 0), *zip(self.before, after, strict=True)])


def _starts(size: int, patch: int, overlap: float) -> tuple[int, ...]:
    step = max(int(patch * (1 - overlap)), 1)
    count = max(-(-(size - patch) // step), 0) + 1
    return tuple(min(n * step, size - patch) for n in range(count))


def weights(patch: Sequence[int], inference: Inference) -> np.ndarray:
    """Weight of each voxel of a patch, float32: constant, or a Gaussian with a floor of 0.001."""
    if inference.blending == "constant":
        return np.ones(tuple(patch), np.float32)
    window = np.ones((), np.float64)
    for size in patch:
        x = np.arange(size, dtype=np.float64) - (size - 1) / 2
        window = window[..., None] * np.exp(-(x**2) / (2 * (inference.sigma_scale * size) ** 2))
    return np.maximum(window, max(float(window.min()), 1e-3)).astype(np.float32)

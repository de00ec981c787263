"""Where the network looks: patch positions and the weight of each voxel in a patch, as the model's framework has them.

``monai``: ``sliding_window_inference`` (Project MONAI, ``monai.inferers.utils``): a fixed step, the last patch flush with
the border. ``nnunet``: ``nnUNetPredictor`` (Isensee et al., Nature Methods 2021): patches spread evenly.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..package import Inference

Triple = tuple[int, int, int]
Box = tuple[slice, slice, slice]
Cut = tuple[slice, bool]
"""Voxels along an axis that the same patches cover, and whether the one in question is the last of them."""
OFTEN = 2.0
"""Patches that cover a voxel, on average, from which a tiling is dense."""


@dataclass(frozen=True)
class Tiling:
    """How an image is covered by patches.

    Args:
        shape: Size of the image (i, j, k).
        patch: Size of a patch.
        before: Voxels of zero padding before the image on each axis, where it is smaller than the patch.
        padded: Size of the padded image.
        starts: Per axis, the ascending first indices of patches in the padded image; patches are their product.
        edge: Whether the image's edge is repeated around it, instead of zeros.
    """

    shape: Triple
    patch: Triple
    before: Triple
    padded: Triple
    starts: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    edge: bool = False

    @classmethod
    def cover(
        cls, shape: Sequence[int], patch: Sequence[int], overlap: float, convention: str = "monai", edge: bool = False
    ) -> Tiling:
        """Cover ``shape`` by patches that overlap by the fraction ``overlap`` or a little more."""
        place = _even_starts if convention == "nnunet" else _starts
        padded = tuple(max(n, p) for n, p in zip(shape, patch, strict=True))
        before = tuple((m - n) // 2 for n, m in zip(shape, padded, strict=True))
        starts = tuple(place(m, p, overlap) for m, p in zip(padded, patch, strict=True))
        return cls(tuple(shape), tuple(patch), before, padded, starts, edge)  # type: ignore[arg-type]

    @classmethod
    def of(cls, shape: Sequence[int], inference: Inference, overlap: float, order: Sequence[int]) -> Tiling:
        """Cover ``shape``, whose axes are those of the model's patches in ``order``, as a model has it."""
        patch = [inference.patch_size[axis] for axis in order]
        return cls.cover(shape, patch, overlap, inference.convention, inference.padding == "edge")

    @property
    def count(self) -> int:
        """Number of patches."""
        return int(np.prod([len(s) for s in self.starts]))

    @property
    def redundancy(self) -> float:
        """How many patches cover a voxel of the padded image, on average."""
        return float(self.count * np.prod(self.patch, dtype=np.float64) / np.prod(self.padded, dtype=np.float64))

    @property
    def is_dense(self) -> bool:
        """Whether voxels are covered so often that what can be done once for all of them is not done patch by patch."""
        return self.redundancy > OFTEN

    def in_plane(self) -> list[tuple[int, int]]:
        """The (j, k) starts of the patches of one slab."""
        return list(itertools.product(self.starts[1], self.starts[2]))

    def cells(self, axis: int) -> dict[int, list[Cut]]:
        """Along an axis, for each start of a patch: the patch, cut into what the same patches cover."""
        starts, size = self.starts[axis], self.patch[axis]
        ends = sorted({end for s in starts for end in (s, s + size)})
        found: dict[int, list[Cut]] = {}
        for n, start in enumerate(starts):
            after = starts[n + 1] if n + 1 < len(starts) else start + size
            inside = [end for end in ends if start <= end <= start + size]
            found[start] = [(slice(a, b), b <= after) for a, b in itertools.pairwise(inside)]
        return found

    def pad(self, array: np.ndarray) -> np.ndarray:
        """The image (C, I, J, K) with zeros, or its edge, around it where it is smaller than a patch."""
        if self.padded == self.shape:
            return array
        after = [m - n - b for n, m, b in zip(self.shape, self.padded, self.before, strict=True)]
        return np.pad(array, [(0, 0), *zip(self.before, after, strict=True)], "edge" if self.edge else "constant")


def _starts(size: int, patch: int, overlap: float) -> tuple[int, ...]:
    step = max(int(patch * (1 - overlap)), 1)
    count = max(-(-(size - patch) // step), 0) + 1
    return tuple(min(n * step, size - patch) for n in range(count))


def _even_starts(size: int, patch: int, overlap: float) -> tuple[int, ...]:
    count = math.ceil((size - patch) / (patch * (1 - overlap))) + 1
    step = (size - patch) / (count - 1) if count > 1 else 0.0
    return tuple(dict.fromkeys(int(np.round(step * n)) for n in range(count)))  # single slices would come twice


def weights(patch: Sequence[int], inference: Inference) -> np.ndarray:
    """Weight of each voxel of a patch, float32: constant, or a Gaussian that is nowhere zero.

    MONAI centres it and lets it fall to 0.001 at least; nnU-Net filters a single 1 in voxel ``patch // 2``, cut off at
    four sigma, scales it to 10 and rounds it to half precision.
    """
    return _weights(tuple(patch), inference)


@lru_cache(maxsize=8)
def _weights(patch: tuple[int, ...], inference: Inference) -> np.ndarray:
    if inference.blending == "constant":
        return np.ones(patch, np.float32)
    nnunet = inference.convention == "nnunet"
    window = np.ones((), np.float64)
    for size in patch:
        sigma = inference.sigma_scale * size
        x = np.arange(size, dtype=np.float64) - (size // 2 if nnunet else (size - 1) / 2)
        bell = np.exp(-(x**2) / (2 * sigma**2))
        if nnunet:
            bell[np.abs(x) > int(4 * sigma + 0.5)] = 0
        window = window[..., None] * bell
    if nnunet:
        window = (window * (10 / window.max())).astype(np.float16)
        window[window == 0] = window[window > 0].min()
        return window.astype(np.float32)
    return np.maximum(window, max(float(window.min()), 1e-3)).astype(np.float32)

"""A network in training on a whole image: by the predictor's stitching, or by the overlapping tiles of 2015."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from UNetSegmentLib.package import Manifest
from UNetSegmentLib.predict.export import Decision
from UNetSegmentLib.predict.stitch import Stitcher
from UNetSegmentLib.predict.tiles import Tiling, weights

from .config import FitConfig
from .patches import cut

Run = Callable[[np.ndarray], np.ndarray]
"""Patches (N, C, *patch) float32 to logits (N, K, *answer) float32."""


def segment(
    network: torch.nn.Module, image: np.ndarray, manifest: Manifest, config: FitConfig | None = None
) -> np.ndarray:
    """Class indices (I, J, K) of a prepared image (C, I, J, K)."""
    return np.concatenate([slab.argmax(axis=0) for slab in _slabs(network, image, manifest, config)])


def logits(network: torch.nn.Module, image: np.ndarray, manifest: Manifest, config: FitConfig) -> np.ndarray:
    """Logits (K, I, J, K) of a prepared image (C, I, J, K)."""
    return np.concatenate(list(_slabs(network, image, manifest, config)), axis=1)


@torch.inference_mode()
def _slabs(
    network: torch.nn.Module, image: np.ndarray, manifest: Manifest, config: FitConfig | None
) -> Iterator[np.ndarray]:
    """Logits (K, rows, J, K), front to back."""
    device = next(network.parameters()).device
    flat = manifest.dimensions == 2

    def run(patches: np.ndarray, _: Any = None) -> np.ndarray:
        x = torch.from_numpy(np.ascontiguousarray(patches[:, :, 0] if flat else patches)).to(device)
        answer = network(x).float().cpu().numpy()
        return answer[:, :, None] if flat else answer

    if config is not None and config.valid:
        one = (1,) if flat else ()
        yield overlap_tile(image, run, (*one, *config.patch), (*one, *config.answer))
        return
    window = manifest.inference
    edge = window.padding == "edge"
    tiling = Tiling.cover(image.shape[1:], window.patch_size, window.overlap, window.convention, edge)
    stitcher = Stitcher(tiling, weights(tiling.patch, window), run, Decision.of(manifest).background)
    yield from (slab for _, slab in stitcher(image))


def overlap_tile(image: np.ndarray, run: Run, patch: Sequence[int], answer: Sequence[int]) -> np.ndarray:
    """Logits (K, I, J, K) of an image (C, I, J, K) by the overlap-tile strategy of Ronneberger et al. 2015.

    Answers are laid side by side; each is computed from the larger patch around it, and what lies beyond the image's
    border is the image mirrored there.
    """
    shape = image.shape[1:]
    margin = [(p - a) // 2 for p, a in zip(patch, answer, strict=True)]
    starts = [
        sorted({max(min(start, n - a), 0) for start in range(0, n, a)}) for n, a in zip(shape, answer, strict=True)
    ]
    result: np.ndarray | None = None
    for corner in itertools.product(*starts):
        tile = cut(image, [c - m for c, m in zip(corner, margin, strict=True)], patch, "reflect")
        logits = run(tile[None])[0]
        if result is None:
            result = np.empty((len(logits), *shape), np.float32)
        place = tuple(slice(c, min(c + a, n)) for c, a, n in zip(corner, answer, shape, strict=True))
        inner = tuple(slice(0, p.stop - p.start) for p in place)
        result[(slice(None), *place)] = logits[(slice(None), *inner)]
    assert result is not None
    return result

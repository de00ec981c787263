"""Run the network over all patches and hand out finished slabs, front to back along i.

Patches are visited in the order of their first index. Rows that no later patch touches leave the accumulator at once,
so memory follows classes x patch depth x in-plane size, whatever the number of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from .tiles import Tiling


def stitch(
    image: np.ndarray,
    tiling: Tiling,
    weight: np.ndarray,
    run: Callable[[np.ndarray], np.ndarray],
) -> Iterator[tuple[int, np.ndarray]]:
    """Weighted mean of the network's answers.

    Args:
        image: (C, I, J, K) float32 on the model's grid, not padded.
        tiling: Its cover by patches.
        weight: Weight of each voxel of a patch.
        run: Network: (1, C, *patch) -> (1, K, *patch) logits.

    Yields:
        ``(start, logits)``: rows ``start ..`` of the image, (K, rows, J, K) float32, each row once, in order.
    """
    padded = tiling.pad(image)
    depth, before, rows = tiling.patch[0], tiling.before[0], tiling.shape[0]
    inner = tuple(slice(b, b + n) for b, n in zip(tiling.before[1:], tiling.shape[1:], strict=True))
    total: np.ndarray | None = None
    norm = np.zeros((depth, *tiling.padded[1:]), np.float32)

    def finished(base: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
        first, last = max(base, before), min(stop, before + rows)
        if first < last:
            cut = slice(first - base, last - base)
            yield first - before, total[(slice(None), cut, *inner)] / norm[(cut, *inner)]  # type: ignore[index]

    base = 0
    for start in tiling.starts[0]:
        if total is not None and start > base:
            yield from finished(base, start)
            total, norm = _advance(total, start - base), _advance(norm[None], start - base)[0]
        base = start
        for j, k in tiling.in_plane():
            place = (slice(j, j + tiling.patch[1]), slice(k, k + tiling.patch[2]))
            logits = run(padded[(None, slice(None), slice(start, start + depth), *place)])[0]
            if total is None:
                total = np.zeros((logits.shape[0], depth, *tiling.padded[1:]), np.float32)
            total[(slice(None), slice(None), *place)] += logits * weight
            norm[(slice(None), *place)] += weight
    yield from finished(base, base + depth)


def _advance(buffer: np.ndarray, rows: int) -> np.ndarray:
    """Move a (K, depth, ...) buffer forward by ``rows``: what stays is kept, the rest is zero."""
    moved = np.zeros_like(buffer)
    if rows < buffer.shape[1]:
        moved[:, : buffer.shape[1] - rows] = buffer[:, rows:]
    return moved

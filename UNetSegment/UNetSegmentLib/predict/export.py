"""From logits on the model's grid to label values on the input's grid, slab by slab."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ..volume import Grid
from .interpolate import Lerp


def export(
    slabs: Iterable[tuple[int, np.ndarray]],
    grid: Grid,
    source: Grid,
    values: Sequence[int],
    on_rows: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Interpolate logits linearly to the source grid and take the greatest.

    Args:
        slabs: ``(start, logits)`` in order along i, logits (K, rows, J, K) on ``grid``.
        grid: The model's grid.
        source: The input's grid in the same orientation; first voxels coincide.
        values: Label value of each class.
        on_rows: Told about each range of finished rows of the result.

    Returns:
        (I, J, K) uint8, or uint16 where a value exceeds 255, on ``source``.
    """
    lerps = [Lerp.between(grid.shape[a], source.shape[a], grid.spacing[a], source.spacing[a]) for a in range(3)]
    table = np.asarray(values, np.uint8 if max(values) < 256 else np.uint16)
    result = np.zeros(source.shape, table.dtype)
    done, carried, first = 0, None, 0
    for start, logits in slabs:
        if carried is not None:  # the row before this slab is a neighbour of the rows between them
            logits, start = np.concatenate([carried, logits], axis=1), start - carried.shape[1]
        first, end = start, start + logits.shape[1]
        last = end == grid.shape[0]
        ready = len(lerps[0].upper) if last else int(np.searchsorted(lerps[0].upper, end - 1, side="right"))
        ready = max(ready, done)
        for row in range(done, ready, 16):  # few rows at a time: memory stays small beside the slab itself
            stop = min(row + 16, ready)
            low, high = lerps[0].rows(row, stop)
            piece = logits[:, low - first : high - first + 1]
            piece = lerps[0].part(row, stop, low, piece.shape[1]).apply(piece, 1)
            for axis in (1, 2):
                piece = lerps[axis].apply(piece, axis + 1)
            result[row:stop] = table[piece.argmax(axis=0)]
        if on_rows is not None and ready > done:
            on_rows(done, ready)
        done = ready
        keep = int(lerps[0].lower[done]) if done < source.shape[0] else end
        carried = logits[:, max(keep - first, 0) :].copy()
    return result

"""From the network's outputs on its grid to label values on the input's grid, slab by slab.

Interpolation weights are convex: where the eight voxels around a point have one winner, so has every point between them.
Only points in the other cells, a few per cent at the surfaces, are interpolated. With overlapping regions the winner is
the region painted last of those that are present, for which the same holds. The result is that of dense trilinear
interpolation and argmax, but for ties in rounding.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..package import Manifest
from . import boundary, passes
from .interpolate import Lerp

THREADED_FROM = 3e6
"""Outputs x voxels from which threads are worth waking."""
COMPILED_FROM = 3e7
"""Outputs x voxels from which compiled loops are worth loading (a second; ten where they are compiled for the first time)."""
_MIXED = np.iinfo(np.uint16).max


@dataclass(frozen=True)
class Decision:
    """How outputs become a label value.

    Args:
        table: Label value of each winner: of each output with softmax; 0 and then each region in paint order otherwise.
        order: With regions, the outputs in the order they are painted; all outputs in order otherwise.
        regions: Whether outputs are regions that may overlap.
        threshold: What an output must exceed for its region to be present.
        probabilities: Whether outputs are made probabilities before they are interpolated.
    """

    table: np.ndarray
    order: np.ndarray
    regions: bool = False
    threshold: float = 0.0
    probabilities: bool = False

    @classmethod
    def of(cls, manifest: Manifest) -> Decision:
        """The manifest's."""
        regions = manifest.activation == "sigmoid"
        probabilities = manifest.preprocessing.resampling.output == "probabilities"
        values = [0, *manifest.paint_order] if regions else list(manifest.outputs)
        order = [manifest.outputs.index(v) for v in manifest.paint_order] if regions else range(len(values))
        table = np.asarray(values, np.uint8 if max(values) < 256 else np.uint16)
        threshold = 0.5 if probabilities else 0.0
        return cls(table, np.asarray(list(order), np.int64), regions, threshold, probabilities)

    @property
    def is_scale_free(self) -> bool:
        """Whether outputs that are all multiplied by one positive number mean the same label."""
        return not self.probabilities

    @property
    def background(self) -> np.ndarray:
        """Outputs (K,) that mean background."""
        values = np.full(len(self.order), -1.0, np.float32)
        if not self.regions:
            values[np.flatnonzero(self.table == 0)[:1]] = 1.0
        return values

    def winners(self, outputs: np.ndarray, dtype: Any = np.uint16) -> np.ndarray:
        """Index into ``table`` (...) of outputs (K, ...), the axes in memory as those of the outputs.

        An output that exceeds those before it has the greatest index so far: a maximum takes it, without a branch.
        """
        kind, best = np.dtype(dtype).type, None if self.regions else outputs[0]
        winner: np.ndarray | None = None
        for number, c in enumerate(self.order if self.regions else range(1, len(outputs)), start=1):
            better = np.greater(outputs[c], self.threshold if best is None else best)
            if winner is None:
                winner = better.view(np.uint8).astype(kind, copy=False)
            else:
                index = np.multiply(better.view(np.uint8), kind(number), dtype=kind)
                np.maximum(winner, index, out=winner)
            if best is not None and number + 1 < len(outputs):
                best = np.maximum(best, outputs[c], out=None if number == 1 else best)
        return np.zeros_like(outputs[0], kind) if winner is None else winner

    def settle(self, outputs: Any) -> np.ndarray:
        """The same for outputs as they come from the network, NumPy or torch, where no interpolation is to follow."""
        if self.probabilities:
            outputs = activated(outputs, self.regions)
        dtype = np.uint8 if len(self.table) <= 256 else np.uint16
        if isinstance(outputs, np.ndarray):
            return self.winners(outputs, dtype)
        return self.winners_on_device(outputs).astype(dtype, copy=False)

    def winners_on_device(self, outputs: Any) -> np.ndarray:
        """The same for a torch tensor; they leave the device as bytes where that is enough."""
        if self.regions:
            winner = (outputs[0] * 0).int()
            for position, c in enumerate(self.order):
                winner[outputs[int(c)] > self.threshold] = position + 1
        else:
            winner = outputs.argmax(0)
        return (winner.byte() if len(self.table) <= 256 else winner.int()).cpu().numpy()


def activated(outputs: Any, regions: bool) -> Any:
    """Sigmoid of each output, or softmax over (K, ...)."""
    if not isinstance(outputs, np.ndarray):
        return outputs.sigmoid() if regions else outputs.softmax(0)
    if regions:
        return 1 / (1 + np.exp(-outputs))
    outputs = np.exp(outputs - outputs.max(axis=0))
    return outputs / outputs.sum(axis=0)


def export(
    slabs: Iterable[tuple[int, Any]],
    lerps: Sequence[Lerp],
    decision: Decision,
    on_rows: Callable[[int, int, np.ndarray], None] | None = None,
    threads: int | None = None,
    compiled: bool | None = None,
) -> np.ndarray:
    """Label the input's grid.

    Args:
        slabs: ``(start, outputs)`` in order along i, (K, rows, J, K) float32 on the network's grid, NumPy or torch.
        lerps: Per axis, the interpolation from the network's grid to the result's.
        decision: How outputs become labels.
        on_rows: Told ``(start, stop, labels)`` as soon as rows ``start..stop`` of the result are final.
        threads: Processor threads; all by default.
        compiled: Use numba or not; by default where it is installed and the work is large. The labels are the same.

    Returns:
        (I, J, K) uint8, or uint16 where a value exceeds 255.
    """
    shape = tuple(len(lerp.lower) for lerp in lerps)
    result = np.zeros(shape, decision.table.dtype)
    workers = threads or os.cpu_count() or 1
    work = float(np.prod(shape)) * len(decision.order)
    if compiled is None:
        compiled = work >= COMPILED_FROM
    if work < THREADED_FROM:
        workers = 1
    first_axis, done, carried = lerps[0], 0, None
    with ThreadPoolExecutor(workers) as pool:
        for start, outputs in slabs:
            if decision.probabilities:
                outputs = activated(outputs, decision.regions)
            if carried is not None:  # the row before this slab is a neighbour of the rows between them
                start -= carried.shape[1]
            outputs = _join(carried, outputs, workers)
            end = start + outputs.shape[1]
            last = end == first_axis.size
            ready = shape[0] if last else int(np.searchsorted(first_axis.upper, end - 1, side="right"))
            ready = max(ready, done)
            if ready > done:
                rows = first_axis.lower[done:ready] - start, first_axis.upper[done:ready] - start
                weight = first_axis.weight[done:ready]
                label = _label if isinstance(outputs, np.ndarray) else _label_on_device
                label(outputs, rows, weight, lerps, decision, result[done:ready], compiled, pool, workers)
                if on_rows is not None:
                    on_rows(done, ready, result)
            done = ready
            keep = int(first_axis.lower[done:].min()) if done < shape[0] else end
            carried = outputs[:, max(keep - start, 0) :] if keep < end else None
            if isinstance(carried, np.ndarray):
                carried = carried.copy("K")
    return result


def _label(
    outputs: np.ndarray,
    rows: tuple[np.ndarray, np.ndarray],
    weight: np.ndarray,
    lerps: Sequence[Lerp],
    decision: Decision,
    result: np.ndarray,
    compiled: bool,
    pool: ThreadPoolExecutor,
    workers: int,
) -> None:
    """Label the rows of ``result`` from outputs, whose rows ``rows[0]`` and ``rows[1]`` lie around them."""
    winner = np.empty(outputs.shape[1:], np.uint16)
    argmax, kernel = _loops() if compiled else (None, _fill)

    def win(cut: slice) -> None:
        if argmax is not None and not decision.regions:
            for row in range(cut.start, cut.stop):
                argmax(outputs[:, row].reshape(len(outputs), -1), winner[row].reshape(-1))
        else:
            winner[cut] = decision.winners(outputs[:, cut])

    each = map if workers == 1 else pool.map
    list(each(win, _shares(winner.shape[0], workers)))
    if all(lerp.is_identity for lerp in lerps):
        result[:] = decision.table[winner[np.where(weight > 0.5, rows[1], rows[0])]]
        return
    j, k = lerps[1:]
    index = np.stack(rows).astype(np.int64)

    def work(cut: slice) -> None:
        kernel(
            outputs,
            winner,
            np.ascontiguousarray(index[:, cut]),
            weight[cut],
            *(j.lower, j.upper, j.weight),
            *(k.lower, k.upper, k.weight),
            *(decision.order, np.float32(decision.threshold), decision.regions),
            decision.table,
            result[cut],
        )

    list(each(work, _shares(len(weight), workers)))


def _fill(values, winner, rows, row_weight, j0, j1, wj, k0, k1, wk, order, threshold, regions, table, result) -> None:
    """Label output rows.

    Args:
        values: Outputs (K, R, J, K) float32.
        winner: Their winners (R, J, K) uint16.
        rows: (2, N) rows below and above each output row.
        row_weight: (N,) weight of the row above; ``j0, j1, wj`` and ``k0, k1, wk`` the same along j and k.
        order: The outputs in the order they are painted.
        threshold: See :class:`Decision`, as ``regions`` and ``table``.
        result: (N, J', K') labels to write.
    """
    flat = values.reshape(len(values), -1)
    size_j, size_k = winner.shape[1:]
    above_j, above_k = (_above(lower, upper, n) for lower, upper, n in ((j0, j1, size_j), (k0, k1, size_k)))
    around, cells = None, winner[0]
    for row, (low, high) in enumerate(rows.T):
        if around != (low, high):  # the winner of each cell between two rows, where it has one
            around, cells = (low, high), winner[low].copy()
            differs = winner[high] != cells
            for pair in (winner[low], winner[high]):
                in_k = pair.take(above_k, axis=1)
                for other in (in_k, pair.take(above_j, axis=0), in_k.take(above_j, axis=0)):
                    differs |= other != cells
            cells[differs] = _MIXED
        found = cells.take(j0, axis=0).take(k0, axis=1)
        mixed = found == _MIXED
        found[mixed] = 0
        result[row] = table[found]
        at_j, at_k = np.nonzero(mixed)
        if not len(at_j):
            continue
        places = [((r * size_j + j[at_j]) * size_k + k[at_k]) for r in (low, high) for j in (j0, j1) for k in (k0, k1)]
        v, w, wi = wj[at_j], wk[at_k], row_weight[row]
        best = np.full(len(at_j), -np.inf, np.float32)
        won = np.zeros(len(at_j), np.int64)
        for position, c in enumerate(order):
            x00, x01, x10, x11, *above = (flat[c].take(place) for place in places)
            for below, top in zip((x00, x01, x10, x11), above, strict=True):
                below += (top - below) * wi
            y0 = x00 + (x10 - x00) * v
            y1 = x01 + (x11 - x01) * v
            z = y0 + (y1 - y0) * w
            better = z > (threshold if regions else best)
            won[better] = position + 1 if regions else position
            if not regions:
                np.maximum(best, z, out=best)
        result[row][at_j, at_k] = table[won]


def _above(lower: np.ndarray, upper: np.ndarray, size: int) -> np.ndarray:
    """For each sample of an axis, the other end of the cell that begins there."""
    step = int((upper - lower).max())
    return np.minimum(np.arange(size) + step, size - 1)


def _label_on_device(
    outputs: Any,
    rows: tuple[np.ndarray, np.ndarray],
    weight: np.ndarray,
    lerps: Sequence[Lerp],
    decision: Decision,
    result: np.ndarray,
    *_: Any,
) -> None:
    """The same by dense interpolation, for torch tensors on a GPU: a few rows at a time, labels alone come back."""

    def lerp(x: Any, low: np.ndarray, high: np.ndarray, weight: np.ndarray, axis: int) -> Any:
        index = outputs.new_tensor(low).long(), outputs.new_tensor(high).long()
        below, above = (x.index_select(axis, n) for n in index)
        shape = [1] * x.ndim
        shape[axis] = -1
        return below + (above - below) * outputs.new_tensor(weight).reshape(shape)

    j, k = lerps[1:]
    step = max(int(2**27 // max(len(outputs) * len(j.lower) * len(k.lower), 1)), 1)
    for start in range(0, len(weight), step):
        cut = slice(start, start + step)
        x = lerp(outputs, rows[0][cut], rows[1][cut], weight[cut], 1)
        x = lerp(lerp(x, j.lower, j.upper, j.weight, 2), k.lower, k.upper, k.weight, 3)
        result[cut] = decision.table[decision.winners_on_device(x)]


def _join(before: Any | None, after: Any, threads: int) -> Any:
    """Outputs (K, I, J, K) with rows ``before`` them, in main memory in C order; a torch tensor as it is."""
    if not isinstance(after, np.ndarray):
        if before is None:
            return after
        joined = after.new_empty((len(after), before.shape[1] + after.shape[1], *after.shape[2:]))
        joined[:, : before.shape[1]] = before
        joined[:, before.shape[1] :] = after
        return joined
    if before is None and after.flags.c_contiguous:
        return after
    rows = 0 if before is None else before.shape[1]
    joined = np.empty((len(after), rows + after.shape[1], *after.shape[2:]), after.dtype)
    if before is not None:
        joined[:, :rows] = (
            before if isinstance(before, np.ndarray) else before.cpu().numpy()
        )  # sums left the device in between
    for one, source in zip(joined, after, strict=True):
        passes.transfer(one[rows:], source, threads)
    return joined


def _shares(count: int, workers: int) -> list[slice]:
    """``count`` rows in about equal parts for the workers."""
    step = max(-(-count // (workers * 2 if workers > 1 else 1)), 1)
    return [slice(n, min(n + step, count)) for n in range(0, count, step)]


def _loops() -> tuple[Any, Any]:
    try:
        return boundary.compiled()
    except ImportError:  # not installed, or not made for this NumPy
        return None, _fill

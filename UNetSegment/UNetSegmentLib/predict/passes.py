"""Passes over large arrays: in blocks that stay in the processor's cache, shared by a few threads, copies in any axis order.

NumPy walks a copy between different axis orders element by element through memory, and returns a temporary of full size
from each operation; in blocks both cost a small part of that. NumPy's loops let other threads run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np

BLOCK = 1 << 16
"""Voxels of a block; a float32 operation on it keeps its operands in a processor's second cache."""
_COUNTED = 1 << 20
"""Voxels of a block that is counted: many beside the 65536 pairs of labels."""
THREADED_FROM = 1 << 20
"""Voxels from which threads are worth waking."""
_RUN = 16
"""Voxels written in one go where the axis orders differ: a cache line of float32."""


MOST = 8
"""Threads beyond which a pass waits for memory only."""


def count(threads: int | None = None) -> int:
    """The threads to use: what was asked for, or those of this computer."""
    return threads or min(os.cpu_count() or 1, MOST)


def share(work: Callable[[slice], None], count: int, threads: int = 1) -> None:
    """Call ``work`` with slices that cover ``count`` rows, in threads; errors come through."""
    if threads <= 1 or count <= 1:
        if count > 0:
            work(slice(0, count))
        return
    step = max(-(-count // (threads * 2)), 1)  # two parts each: none waits long for the last
    list(_pool(os.getpid(), threads).map(work, [slice(n, min(n + step, count)) for n in range(0, count, step)]))


@lru_cache(maxsize=4)
def _pool(_process: int, threads: int) -> ThreadPoolExecutor:
    """Threads of this process; one that was forked from another has none of its threads."""
    return ThreadPoolExecutor(threads, "unetsegment")


def blocks(cut: slice, row: int, block: int = BLOCK) -> list[slice]:
    """The rows of ``cut``, ``row`` voxels each, in blocks of about ``block`` voxels."""
    step = max(block // max(row, 1), 1)
    return [slice(n, min(n + step, cut.stop)) for n in range(cut.start, cut.stop, step)]


def each(work: Callable[[np.ndarray], None], array: np.ndarray, threads: int = 1) -> None:
    """Call ``work`` with blocks of an array that cover it, in threads, to be changed in place by several operations at once."""

    def blockwise(cut: slice) -> None:
        for part in blocks(cut, array[0].size):
            work(array[part])

    share(blockwise, len(array), threads if array.size >= THREADED_FROM else 1)


def order(array: np.ndarray) -> list[int]:
    """The last three axes of an array, 0 to 2, from the one along which memory is farthest apart to the nearest."""
    return sorted(range(3), key=lambda axis: -abs(array.strides[axis - 3]) if array.shape[axis - 3] > 1 else 0)


def slowest(array: np.ndarray) -> int:
    """Of the last three axes, the one along which memory is farthest apart: the one to share and to cut into blocks."""
    return order(array)[0]


def along(axis: int, cut: slice) -> tuple[slice, slice, slice]:
    """The index of ``cut`` along one of three axes."""
    return tuple(cut if a == axis else slice(None) for a in range(3))  # type: ignore[return-value]


def empty(shape: Sequence[int], dtype: Any, like: np.ndarray, make: Callable[..., np.ndarray] = np.empty) -> np.ndarray:
    """An array (..., I, J, K) whose last three axes lie in memory in the order that those of ``like`` have.

    ``make`` may be ``np.zeros``: the system then gives zeros when the memory is first used, without a pass of its own.
    """
    axes, lead = order(like), len(shape) - 3
    array = make((*shape[:lead], *(shape[lead + axis] for axis in axes)), dtype)
    return array.transpose(*range(lead), *(lead + int(axis) for axis in np.argsort(axes)))


def transfer(target: np.ndarray, source: np.ndarray, threads: int = 1, table: np.ndarray | None = None) -> None:
    """``target[:] = source``, or ``table[source]``, of arrays (I, J, K) whose axes may lie in memory in any order."""
    threads = threads if target.size >= THREADED_FROM else 1
    if table is not None and np.array_equal(table, np.arange(len(table))):
        table = None
    axes = order(target)
    target, source = target.transpose(axes), source.transpose(axes)
    lengths = [abs(s) if n > 1 else np.inf for s, n in zip(source.strides, source.shape, strict=True)]
    fast = int(np.argmin(lengths)) if min(lengths) < np.inf else 2

    def value(part: np.ndarray) -> np.ndarray:
        return part.astype(target.dtype, order="K", copy=False) if table is None else table[part]

    if fast == 2:

        def rows(cut: slice) -> None:
            for part in blocks(cut, target[0].size if len(target) else 1):
                target[part] = value(source[part])

        share(rows, len(target), threads)
        return
    other = 1 - fast

    def planes(cut: slice) -> None:
        for n in range(cut.start, cut.stop):
            here, there = (array[n] if other == 0 else array[:, n] for array in (target, source))
            for start in range(0, target.shape[2], _RUN):
                run = slice(start, start + _RUN)
                here[:, run] = value(there[:, run])

    share(planes, target.shape[other], threads)


def counts(array: np.ndarray, size: int, threads: int = 1) -> np.ndarray:
    """How many voxels have each of the values 0 .. ``size - 1``, int64; higher values are not counted."""
    axis = slowest(array)
    parts: list[np.ndarray] = []

    def work(cut: slice) -> None:
        total = np.zeros(max(size, 256), np.int64)
        for part in blocks(cut, array.size // max(array.shape[axis], 1), _COUNTED):
            flat = array[along(axis, part)].ravel("K")
            even = (
                flat.size // 2 * 2 if flat.dtype == np.uint8 else 0
            )  # two voxels are counted as one number: half the work
            pairs = np.bincount(flat[:even].view(np.uint16), minlength=1 << 16).reshape(256, 256)
            total[:256] += pairs.sum(axis=0) + pairs.sum(axis=1)
            total += np.bincount(flat[even:], minlength=len(total))[: len(total)]
        parts.append(total[:size])

    share(work, array.shape[axis], threads if array.size >= THREADED_FROM else 1)
    return np.sum(parts, axis=0, dtype=np.int64) if parts else np.zeros(size, np.int64)

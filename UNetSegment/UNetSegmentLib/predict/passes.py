"""Passes over large arrays: in blocks that stay in the processor's cache, shared by a few threads, copies in any axis order.

NumPy walks a copy between different axis orders element by element through memory, and returns a temporary of full size
from each operation; in blocks both cost a small part of that. NumPy's loops let other threads run.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import mmap
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache
from typing import Any

import numpy as np

BLOCK = 1 << 16
"""Voxels of a block; a float32 operation on it keeps its operands in a processor's second cache. Passes of few operations take
two or four at once: threads then meet less often at Python's lock."""
_COUNTED = 1 << 20
"""Voxels of a block that is counted: many beside the 65536 pairs of labels."""
FEW = 12
"""Values up to which each is counted by a comparison of its own."""
THREADED_FROM = 1 << 19
"""Voxels from which threads are worth waking."""
_RUN = 32
"""Voxels that part the rows of a small copy."""
_LONG_RUN = 1 << 22
"""Voxels of a block that is only copied: threads that are seldom in Python do not wait for others that are."""
_LONG = 128
"""Voxels of a block along its long axes, at most."""
PARTS = 3
"""Parts of a pass for each thread: none waits long for the last."""
_LARGE_PAGES = 1 << 22
"""Bytes from which large pages are worth asking for."""
MOST = 8
"""Threads beyond which a pass waits for memory only."""


def count(threads: int | None = None) -> int:
    """The threads to use: what was asked for, or those of this computer."""
    return threads or min(os.cpu_count() or 1, MOST)


def share(work: Callable[[slice], None], count: int, threads: int = 1) -> None:
    """Call ``work`` with slices that cover ``count`` rows, in this thread and others; errors come through.

    This one begins at once, and waits for none that is not awake by the time all is done: to wake one takes a tenth of a
    millisecond.
    """
    if threads <= 1 or count <= 1:
        if count > 0:
            work(slice(0, count))
        return
    step = max(-(-count // (threads * PARTS)), 1)
    left = [slice(n, min(n + step, count)) for n in range(0, count, step)][::-1]

    def take() -> None:
        while True:
            try:
                cut = left.pop()
            except IndexError:  # another thread took the last one
                return
            work(cut)

    others = [_pool(os.getpid(), threads).submit(take) for _ in range(min(threads, len(left)) - 1)]
    try:
        take()
    finally:
        left.clear()
        busy = [other for other in others if not other.cancel()]
        wait(busy)
    for other in busy:
        other.result()


@lru_cache(maxsize=4)
def _pool(_process: int, threads: int) -> ThreadPoolExecutor:
    """Threads of this process; one that was forked from another has none of its threads."""
    return ThreadPoolExecutor(threads, "unetsegment")


def blocks(cut: slice, row: int, block: int | None = None) -> list[slice]:
    """The rows of ``cut``, ``row`` voxels each, in blocks of about ``block`` voxels, :data:`BLOCK` by default."""
    step = max((block or BLOCK) // max(row, 1), 1)
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


def forwards(array: np.ndarray) -> tuple[slice, ...]:
    """The index that turns round the axes along which memory goes backwards: NumPy reads it element by element."""
    return tuple(slice(None, None, -1 if stride < 0 else 1) for stride in array.strides)


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


def together(array: Any) -> Any:
    """The array (..., I, J, K), or a copy in its own order of axes where its rows lie apart: NumPy begins each row anew.

    A torch tensor stays as it is.
    """
    if not isinstance(array, np.ndarray):
        return array
    whole = array[(0,) * (array.ndim - 3)].transpose(order(array)).flags.c_contiguous
    return array if whole else array.copy("K")


def like(array: Any, values: np.ndarray) -> Any:
    """The values as NumPy or torch, and on the device, as the array is."""
    return values if isinstance(array, np.ndarray) else array.new_tensor(values)


def transfer(
    target: np.ndarray,
    source: np.ndarray,
    threads: int = 1,
    table: np.ndarray | None = None,
    then: Callable[[np.ndarray], None] | None = None,
) -> None:
    """``target[:] = source``, or ``table[source]``, of arrays (I, J, K) whose axes may lie in memory in any order.

    ``then`` is called with each part of the target that is filled, to change it in place.
    """
    if table is not None and np.array_equal(table, np.arange(len(table))):
        table = None
    axes = order(target)
    target, source = target.transpose(axes), source.transpose(axes)
    ahead = forwards(source)
    target, source = target[ahead], source[ahead]
    apart = [abs(s) if n > 1 else np.inf for s, n in zip(source.strides, source.shape, strict=True)]
    turned = min(apart) < np.inf and int(np.argmin(apart)) != 2
    near = order(source)  # the axes as the source has them in memory
    back = [near.index(axis) for axis in range(3)]
    plain = table is None and then is None and target.dtype == source.dtype  # nothing to keep in the cache
    straight = blocks(slice(0, len(target)), target[:1].size, _LONG_RUN if plain else 2 * BLOCK)
    parts = bricks(target.shape) if turned else [(cut,) for cut in straight]

    def work(cut: slice) -> None:
        room: list[np.ndarray] = []
        for here in parts[cut]:
            values = source[here]
            if turned:
                values = _gathered(values.transpose(near), room).transpose(back)
            if table is not None:
                values = table[values]
            target[here] = values
            if then is not None:
                then(target[here])

    share(work, len(parts), threads if target.size >= THREADED_FROM else 1)


def _gathered(part: np.ndarray, room: list[np.ndarray]) -> np.ndarray:
    """A copy of an array whose axes lie in memory in this order, in ``room`` where one as large was made there. Rows far apart in
    memory by a power of two share few places in the processor's cache; here they lie close together, and not by a power of
    two."""
    if not room or room[0].shape != part.shape:
        *lead, last = part.shape
        room[:] = [np.empty((*lead, last + _RUN), part.dtype)[..., :last]]
    room[0][...] = part
    return room[0]


def rows(shape: Sequence[int], axes: Sequence[int], voxels: int) -> list[tuple[slice, slice, slice]]:
    """Indices that cut an array (I, J, K), with ``axes`` from the slowest to the fastest, into parts of about as many voxels
    that lie together in memory, or nearly so."""
    row = shape[axes[2]]
    plane = max(row * shape[axes[1]], 1)
    return _cut(shape, axes, (voxels // plane, voxels // max(row, 1), row))


def bricks(shape: Sequence[int]) -> list[tuple[slice, slice, slice]]:
    """Indices that cut an array (I, J, K) in C order into parts of about a block.

    They are long along the slowest and the fastest axis: in whatever order the axes lie on the other side of a copy, the runs
    in memory are long there as well.
    """
    first, middle, last = (max(n, 1) for n in shape)
    first, last = min(first, _LONG), min(last, _LONG)
    return _cut(shape, range(3), (first, min(middle, BLOCK // (first * last)), last))


def _cut(shape: Sequence[int], axes: Sequence[int], steps: Sequence[int]) -> list[tuple[slice, slice, slice]]:
    """Indices of the parts, ``steps`` long along ``axes``."""
    cuts: list[Any] = [None] * 3
    for axis, step in zip(axes, steps, strict=True):
        step = max(step, 1)
        cuts[axis] = [slice(n, min(n + step, shape[axis])) for n in range(0, shape[axis], step)]
    return list(itertools.product(*cuts))


def erase(array: np.ndarray, values: Sequence[int], threads: int = 1) -> None:
    """Voxels of an array (I, J, K) of integers that have one of the values become 0."""
    if len(values) > FEW and array.dtype == np.uint8:
        table = np.arange(256, dtype=np.uint8)
        table[list(values)] = 0
        transfer(array, array, threads, table)
        return

    def work(part: np.ndarray) -> None:
        for value in values:
            part *= part != value

    each(work, array, threads)


def add_weighted(
    totals: Sequence[np.ndarray],
    norm: np.ndarray | None,
    values: np.ndarray,
    weight: np.ndarray,
    threads: int = 1,
    begins: bool = False,
) -> None:
    """``totals += values * weight`` of arrays (F, I, J, K) and ``norm += weight`` (I, J, K); with ``begins``, ``=`` instead."""
    axis = slowest(weight)

    def work(cut: slice) -> None:
        for rows in blocks(cut, weight.size // weight.shape[axis], 4 * BLOCK):
            here = along(axis, rows)
            close = together(weight[here])
            for total, value in zip(totals, values, strict=True):
                if begins:
                    np.multiply(value[here], close, out=total[here])
                else:
                    total[here] += together(value[here]) * close
            if norm is not None and begins:
                norm[here] = close
            elif norm is not None:
                norm[here] += close

    share(work, weight.shape[axis], threads if weight.size >= THREADED_FROM else 1)


def in_large_pages(array: np.ndarray) -> None:
    """Ask Linux to give new memory, not yet touched, in large pages, as NumPy does for its own: 80 MB are there four times sooner."""
    if not sys.platform.startswith("linux") or array.nbytes < _LARGE_PAGES:
        return
    start = -(-array.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (array.ctypes.data + array.nbytes - start) // mmap.PAGESIZE * mmap.PAGESIZE
    advise, large = getattr(ctypes.CDLL(None), "madvise", None), getattr(mmap, "MADV_HUGEPAGE", None)
    if advise is not None and large is not None:  # its answer does not matter: some kernels have none
        advise(ctypes.c_void_p(start), ctypes.c_size_t(length), ctypes.c_int(large))


def need_finite(array: Any) -> None:
    """Look at floats (..., I, J, K), NumPy or torch: their sum is not finite where one of them is not.

    Raises:
        FloatingPointError: One of them is not finite.
    """
    if not math.isfinite(float(array.sum())):
        raise FloatingPointError


def counts(array: np.ndarray, size: int, threads: int = 1) -> np.ndarray:
    """How many voxels have each of the values 0 .. ``size - 1``, int64; higher values are not counted."""
    axis = slowest(array)
    parts: list[np.ndarray] = []

    def work(cut: slice) -> None:
        total = np.zeros(max(size, 256), np.int64)
        few = size <= FEW
        for part in blocks(cut, array.size // max(array.shape[axis], 1), 4 * BLOCK if few else _COUNTED):
            flat = array[along(axis, part)].ravel("K")
            if few:
                total[0] += flat.size - np.count_nonzero(flat)
                for value in range(1, size):
                    total[value] += np.count_nonzero(flat == value)
                continue
            even = (
                flat.size // 2 * 2 if flat.dtype == np.uint8 else 0
            )  # two voxels are counted as one number: half the work
            pairs = np.bincount(flat[:even].view(np.uint16), minlength=1 << 16).reshape(256, 256)
            total[:256] += pairs.sum(axis=0) + pairs.sum(axis=1)
            total += np.bincount(flat[even:], minlength=len(total))[: len(total)]
        parts.append(total[:size])

    share(work, array.shape[axis], threads if array.size >= THREADED_FROM else 1)
    return np.sum(parts, axis=0, dtype=np.int64) if parts else np.zeros(size, np.int64)

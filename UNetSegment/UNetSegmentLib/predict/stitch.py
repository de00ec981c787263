"""Run the network over all patches and hand out finished slabs, front to back along i.

Patches are visited in the order of their first index. The sums live in a ring of as many rows as a patch is deep; rows
that no later patch touches are handed out at once and their place is used again. Memory follows outputs x patch depth x
in-plane size, whatever the number of rows. Sums stay where the network's answers are: NumPy arrays in main memory, or
torch tensors on a GPU, which offer the few operations used here under the same names. In main memory they lie in the order
of axes that the network's answers have, whatever the order they are visited in, so that each pass reads memory in runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from . import passes
from .tiles import Tiling

CHUNK_BYTES = 64 << 20
"""Finished rows are handed out in pieces of about this size."""


class Run(Protocol):
    """The network: patches (N, C, *patch) float32 to answers (N, F, *patch), NumPy or torch; may be written to.

    ``relieve`` moves the sums off the device and tells whether that freed memory there; called when memory is short.
    """

    def __call__(self, patches: np.ndarray, relieve: Callable[[], bool]) -> Any: ...


@dataclass(frozen=True)
class Head:
    """A 1x1x1 convolution that is done after stitching: answers are features (F), outputs are ``weight @ f + bias``.

    A weighted mean commutes with it, so the result is the same but for rounding, and the sums are smaller where there
    are more outputs than features.
    """

    weight: np.ndarray
    bias: np.ndarray


@dataclass(frozen=True)
class Stitcher:
    """Weighted mean of the network's answers over overlapping patches.

    Args:
        tiling: The cover by patches.
        weight: Weight of each voxel of a patch, float32; its axes lie in memory in the network's order.
        run: See :class:`Run`.
        background: Value of each output where no patch was computed.
        batch: Most patches per call.
        head: What turns answers into outputs, where the network stops before it.
        wanted: Whether the patch that starts at (i, j, k) of the padded image is to be computed; all by default.
        reduce: What to hand out instead of outputs: given some of them, (K, ...), what becomes of each voxel, (...). NumPy or
            torch in, NumPy out.
        threads: Processor threads for sums in main memory.
    """

    tiling: Tiling
    weight: np.ndarray
    run: Run
    background: np.ndarray
    batch: int = 1
    head: Head | None = None
    wanted: Callable[[int, int, int], bool] | None = None
    reduce: Callable[[Any], np.ndarray] | None = None
    threads: int = 1

    def __call__(self, image: np.ndarray) -> Iterator[tuple[int, Any]]:
        """Stitch an image (C, I, J, K) float32 on the network's grid, not padded.

        Yields:
            ``(start, outputs)``: rows ``start ..`` of the image, (K, rows, J, K) float32, or (rows, J, K) of what
            ``reduce`` gives; each row once, in order.
        """
        tiling = self.tiling
        padded = tiling.pad(image)
        depth, before, rows = tiling.patch[0], tiling.before[0], tiling.shape[0]
        sums = _Sums(self, depth)
        for index, start in enumerate(tiling.starts[0]):
            places = [p for p in tiling.in_plane() if self.wanted is None or self.wanted(start, *p)]
            for first in range(0, len(places), self.batch):
                cuts = [_cut(start, *place, tiling.patch) for place in places[first : first + self.batch]]
                answers = self.run(self._patches(padded, cuts), sums.to_host)
                for cut, answer in zip(cuts, answers, strict=True):
                    sums.add(cut, answer)
                del answers
            after = tiling.starts[0][index + 1] if index + 1 < len(tiling.starts[0]) else start + depth
            for low, piece in sums.take(max(start, before), min(after, before + rows), start, after):
                yield low - before, piece

    def _patches(self, image: np.ndarray, cuts: list[tuple[slice, ...]]) -> np.ndarray:
        """Patches (N, C, *patch) of an image (C, I, J, K), their axes in memory in the network's order."""
        patches = passes.empty((len(cuts), len(image), *self.tiling.patch), np.float32, self.weight)
        for patch, cut in zip(patches, cuts, strict=True):
            for channel, values in zip(patch, image[cut], strict=True):
                passes.transfer(channel, values, self.threads)
        return patches


class _Sums:
    """Weighted sums of answers in a ring of rows."""

    def __init__(self, stitcher: Stitcher, depth: int) -> None:
        self.of, self.depth = stitcher, depth
        self.total: Any = None
        self.norm: Any = None
        self.weight: Any = stitcher.weight
        few = stitcher.weight.size < passes.THREADED_FROM
        self.threads = 1 if few else stitcher.threads

    def add(self, cut: tuple[slice, ...], answer: Any) -> None:
        if self.total is None:
            self._begin(answer)
        if isinstance(answer, np.ndarray):
            self.to_host()
        elif isinstance(self.total, np.ndarray):
            answer = answer.float().cpu().numpy()
        for part, row in self._pieces(cut[1].start, cut[1].stop):
            here = (slice(None), row, *cut[2:])
            total, norm, weight, answers = self.total[here], self.norm[here[1:]], self.weight[part], answer[:, part]
            if isinstance(total, np.ndarray):
                self._add(total, norm, weight, answers)
            else:
                answers *= weight
                total += answers
                norm += weight

    def _add(self, total: np.ndarray, norm: np.ndarray, weight: np.ndarray, answers: np.ndarray) -> None:
        axis = passes.slowest(weight)

        def work(cut: slice) -> None:
            for part in passes.blocks(cut, weight.size // weight.shape[axis]):
                here = passes.along(axis, part)
                for one, answer in zip(total, answers, strict=True):
                    one[here] += answer[here] * weight[here]
                norm[here] += weight[here]

        passes.share(work, weight.shape[axis], self.threads)

    def take(self, low: int, high: int, start: int, after: int) -> Iterator[tuple[int, Any]]:
        """Rows ``low..high`` of the padded image as means, in pieces; then rows ``start..after`` are free again."""
        tiling, background = self.of.tiling, self.of.background
        inner = tuple(slice(b, b + n) for b, n in zip(tiling.before[1:], tiling.shape[1:], strict=True))
        row_bytes = (4 * len(background) if self.of.reduce is None else 2) * tiling.shape[1] * tiling.shape[2]
        rows = max(CHUNK_BYTES // row_bytes, 1)
        for begin in range(low, high, rows):
            for part, row in self._pieces(begin, min(begin + rows, high)):
                yield begin + part.start, self._finished(row, inner, part.stop - part.start)
        if self.total is not None and after < tiling.padded[0]:
            for _, row in self._pieces(start, after):
                self.total[:, row] = 0
                self.norm[row] = 0

    def _finished(self, row: slice, inner: tuple[slice, ...], count: int) -> Any:
        """Rows of the ring as outputs (K, count, J, K) or what ``reduce`` makes of them."""
        shape = (count, *self.of.tiling.shape[1:])
        reduce, background = self.of.reduce or (lambda outputs: outputs), self.of.background
        if self.total is None:
            return reduce(np.broadcast_to(background[:, None, None, None], (len(background), *shape)).copy())
        total, norm = self.total[(slice(None), row, *inner)], self.norm[(row, *inner)]
        if not isinstance(total, np.ndarray):
            return reduce(self._mean(total, norm))
        axis = passes.slowest(norm)
        width = norm.size // max(norm.shape[axis], 1)
        first = reduce(self._mean(total[:, :1, :1, :1], norm[:1, :1, :1]))  # tells what is handed out
        result = passes.empty((*first.shape[:-3], *shape), first.dtype, norm)

        def work(cut: slice) -> None:
            for part in passes.blocks(cut, width):
                here = (..., *passes.along(axis, part))
                result[here] = reduce(self._mean(total[here], norm[here]))

        alone = self.of.head is not None or norm.size < passes.THREADED_FROM  # a matrix product has its own threads
        passes.share(work, norm.shape[axis], 1 if alone else self.threads)
        return result

    def _mean(self, total: Any, norm: Any) -> Any:
        """Outputs (K, ...) of sums (F, ...) and their weights (...)."""
        head, background = self.of.head, self.of.background
        empty = norm == 0 if self.of.wanted is not None else None
        uncovered = empty is not None and bool(empty.any())
        mean = total / (norm + empty if uncovered else norm)
        if head is not None:
            mean = _through(head, mean)
        if uncovered:
            mean[:, empty] = _like(mean, background)[:, None]
        return mean

    def to_host(self) -> bool:
        """Move the sums to main memory; True where they were on a device."""
        if self.total is None or isinstance(self.total, np.ndarray):
            return False
        self.total, self.norm = self.total.cpu().numpy(), self.norm.cpu().numpy()
        self.weight = self.of.weight
        return True

    def _begin(self, answer: Any) -> None:
        plane = self.of.tiling.padded[1:]
        if not isinstance(answer, np.ndarray):
            try:
                self.total = answer.new_zeros((len(answer), self.depth, *plane))
                self.norm = answer.new_zeros((self.depth, *plane))
                self.weight = _like(answer, self.of.weight)
                return
            except RuntimeError:  # the device has no room for them
                self.total = None
        self.weight = self.of.weight
        self.total = passes.empty((len(answer), self.depth, *plane), np.float32, self.weight, np.zeros)
        self.norm = passes.empty((self.depth, *plane), np.float32, self.weight, np.zeros)

    def _pieces(self, start: int, stop: int) -> list[tuple[slice, slice]]:
        """Where rows ``start..stop`` lie in the ring: pairs of (part of these rows, rows of the ring)."""
        first, count = start % self.depth, stop - start
        before_end = min(count, self.depth - first)
        pieces = [(slice(0, before_end), slice(first, first + before_end))]
        if count > before_end:
            pieces.append((slice(before_end, count), slice(0, count - before_end)))
        return pieces if count > 0 else []


def _cut(i: int, j: int, k: int, patch: tuple[int, int, int]) -> tuple[slice, ...]:
    return (slice(None), *(slice(a, a + n) for a, n in zip((i, j, k), patch, strict=True)))


def _through(head: Head, features: Any) -> Any:
    """Outputs (K, I, J, K) of features (F, I, J, K), in the same order of axes in memory."""
    weight, bias = _like(features, head.weight), _like(features, head.bias)
    if not isinstance(features, np.ndarray):
        return (weight @ features.reshape(len(features), -1) + bias[:, None]).reshape(len(bias), *features.shape[1:])
    result = passes.empty((len(bias), *features.shape[1:]), np.float32, features)
    order = (0, *(1 + axis for axis in passes.order(features)))
    inside, outside = (array.transpose(order).reshape(len(array), -1) for array in (features, result))
    np.matmul(weight, inside, out=outside)
    outside += bias[:, None]
    return result


def _like(array: Any, values: np.ndarray) -> Any:
    return values if isinstance(array, np.ndarray) else array.new_tensor(values)

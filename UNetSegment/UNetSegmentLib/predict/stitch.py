"""Run the network over all patches and hand out finished slabs, front to back along i.

Patches are visited in the order of their first index. The sums live in a ring of as many rows as a patch is deep; rows
that no later patch touches are handed out at once and their place is used again. Memory follows outputs x patch depth x
in-plane size, whatever the number of rows. Sums stay where the network's answers are: NumPy arrays in main memory, or
torch tensors on a GPU, which offer the few operations used here under the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

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
        weight: Weight of each voxel of a patch, float32.
        run: See :class:`Run`.
        background: Value of each output where no patch was computed.
        batch: Most patches per call.
        head: What turns answers into outputs, where the network stops before it.
        wanted: Whether the patch that starts at (i, j, k) of the padded image is to be computed; all by default.
    """

    tiling: Tiling
    weight: np.ndarray
    run: Run
    background: np.ndarray
    batch: int = 1
    head: Head | None = None
    wanted: Callable[[int, int, int], bool] | None = None

    def __call__(self, image: np.ndarray) -> Iterator[tuple[int, Any]]:
        """Stitch an image (C, I, J, K) float32 on the network's grid, not padded.

        Yields:
            ``(start, outputs)``: rows ``start ..`` of the image, (K, rows, J, K) float32, each row once, in order.
        """
        tiling = self.tiling
        padded = tiling.pad(image)
        depth, before, rows = tiling.patch[0], tiling.before[0], tiling.shape[0]
        sums = _Sums(self, depth)
        for index, start in enumerate(tiling.starts[0]):
            places = [p for p in tiling.in_plane() if self.wanted is None or self.wanted(start, *p)]
            for first in range(0, len(places), self.batch):
                cuts = [_cut(start, *place, tiling.patch) for place in places[first : first + self.batch]]
                answers = self.run(np.stack([padded[cut] for cut in cuts]), sums.to_host)
                for cut, answer in zip(cuts, answers, strict=True):
                    sums.add(cut, answer)
                del answers
            after = tiling.starts[0][index + 1] if index + 1 < len(tiling.starts[0]) else start + depth
            for low, piece in sums.take(max(start, before), min(after, before + rows), start, after):
                yield low - before, piece


class _Sums:
    """Weighted sums of answers in a ring of rows."""

    def __init__(self, stitcher: Stitcher, depth: int) -> None:
        self.of, self.depth = stitcher, depth
        self.total: Any = None
        self.norm: Any = None
        self.weight: Any = stitcher.weight

    def add(self, cut: tuple[slice, ...], answer: Any) -> None:
        if self.total is None:
            self._begin(answer)
        if isinstance(answer, np.ndarray):
            self.to_host()
        elif isinstance(self.total, np.ndarray):
            answer = answer.float().cpu().numpy()
        answer *= self.weight
        for part, row in self._pieces(cut[1].start, cut[1].stop):
            here = (slice(None), row, *cut[2:])
            self.total[here] += answer[:, part]
            self.norm[here[1:]] += self.weight[part]

    def take(self, low: int, high: int, start: int, after: int) -> Iterator[tuple[int, Any]]:
        """Rows ``low..high`` of the padded image as means, in pieces; then rows ``start..after`` are free again."""
        tiling, head, background = self.of.tiling, self.of.head, self.of.background
        inner = tuple(slice(b, b + n) for b, n in zip(tiling.before[1:], tiling.shape[1:], strict=True))
        row_bytes = 4 * len(background) * tiling.shape[1] * tiling.shape[2]
        rows = max(CHUNK_BYTES // row_bytes, 1)
        for begin in range(low, high, rows):
            for part, row in self._pieces(begin, min(begin + rows, high)):
                piece = self._mean(row, inner, part.stop - part.start, head, background)
                yield begin + part.start, piece
        if self.total is not None:
            for _, row in self._pieces(start, after):
                self.total[:, row] = 0
                self.norm[row] = 0

    def _mean(self, row: slice, inner: tuple[slice, ...], count: int, head: Head | None, background: np.ndarray) -> Any:
        shape = (len(background), count, *self.of.tiling.shape[1:])
        if self.total is None:
            return np.broadcast_to(background[:, None, None, None], shape).copy()
        norm = self.norm[(row, *inner)]
        empty = norm == 0 if self.of.wanted is not None else None
        uncovered = empty is not None and bool(empty.any())
        mean = self.total[(slice(None), row, *inner)] / (norm + empty if uncovered else norm)
        if head is not None:
            weight, bias = _like(mean, head.weight), _like(mean, head.bias)
            mean = (weight @ mean.reshape(len(mean), -1) + bias[:, None]).reshape(shape)
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
        self.total = np.zeros((len(answer), self.depth, *plane), np.float32)
        self.norm = np.zeros((self.depth, *plane), np.float32)

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


def _like(array: Any, values: np.ndarray) -> Any:
    return values if isinstance(array, np.ndarray) else array.new_tensor(values)

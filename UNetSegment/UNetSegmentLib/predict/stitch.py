"""Run the network over all patches and hand out what is finished, front to back along i.

Patches are visited in the order of their first index. The sums live in a ring of as many rows as a patch is deep; rows
that no later patch touches are handed out at once and their place is used again. Memory follows outputs x patch depth x
in-plane size, whatever the number of rows. Sums stay where the network's answers are: NumPy arrays in main memory, or
torch tensors on a GPU, which offer the few operations used here under the same names. In main memory they lie in the order
of axes that the network's answers have, whatever the order they are visited in, so that each pass reads memory in runs.

Where labels are all that is wanted, no mean is taken where the scale of the outputs does not change the label, and where patches
overlap little, there is no ring: :class:`Cells` sum what several of them cover, and what one alone covers is never summed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from . import passes
from .cells import Answers, Cells, Free
from .head import Head
from .tiles import Box, Tiling, Triple

CHUNK_BYTES = 64 << 20
"""Finished rows are handed out in pieces of about this size."""
FREE_BYTES = 1 << 28
"""Memory for sums that is left for the next image, at most."""
PART, LEAST = 3 << 18, 1 << 15
"""Outputs x voxels that a thread works on at a time, and voxels at least."""
Decide = Callable[[Any], np.ndarray]
"""From outputs (K, ...), NumPy or torch, to what they mean (...), each voxel by itself."""
Put = Callable[[Box, np.ndarray], None]
"""Given a box and what was decided there."""


class Run(Protocol):
    """The network: patches (N, C, *patch) float32 to answers (N, F, *patch), NumPy or torch; may be written to.

    ``relieve`` moves the sums off the device and tells whether that freed memory there; called when memory is short.
    """

    def __call__(self, patches: np.ndarray, relieve: Callable[[], bool]) -> Any: ...


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
        finish: For each channel, what is left to do to its part of a patch, in place; nothing by default.
        threads: Processor threads for sums in main memory.
        is_checked: Whether answers are looked at: a ``FloatingPointError`` is raised where one is not finite.
        free: Memory for sums that is left over from the last image, and then from this one, up to :data:`FREE_BYTES`.
    """

    tiling: Tiling
    weight: np.ndarray
    run: Run
    background: np.ndarray
    batch: int = 1
    head: Head | None = None
    wanted: Callable[[int, int, int], bool] | None = None
    finish: Sequence[Callable[[np.ndarray], None]] = ()
    threads: int = 1
    is_checked: bool = False
    free: Free = field(default_factory=dict)

    def __call__(self, image: np.ndarray) -> Iterator[tuple[int, Any]]:
        """Stitch an image (C, I, J, K) on the network's grid, not padded.

        Yields:
            ``(start, outputs)``: rows ``start ..`` of the image, (K, rows, J, K) float32; each row once, in order.
        """
        tiling, sums = self.tiling, _Sums(self, True)
        count = max(CHUNK_BYTES // (4 * len(self.background) * tiling.shape[1] * tiling.shape[2]), 1)

        for low, high in self._slabs(image, sums.add, sums.to_host):
            for start in range(low, high, count):
                for box in sums.pieces((slice(start, min(start + count, high)), *self._inner[1:])):
                    yield box[0].start - tiling.before[0], self._outputs(sums, box)
            sums.clear(low, high)

    def settle(
        self, image: np.ndarray, decide: Decide, put: Put, is_scale_free: bool = False
    ) -> Iterator[tuple[int, int]]:
        """Stitch an image, and decide each voxel once, as soon as its outputs are final.

        Args:
            image: (C, I, J, K) on the network's grid, not padded.
            decide: Called in threads.
            put: Told boxes of the image.
            is_scale_free: Each voxel's outputs may be given to ``decide`` times any positive number.

        Yields:
            ``(start, stop)``: rows of the image that are final; each row once, in order.
        """
        means = not is_scale_free or self.head is not None or self.wanted is not None
        first = self.tiling.before[0]
        if self.tiling.is_dense:  # in small parts, summing takes longer than what it saves
            sums = _Sums(self, means)
            for low, high in self._slabs(image, sums.add, sums.to_host):
                for piece in sums.pieces((slice(low, high), *self._inner[1:])):
                    self._settle(decide, put, piece, sums.outputs, _is_here(sums.total))
                yield low - first, high - first
                sums.clear(low, high)
            return
        cells = Cells(self.tiling, self.weight, means, self.threads, self.free)

        def took(start: Triple, answer: Any | None) -> None:
            for box, answers, is_here in cells.took(start, answer):

                def outputs(part: Box, answers: Answers | None = answers) -> Any:
                    return self.nothing(part) if answers is None else self.through(answers(part))

                self._settle(decide, put, box, outputs, is_here)

        try:
            for low, high in self._slabs(image, took, cells.to_host):
                yield low - first, high - first
        finally:
            if sum(array.nbytes for arrays in self.free.values() for array in arrays) > FREE_BYTES:
                self.free.clear()

    @property
    def _inner(self) -> Box:
        """Where the image lies in the padded image."""
        return tuple(slice(b, b + n) for b, n in zip(self.tiling.before, self.tiling.shape, strict=True))  # type: ignore[return-value]

    def _slabs(
        self, image: np.ndarray, took: Callable[[Triple, Any | None], None], relieve: Callable[[], bool]
    ) -> Iterator[tuple[int, int]]:
        """Run all patches. ``took`` is told the start of each and the answer, or None where the patch is not wanted.

        Yields:
            The rows of the padded image that no later patch covers, as far as they are the image's and there are some.
        """
        tiling, inner = self.tiling, self._inner[0]
        patches, starts = self._patches(tiling.pad(image)), tiling.starts[0]
        for start, after in zip(starts, (*starts[1:], inner.stop), strict=True):
            places = [(start, *place) for place in tiling.in_plane()]
            wanted = {place: self.wanted is None or self.wanted(*place) for place in places}
            answers = self._answers(patches, [place for place in places if wanted[place]], relieve)
            for place in places:
                took(place, next(answers) if wanted[place] else None)
            if max(start, inner.start) < min(after, inner.stop):
                yield max(start, inner.start), min(after, inner.stop)

    def _answers(
        self, patches: Callable[[list[Box]], np.ndarray], places: list[Triple], relieve: Callable[[], bool]
    ) -> Iterator[Any]:
        """The network's answer (F, *patch) to each patch."""
        for n in range(0, len(places), self.batch):
            cuts = [_cut(place, self.tiling.patch) for place in places[n : n + self.batch]]
            yield from self.run(patches(cuts), relieve)

    def _patches(self, image: np.ndarray) -> Callable[[list[Box]], np.ndarray]:
        """What cuts patches (N, C, *patch) from an image (C, I, J, K), their axes in memory in the network's order. Each call
        writes to the memory of the last one."""
        room = passes.empty((self.batch, len(image), *self.tiling.patch), np.float32, self.weight)
        finish = self.finish or (None,) * len(image)
        turned = passes.empty(self.tiling.patch, image.dtype, self.weight) if any(finish) else None

        def cut(cuts: list[Box]) -> np.ndarray:
            for patch, here in zip(room, cuts, strict=False):
                for channel, values, then in zip(patch, image, finish, strict=True):
                    if then is not None:  # to be changed in a row as well
                        passes.transfer(turned, values[here], self.threads)
                        passes.transfer(channel, turned, self.threads, then=then)
                    else:
                        passes.transfer(channel, values[here], self.threads)
            return room[: len(cuts)]

        return cut

    def _outputs(self, sums: _Sums, box: Box) -> Any:
        """The outputs (K, ...) of a box in one piece."""
        return self._joined(box, sums.outputs) if _is_here(sums.total) else sums.outputs(box)

    def _settle(self, decide: Decide, put: Put, box: Box, outputs: Callable[[Box], Any], is_here: bool) -> None:
        """Decide a box of the padded image, as far as it is the image's; in main memory part by part."""
        box = tuple(  # type: ignore[assignment]
            slice(max(c.start, i.start), min(c.stop, i.stop)) for c, i in zip(box, self._inner, strict=True)
        )
        if min(_shape(box)) <= 0:
            return
        decided = self._joined(box, lambda part: decide(outputs(part))) if is_here else decide(outputs(box))
        put(tuple(slice(c.start - b, c.stop - b) for c, b in zip(box, self.tiling.before, strict=True)), decided)  # type: ignore[arg-type]

    def _joined(self, box: Box, values: Callable[[Box], np.ndarray]) -> np.ndarray:
        """One array of the ``values`` (..., *part) of all parts of a box, found in threads. Parts lie together in memory, as
        far as their outputs do: read in a row, memory is several times faster."""
        kinds, shape = len(self.background), _shape(box)
        parts = passes.rows(shape, passes.order(self.weight), max(PART // kinds, LEAST))
        whole: list[np.ndarray] = []
        lock = threading.Lock()

        def work(cut: slice) -> None:
            for part in parts[cut]:
                found = values(
                    tuple(slice(p.start + b.start, p.stop + b.start) for p, b in zip(part, box, strict=True))
                )  # type: ignore[arg-type]
                with lock:
                    if not whole:
                        whole.append(passes.empty((*found.shape[:-3], *shape), found.dtype, self.weight))
                whole[0][(..., *part)] = found

        small = kinds * int(np.prod(shape)) < passes.THREADED_FROM
        passes.share(work, len(parts), 1 if small else self.threads)
        return whole[0]

    def nothing(self, box: Box) -> np.ndarray:
        """Outputs (K, ...) where no patch was computed."""
        return np.broadcast_to(self.background[:, None, None, None], (len(self.background), *_shape(box)))

    def through(self, answers: Any) -> Any:
        """Outputs (K, ...) of answers (F, ...), or of any multiple of them."""
        if self.is_checked:
            passes.need_finite(answers)
        return answers if self.head is None else self.head(answers)


class _Sums:
    """Weighted sums of answers, and of weights where ``means`` are wanted, in a ring of as many rows as a patch is deep."""

    def __init__(self, stitcher: Stitcher, means: bool) -> None:
        self.of, self.means = stitcher, means
        self.total: Any = None
        self.norm: Any = None
        self.weight: Any = stitcher.weight
        self.depth = stitcher.tiling.patch[0]

    def add(self, start: Triple, answer: Any | None) -> None:
        """Add the answer (F, *patch) of the patch at ``start``; nothing where it is None."""
        if answer is None:
            return
        if self.total is None:
            self._begin(answer)
        if isinstance(answer, np.ndarray):
            self.to_host()
        elif isinstance(self.total, np.ndarray):
            answer = answer.float().cpu().numpy()
        cut = _cut(start, self.of.tiling.patch)
        for piece in self.pieces(cut):
            here, within = self._ring(piece), _within(cut, piece)
            total, norm = self.total[here], self.norm[here[1:]] if self.means else None
            answers, weight = answer[within], self.weight[within[1:]]
            if isinstance(total, np.ndarray):
                passes.add_weighted(total, norm, answers, weight, self.of.threads)
                continue
            answers *= weight  # in place: the device may have no room for a copy
            total += answers
            if norm is not None:
                norm += weight

    def clear(self, start: int, after: int) -> None:
        """Rows ``start..after`` of the padded image are handed out: their places are free again."""
        if self.total is None or after >= self.of.tiling.padded[0]:
            return
        for _, row in self._rows(start, after):
            self.total[:, row] = 0
            if self.means:
                self.norm[row] = 0

    def outputs(self, box: Box) -> Any:
        """Outputs (K, ...) of a box of :meth:`pieces`: their means, or else any multiple of them."""
        if self.total is None:
            return self.of.nothing(box)
        here = self._ring(box)
        total, norm = self.total[here], self.norm[here[1:]] if self.means else None
        if norm is None:
            return self.of.through(total)
        empty = norm == 0 if self.of.wanted is not None else None
        uncovered = empty is not None and bool(empty.any())
        mean = self.of.through(total / (norm + empty if uncovered else norm))
        if uncovered:
            mean[:, empty] = passes.like(mean, self.of.background)[:, None]
        return mean

    def pieces(self, box: Box) -> list[Box]:
        """A box of the padded image in parts whose rows lie together in the ring."""
        start = box[0].start
        return [(slice(start + part.start, start + part.stop), *box[1:]) for part, _ in self._rows(start, box[0].stop)]

    def to_host(self) -> bool:
        """Move the sums to main memory; True where they were on a device."""
        if self.total is None or isinstance(self.total, np.ndarray):
            return False
        self.total = self.total.cpu().numpy()
        self.norm = self.norm.cpu().numpy() if self.means else None
        self.weight = self.of.weight
        return True

    def _begin(self, answer: Any) -> None:
        plane = self.of.tiling.padded[1:]
        if not isinstance(answer, np.ndarray):
            try:
                self.total = answer.new_zeros((len(answer), self.depth, *plane))
                self.norm = answer.new_zeros((self.depth, *plane)) if self.means else None
                self.weight = passes.like(answer, self.of.weight)
                return
            except RuntimeError:  # the device has no room for them
                self.total = None
        self.weight = self.of.weight
        self.total = passes.empty((len(answer), self.depth, *plane), np.float32, self.weight, np.zeros)
        if self.means:
            self.norm = passes.empty((self.depth, *plane), np.float32, self.weight, np.zeros)

    def _ring(self, box: Box) -> tuple[slice, slice, slice, slice]:
        """Where the outputs of a box of :meth:`pieces` lie."""
        ((_, row),) = self._rows(box[0].start, box[0].stop)
        return slice(None), row, box[1], box[2]

    def _rows(self, start: int, stop: int) -> list[tuple[slice, slice]]:
        """Where rows ``start..stop`` lie in the ring: pairs of (part of these rows, rows of the ring)."""
        first, count = start % self.depth, stop - start
        before_end = min(count, self.depth - first)
        pieces = [(slice(0, before_end), slice(first, first + before_end))]
        if count > before_end:
            pieces.append((slice(before_end, count), slice(0, count - before_end)))
        return pieces if count > 0 else []


def _cut(start: Sequence[int], size: Sequence[int]) -> Box:
    return tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))  # type: ignore[return-value]


def _shape(box: Box) -> tuple[int, ...]:
    return tuple(cut.stop - cut.start for cut in box)


def _within(outer: Box, inner: Box) -> tuple[slice, ...]:
    """The index of a box in an array (C, ...) that holds another one around it."""
    cuts = (slice(i.start - o.start, i.stop - o.start) for o, i in zip(outer, inner, strict=True))
    return (slice(None), *cuts)


def _is_here(array: Any) -> bool:
    """Whether it is in main memory, where nothing is as well."""
    return array is None or isinstance(array, np.ndarray)

"""Run the network over all patches and hand out what is finished, front to back along i.

Patches are visited in the order of their first index. The sums live in a ring of as many rows as a patch is deep; rows
that no later patch touches are handed out at once and their place is used again. Memory follows outputs x patch depth x
in-plane size, whatever the number of rows. Sums stay where the network's answers are: NumPy arrays in main memory, or
torch tensors on a GPU, which offer the few operations used here under the same names. In main memory they lie in the order
of axes that the network's answers have, whatever the order they are visited in, so that each pass reads memory in runs.

Where labels are all that is wanted, no mean is taken where the scale of the outputs does not change the label, and where patches
overlap little, voxels that one patch alone covers are never summed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from . import passes
from .head import Head
from .tiles import Box, Tiling, Triple, common, without

CHUNK_BYTES = 64 << 20
"""Finished rows are handed out in pieces of about this size."""
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

    def __call__(self, image: np.ndarray) -> Iterator[tuple[int, Any]]:
        """Stitch an image (C, I, J, K) on the network's grid, not padded.

        Yields:
            ``(start, outputs)``: rows ``start ..`` of the image, (K, rows, J, K) float32; each row once, in order.
        """
        tiling, sums = self.tiling, _Sums(self)
        count = max(CHUNK_BYTES // (4 * len(self.background) * tiling.shape[1] * tiling.shape[2]), 1)

        for low, high in self._slabs(image, sums, lambda cut, first, last, answer: sums.add(cut, answer)):
            for start in range(low, high, count):
                for box in sums.pieces((slice(start, min(start + count, high)), *self._inner[1:])):
                    yield box[0].start - tiling.before[0], self._outputs(sums, box)

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
        often = self.tiling.is_dense  # in small parts, summing takes longer than what it saves
        sums = _Sums(self, not is_scale_free, None if often else self.tiling.shared_rows())
        axes = passes.order(self.weight)

        def took(cut: Box, first: Box, last: Box, answer: Any | None) -> None:
            if often:
                sums.add(cut, answer)
                return
            alone = common(first, last)
            self._settle(decide, put, alone, lambda part: self._alone(cut, part, answer), _is_here(answer))
            final = without(last, alone, axes)
            ready = sums.ready(answer) if final else None
            for piece in (piece for box in final for piece in sums.pieces(box)):
                self._settle(decide, put, piece, lambda part: sums.outputs(part, cut, ready), _is_here(sums.total))
            for box in without(cut, last, axes):
                sums.add(cut, answer, box)

        for low, high in self._slabs(image, sums, took):
            for piece in sums.pieces((slice(low, high), *self._inner[1:])) if often else ():
                self._settle(decide, put, piece, sums.outputs, _is_here(sums.total))
            if low < high:
                yield low - self.tiling.before[0], high - self.tiling.before[0]

    @property
    def _inner(self) -> Box:
        """Where the image lies in the padded image."""
        return tuple(slice(b, b + n) for b, n in zip(self.tiling.before, self.tiling.shape, strict=True))  # type: ignore[return-value]

    def _slabs(
        self, image: np.ndarray, sums: _Sums, took: Callable[[Box, Box, Box, Any | None], None]
    ) -> Iterator[tuple[int, int]]:
        """Run all patches. ``took`` is told the box of each, what of it no patch before covers, what no later one covers, and the
        answer, or None where the patch is not wanted.

        Yields:
            The rows of the padded image that no later patch covers, as far as they are the image's.
        """
        tiling, inner = self.tiling, self._inner[0]
        padded, cells = tiling.pad(image), [tiling.cells(axis) for axis in range(3)]
        for start, (_, last) in cells[0].items():
            places = [(start, *place) for place in tiling.in_plane()]
            wanted = {place: self.wanted is None or self.wanted(*place) for place in places}
            answers = self._answers(padded, [place for place in places if wanted[place]], sums)
            for place in places:
                first, final = zip(*(cells[axis][n] for axis, n in enumerate(place)), strict=True)
                took(_cut(place, tiling.patch), first, final, next(answers) if wanted[place] else None)
            yield max(last.start, inner.start), min(last.stop, inner.stop)
            sums.clear(last.start, last.stop)

    def _answers(self, image: np.ndarray, places: list[Triple], sums: _Sums) -> Iterator[Any]:
        """The network's answer (F, *patch) to each patch."""
        for n in range(0, len(places), self.batch):
            cuts = [_cut(place, self.tiling.patch) for place in places[n : n + self.batch]]
            yield from self.run(self._patches(image, cuts), sums.to_host)

    def _patches(self, image: np.ndarray, cuts: list[Box]) -> np.ndarray:
        """Patches (N, C, *patch) of an image (C, I, J, K), their axes in memory in the network's order."""
        patches = passes.empty((len(cuts), len(image), *self.tiling.patch), np.float32, self.weight)
        finish = self.finish or (None,) * len(image)
        for patch, cut in zip(patches, cuts, strict=True):
            for channel, values, then in zip(patch, image, finish, strict=True):
                if then is not None:  # to be changed in a row as well
                    turned = passes.empty(self.tiling.patch, values.dtype, self.weight)
                    passes.transfer(turned, values[cut], self.threads)
                    passes.transfer(channel, turned, self.threads, then=then)
                else:
                    passes.transfer(channel, values[cut], self.threads)
        return patches

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

    def _alone(self, cut: Box, part: Box, answer: Any | None) -> Any:
        """The outputs (K, ...) of a part of a patch that no other covers; background without an answer."""
        if answer is None:
            return self.nothing(part)
        return self.through(passes.together(answer[_within(cut, part)]))

    def nothing(self, box: Box) -> np.ndarray:
        """Outputs (K, ...) where no patch was computed."""
        return np.broadcast_to(self.background[:, None, None, None], (len(self.background), *_shape(box)))

    def through(self, answers: Any) -> Any:
        """Outputs (K, ...) of answers (F, ...), or of any multiple of them."""
        if self.is_checked:
            passes.need_finite(answers)
        return answers if self.head is None else self.head(answers)


class _Sums:
    """Weighted sums of answers, and of weights where ``means`` are wanted, in a ring of the rows that are ``kept``; all by default."""

    def __init__(self, stitcher: Stitcher, means: bool = True, kept: np.ndarray | None = None) -> None:
        self.of, tiling = stitcher, stitcher.tiling
        self.means = means or stitcher.head is not None or stitcher.wanted is not None
        self.total: Any = None
        self.norm: Any = None
        self.weight: Any = stitcher.weight
        kept = np.ones(tiling.padded[0], bool) if kept is None else kept
        self._slots = np.concatenate([[0], np.cumsum(kept)])
        self.depth = max(int(self._slots[n + tiling.patch[0]] - self._slots[n]) for n in tiling.starts[0])

    def ready(self, answer: Any | None) -> Any | None:
        """An answer where the sums are; they begin with the first one."""
        if answer is None:
            return None
        if self.total is None:
            self._begin(answer)
        if isinstance(answer, np.ndarray):
            self.to_host()
        elif isinstance(self.total, np.ndarray):
            answer = answer.float().cpu().numpy()
        return answer

    def add(self, cut: Box, answer: Any | None, part: Box | None = None) -> None:
        """Add the answer (F, *patch) of the patch at ``cut``, or only a ``part`` of it; nothing where it is None."""
        answer = self.ready(answer)
        for piece in self.pieces(part or cut) if answer is not None else ():
            here, within = self._ring(piece), _within(cut, piece)
            total, norm = self.total[here], self.norm[here[1:]] if self.means else None
            answers, weight = answer[within], self.weight[within[1:]]
            if isinstance(total, np.ndarray):
                self._add(total, norm, answers, weight)
                continue
            answers *= weight  # in place: the device may have no room for a copy
            total += answers
            if norm is not None:
                norm += weight

    def _add(self, total: np.ndarray, norm: np.ndarray | None, answers: np.ndarray, weight: np.ndarray) -> None:
        axis = passes.slowest(weight)

        def work(cut: slice) -> None:
            for part in passes.blocks(cut, weight.size // weight.shape[axis]):
                here = passes.along(axis, part)
                close = passes.together(weight[here])
                for one, answer in zip(total, answers, strict=True):
                    one[here] += passes.together(answer[here]) * close
                if norm is not None:
                    norm[here] += close

        passes.share(work, weight.shape[axis], self.of.threads if weight.size >= passes.THREADED_FROM else 1)

    def clear(self, start: int, after: int) -> None:
        """Rows ``start..after`` of the padded image are handed out: their places are free again."""
        if self.total is None or after >= self.of.tiling.padded[0]:
            return
        for _, row in self._rows(start, after):
            self.total[:, row] = 0
            if self.means:
                self.norm[row] = 0

    def outputs(self, box: Box, cut: Box | None = None, answer: Any | None = None) -> Any:
        """Outputs (K, ...) of a box of :meth:`pieces`: their means, or else any multiple of them.

        With an ``answer``, made ready, of the patch at ``cut``, it is part of them and is not kept.
        """
        if self.total is None:
            return self.of.nothing(box)
        here = self._ring(box)
        total, norm = self.total[here], self.norm[here[1:]] if self.means else None
        if answer is not None:
            within = _within(cut, box)
            weight, answer = passes.together(self.weight[within[1:]]), passes.together(answer[within])
            weighted = answer * weight
            weighted += total
            total, norm = weighted, None if norm is None else norm + weight
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
        first, count = int(self._slots[start]) % self.depth, int(self._slots[stop] - self._slots[start])
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

"""Sums of the network's answers cell by cell: a cell is what the same patches cover.

Its sums begin with the first of its patches, and the last one's answer is never stored. Their memory serves the next cell
of that size: where patches overlap little, few cells are under way at a time, and stay in the processor's cache.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from . import passes
from .tiles import Box, Tiling, Triple

Free = dict[tuple[int, ...], list[np.ndarray]]
Answers = Callable[[Box], Any]
"""The answers (F, ...) of a part of a cell, in voxels of the padded image: the weighted mean, or any multiple of it."""


class Cells:
    """The sums of one image.

    Args:
        tiling: The cover by patches.
        weight: Weight of each voxel of a patch, float32, (I, J, K).
        means: Whether answers are to be means; else they may be any multiple of them.
        threads: Processor threads for sums in main memory.
        free: Memory for sums in main memory, by shape; of other images before, and then of this one.
    """

    def __init__(self, tiling: Tiling, weight: np.ndarray, means: bool, threads: int, free: Free) -> None:
        self.means, self.threads = means, threads
        self._cuts = [tiling.cells(axis) for axis in range(3)]
        self._here = self._weight = weight
        self._is_here = False
        self._sums: dict[Triple, Any] = {}
        self._free = free
        self._parts: dict[tuple[tuple[int, int], ...], Any] = {}

    def took(self, start: Triple, answer: Any | None) -> Iterator[tuple[Box, Answers | None, bool]]:
        """Take the answer (F, *patch) to the patch at ``start``, NumPy or torch, which may be written to; None where it was not
        asked for.

        Yields:
            ``(box, answers, is_here)``: each cell that no later patch covers; None where no patch of it was asked for; whether
            its answers are in main memory. They are there until the next one is asked for.
        """
        for cuts in itertools.product(*(cells[n] for cells, n in zip(self._cuts, start, strict=True))):
            box: Box = tuple(cut for cut, _ in cuts)  # type: ignore[assignment]
            place: Triple = tuple(cut.start for cut in box)  # type: ignore[assignment]
            if answer is not None:
                answer = self._where_sums_are(answer)
            if not all(is_last for _, is_last in cuts):
                if answer is not None:
                    answer = self._add(place, box, start, answer)
                continue
            sums = self._sums.pop(place, None)
            if sums is None and answer is None:
                yield box, None, True
                continue
            yield box, self._answers(box, start, sums, answer), isinstance(answer if sums is None else sums, np.ndarray)
            if isinstance(sums, np.ndarray):
                self._free.setdefault(sums.shape, []).append(sums)

    def to_host(self) -> bool:
        """Move the sums to main memory; True where there were some on a device."""
        if self._is_here or not self._sums:
            return False
        self._stay_here()
        return True

    def _stay_here(self) -> None:
        """From now on all sums are in main memory."""
        self._is_here, self._weight = True, self._here
        self._parts.clear()
        for place, sums in self._sums.items():
            self._sums[place] = sums.cpu().numpy()

    def _where_sums_are(self, answer: Any) -> Any:
        is_here = isinstance(answer, np.ndarray)
        if is_here and not self._is_here:
            self._stay_here()
        elif self._is_here and not is_here:
            return answer.float().cpu().numpy()
        elif isinstance(self._weight, np.ndarray) and not is_here:
            self._weight = passes.like(answer, self._here)
            self._parts.clear()
        return answer

    def _add(self, place: Triple, box: Box, start: Triple, answer: Any) -> Any:
        """Add a patch's part of a cell to its sums, or begin them. The answer comes back, in main memory if the device has no
        room for the sums."""
        begins, within = place not in self._sums, _within(box, start)
        if begins:
            shape = (len(answer) + self.means, *(cut.stop - cut.start for cut in box))
            try:
                self._sums[place] = self._new(shape, answer)
            except RuntimeError:  # the device has no room for them
                self._stay_here()
                answer = self._where_sums_are(answer)
                self._sums[place] = self._new(shape, answer)
        sums, part, weight = self._sums[place], answer[(slice(None), *within)], self._weights(within)
        *totals, norm = sums if self.means else (*sums, None)
        if isinstance(answer, np.ndarray):
            passes.add_weighted(totals, norm, part, weight, self.threads, begins)
            return answer
        part *= weight  # in place: the device may have no room for a copy
        if begins:
            sums[: len(part)] = part
        else:
            sums[: len(part)] += part
        if norm is not None:
            norm.copy_(weight) if begins else norm.add_(weight)
        return answer

    def _weights(self, within: Box) -> Any:
        """The weights of a part of a patch, together in memory: many patches have the same parts."""
        key = tuple((cut.start, cut.stop) for cut in within)
        if key not in self._parts:
            self._parts[key] = passes.together(self._weight[within])
        return self._parts[key]

    def _new(self, shape: tuple[int, ...], answer: Any) -> Any:
        if not isinstance(answer, np.ndarray):
            return answer.new_empty(shape)
        free = self._free.get(shape)
        found = free.pop() if free else None
        fits = found is not None and passes.order(found) == passes.order(self._here)
        return found if fits else passes.empty(shape, np.float32, self._here)

    def _answers(self, box: Box, start: Triple, sums: Any | None, answer: Any | None) -> Answers:
        weights = None if sums is None or answer is None else self._weights(_within(box, start))

        def answers(part: Box) -> Any:
            last = None if answer is None else passes.together(answer[(slice(None), *_within(part, start))])
            if sums is None:
                return last
            here = _within(part, [cut.start for cut in box])
            kept = sums[(slice(None), *here)]
            total, norm = (kept[:-1], kept[-1]) if self.means else (kept, None)
            if last is not None:
                weight = weights[here]
                last *= weight
                last += total
                total = last
                norm = None if norm is None else norm + weight
            return total if norm is None else total / norm

        return answers


def _within(box: Box, start: Triple) -> Box:
    """A box in voxels from ``start`` on."""
    return tuple(slice(cut.start - first, cut.stop - first) for cut, first in zip(box, start, strict=True))  # type: ignore[return-value]

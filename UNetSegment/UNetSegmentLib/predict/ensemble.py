"""One network out of several: folds and mirrored copies, averaged patch by patch, so that they share one sum."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import BackendError
from .backends import Backend


def chosen_folds(names: Sequence[str], asked: str = "all") -> tuple[int, ...]:
    """Which of a model's networks are averaged, as numbers from 0.

    Args:
        names: Those of :attr:`Manifest.folds`.
        asked: ``all``, ``first``, or names with commas between them, like ``0,2``.

    Raises:
        BackendError: The model has no such fold.
    """
    if asked == "all":
        return tuple(range(len(names)))
    wanted = [names[0]] if asked == "first" else [name.strip() for name in asked.split(",")]
    for name in wanted:
        if name not in names:
            raise BackendError(f"The model has no fold '{name}'; choose all, first, or of {', '.join(names)}.")
    return tuple(number for number, name in enumerate(names) if name in wanted)


def flips(mirror_axes: Sequence[int]) -> list[tuple[int, ...]]:
    """The axes 0..2 to flip for each copy of a patch: all combinations, none of them first."""
    return [axes for count in range(len(mirror_axes) + 1) for axes in itertools.combinations(mirror_axes, count)]


class Ensemble:
    """The mean answer of every member to every mirrored copy of a patch.

    nnU-Net averages logits over flips, then over folds, each fold over the whole volume; both means are linear, so the
    order does not matter but for rounding.

    Args:
        members: Backends of the same network with the weights of each fold.
        mirror_axes: Axes 0..2 of the patch; all their combinations are averaged. None: no mirroring.
    """

    def __init__(self, members: Sequence[Backend], mirror_axes: Sequence[int] = ()) -> None:
        self.members = list(members)
        self.flips = [tuple(axis + 2 for axis in axes) for axes in flips(mirror_axes)]

    @property
    def runs(self) -> int:
        """Network runs per patch."""
        return len(self.members) * len(self.flips)

    def run(self, patches: np.ndarray, tick: Callable[[], None]) -> Any:
        """Mean answer (N, F, *patch) to patches (N, C, *patch) float32; writable, valid until the next call."""
        total: Any = None
        for member in self.members:
            for axes in self.flips:
                answer = member.run(np.flip(patches, axes) if axes else patches, tick)
                if axes:
                    answer = np.flip(answer, axes) if isinstance(answer, np.ndarray) else answer.flip(axes)
                if self.runs == 1:
                    total = answer
                elif total is None:
                    total = answer.copy() if isinstance(answer, np.ndarray) else answer.clone()
                else:
                    total += answer
        if self.runs > 1:
            total /= self.runs
        return total

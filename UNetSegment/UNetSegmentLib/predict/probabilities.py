"""The network's probabilities in a compact form, for tools that correct a result: cropped, on the network's grid."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from ..volume import Grid
from .export import activated

KINDS = ("uint8", "float16")
PRESENT = 0.01
"""Voxels where some structure is at least this likely are kept, and the box around them."""


@dataclass(frozen=True, eq=False)
class Probabilities:
    """Probability of each of the network's outputs.

    Args:
        array: (K, I, J, K) uint8 (255 is certain) or float16, on ``grid``.
        grid: The network's grid, cropped to where some structure is likely.
        values: Label value of each output.
    """

    array: np.ndarray
    grid: Grid
    values: tuple[int, ...]


class Collector:
    """Keeps probabilities of slabs that pass by.

    Raises:
        InputError: The kind is unknown.
    """

    def __init__(self, kind: str, regions: bool, background: int | None) -> None:
        if kind not in KINDS:
            raise InputError(f"Probabilities of kind '{kind}' are not known; use {' or '.join(KINDS)}.")
        self._kind, self._regions, self._background = kind, regions, background
        self._parts: list[np.ndarray] = []

    def watch(self, slabs: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        """The slabs (start, outputs), unchanged."""
        for start, outputs in slabs:
            values = activated(outputs, self._regions)
            values = values if isinstance(values, np.ndarray) else values.float().cpu().numpy()
            self._parts.append(np.rint(values * 255).astype(np.uint8) if self._kind == "uint8" else values.astype("f2"))
            yield start, outputs

    def result(self, grid: Grid, values: tuple[int, ...]) -> Probabilities:
        """What was seen, on ``grid``, cropped."""
        array = np.concatenate(self._parts, axis=1)
        self._parts.clear()
        least = PRESENT * (255 if self._kind == "uint8" else 1)
        shown = [n for n in range(len(array)) if n != self._background]
        present = np.zeros(array.shape[1:], bool)
        for n in shown:
            present |= array[n] >= least
        box = []
        for axis in range(3):
            used = np.flatnonzero(present.any(axis=tuple(a for a in range(3) if a != axis)))
            box.append(slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1))
        return Probabilities(array[(slice(None), *box)].copy(), grid.cropped(box), values)

"""Cases in memory, brought to the network's grid once, and endless random patches of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import IterableDataset
from UNetSegmentLib.package import Manifest
from UNetSegmentLib.predict.preprocess import preprocess

from .augment import augment
from .dataset import Case, DatasetError


@dataclass(frozen=True)
class Prepared:
    """A case on the network's grid: image (C, I, J, K) float32 and class indices (I, J, K) uint8."""

    name: str
    image: np.ndarray
    classes: np.ndarray
    spacing: tuple[float, float, float]


def prepare(case: Case, manifest: Manifest) -> Prepared:
    """Reorient, normalise and resample a case by the same code that runs in the clinic.

    Raises:
        DatasetError: The case's spacing differs from the network's: labels would have to be resampled.
    """
    image, label = case.load()
    ready = preprocess(image, manifest)
    if ready.grid is not ready.source:
        raise DatasetError(
            f"Case '{case.name}' has spacing {tuple(round(s, 3) for s in ready.source.spacing)} mm, the network "
            f"{manifest.preprocessing.spacing} mm; resample the training cases to one spacing first."
        )
    table = np.zeros(max(max(x.value for x in manifest.labels), int(label.array.max())) + 1, np.uint8)
    for index, entry in enumerate(manifest.labels):
        table[entry.value] = index
    return Prepared(case.name, ready.array, table[ready.turn.apply(label.array)], ready.grid.spacing)


class Patches(IterableDataset):
    """One epoch of augmented batches: every case once, in an order that seed and epoch decide.

    Yields:
        ``(image, classes, names)``: (N, C, *patch) float32, (N, *patch) int64, case names.
    """

    def __init__(self, cases: Sequence[Prepared], patch: Sequence[int], batch: int, seed: int, epoch: int) -> None:
        self.cases, self.patch, self.batch, self.seed = cases, tuple(patch), batch, (seed, epoch)

    def __len__(self) -> int:
        return max(len(self.cases) // self.batch, 1)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, list[str]]]:
        rng = np.random.default_rng(self.seed)
        order = np.resize(rng.permutation(len(self.cases)), len(self) * self.batch)
        for chosen in order.reshape(-1, self.batch):
            cases = [self.cases[i] for i in chosen]
            images, classes = zip(*(self._crop(case, rng) for case in cases), strict=True)
            x, y = torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(classes).astype(np.int64))
            yield (*augment(x, y, rng), [case.name for case in cases])

    def _crop(self, case: Prepared, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A random patch; a third of them around a random foreground voxel. Zeros where the image ends."""
        image, classes = case.image, case.classes
        centre = None
        if rng.random() < 1 / 3 and classes.any():
            centre = rng.choice(np.argwhere(classes))
        for axis, want in enumerate(self.patch):
            have = classes.shape[axis]
            if have < want:
                before = (want - have) // 2
                pad = [(0, 0)] * 4
                pad[axis + 1] = (before, want - have - before)
                image, classes = np.pad(image, pad), np.pad(classes, pad[1:])
                continue
            start = int(rng.integers(0, have - want + 1))
            if centre is not None:
                low, high = max(0, centre[axis] - want + 1), min(have - want, centre[axis])
                start = int(rng.integers(low, high + 1))
            image = image.take(range(start, start + want), axis + 1)
            classes = classes.take(range(start, start + want), axis)
        return image, classes

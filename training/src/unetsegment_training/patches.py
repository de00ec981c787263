"""Cases in memory, brought to the network's grid once, and random patches of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler
from UNetSegmentLib.package import Manifest
from UNetSegmentLib.predict.interpolate import Lerp
from UNetSegmentLib.predict.preprocess import NetworkImage, preprocess
from UNetSegmentLib.volume import Grid

from .augment import Augmenter
from .config import FitConfig
from .dataset import Case


@dataclass(frozen=True)
class Prepared:
    """A case on the network's grid: image (C, I, J, K) float32 and class indices (I, J, K) uint8."""

    name: str
    image: np.ndarray
    classes: np.ndarray
    spacing: tuple[float, float, float]

    @cached_property
    def counts(self) -> np.ndarray:
        """Voxels per class."""
        return np.bincount(self.classes.ravel())

    @cached_property
    def foreground(self) -> np.ndarray:
        """Flat indices of the foreground voxels, ascending."""
        return np.flatnonzero(self.classes)

    def places(self, label: int) -> np.ndarray:
        """Flat indices of a class's voxels."""
        return self.foreground[self.classes.ravel()[self.foreground] == label]


def prepare(case: Case, manifest: Manifest) -> Prepared:
    """Reorient, normalise and resample a case by the same code that runs in the clinic; labels go by the largest share."""
    image, label = case.load()
    ready = preprocess(image, manifest)
    table = np.zeros(max(max(x.value for x in manifest.labels), int(label.array.max())) + 1, np.uint8)
    for index, entry in enumerate(manifest.labels):
        table[entry.value] = index
    classes = ready.turn.apply(table[label.array])
    classes = classes[ready.box] if ready.grid is ready.source else _resampled(classes, image.grid, ready)
    return Prepared(case.name, ready.array, np.ascontiguousarray(classes), ready.grid.spacing)


def _resampled(classes: np.ndarray, grid: Grid, ready: NetworkImage) -> np.ndarray:
    """Turned class indices (I, J, K) of the image's grid on the network's: the class whose mask, brought there linearly, is
    largest; of equal ones the first."""
    matrix = ready.grid.index_in(grid.reoriented(ready.turn))
    lerps = [
        Lerp.at(np.round(matrix[axis, axis] * np.arange(n) + matrix[axis, 3], 6), classes.shape[axis])
        for axis, n in enumerate(ready.grid.shape)
    ]
    best: np.ndarray | None = None
    for index in np.unique(classes):
        mask = (classes == index).astype(np.float32)
        for axis, lerp in enumerate(lerps):
            mask = lerp.apply(mask, axis)
        if best is None:
            best, result = mask, np.full(mask.shape, index, np.uint8)
        else:
            result[mask > best] = index
            np.maximum(best, mask, out=best)
    return result


class Patches(Dataset):
    """Augmented batches, ``patches[epoch, step]``; every patch follows from seed, epoch, step and place in the batch alone.

    So neither who computes it nor when changes a batch: any number of loading processes gives the same ones, and several
    training processes take turns in the places of one batch. With ``dimensions = 2`` patches are cut from single slices
    across axis 0.

    Args:
        cases: What is cut from.
        config: Settings of the run.
        rank: Of the process that trains.
        world: How many train together; the batch must be a multiple of it.
    """

    def __init__(self, cases: Sequence[Prepared], config: FitConfig, rank: int = 0, world: int = 1) -> None:
        self.cases, self.config, self.places = cases, config, range(rank, config.batch, world)
        self.augmenter = Augmenter.of(config)
        self.flat = config.dimensions == 2
        one = (1,) * self.flat
        self.size = (*one, *self.augmenter.crop)
        self.inner = (*one, *config.answer)

    def __len__(self) -> int:
        """Steps of an epoch."""
        return self.config.steps_per_epoch or max(len(self.cases) // self.config.batch, 1)

    def __getitem__(self, index: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
        """``(image, classes, names)``: (N, C, *patch) float32, (N, *patch) int64, case names; N is this process's share."""
        epoch, step = index
        chosen = self._order(np.random.default_rng((self.config.seed, epoch))).reshape(-1, self.config.batch)[step]
        cases = [self.cases[chosen[place]] for place in self.places]
        pairs = [self._patch(case, (epoch, step, place)) for case, place in zip(cases, self.places, strict=True)]
        x, y = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        return x, y, [case.name for case in cases]

    def _patch(self, case: Prepared, where: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """The patch at ``(epoch, step, place)``: (1, C, *patch) and (1, *patch)."""
        rng = np.random.default_rng((self.config.seed, *where))
        image, classes = self._crop(case, self._forced(where[2], rng), rng)
        x, y = torch.from_numpy(np.ascontiguousarray(image)), torch.from_numpy(classes.astype(np.int64))
        if self.flat:
            x, y = x[:, 0], y[0]
        return self.augmenter(x[None], y[None], rng)

    def _order(self, rng: np.random.Generator) -> np.ndarray:
        """Index of the case of every patch of the epoch."""
        count, cases = len(self) * self.config.batch, len(self.cases)
        if self.config.case_sampling == "each":
            passes = [rng.permutation(cases) for _ in range(-(-count // cases))]
            return np.concatenate(passes)[:count]
        shares = rare_shares(self.cases) if self.config.case_sampling == "rare" else None
        return rng.choice(cases, count, p=shares)

    def _forced(self, place: int, rng: np.random.Generator) -> bool:
        """Whether the patch at this place of the batch must hold foreground."""
        share, batch = self.config.foreground_share, self.config.batch
        if self.config.foreground_rule == "nnunet":
            return place >= round(batch * (1 - share))
        return rng.random() < share

    def _crop(self, case: Prepared, forced: bool, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A random piece, with a random foreground voxel in its inner part where that is forced."""
        centre = self._centre(case, rng) if forced and len(case.foreground) else None
        starts = []
        for axis, want in enumerate(self.inner):
            have = case.classes.shape[axis]
            if have < want:
                starts.append(-((want - have) // 2))
                continue
            start = int(rng.integers(0, have - want + 1))
            if centre is not None:
                low, high = max(0, centre[axis] - want + 1), min(have - want, centre[axis])
                start = int(rng.integers(low, high + 1))
            starts.append(start)
        starts = [start - (n - m) // 2 for start, n, m in zip(starts, self.size, self.inner, strict=True)]
        mode = "reflect" if self.config.valid else "constant"
        return cut(case.image, starts, self.size, mode), cut(case.classes, starts, self.size, mode)

    def _centre(self, case: Prepared, rng: np.random.Generator) -> tuple[int, ...]:
        if self.config.foreground_classes == "class":
            there = np.flatnonzero(case.counts[1:]) + 1
            voxel = rng.choice(case.places(int(rng.choice(there))))
        else:
            voxel = rng.choice(case.foreground)
        return tuple(int(n) for n in np.unravel_index(voxel, case.classes.shape))


class Steps(Sampler):
    """Indices ``(epoch, step)`` of an epoch; the trainer says which epoch."""

    def __init__(self, steps: int) -> None:
        self.steps, self.epoch = steps, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((self.epoch, step) for step in range(self.steps))


def cut(array: np.ndarray, starts: Sequence[int], size: Sequence[int], mode: str) -> np.ndarray:
    """A piece (..., *size) of the last axes, which may reach over the border; ``mode`` of ``np.pad`` says what is there."""
    have = array.shape[-len(size) :]
    before = [max(-start, 0) for start in starts]
    after = [max(start + n - m, 0) for start, n, m in zip(starts, size, have, strict=True)]
    inner = [slice(max(start, 0), start + n) for start, n in zip(starts, size, strict=True)]
    if not any(before) and not any(after):
        return array[(..., *inner)]
    if mode == "constant":  # the piece first: less to copy
        array, inner = array[(..., *inner)], [slice(None)] * len(size)
    else:
        inner = [slice(start + b, start + b + n) for start, b, n in zip(starts, before, size, strict=True)]
    rest = [(0, 0)] * (array.ndim - len(size))
    return np.pad(array, [*rest, *zip(before, after, strict=True)], mode)[(..., *inner)]  # type: ignore[call-overload]


def rare_shares(cases: Sequence[Prepared]) -> np.ndarray:
    """How often each case is drawn: in proportion to one over the number of cases that have its rarest class."""
    has = np.zeros((len(cases), max(len(case.counts) for case in cases)))
    for row, case in zip(has, cases, strict=True):
        row[: len(case.counts)] = case.counts > 0
    rarity = np.divide(1.0, has.sum(0), out=np.zeros(has.shape[1]), where=has.sum(0) > 0)
    rarity[0] = 1 / len(cases)
    wanted = (has * rarity).max(1)
    wanted = np.maximum(wanted, 1 / len(cases))
    return wanted / wanted.sum()

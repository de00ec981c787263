"""From a fingerprint to a plan: spacing, patch, depth, widths, kernels, batch and normalisation within a memory budget.

The rules are nnU-Net's (Isensee et al., Nature Methods 2021, supplementary note 2; version 2.8 for the constants), so that
a plan for the same data and budget is the same. In short: resample to the median spacing; take the largest patch of
the images' proportions whose feature maps fit; halve an axis while its voxels are at most twice as large as the finest
and at least 8 remain; spend what memory is left on the batch, up to 5 % of the dataset's voxels.

Axes are (i, j, k) in RAS. nnU-Net plans in the file's (k, j, i) with the coarsest axis first; the order matters only where
two axes tie, and is followed inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .dataset import DatasetError
from .fingerprint import Fingerprint
from .plan_file import Configuration, Normalization, Plan

ANISOTROPY = 3.0
"""An axis is coarse if its spacing is this many times the others', with as many times fewer voxels."""
MIN_EDGE = 4
"""Voxels that the coarsest feature map keeps along an axis."""
BASE_FEATURES, MAX_FEATURES = 32, {2: 512, 3: 320}
CONVOLUTIONS = 2
"""Per stage, in encoder and decoder."""
REFERENCE_VALUES = {2: 85_000_000, 3: 560_000_000}
"""Feature-map values per sample that fill :data:`REFERENCE_GB` on a GPU in mixed precision at the reference batch."""
REFERENCE_BATCH = {2: 12, 3: 2}
REFERENCE_GB = 8.0
MIN_BATCH = 2
COVERED = 0.05
"""Largest part of the dataset's voxels in one batch."""
LOWRES_BELOW = 0.25
"""A patch with a smaller part of the median image gets a second plan at lower resolution."""
COST = {"cuda": 1.0, "cpu": 2.0}
"""Bytes per feature-map value in a training step relative to the reference (7.1). On a processor in single precision 14.1
were measured (64 x 64 x 64, batch 2) and 12.7 (40 x 56 x 40, batch 8); mixed with bfloat16 8.8 and 8.5."""


@dataclass(frozen=True)
class Topology:
    """Depth of a network along each axis.

    Args:
        strides: Per stage and axis; the first stage's are 1.
        kernels: Per stage and axis, 1 or 3.
        patch: The patch, rounded up to what the strides can halve.
        step: By what the patch must be divisible, per axis.
    """

    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    patch: tuple[int, ...]
    step: tuple[int, ...]


def topology(spacing: Sequence[float], patch: Sequence[int]) -> Topology:
    """Which axes are halved, stage by stage, and how wide the kernels are.

    An axis is halved if at least ``2 * MIN_EDGE`` voxels are there and its voxels are less than twice as large as the
    smallest of those axes; the last axis alone only with ``3 * MIN_EDGE``. Its kernel is 1 until its voxels are less than
    twice as large as the smallest of all; the bottleneck's is 3.
    """
    axes = range(len(spacing))
    mm, size, halvings, kernel = list(map(float, spacing)), list(patch), [0] * len(spacing), [1] * len(spacing)
    strides, kernels = [(1,) * len(spacing)], []
    while True:
        long = [a for a in axes if size[a] >= 2 * MIN_EDGE]
        finest = min((mm[a] for a in long), default=0.0)
        halved = [a for a in long if mm[a] / finest < 2]
        if not halved or (len(halved) == 1 and size[halved[0]] < 3 * MIN_EDGE):
            break
        kernel = [3 if k == 3 or mm[a] / min(mm) < 2 else 1 for a, k in zip(axes, kernel, strict=True)]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if a in halved else 1 for a in axes))
        for a in halved:
            halvings[a] += 1
            mm[a] *= 2
            size[a] = -(-size[a] // 2)
    kernels.append((3,) * len(spacing))
    step = tuple(2**n for n in halvings)
    padded = tuple(-(-n // s) * s for n, s in zip(patch, step, strict=True))
    return Topology(tuple(strides), tuple(kernels), padded, step)


def features(stages: int, dimensions: int) -> tuple[int, ...]:
    """Feature maps per stage: doubled at each, up to a cap."""
    return tuple(min(BASE_FEATURES * 2**n, MAX_FEATURES[dimensions]) for n in range(stages))


def feature_values(patch: Sequence[int], strides: Sequence[Sequence[int]], widths: Sequence[int], classes: int) -> int:
    """Values in all feature maps that convolutions write for one patch: nnU-Net's measure of memory.

    Two per stage in the encoder; in the decoder the transposed convolution's and two more; at last one per class.
    """
    size = np.array(patch)
    sizes = []
    for stride in strides:
        size = size // np.array(stride)
        sizes.append(int(np.prod(size)))
    encoder = sum(CONVOLUTIONS * w * n for w, n in zip(widths, sizes, strict=True))
    decoder = sum((CONVOLUTIONS + 1) * w * n for w, n in zip(widths[:-1], sizes[:-1], strict=True))
    return encoder + decoder + classes * sizes[0]


def target_spacing(spacings: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """The spacing to resample to, from (cases, 3) arrays: the median, and finer along a coarse axis.

    Along an axis with :data:`ANISOTROPY` times larger spacing and fewer voxels than the others, the median would blur
    the cases with thin slices: the 10th percentile is taken, but no finer than the other axes.
    """
    target = np.percentile(spacings, 50, axis=0)
    size = np.percentile(shapes, 50, axis=0)
    coarse = int(np.argmax(target))
    others = [a for a in range(3) if a != coarse]
    if target[coarse] > ANISOTROPY * max(target[others]) and size[coarse] * ANISOTROPY < min(size[others]):
        finer = float(np.percentile(spacings[:, coarse], 10))
        target[coarse] = finer if finer >= max(target[others]) else max(target[others]) + 1e-5
    return target


@dataclass(frozen=True)
class Budget:
    """Memory for one training step.

    Args:
        gigabytes: Of the device.
        device: Whose memory, which decides the bytes per value.
    """

    gigabytes: float = REFERENCE_GB
    device: Literal["cuda", "cpu"] = "cuda"

    def __post_init__(self) -> None:
        if self.device not in COST:
            raise DatasetError(f"There are no plans for the device '{self.device}'; choose {' or '.join(COST)}.")
        if not 0.25 <= self.gigabytes <= 10_000:
            raise DatasetError(f"A memory budget of {self.gigabytes:g} GB makes no plan; give 0.25 GB or more.")

    def values(self, dimensions: int) -> float:
        """Feature-map values per sample that fit at the reference batch size."""
        return REFERENCE_VALUES[dimensions] * self.gigabytes / REFERENCE_GB / COST[self.device]

    def step_gigabytes(self, values: int, batch: int, dimensions: int) -> float:
        """What a step of ``batch`` samples takes, by the same measure: an estimate."""
        return self.gigabytes * values * batch / (self.values(dimensions) * REFERENCE_BATCH[dimensions])


def configure(
    spacing: Sequence[float], median_shape: Sequence[float], classes: int, voxels: float, budget: Budget
) -> tuple[tuple[int, ...], Topology, tuple[int, ...], int, int]:
    """Patch, topology, widths, values and batch for 2 or 3 axes.

    Args:
        spacing: In mm, per axis.
        median_shape: Of the resampled images, in voxels.
        classes: Outputs of the network, background included.
        voxels: In the whole resampled dataset.
        budget: The memory.
    """
    n = len(spacing)
    proportion = 1 / np.asarray(spacing, float)
    edge = {2: 2048, 3: 256}[n]
    start = [round(float(x)) for x in proportion * (edge**n / np.prod(proportion)) ** (1 / n)]
    patch = [min(a, int(b)) if b == int(b) else min(a, b) for a, b in zip(start, median_shape, strict=True)]
    shape = topology(spacing, patch)  # type: ignore[arg-type]
    available, reference_batch = budget.values(n), REFERENCE_BATCH[n]

    def measure(found: Topology) -> tuple[tuple[int, ...], int]:
        widths = features(len(found.strides), n)
        return widths, feature_values(found.patch, found.strides, widths, classes)

    widths, values = measure(shape)
    while values / reference_batch * MIN_BATCH > available:
        ratios = [p / m for p, m in zip(shape.patch, median_shape, strict=True)]
        axis = int(np.argsort(ratios)[-1])
        smaller = list(shape.patch)
        smaller[axis] -= shape.step[axis]
        step = topology(spacing, smaller).step[axis]  # a shallower network may allow a smaller decrement
        smaller = list(shape.patch)
        smaller[axis] -= step
        if min(smaller) < 1 or smaller == list(shape.patch):
            raise DatasetError(
                f"Not even the smallest patch fits {budget.gigabytes:g} GB ({budget.device}); allow more memory."
            )
        shape = topology(spacing, smaller)
        widths, values = measure(shape)
    covering = round(voxels * COVERED / float(np.prod(shape.patch, dtype=np.float64)))
    batch = max(min(round(available / values * reference_batch), covering), MIN_BATCH)
    return shape.patch, shape, widths, values, batch


def make_plan(fingerprint: Fingerprint, budget: Budget | None = None, cases: Sequence[str] | None = None) -> Plan:
    """Plans for slices (2D), for the full resolution, and for a low one where a patch sees little of an image.

    Args:
        fingerprint: Of the dataset.
        budget: 8 GB of a GPU by default, nnU-Net's reference.
        cases: Names to plan from; by default all.
    """
    budget = budget or Budget()
    chosen = [f for f in fingerprint.cases if cases is None or f.name in cases]
    if not chosen:
        raise DatasetError("There is no case to plan from.")
    classes = len(fingerprint.labels)
    spacings = np.array([f.spacing for f in chosen])
    shapes = np.array([f.cropped_shape for f in chosen], float)
    spacing = target_spacing(spacings, shapes)
    median = np.median([[round(s * n / t) for s, n, t in zip(a, b, spacing)] for a, b in zip(spacings, shapes)], axis=0)
    # nnU-Net's order: the file's k, j, i with the coarsest axis first
    coarse = int(np.argmax(spacing[::-1]))
    order = [2 - a for a in [coarse, *(a for a in range(3) if a != coarse)]]
    voxels = float(np.prod(median)) * len(chosen)

    def plan(
        name: str, axes: list[int], mm: np.ndarray, size: np.ndarray, total: float, batch_dice: bool
    ) -> Configuration:
        patch, shape, widths, values, batch = configure(mm[axes], size[axes], classes, total, budget)
        back = np.argsort(axes)
        turn = lambda row: tuple(type(row[0])(row[b]) for b in back)  # noqa: E731
        return Configuration(
            name=name,
            axes=tuple("ijk"[a] for a in sorted(axes)),
            spacing=turn([round(float(mm[a]), 6) for a in axes]),
            median_shape=turn([float(size[a]) for a in axes]),
            patch=turn(list(map(int, patch))),
            batch=int(batch),
            filters=widths,
            kernels=tuple(turn(row) for row in shape.kernels),
            strides=tuple(turn(row) for row in shape.strides),
            convolutions_per_stage=CONVOLUTIONS,
            batch_dice=batch_dice,
            feature_values=values,
            step_gigabytes=round(budget.step_gigabytes(values, batch, len(axes)), 3),
        )

    made = {"2d": plan("2d", order[1:], spacing, median, voxels, True)}
    if median[order[0]] != 1:
        full = plan("3d_fullres", order, spacing, median, voxels, False)
        low = _low_resolution(full, order, spacing, median, len(chosen), plan)
        made["3d_fullres"] = full.model_copy(update={"batch_dice": low is not None})
        if low is not None:
            made["3d_lowres"] = low
    return Plan(
        dataset=fingerprint.name,
        channels=fingerprint.channels,
        labels=fingerprint.labels,
        cases=len(chosen),
        memory_gb=budget.gigabytes,
        device=budget.device,
        normalization=_normalization(fingerprint),
        configurations=made,
    )


def _low_resolution(full, order, spacing, median, cases, plan):  # type: ignore[no-untyped-def]
    """A plan whose patch sees a quarter of the median image, or None where full resolution does or nearly does."""
    mm, found, voxels = spacing.copy(), None, float(np.prod(median))
    seen = float(np.prod(full.patch))
    while seen / voxels < LOWRES_BELOW:
        coarsest = mm.max() / mm
        mm = np.where(coarsest > 2, mm * 1.03, mm) if (coarsest > 2).any() else mm * 1.03
        size = spacing / mm * median
        voxels = float(np.prod(size))
        found = plan("3d_lowres", order, mm, np.round(size), voxels * cases, False)
        seen = float(np.prod(found.patch))
    return found if found is not None and float(np.prod(median)) / voxels >= 2 else None


def _normalization(fingerprint: Fingerprint) -> tuple[Normalization, ...]:
    """By the channel's name: CT is clipped and scaled by the labelled voxels' statistics, all else is z-scored.

    Where cropping to what is not zero removes over a quarter of the images, only what is not zero is z-scored.
    """
    masked = fingerprint.median_relative_size_after_cropping < 3 / 4
    rows = []
    for n, name in enumerate(fingerprint.channels):
        known = fingerprint.foreground[n] if fingerprint.foreground else None
        if name.casefold() == "ct" and known is not None:
            rows.append(
                Normalization(
                    channel=name, method="ct", mean=known.mean, std=known.std, low=known.p00_5, high=known.p99_5
                )
            )
        elif name.casefold() in ("nonorm", "rescale_to_0_1", "rgb_to_0_1"):
            rows.append(Normalization(channel=name, method=name.casefold()))
        else:
            rows.append(Normalization(channel=name, method="zscore", nonzero_only=masked))
    return tuple(rows)

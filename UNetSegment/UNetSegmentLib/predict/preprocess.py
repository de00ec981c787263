"""From an image to what the network sees: axes, crop, normalisation, spacing; and the way back for its answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..package import Manifest, Preprocessing
from ..volume import Grid, Reorientation, Volume
from . import passes
from .intensities import Step, normalized, voxelwise
from .interpolate import Lerp, cubic, scipy_ndimage
from .tiles import Box

ANISOTROPY = 3.0
"""nnU-Net's threshold: an image with one spacing more than 3 times another gets its own rule along that axis."""


@dataclass(frozen=True)
class NetworkImage:
    """An image on the network's grid, and what the way back needs.

    Args:
        array: (C, I, J, K) on ``grid``: float32 and normalised, or with something left to do.
        grid: The network's axes and spacing.
        source: The cropped input's grid with its axes in the network's order.
        lerps: Per axis, the interpolation from ``grid`` back to ``source``.
        turn: What brought the input to the network's axes.
        box: Where ``source`` lies in the turned input.
        left: For each channel, what is left to do to its voxels as float32, in place; it is done where it is empty.
    """

    array: np.ndarray
    grid: Grid
    source: Grid
    lerps: tuple[Lerp, Lerp, Lerp]
    turn: Reorientation
    box: Box
    left: tuple[Step, ...] = ()

    def slices_first(self) -> tuple[NetworkImage, tuple[int, int, int]]:
        """The same with the axis of the input's slices (its third one) first, as views; and the network's axes in it.

        What is worked through from front to back is then a slab of slices, whose size does not follow their number.
        """
        first = self.turn.axes.index(2)
        order = (first, *(axis for axis in range(3) if axis != first))
        swap = Reorientation(order, (False, False, False))  # type: ignore[arg-type]
        axes, flips, lerps, box = (
            tuple(entry[axis] for axis in order) for entry in (self.turn.axes, self.turn.flips, self.lerps, self.box)
        )
        source = self.source.reoriented(swap)
        grid = source if self.grid is self.source else self.grid.reoriented(swap)
        turned = NetworkImage(swap.apply(self.array), grid, source, lerps, Reorientation(axes, flips), box, self.left)  # type: ignore[arg-type]
        return turned, order  # type: ignore[return-value]

    def finished(self, threads: int = 1) -> NetworkImage:
        """The same with nothing left to do, its axes in memory in their order."""
        if not self.left:
            return self
        array = np.empty(self.array.shape, np.float32)
        for channel, values, step in zip(array, self.array, self.left, strict=True):
            passes.transfer(channel, values, threads, then=step)
        return replace(self, array=array, left=())

    def labels(self, dtype: Any) -> np.ndarray:
        """Labels on ``source``, all 0; their axes lie in memory as those of Slicer's and ITK's images, the input's k slowest."""
        axes = [self.turn.axes.index(axis) for axis in (2, 1, 0)]
        labels = np.zeros([self.source.shape[axis] for axis in axes], dtype)
        return labels.transpose(np.argsort(axes))

    def part(self, labels: np.ndarray) -> np.ndarray:
        """Labels on the input's grid as a view of them on ``source``."""
        return self.turn.apply(labels)[self.box]

    def restored(self, labels: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """Labels on ``source`` as an array (a view) of the input's ``shape``; zero outside of the box."""
        turned_shape = tuple(shape[axis] for axis in self.turn.axes)
        if labels.shape != turned_shape:
            whole = np.zeros(turned_shape, labels.dtype)
            whole[self.box] = labels
            labels = whole
        return self.turn.inverse().apply(labels)


def preprocess(
    volume: Volume, manifest: Manifest, crop: str | None = None, threads: int = 1, leave: bool = False
) -> NetworkImage:
    """Turn to the model's axes, crop, normalise each channel, and resample, in the order that the manifest names.

    Statistics are taken on the turned, contiguous copy: an image gives the same numbers to the last bit however its
    axes were stored.

    Args:
        volume: (C, I, J, K), channels in the manifest's order.
        manifest: Of the model.
        crop: ``nonzero``, ``positive`` or ``body`` instead of the manifest's crop.
        threads: Processor threads.
        leave: Where only the intensities need a change, to each voxel by itself, leave that to be done when the image is cut
            into patches: a copy of all of it in float32 is saved.
    """
    how = manifest.preprocessing
    turn = _turn(volume.grid, how)
    turned = turn.apply(volume.array)
    whole = volume.grid.reoriented(turn)
    late = how.crop if how.crop_on == "network_image" else "none"
    box = _crop_box(turned, crop or (how.crop if late == "none" else "none"))
    source = whole if tuple(cut.stop - cut.start for cut in box) == whole.shape else whole.cropped(box)
    turned = turned[(slice(None), *box)]
    grid, forth, back, alone = _grids(source, how)
    if leave and late == "none" and all(lerp.is_identity for lerp in forth):
        steps = [
            voxelwise(values, channel.normalization, threads)
            for values, channel in zip(turned, manifest.channels, strict=True)
        ]
        if None not in steps:
            return NetworkImage(turned, grid, source, back, turn, box, tuple(steps))  # type: ignore[arg-type]
    images: list[np.ndarray] = []
    inside: np.ndarray | None = None
    if any(channel.normalization.mask == "filled" for channel in manifest.channels):
        inside = _filled(turned)
    for index, channel in enumerate(manifest.channels):
        image = np.empty(source.shape, np.float32)  # a copy of its own, which is normalised in place
        step = voxelwise(turned[index], channel.normalization, threads) if how.normalize_first else None
        passes.transfer(image, turned[index], threads, then=step)
        if how.normalize_first and step is None:
            image = normalized(image, channel.normalization, inside, threads)
        image = _resampled(image, grid.shape, forth, alone, how.resampling.image_order, threads)
        images.append(image if how.normalize_first else normalized(image, channel.normalization, threads=threads))
    array = images[0][None] if len(images) == 1 else np.stack(images)
    images.clear()
    if late != "none":
        inner = _crop_box(array, late)
        back, reached = zip(
            *(lerp.within(cut.start, cut.stop) for lerp, cut in zip(back, inner, strict=True)), strict=True
        )
        array, grid, source = array[(slice(None), *inner)], grid.cropped(inner), source.cropped(reached)
        box = tuple(slice(b.start + r.start, b.start + r.stop) for b, r in zip(box, reached, strict=True))  # type: ignore[assignment]
    return NetworkImage(array, grid, source, back, turn, box)


def layout(grid: Grid, manifest: Manifest) -> NetworkImage:
    """Where an image on ``grid`` lies for the network, as :func:`preprocess` has it, without its voxels and uncropped."""
    turn = _turn(grid, manifest.preprocessing)
    source = grid.reoriented(turn)
    network, _, back, _ = _grids(source, manifest.preprocessing)
    box = tuple(slice(0, n) for n in source.shape)
    nothing = np.broadcast_to(np.float32(0), (len(manifest.channels), *network.shape))
    return NetworkImage(nothing, network, source, back, turn, box)  # type: ignore[arg-type]


def separate_axis(spacing: tuple[float, ...], new_spacing: tuple[float, ...], rule: str) -> int | None:
    """The axis that is resampled by itself, nearest neighbour, or None (nnU-Net's ``determine_do_sep_z_and_axis``)."""
    if rule == "never":
        return None
    for candidate in (spacing, new_spacing):
        if rule == "always" or max(candidate) / min(candidate) > ANISOTROPY:
            worst = [axis for axis, s in enumerate(candidate) if max(candidate) / s == 1]
            return worst[0] if len(worst) == 1 else None
    return None


def _turn(grid: Grid, how: Preprocessing) -> Reorientation:
    if how.orientation == "stored":
        return Reorientation(how.axes, (False, False, False))
    base = grid.reorientation_to(how.orientation)
    axes, flips = (tuple(entry[a] for a in how.axes) for entry in (base.axes, base.flips))
    return Reorientation(axes, flips)  # type: ignore[arg-type]


def _grids(source: Grid, how: Preprocessing) -> tuple[Grid, tuple[Lerp, ...], tuple[Lerp, Lerp, Lerp], int | None]:
    """The network's grid, the interpolations there (of images) and back (of answers), and the images' separate axis."""
    old, shape, order = source.spacing, source.shape, how.resampling.image_order
    wanted = tuple(s if new is None else new for s, new in zip(old, how.spacing, strict=True))
    rule, answer_order = how.resampling.separate_axis, 0 if how.resampling.output == "labels" else 1
    alone, alone_back = separate_axis(old, wanted, rule), separate_axis(wanted, old, rule)
    if how.resampling.alignment == "first_voxel":
        grid = source.with_spacing(wanted)
        new, size = grid.spacing, grid.shape
        forth = [Lerp.between(shape[a], size[a], old[a], new[a], 0 if a == alone else order) for a in range(3)]
        back = [
            Lerp.between(size[a], shape[a], new[a], old[a], 0 if a == alone_back else answer_order) for a in range(3)
        ]
    else:
        size = tuple(max(round(old[a] / wanted[a] * shape[a]), 1) for a in range(3))
        grid = source if size == shape else source.with_shape(size)
        forth = [Lerp.edges(shape[a], size[a], 0 if a == alone else order) for a in range(3)]
        back = [Lerp.edges(size[a], shape[a], 0 if a == alone_back else answer_order) for a in range(3)]
    return grid, tuple(forth), tuple(back), alone  # type: ignore[return-value]


def _resampled(
    image: np.ndarray, shape: tuple[int, ...], lerps: tuple[Lerp, ...], alone: int | None, order: int, threads: int
) -> np.ndarray:
    if image.shape == shape or order != 3:
        for axis, lerp in enumerate(lerps):
            image = lerp.apply(image, axis, threads)
        return image
    if alone is None:
        return cubic(image, shape)
    plane = [n for axis, n in enumerate(shape) if axis != alone]
    image = np.stack([cubic(part, plane) for part in np.moveaxis(image, alone, 0)], alone)
    return lerps[alone].apply(image, alone, threads)


def body(array: np.ndarray) -> np.ndarray:
    """Mask (I, J, K) of what is not air in an image (C, I, J, K): above Otsu's threshold in some channel.

    N. Otsu, IEEE Trans. Syst. Man Cybern. 1979. The threshold is lowered halfway to the image's minimum, so that fat
    and lung walls stay inside.
    """
    mask = np.zeros(array.shape[1:], bool)
    for channel in array:
        thin = np.asarray(channel[::2, ::2, ::2], np.float32).ravel()
        counts, edges = np.histogram(thin, 256)
        centres = (edges[1:] + edges[:-1]) / 2
        below = np.cumsum(counts)
        above = below[-1] - below
        sums = np.cumsum(counts * centres)
        with np.errstate(divide="ignore", invalid="ignore"):
            between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
        between = np.nan_to_num(between[:-1], nan=-1.0)
        best = np.flatnonzero(between == between.max())  # all of a gap between air and body are as good
        threshold = centres[best].mean() if between.max() >= 0 else edges[0]
        mask |= channel > (threshold + edges[0]) / 2
    return mask


def _filled(array: np.ndarray) -> np.ndarray:
    """nnU-Net's nonzero mask: voxels that are not 0 in some channel, with face-connected holes filled."""
    return scipy_ndimage().binary_fill_holes((array != 0).any(axis=0))


def _crop_box(array: np.ndarray, how: str) -> Box:
    """The box of the voxels that count in any channel of (C, I, J, K); everything where none does."""
    shape = array.shape[1:]
    if how == "none":
        return tuple(slice(0, n) for n in shape)  # type: ignore[return-value]
    if how == "body":
        mask = body(array)
    else:
        mask = np.zeros(shape, bool)
        for channel in array:
            mask |= channel != 0 if how == "nonzero" else channel > 0
    box = []
    for axis in range(3):
        used = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, shape[axis]))
    return tuple(box)  # type: ignore[return-value]

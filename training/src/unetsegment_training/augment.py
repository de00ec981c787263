"""Random changes that a patient, a scanner or a position could have made: one resampling in space, then intensities.

``light`` is the recipe of the bundled model. ``nnunet`` has the kinds, order, probabilities and ranges of nnU-Net's default
trainer (Isensee et al., Nature Methods 2021), cut from a larger crop, so that rotations bring no empty corners. Both in 2D
and 3D. The elastic deformation follows Ronneberger et al. 2015: random shifts of a coarse grid, bicubic in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from monai.transforms import AdjustContrast, GaussianSmooth
from scipy import ndimage

if TYPE_CHECKING:
    from .config import FitConfig


@dataclass(frozen=True)
class Augmenter:
    """A recipe for batches of one patch size.

    Args:
        patch: Size of the answer in voxels, 2 or 3 axes.
        preset: ``none``, ``light`` or ``nnunet``.
        mirror: Axes that are mirrored half of the time; None: the first (``light``) or all (``nnunet``).
        elastic: Probability of an elastic deformation.
        spacing: Voxels between the points of its grid.
        sigma: Standard deviation of their shifts, voxels.
    """

    patch: tuple[int, ...]
    preset: str = "light"
    mirror: tuple[int, ...] | None = None
    elastic: float = 0.0
    spacing: float = 32.0
    sigma: float = 3.0

    @classmethod
    def of(cls, config: FitConfig) -> Augmenter:
        """As the settings ask."""
        elastic = (config.elastic, config.elastic_spacing, config.elastic_sigma)
        return cls(config.patch, config.augmentation, config.mirror_axes, *elastic)

    @property
    def crop(self) -> tuple[int, ...]:
        """Size to cut from the image: for ``nnunet`` so large that a turned, smaller picture still fills the patch."""
        if self.preset != "nnunet":
            return self.patch
        turned = [axis for axis in range(len(self.patch)) if axis != self.slices]
        diagonal = float(np.linalg.norm([self.patch[axis] for axis in turned]))
        # a turn by 30 degrees about every axis reaches the corners almost, as nnU-Net's larger crop does
        return tuple(int(np.ceil(min(diagonal, 1.5 * n))) if a in turned else n for a, n in enumerate(self.patch))

    @property
    def slices(self) -> int | None:
        """The axis that is left alone as its voxels are few (nnU-Net's dummy 2D: more than 3 times fewer)."""
        thin = int(np.argmin(self.patch))
        return thin if len(self.patch) == 3 and max(self.patch) > 3 * self.patch[thin] else None

    @property
    def mirrored(self) -> tuple[int, ...]:
        """Axes of the patch that are mirrored half of the time."""
        if self.preset == "none":
            return ()
        if self.mirror is not None:
            return tuple(sorted(set(self.mirror)))
        return (0,) if self.preset == "light" else tuple(range(len(self.patch)))

    def __call__(self, x: torch.Tensor, y: torch.Tensor, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (N, C, *crop) and class indices (N, *crop) to (N, C, *patch), (N, *patch); ``rng`` decides all."""
        grids = [self._grid(x.shape[2:], rng) for _ in x]
        pairs = [self._resample(*pair, grid) for *pair, grid in zip(x, y, grids, strict=True)]
        change = {"none": lambda image, _: image, "light": _light, "nnunet": _nnunet}[self.preset]
        return torch.stack([change(image, rng) for image, _ in pairs]), torch.stack([classes for _, classes in pairs])

    def _grid(self, source: Sequence[int], rng: np.random.Generator) -> np.ndarray | None:
        """Where in the crop each voxel of the patch comes from: (axes, *patch) in voxels; None: from its own place."""
        matrix, shift = self._affine(rng)
        bend = self._bend(rng) if self.elastic and rng.random() < self.elastic else None
        if bend is None and not shift.any() and np.array_equal(matrix, np.eye(len(self.patch))):
            return None
        middle = (np.array(self.patch) - 1) / 2
        axes = np.meshgrid(*(np.arange(n) - m for n, m in zip(self.patch, middle, strict=True)), indexing="ij")
        places = np.tensordot(matrix, np.stack(axes), 1)
        if bend is not None:
            places += bend
        start = (np.array(source) - 1) / 2 + shift * np.array(self.patch) / 2
        return places + start.reshape(-1, *[1] * len(self.patch))

    def _affine(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A matrix on voxels, and a shift in halves of the patch."""
        axes = len(self.patch)
        matrix, shift = np.eye(axes), np.zeros(axes)
        if self.preset == "none":
            return matrix, shift
        light = self.preset == "light"
        if rng.random() < (0.5 if light else 0.2):
            matrix = rotation(self._angles(rng), axes)
        if rng.random() < (0.5 if light else 0.2):
            factor = rng.uniform(0.8, 1.25) if light else rng.uniform(0.7, 1.4)
            matrix = matrix @ np.diag([1.0 if axis == self.slices and not light else factor for axis in range(axes)])
        signs = [-1.0 if axis in self.mirrored and rng.random() < 0.5 else 1.0 for axis in range(axes)]
        return matrix @ np.diag(signs), rng.uniform(-0.06, 0.06, axes) if light else shift

    def _angles(self, rng: np.random.Generator) -> np.ndarray:
        """Radians, one per axis of rotation (3D) or one (2D)."""
        if len(self.patch) == 2:
            long = max(self.patch) > 1.5 * min(self.patch)
            most = 20 if self.preset == "light" else 15 if long else 180
            return np.radians(rng.uniform(-most, most, 1))
        if self.preset == "light":
            return np.radians(rng.uniform(-20, 20, 3))
        if (alone := self.slices) is not None:
            return np.radians(np.where(np.arange(3) == alone, rng.uniform(-180, 180), 0.0))
        return np.radians(rng.uniform(-30, 30, 3))

    def _bend(self, rng: np.random.Generator) -> np.ndarray:
        """Smooth shifts (axes, *patch) in voxels: cubic splines through the coarse grid, axis by axis."""
        points = [int(np.ceil(n / self.spacing)) + 1 for n in self.patch]
        shifts = rng.normal(0, self.sigma, (len(self.patch), *points))
        for axis, (fine, coarse) in enumerate(zip(self.patch, points, strict=True), 1):
            shifts = np.moveaxis(np.tensordot(_spline(coarse, fine), shifts, (1, axis)), 0, axis)
        return shifts

    def _resample(
        self, image: torch.Tensor, classes: torch.Tensor, places: np.ndarray | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Linear, zero outside; of the classes the one with the largest share."""
        size = classes.shape
        if places is None:
            cut = tuple(slice((n - p) // 2, (n - p) // 2 + p) for n, p in zip(size, self.patch, strict=True))
            return image[(slice(None), *cut)], classes[cut]
        scaled = [(2 * place + 1) / n - 1 for place, n in zip(places, size, strict=True)]
        grid = torch.from_numpy(np.stack(scaled[::-1], -1).astype(np.float32))[
            None
        ]  # grid_sample names the last axis x
        masks = F.one_hot(classes, int(classes.max()) + 1).movedim(-1, 0).float()
        both = F.grid_sample(torch.cat([image, masks])[None], grid, align_corners=False)[0]
        return both[: len(image)], both[len(image) :].argmax(0)


@cache
def _spline(coarse: int, fine: int) -> np.ndarray:
    """(fine, coarse): what each of the coarse points adds to each of the fine ones."""
    return ndimage.zoom(np.eye(coarse), (fine / coarse, 1), order=3, mode="nearest")


def rotation(angles: np.ndarray, axes: int) -> np.ndarray:
    """A rotation by an angle about each of three axes in turn, or by one angle in a plane."""
    matrix = np.eye(axes)
    planes = [(0, 1)] if axes == 2 else [(1, 2), (0, 2), (0, 1)]
    for angle, (a, b) in zip(angles, planes, strict=True):
        turn = np.eye(axes)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return matrix


def _light(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Noise, brightness, blur, contrast and gamma on one image (C, *patch) with mean near 0 and deviation near 1."""
    if rng.random() < 0.15:
        noise = torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32))
        image = image + noise * rng.uniform(0, 0.3)
    if rng.random() < 0.2:
        image = image * rng.uniform(0.75, 1.25)
    if rng.random() < 0.2:
        share, axes = rng.uniform(0.3, 0.8), image.ndim - 1
        padded = F.pad(image[None], (1,) * 2 * axes, mode="replicate")
        pool = F.avg_pool2d if axes == 2 else F.avg_pool3d
        image = pool(padded, 3, 1)[0] * share + image * (1 - share)
    if rng.random() < 0.15:
        image = _contrast(image, rng)
    if rng.random() < 0.3:
        low, high, mean, std = image.min(), image.max(), image.mean(), image.std()
        image = ((image - low) / (high - low + 1e-6)) ** rng.uniform(0.7, 1.5)
        image = (image - image.mean()) / (image.std() + 1e-6) * std + mean
    return image


def _nnunet(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """nnU-Net's intensity changes on one image (C, *patch), in its order."""
    if rng.random() < 0.1:
        noise = torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32))
        image = image + noise * rng.uniform(0, 0.1) ** 0.5
    if rng.random() < 0.2:
        image = _some_channels(image, rng, lambda one: GaussianSmooth(rng.uniform(0.5, 1.0))(one))
    if rng.random() < 0.15:
        image = torch.stack([one * rng.uniform(0.75, 1.25) for one in image])
    if rng.random() < 0.15:
        image = torch.cat([_contrast(one[None], rng) for one in image])
    if rng.random() < 0.25:
        image = _some_channels(image, rng, lambda one: _low_resolution(one, rng.uniform(0.5, 1.0)))
    for chance, invert in ((0.1, True), (0.3, False)):
        if rng.random() < chance:
            gamma = rng.uniform(0.7, 1.0) if rng.random() < 0.5 else rng.uniform(1.0, 1.5)
            change = AdjustContrast(gamma, invert_image=invert, retain_stats=True)
            image = torch.cat([change(one[None]) for one in image])
    return torch.as_tensor(image).float()


def _some_channels(image: torch.Tensor, rng: np.random.Generator, change: object) -> torch.Tensor:
    """Each channel with probability one half."""
    return torch.cat([change(one[None]) if rng.random() < 0.5 else one[None] for one in image])  # type: ignore[operator]


def _contrast(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Spread about the mean, within the range that was there."""
    low, high, mean = image.min(), image.max(), image.mean()
    return ((image - mean) * rng.uniform(0.75, 1.25) + mean).clamp(float(low), float(high))


def _low_resolution(image: torch.Tensor, factor: float) -> torch.Tensor:
    """Fewer voxels (nearest) and back (linear), (1, *patch)."""
    small = [max(int(round(n * factor)), 1) for n in image.shape[1:]]
    mode = "bilinear" if image.ndim == 3 else "trilinear"
    return F.interpolate(F.interpolate(image[None], small, mode="nearest-exact"), list(image.shape[1:]), mode=mode)[0]

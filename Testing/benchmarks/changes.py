"""Changes to real images, as they happen to images on their way to a model: headers, intensities, fields of view."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from UNetSegmentLib.volume import Grid, Volume


def valued(volume: Volume, change: Callable[[np.ndarray], np.ndarray], kind: Any = np.float32) -> Volume:
    """Other intensities on the same grid."""
    return Volume(change(volume.array[0].astype(np.float64)).astype(kind)[None], volume.grid, volume.channels)


def with_spacing(volume: Volume, spacing: tuple[float, float, float]) -> Volume:
    """The same voxels under another spacing."""
    grid = Grid.from_spacing(volume.grid.shape, spacing, volume.grid.origin, volume.grid.direction)
    return Volume(volume.array, grid, volume.channels)


def cropped(volume: Volume, start: Any, size: Any) -> Volume:
    """The box of ``size`` voxels from ``start``."""
    box = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
    return Volume(volume.array[(slice(None), *box)], volume.grid.cropped(box), volume.channels)


def tiled(volume: Volume, times: tuple[int, int, int]) -> Volume:
    """The image repeated, every other time mirrored: as real, and as large as wanted."""
    array = volume.array[0]
    for axis, n in enumerate(times):
        array = np.concatenate([np.flip(array, axis) if k % 2 else array for k in range(n)], axis)
    return Volume(array[None], Grid(array.shape, volume.grid.ijk_to_ras), volume.channels)


def resampled(volume: Volume, spacing: tuple[float, float, float]) -> Volume:
    """Interpolated linearly at another spacing; slices that get thicker are averaged before."""
    from scipy import ndimage

    factors = [new / old for new, old in zip(spacing, volume.grid.spacing, strict=True)]
    soft = ndimage.gaussian_filter(volume.array[0].astype(np.float32), [0.4 * max(f - 1, 0) for f in factors])
    grid = volume.grid.with_spacing(spacing)
    points = np.meshgrid(*(np.arange(n) * f for n, f in zip(grid.shape, factors, strict=True)), indexing="ij")
    return Volume(ndimage.map_coordinates(soft, points, order=1, mode="nearest")[None], grid, volume.channels)


def oblique(volume: Volume) -> Volume:
    """The same voxels in a frame that is turned by 20 degrees."""
    c, s = np.cos(np.radians(20)), np.sin(np.radians(20))
    turn = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    return Volume(volume.array, volume.grid.transformed(turn), volume.channels)


def noise(random: np.random.Generator, part: float) -> Callable[[np.ndarray], np.ndarray]:
    """Rician noise, as in magnitude images: of ``part`` of the bright intensities."""

    def add(array: np.ndarray) -> np.ndarray:
        sigma = part * np.percentile(array, 99)
        return np.hypot(array + random.normal(0, sigma, array.shape), random.normal(0, sigma, array.shape))

    return add


def padded(volume: Volume, width: int) -> Volume:
    """With zeros around."""
    array = np.pad(volume.array[0], width)
    grid = Grid.from_spacing(array.shape, volume.grid.spacing, volume.grid.origin, volume.grid.direction)
    return Volume(array[None], grid, volume.channels)


def blurred(array: np.ndarray, sigma: float = 4) -> np.ndarray:
    """By a Gaussian of ``sigma`` voxels."""
    from scipy import ndimage

    return ndimage.gaussian_filter(array, sigma)


def as_picture(array: np.ndarray) -> np.ndarray:
    """From -1000..1000 to 0..255."""
    return np.clip((array + 1000) / 2000 * 255, 0, 255).round()


def cut_out(array: np.ndarray) -> np.ndarray:
    """Zeros outside of a ball in the middle: as after skull stripping."""
    axes = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in array.shape)]
    return np.where(sum(a * a for a in axes) < 0.8, array, 0)


def as_t2(volume: Volume) -> Volume:
    """An imitation of T2 weighting: what was dark is bright, with another curve."""
    return valued(volume, lambda a: 900 * np.clip(1 - a / (1.1 * np.percentile(a, 99.9)), 0, 1) ** 2)

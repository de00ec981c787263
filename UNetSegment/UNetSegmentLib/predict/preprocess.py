"""From an image to what the network sees: orientation, normalisation, spacing, in this order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..package import Manifest, Normalization
from ..volume import Grid, Reorientation, Volume
from .interpolate import Lerp


@dataclass(frozen=True)
class NetworkImage:
    """An image on the model's grid, and what the way back needs.

    Args:
        array: (C, I, J, K) float32, normalised, on ``grid``.
        grid: Model's orientation and spacing.
        source: The input's grid in the model's orientation, at the input's spacing.
        turn: What brought the input to the model's orientation.
    """

    array: np.ndarray
    grid: Grid
    source: Grid
    turn: Reorientation


def preprocess(volume: Volume, manifest: Manifest) -> NetworkImage:
    """Reorient to the nearest axes of the model, normalise each channel, interpolate linearly to its spacing.

    Statistics are taken on the reoriented, contiguous copy: an image gives the same numbers to the last bit however
    its axes were stored.
    """
    turned, turn = volume.reoriented(manifest.orientation)
    source = turned.grid
    grid = source.with_spacing(manifest.spacing)
    lerps = tuple(Lerp.between(source.shape[a], grid.shape[a], source.spacing[a], grid.spacing[a]) for a in range(3))
    array = np.empty((len(manifest.channels), *grid.shape), np.float32)
    for index, channel in enumerate(manifest.channels):
        image = normalized(np.ascontiguousarray(turned.array[index], np.float32), channel.normalization)
        for axis, lerp in enumerate(lerps):
            image = lerp.apply(image, axis)
        array[index] = image
    return NetworkImage(array, grid, source, turn)


def normalized(image: np.ndarray, how: Normalization) -> np.ndarray:
    """A channel (I, J, K) as float32 with its intensities normalised; see :class:`Normalization` for the methods."""
    if how.method == "none":
        return image
    low, high = how.clip or (-np.inf, np.inf)
    if how.clip is not None:
        image = np.clip(image, low, high)
    if how.method == "minmax":
        first, last = how.clip or (float(image.min()), float(image.max()))
        return (image - np.float32(first)) / np.float32(max(last - first, 1e-8))
    if how.method == "clip_zscore":
        mean, std = how.mean, how.std
    else:
        mean, std = float(image.mean(dtype=np.float64)), float(image.std(dtype=np.float64))
    return (image - np.float32(mean)) / np.float32(std if std > 0 else 1.0)

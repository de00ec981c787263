"""Inputs of the cases: images from the shared folder as arrays that every contender reads alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from UNetSegmentLib import io

from .options import Options
from .race import Image


def image(path: Path, folder: Path) -> Image:
    """An image file as a float32 array beside its affine."""
    volume = io.read_volume(path)
    name = path.name.split(".")[0]
    return save(name, np.ascontiguousarray(volume.array, np.float32), volume.grid.ijk_to_ras, folder, path)


def save(name: str, array: np.ndarray, affine: np.ndarray, folder: Path, source: Path | None = None) -> Image:
    """An array (C, I, J, K) in memory as an input."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{name}.npy", array)
    return Image(name, folder / f"{name}.npy", np.asarray(affine), source)


def hippocampus(options: Options, folder: Path) -> list[Image]:
    """Images of the hippocampus set, evenly picked by name."""
    paths = sorted(options.data("data", "hippocampus", "imagesTr").glob("*.nii.gz"))
    picked = [paths[i * len(paths) // options.count] for i in range(min(options.count, len(paths)))]
    return [image(path, folder) for path in picked]


def labels(path: Path) -> np.ndarray:
    """A label map file as (I, J, K)."""
    return io.read_labelmap(path).array

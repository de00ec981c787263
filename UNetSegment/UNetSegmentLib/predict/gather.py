"""From what the user chose to what the model needs: one volume with the manifest's channels on one grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import InputError
from ..package import Manifest

if TYPE_CHECKING:
    from ..volume import Grid, Volume


def gather(volumes: Sequence[Volume], manifest: Manifest) -> Volume:
    """Check the inputs against the manifest and bring them onto the grid of the first one.

    Args:
        volumes: One single-channel volume per channel of the manifest, in its order; grids may differ. One volume
            that has all channels will do as well. ``channels[0]`` of each is the name used in messages.
        manifest: Of the model that will run.

    Returns:
        A volume of shape (C, I, J, K) on the first input's grid, channels named as in the manifest.

    Raises:
        InputError: Too few or too many inputs, NaN or infinite voxels, or inputs that do not overlap in space.
    """
    import numpy as np  # not with this file, which is read when Slicer starts

    from ..volume import Volume

    names = [channel.name for channel in manifest.channels]
    wanted = f"{len(names)} volume{'s' if len(names) > 1 else ''} ({', '.join(names)})"
    if not volumes:
        raise InputError(f"Model '{manifest.title}' needs {wanted}; choose one first.")
    given = sum(volume.array.shape[0] for volume in volumes)
    if len(volumes) > 1 and any(volume.array.shape[0] != 1 for volume in volumes):
        raise InputError("One of the inputs has several channels; give each channel as a volume of its own.")
    if given != len(names):
        few = "choose the missing ones" if given < len(names) else "remove the others"
        raise InputError(f"Model '{manifest.title}' needs {wanted}, but {given} were given; {few}.")
    for volume, name in zip(volumes, names, strict=False):
        called = volume.channels[0] or name
        if volume.array.dtype.kind not in "buif":
            raise InputError(f"Volume '{called}' does not hold plain numbers; convert it to a scalar volume first.")
        if volume.array.dtype.kind == "f" and not np.isfinite(volume.array).all():
            raise InputError(f"Volume '{called}' has voxels that are NaN or infinite; replace them by a number first.")
        ends = (volume.array.min(initial=0), volume.array.max(initial=0)) if volume.array.dtype == np.float64 else (0,)
        if max(map(abs, ends)) > np.finfo(np.float32).max:
            raise InputError(f"Volume '{called}' has voxels beyond 1e38, which no network takes; correct them first.")
        if not volume.grid.overlaps(volumes[0].grid):
            raise InputError(
                f"Volume '{called}' does not overlap with volume '{volumes[0].channels[0] or names[0]}' in space; "
                "choose images of the same place, registered to each other."
            )
    if len(volumes) == 1:
        return Volume(volumes[0].array, volumes[0].grid, tuple(names))
    grid = volumes[0].grid
    arrays = [v.array if v.grid.is_close(grid) else resample(v, grid).array for v in volumes]
    return Volume(np.concatenate(arrays).astype(np.float32, copy=False), grid, tuple(names))


def resample(volume: Volume, grid: Grid) -> Volume:
    """Linear interpolation of a one-channel volume on another grid, in patient space; its minimum lies outside."""
    import numpy as np
    import SimpleITK as sitk

    from ..volume import Volume

    image = sitk.GetImageFromArray(volume.array[0].T.astype(np.float32))  # (k, j, i)
    # Work in index space: ITK's "physical" points are the indices of `grid`, so no RAS/LPS conversion is needed.
    matrix = grid.index_in(volume.grid)
    transform = sitk.AffineTransform(matrix[:3, :3].ravel().tolist(), matrix[:3, 3].tolist())
    outside = float(volume.array.min())
    result = sitk.Resample(
        image, list(grid.shape), transform, sitk.sitkLinear, [0.0] * 3, [1.0] * 3, [1, 0, 0, 0, 1, 0, 0, 0, 1], outside
    )
    return Volume(sitk.GetArrayFromImage(result).T[None], grid, volume.channels)

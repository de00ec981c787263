"""From a region of interest in the scene to a box of a volume's voxels."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from ..errors import InputError
from ..volume import Grid
from .read import to_numpy, world_volume

Box = list[list[int]]
"""``[[i0, i1], [j0, j1], [k0, k1]]``: first and stop along each axis, as :meth:`predict.Predictor.predict` takes it."""


def region_box(roi: Any, volume: Any) -> Box:
    """The voxels of a volume node around a Markups ROI: the smallest box along the volume's axes that holds all of it.

    Rotations of the ROI and transforms of both count; under a non-linear transform the ROI is what its corners span.

    Raises:
        InputError: It is no ROI, is not placed yet, or lies outside of the volume.
    """
    if not roi.IsA("vtkMRMLMarkupsROINode"):
        raise InputError(f"'{roi.GetName()}' is no region of interest; draw one in the Markups module, or choose none.")
    size = np.asarray(roi.GetSize(), float)
    if roi.GetNumberOfControlPoints() == 0 or (size <= 0).any():
        raise InputError(f"Region '{roi.GetName()}' is not placed yet; draw it in a slice view, or choose none.")
    matrix = to_numpy(roi.GetObjectToNodeMatrix())
    corners = np.array(list(itertools.product(*((-s / 2, s / 2) for s in size)))) @ matrix[:3, :3].T + matrix[:3, 3]
    world = np.empty_like(corners)
    for corner, place in zip(corners, world, strict=True):
        point = [0.0, 0.0, 0.0]
        roi.TransformPointToWorld(list(corner), point)
        place[:] = point
    box = box_around(world, world_volume(volume).grid)
    if box is None:
        raise InputError(
            f"Region '{roi.GetName()}' does not touch volume '{volume.GetName()}'; move it there, or choose none."
        )
    return box


def box_around(points: np.ndarray, grid: Grid) -> Box | None:
    """The voxels of ``grid`` that the convex hull of ``points`` (N, 3), in RAS mm, may touch; None where it misses it.

    A voxel reaches half a voxel to each side of its centre; touching its face alone does not count.
    """
    inverse = grid.ras_to_ijk
    ijk = points @ inverse[:3, :3].T + inverse[:3, 3]
    slack = 1e-3
    first = np.floor(ijk.min(axis=0) + 0.5 + slack).astype(int)
    stop = np.ceil(ijk.max(axis=0) + 0.5 - slack).astype(int)
    first, stop = np.maximum(first, 0), np.minimum(np.maximum(stop, first + 1), grid.shape)
    return None if (first >= stop).any() else [[int(a), int(b)] for a, b in zip(first, stop, strict=True)]

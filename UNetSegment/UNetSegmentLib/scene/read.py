"""From a volume node to a :class:`Volume` in patient space."""

from __future__ import annotations

from typing import Any

import numpy as np
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from ..errors import InputError
from ..volume import Grid, Volume


def world_volume(node: Any) -> Volume:
    """A scalar volume node as a volume on its grid in the world, parent transforms included.

    Args:
        node: vtkMRMLScalarVolumeNode.

    Returns:
        (1, I, J, K), a view of the node's voxels without a copy, named after the node.

    Raises:
        InputError: No node, no volume, no voxels, several values per voxel, an impossible geometry, or a non-linear transform.
    """
    if node is None:
        raise InputError("No volume is chosen; choose one first.")
    name = node.GetName()
    if not node.IsA("vtkMRMLVolumeNode"):
        raise InputError(f"'{name}' is no volume; choose an image.")
    image = node.GetImageData()
    if image is None or image.GetNumberOfPoints() == 0 or image.GetPointData().GetScalars() is None:
        raise InputError(f"Volume '{name}' has no voxels; load it again or choose another one.")
    if image.GetNumberOfScalarComponents() != 1:
        raise InputError(
            f"Volume '{name}' has {image.GetNumberOfScalarComponents()} values per voxel (a vector or colour image); "
            "convert it with the Vector to Scalar Volume module first."
        )
    array = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])
    parent = parent_matrix(node)
    try:
        own = Grid(array.shape[::-1], local_matrix(node))
    except InputError as error:
        raise InputError(f"Volume '{name}': {error}") from None
    try:
        grid = own.transformed(parent)
    except InputError:
        raise InputError(
            f"Volume '{name}' is under the transform '{node.GetParentTransformNode().GetName()}', which shears or flattens "
            "it; correct the transform, or take the volume out of it."
        ) from None
    return Volume(array.transpose(2, 1, 0)[None], grid, (name,))


def local_matrix(node: Any) -> np.ndarray:
    """4x4 matrix from the indices of the node's voxels, from 0 on, to its own RAS, without parent transforms.

    The first voxel of a vtkImageData need not have the index 0 in Slicer's IJK: it is where the image's extent begins.
    """
    matrix, first = vtk.vtkMatrix4x4(), np.eye(4)
    node.GetIJKToRASMatrix(matrix)
    first[:3, 3] = node.GetImageData().GetExtent()[::2]
    return to_numpy(matrix) @ first


def parent_matrix(node: Any) -> np.ndarray:
    """4x4 matrix of all parent transforms of a node.

    Raises:
        InputError: One of them is not linear.
    """
    parent = node.GetParentTransformNode()
    matrix = vtk.vtkMatrix4x4()
    if parent is None:
        return to_numpy(matrix)
    if not parent.IsTransformToWorldLinear():
        raise InputError(
            f"Volume '{node.GetName()}' is under the non-linear transform '{parent.GetName()}'; "
            "harden the transform on the volume first."
        )
    parent.GetMatrixTransformToWorld(matrix)
    return to_numpy(matrix)


def to_numpy(matrix: Any) -> np.ndarray:
    """A vtkMatrix4x4 as an array."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])

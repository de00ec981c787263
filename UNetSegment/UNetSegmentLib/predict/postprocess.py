"""Steps after labelling that a manifest may ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def postprocess(array: np.ndarray, steps: Sequence[dict[str, Any]]) -> np.ndarray:
    """Apply a manifest's post-processing to a label map (I, J, K), in order; returns a new array where it changes."""
    for step in steps:
        array = keep_largest_component(array, step["labels"], step.get("connectivity", "faces") == "corners")
    return array


def keep_largest_component(array: np.ndarray, labels: Sequence[int], corners: bool = False) -> np.ndarray:
    """Of the voxels that carry any of ``labels``, keep the largest component; the rest becomes 0.

    Voxels are connected across faces or, with ``corners`` as nnU-Net has it, also across edges and corners.
    nnU-Net decides on validation cases whether this step helps (Isensee et al., Nature Methods 2021).
    """
    import SimpleITK as sitk

    mask = np.isin(array, labels)
    if not mask.any():
        return array
    components = sitk.ConnectedComponent(sitk.GetImageFromArray(mask.astype(np.uint8)), corners)
    largest = sitk.GetArrayFromImage(sitk.RelabelComponent(components, sortByObjectSize=True)) == 1
    return np.where(mask & ~largest, array.dtype.type(0), array)

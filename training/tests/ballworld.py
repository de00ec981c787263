"""Cases to learn from in seconds: a bright ball with a brighter core, in noise."""

import numpy as np
import SimpleITK as sitk


def write_case(root, name, image, label, spacing=(1.0, 1.0, 1.0)):
    for folder, array in (("imagesTr", image), ("labelsTr", label)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        picture = sitk.GetImageFromArray(array.T)
        picture.SetSpacing(spacing)
        sitk.WriteImage(picture, str(root / folder / f"{name}.nii.gz"))


def ball_case(rng, size=20):
    i, j, k = np.mgrid[:size, : size - 2, : size + 3]
    centre = rng.uniform(7, 12, 3)
    distance = np.sqrt((i - centre[0]) ** 2 + (j - centre[1]) ** 2 + (k - centre[2]) ** 2)
    label = np.where(distance < 3, 2, np.where(distance < 6, 1, 0)).astype(np.uint8)
    return (label * 50 + rng.normal(100, 10, label.shape)).astype(np.float32), label

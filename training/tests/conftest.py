"""A small dataset in Decathlon layout: a bright ball with a brighter core, in noise."""

import json

import numpy as np
import pytest
import SimpleITK as sitk


class Balls:
    """Writes cases into a dataset folder."""

    def __init__(self, root):
        self.root = root

    def write(self, name, image, label, spacing=(1.0, 1.0, 1.0)):
        for folder, array in (("imagesTr", image), ("labelsTr", label)):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
            picture = sitk.GetImageFromArray(array.T)
            picture.SetSpacing(spacing)
            sitk.WriteImage(picture, str(self.root / folder / f"{name}.nii.gz"))

    @staticmethod
    def draw(rng, size=20):
        i, j, k = np.mgrid[:size, : size - 2, : size + 3]
        centre = rng.uniform(7, 12, 3)
        distance = np.sqrt((i - centre[0]) ** 2 + (j - centre[1]) ** 2 + (k - centre[2]) ** 2)
        label = np.where(distance < 3, 2, np.where(distance < 6, 1, 0)).astype(np.uint8)
        return (label * 50 + rng.normal(100, 10, label.shape)).astype(np.float32), label


@pytest.fixture
def ball_writer(tmp_path):
    return Balls(tmp_path / "balls")


@pytest.fixture(scope="session")
def make_balls():
    """Writes a dataset of balls; ``spacing`` gives each case's voxel size."""

    def make(root, count=10, spacing=lambda n: (1.0, 1.0, 1.0)):
        writer, rng = Balls(root), np.random.default_rng(0)
        for n in range(count):
            writer.write(f"ball_{n:02d}", *writer.draw(rng), spacing(n))
        labels = {"0": "background", "1": "Shell", "2": "Core"}
        described = {"name": "Balls", "modality": {"0": "MRI"}, "labels": labels, "licence": "CC0-1.0"}
        (root / "dataset.json").write_text(json.dumps(described))
        return root

    return make


@pytest.fixture
def balls(tmp_path, make_balls):
    return make_balls(tmp_path / "balls")

"""The shipped package is a MONAI bundle: stock ``monai.bundle run`` gives the predictor's labels."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from UNetSegmentLib import io, package
from UNetSegmentLib.predict import Predictor

SAMPLE = Path(__file__).resolve().parents[2] / "Resources" / "SampleData" / "hippocampus"


def test_stock_monai_gives_the_same_labels(tmp_path):
    for name in ("monai", "fire", "ignite", "nibabel", "openvino"):
        pytest.importorskip(name)
    import SimpleITK as sitk

    image = sitk.ReadImage(str(next(SAMPLE.glob("*image.nii.gz"))))
    (tmp_path / "images").mkdir()
    sitk.WriteImage(image, str(tmp_path / "images" / "plain.nii.gz"))
    image.SetSpacing((0.8, 1.3, 1.1))  # the model's grid is now another one
    image.SetDirection((0, 1, 0, 1, 0, 0, 0, 0, -1))
    sitk.WriteImage(image, str(tmp_path / "images" / "turned.nii.gz"))

    model = package.load("hippocampus-mr-t1")
    keys = ["--bundle_root", ".", "--dataset_dir", str(tmp_path / "images"), "--output_dir", str(tmp_path / "out")]
    run = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json", *keys]
    subprocess.run(run, cwd=model.root, check=True, capture_output=True)
    predictor = Predictor(model)
    for name in ("plain", "turned"):
        theirs = io.read_labelmap(next((tmp_path / "out" / name).glob("*.nii.gz")))
        ours = predictor.predict(io.read_volume(tmp_path / "images" / f"{name}.nii.gz")).labels
        assert ours.grid.is_close(theirs.grid)
        assert len(np.unique(ours.array)) == 3
        assert np.mean(ours.array == theirs.array) >= 0.999


def test_the_bundle_has_what_the_specification_asks_for():
    root = package.load("hippocampus-mr-t1").root
    metadata = json.loads((root / "configs" / "metadata.json").read_text("utf-8"))
    mandatory = {"version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version"}
    assert mandatory | {"task", "description", "authors", "copyright", "network_data_format"} <= set(metadata)
    labels = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
    assert labels == {"0": "background", "1": "Anterior hippocampus", "2": "Posterior hippocampus"}
    for name in ("LICENSE", "docs/README.md", "docs/data_license.txt", "models/model.pt", "models/model.onnx"):
        assert (root / name).is_file(), name
    assert sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) <= 12_000_000

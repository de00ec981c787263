"""The labels of nnU-Net v2's models are nnU-Net's: a real one, and one of every kind, made by nnU-Net itself."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from peers import run_peer
from synthetic.nnunet import write
from UNetSegmentLib import io, package
from UNetSegmentLib.predict.postprocess import keep_largest_component
from UNetSegmentLib.predict.tiles import Tiling
from UNetSegmentLib.volume import Volume

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("UNETSEGMENT_SHARED", ROOT.parent / "shared"))
REAL = SHARED / "models" / "nnunet_hippocampus"
IMAGES = SHARED / "data" / "hippocampus" / "imagesTr"
CASES = ("001", "088", "175", "205", "394")
KINDS = ("flat", "two_channels", "regions", "anisotropic", "residual", "masked", "old_plans", "batch_norm")


def labels_of(model, volume, mirror):
    pytest.importorskip("openvino")
    from UNetSegmentLib.predict import Predictor

    predictor = Predictor(package.load(model), device="cpu", mode="parity", mirror=mirror)
    return predictor.predict(volume).labels.array


def agreement(array, path):
    return (array == io.read_labelmap(path).array).mean()


@pytest.fixture(scope="module")
def real():
    if not REAL.is_dir() or not IMAGES.is_dir():
        pytest.skip(f"needs models/nnunet_hippocampus and data/hippocampus in {SHARED.name} (see UNETSEGMENT_SHARED)")
    return REAL


def test_components_are_connected_as_nnunet_has_it():
    array = np.zeros((4, 4, 4), np.uint8)
    array[0, 0, 0] = array[1, 1, 1] = 1
    array[3, 3, 2:] = array[3, 2, 3] = 2
    assert (keep_largest_component(array, [1, 2], corners=True) > 0).sum() == 3
    assert keep_largest_component(array, [1], corners=True)[0, 0, 0] == 1
    assert (keep_largest_component(array, [1]) == 1).sum() == 1


def test_single_slices_are_visited_once():
    tiling = Tiling.cover((7, 40, 30), (1, 32, 32), 0.5, "nnunet")
    assert tiling.starts == (tuple(range(7)), (0, 8), (0,))


def test_neither_torch_nor_monai_is_needed(tmp_path):
    pytest.importorskip("openvino")
    folder = write(tmp_path / "model")
    program = f"""
import sys
for name in ("torch", "monai", "safetensors", "onnx"):
    sys.modules[name] = None  # importing it fails
import numpy as np
from UNetSegmentLib import package
from UNetSegmentLib.predict import Predictor
from UNetSegmentLib.volume import Grid, Volume
image = np.random.default_rng(0).normal(20, 30, (1, 20, 18, 12)).astype(np.float32)
volume = Volume(image, Grid.from_spacing((20, 18, 12), (0.6, 2.5, 1.1)), ("CT",))
predictor = Predictor(package.load({str(folder)!r}), device="cpu", backend="openvino", threads=1)
print(predictor.predict(volume).labels.array.shape)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "UNetSegment")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(20, 18, 12)"


@pytest.mark.parametrize(
    "mirror, case", [(False, c) for c in CASES] + [pytest.param(True, c, marks=pytest.mark.slow) for c in CASES]
)
def test_labels_are_those_of_nnunet_for_a_real_model(real, mirror, case):
    name = f"hippocampus_{case}.nii.gz"
    expected = real / f"predictions_{'mirrored' if mirror else 'plain'}" / name
    assert agreement(labels_of(real, io.read_volume(IMAGES / name), mirror), expected) >= 0.9999


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_those_of_nnunet_for_every_kind_of_model(tmp_path, kind):
    run_peer("nnunet_folders", "nnunetv2", tmp_path, kind)
    folder = tmp_path / kind
    parts = [io.read_volume(path) for path in sorted((folder / "image").glob("*.nii.gz"))]
    model = package.load(folder / "model")
    names = tuple(channel.name for channel in model.manifest.channels)
    volume = Volume(np.concatenate([part.array for part in parts]), parts[0].grid, names)
    assert model.folds == len(list((folder / "model").glob("fold_*")))
    for name in ("plain", "mirrored"):
        expected = folder / name / "case.nii.gz"
        if expected.is_file():
            assert agreement(labels_of(folder / "model", volume, name == "mirrored"), expected) >= 0.9999, name

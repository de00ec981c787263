"""The whole way in 2D: a folder of single pictures to a packed model; and plans, spacings and normalisations on the way."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from unetsegment_training import plan_file
from unetsegment_training.cli import main
from unetsegment_training.config import FitConfig
from unetsegment_training.dataset import DatasetError, read_dataset
from unetsegment_training.network import build, manifest_entry
from unetsegment_training.patches import prepare
from unetsegment_training.plan import draft_manifest
from UNetSegmentLib import io, package
from UNetSegmentLib.predict import Predictor

CARD = {"name": "disks", "title": "Disks", "version": "1.0.0", "description": "Disks.", "intended_use": "Tests."}


@pytest.fixture
def disks(tmp_path):
    """Ten pictures of a disk, 48 x 40, as nnU-Net keeps natural images: volumes of one slice."""
    root, rng = tmp_path / "disks", np.random.default_rng(0)
    for n in range(10):
        y, x = np.mgrid[:40, :48]
        label = (np.hypot(y - rng.uniform(14, 26), x - rng.uniform(16, 32)) < 9).astype(np.uint8)
        image = (label * 60 + rng.normal(100, 10, label.shape)).astype(np.float32)
        for folder, array, end in (("imagesTr", image, "_0000"), ("labelsTr", label, "")):
            (root / folder).mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(sitk.GetImageFromArray(array[None]), str(root / folder / f"disk_{n}{end}.nii.gz"))
    entry = {
        "name": "Disks",
        "channel_names": {"0": "grey"},
        "labels": {"background": 0, "Disk": 1},
        "licence": "CC0-1.0",
    }
    (root / "dataset.json").write_text(json.dumps(entry))
    return root


@pytest.mark.slow
@pytest.mark.parametrize("valid", [False, True])
def test_pictures_to_a_packed_model(disks, tmp_path, valid):
    run, model, card = tmp_path / "run", tmp_path / "model", tmp_path / "card.json"
    own = "network = 'unet2015-valid'\npatch = [188, 204]" if valid else "network = 'unet2015'\npatch = [32, 48]"
    (tmp_path / "fit.toml").write_text(
        f"{own}\ndimensions = 2\nfilters = [8, 8, 16, 16, 16]\nnorm = 'batch'\ninit = 'he'\nloss = 'border_ce'\nlearning_rate = 0.01\n"
        "epochs = 8\nsteps_per_epoch = 16\nvalidate_every = 4\nbatch = 2\nelastic = 0.2\nema_decay = 0.9\nship = 'best'\n"
        "early_stopping = 5\nwarmup_steps = 5\n"
    )
    options = ["--config", str(tmp_path / "fit.toml"), "--device", "cpu", "--set", "momentum=0.9"]
    if valid:
        options += ["--set", "steps_per_epoch=8", "--epochs", "6"]
    assert main(["fit", str(disks), str(run), *options]) == 0
    card.write_text(json.dumps(CARD))
    assert main(["pack", str(disks), str(run), str(model), "--card", str(card)]) == 0
    loaded = package.load(model)
    assert loaded.manifest.dimensions == 2 and loaded.manifest.preprocessing.axes == (2, 0, 1)
    if valid:
        assert loaded.manifest.inference.patch_size == (1, 192, 208)
    else:
        assert loaded.manifest.metrics[0]["dice"] > 0.8
        assert (run / "checkpoints" / "best.ckpt").exists()
    case = read_dataset(disks)[0].cases[0]
    answer = Predictor(loaded).predict(io.read_volume(case.images[0])).labels
    assert answer.array.shape == (48, 40, 1)
    bundle = json.loads((model / "configs" / "inference.json").read_text())
    assert bundle["inferer"]["_target_"] == "SliceInferer" and bundle["inferer"]["spatial_dim"] == 2


def plan(**more):
    chosen = {
        "name": "3d_fullres", "axes": ("i", "j", "k"), "spacing": (1.0, 1.0, 2.0), "median_shape": (20, 18, 12),
        "patch": (16, 16, 8), "batch": 2, "filters": (8, 16, 16), "kernels": ((3, 3, 1), (3, 3, 3), (3, 3, 3)),
        "strides": ((1, 1, 1), (2, 2, 1), (2, 2, 2)),
    }  # fmt: skip
    ct = {"channel": "MRI", "method": "ct", "mean": 110.0, "std": 20.0, "low": 80.0, "high": 200.0}
    return plan_file.Plan(
        dataset="Balls", channels=("MRI",), labels={0: "background", 1: "Shell", 2: "Core"}, cases=10, memory_gb=8,
        device="cuda", normalization=(ct,), configurations={"3d_fullres": chosen | more},
    )  # fmt: skip


def test_a_plan_decides_what_the_file_and_the_command_line_leave_open(balls, tmp_path):
    config = FitConfig.read(None, {"batch": 3}, **FitConfig.of_plan(plan()))
    assert config.batch == 3 and config.patch == (16, 16, 8) and config.strides == ((1, 1, 1), (2, 2, 1), (2, 2, 2))
    dataset, _ = read_dataset(balls)
    manifest = draft_manifest(dataset, config, dataset.cases)
    assert manifest.preprocessing.spacing == (1, 1, 2) and manifest.channels[0].normalization.clip == (80, 200)
    case = prepare(dataset.cases[0], manifest)
    image, label = dataset.cases[0].load()
    assert case.image.shape[1:] == case.classes.shape and case.classes.shape[2] == -(-image.grid.shape[2] // 2)
    assert case.image.min() >= (80 - 110) / 20 - 1e-6
    for value in (1, 2):  # resampled labels keep their volumes
        assert 2 * (case.classes == value).sum() == pytest.approx((label.array == value).sum(), rel=0.15)
    FitConfig.load(config.store(tmp_path / "config.json") and tmp_path / "config.json")
    with pytest.raises(DatasetError, match="has no configuration 'x'"):
        FitConfig.of_plan(plan(), "x")


def test_a_flat_plan_and_channels_that_do_not_fit(balls):
    flat = plan(
        name="2d", axes=("i", "k"), spacing=(1.0, 2.0), median_shape=(20, 12), patch=(16, 16),
        kernels=((3, 3),) * 3, strides=((1, 1), (2, 2), (2, 2)),
    )  # fmt: skip
    config = FitConfig.read(**FitConfig.of_plan(flat))
    assert config.dimensions == 2 and config.slice_axis == "j" and config.spacing == (1, 0, 2)
    dataset, _ = read_dataset(balls)
    how = draft_manifest(dataset, config, dataset.cases).preprocessing
    assert how.axes == (1, 0, 2) and how.spacing == (None, 1, 2)
    wrong = {"channel": "T2", "method": "zscore"}
    with pytest.raises(DatasetError, match="differ in the channel 'MRI'"):
        draft_manifest(dataset, config.changed(normalization=(wrong,)), dataset.cases)


def test_batch_normalisation_and_no_averaging_resume(balls, tmp_path):
    run = tmp_path / "run"
    options = ["--filters", "4,8,8", "--patch", "16,16,16", "--batch", "2", "--device", "cpu", "--validate-every", "1"]
    options += ["--set", "norm=batch", "--set", "schedule=plateau", "--set", "optimizer=sgd", "--set", "momentum=0.9"]
    for epochs in ("1", "2"):
        assert main(["fit", str(balls), str(run), *options, "--epochs", epochs]) == 0
    assert main(["fit", str(balls), str(tmp_path / "plain"), *options, "--set", "ema_decay=0", "--epochs", "1"]) == 0
    state = torch.load(run / "weights.pt", weights_only=True)
    assert any(key.endswith("running_mean") for key in state)


def test_a_plan_of_two_stages_gets_a_third_that_keeps_the_size():
    small = plan(filters=(8, 16), kernels=((3, 3, 1), (3, 3, 3)), strides=((1, 1, 1), (2, 2, 1)))
    config = FitConfig.read(**FitConfig.of_plan(small))
    assert config.filters == (8, 16, 16) and config.strides[2] == (1, 1, 1)
    network = build(manifest_entry(config, 1, 3)["arguments"]).eval()
    assert network(torch.zeros(1, 1, *config.patch)).shape == (1, 3, *config.patch)

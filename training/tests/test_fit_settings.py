"""What settings do to a run: stopping early, what ships, weights of classes, and a loss that is no number."""

import pytest
import torch
from unetsegment_training.cli import main
from unetsegment_training.config import FitConfig
from unetsegment_training.dataset import DatasetError
from unetsegment_training.fit import Cases
from unetsegment_training.patches import Prepared

SMALL = ["--filters", "4,8,8", "--patch", "16,16,16", "--batch", "2", "--device", "cpu"]


def settings(**values):
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def test_it_stops_early_and_ships_the_best(balls, tmp_path, capsys):
    run = tmp_path / "run"
    still = settings(learning_rate=1e-12, early_stopping=2, ship="best", validate_every=1, epochs=9)
    assert main(["fit", str(balls), str(run), *SMALL, *still]) == 0
    saved = {name: torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=False) for name in ("best", "last")}
    assert saved["last"]["epoch"] == 2 and saved["best"]["epoch"] == 0  # the first is never beaten
    assert "epoch 3/9" in capsys.readouterr().out


def test_a_loss_that_is_no_number_names_the_cases_and_keeps_the_checkpoint(balls, tmp_path, capsys):
    run = tmp_path / "run"
    wild = settings(learning_rate=1e30, optimizer="sgd", momentum=0, warmup_steps=0, gradient_clip=0, precision="fp32")
    assert main(["fit", str(balls), str(run), *SMALL, *wild, "--epochs", "3", "--validate-every", "9"]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert "The loss is not a number at step" in message and "ball_" in message


def test_a_deterministic_run_gives_the_same_bits_again(balls, tmp_path):
    asked = settings(deterministic="true", epochs=1, steps_per_epoch=2, validate_every=9)
    try:
        for name in ("one", "two"):
            assert main(["fit", str(balls), str(tmp_path / name), *SMALL, *asked]) == 0
        assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    one, two = (torch.load(tmp_path / name / "weights.pt", weights_only=True) for name in ("one", "two"))
    assert all(torch.equal(value, two[key]) for key, value in one.items())


def test_class_weights_are_one_per_class():
    classes = torch.zeros(4, 4, 4, dtype=torch.uint8).numpy()
    classes[0] = 1
    data = Cases(
        [Prepared("a", classes[None].astype("f4"), classes, (1, 1, 1))], [], FitConfig(class_weights="balanced")
    )
    weights = data.class_weights(3)
    assert weights == pytest.approx([0.5, 1.5, 0.0])  # 48 and 16 voxels, and a class that never occurs
    data.config = FitConfig(class_weights=(1, 2))
    with pytest.raises(DatasetError, match="class_weights has 2 numbers; the dataset has 3 classes"):
        data.class_weights(3)

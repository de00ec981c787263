"""Several processes that train together: the same batches, the same loss, the same weights as one process."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from unetsegment_training.cli import main
from unetsegment_training.config import FitConfig
from unetsegment_training.dataset import DatasetError
from unetsegment_training.patches import Patches, Prepared
from unetsegment_training.processes import Layout, first

SMALL = [
    "--filters", "4,8,8", "--patch", "16,16,16", "--batch", "4", "--device", "cpu", "--validate-every", "2",
    "--set", "precision=fp32", "--set", "schedule=constant", "--set", "warmup_steps=0",
]  # fmt: skip
PLACES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "SLURM_NTASKS", "SLURM_NNODES", "SLURM_PROCID")


def two(*arguments, program=("-m", "unetsegment_training.cli")):
    """The command, or another program, in two processes, as ``torchrun`` starts them."""
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*run, *map(str, (*program, *arguments))]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1200)


def cases():
    rng = np.random.default_rng(0)
    for n in range(5):
        classes = np.zeros((20, 18, 16), np.uint8)
        classes[5:12, 6:11, 4:9] = 1
        yield Prepared(str(n), rng.standard_normal((1, *classes.shape)).astype("f4"), classes, (1, 1, 1))


def test_processes_take_turns_in_the_places_of_one_batch():
    config = FitConfig(filters=(4, 4, 4), patch=(16, 16, 8), batch=6, steps_per_epoch=2, augmentation="nnunet")
    have = list(cases())
    whole = Patches(have, config)[3, 1]
    shares = [Patches(have, config, rank, 3)[3, 1] for rank in range(3)]
    for rank, (x, y, names) in enumerate(shares):
        assert torch.equal(x, whole[0][rank::3]) and torch.equal(y, whole[1][rank::3])
        assert names == whole[2][rank::3]


def test_loading_processes_give_the_same_batches():
    from torch.utils.data import DataLoader
    from unetsegment_training.patches import Steps

    patches = Patches(list(cases()), FitConfig(filters=(4, 4, 4), patch=(16, 16, 8), batch=2, steps_per_epoch=5))
    steps = Steps(len(patches))
    loaders = [DataLoader(patches, None, sampler=steps, num_workers=n, persistent_workers=n > 0) for n in (0, 2)]
    for epoch in (0, 1):
        steps.set_epoch(epoch)
        for step, (one, other) in enumerate(zip(*loaders, strict=True)):
            assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1]) and one[2] == other[2]
            assert torch.equal(one[0], patches[epoch, step][0])


def test_the_environment_says_how_many(monkeypatch):
    for name in (*PLACES, "SLURM_JOB_NAME"):
        monkeypatch.delenv(name, raising=False)
    assert Layout.of() == Layout(1, 1) and Layout.of(4, 2).world == 8 and first()
    monkeypatch.setenv("SLURM_NTASKS", "8")
    monkeypatch.setenv("SLURM_NNODES", "2")
    monkeypatch.setenv("SLURM_PROCID", "5")
    assert Layout.of() == Layout(4, 2) and not first()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("WORLD_SIZE", "6")
    monkeypatch.setenv("RANK", "0")
    assert Layout.of() == Layout(2, 3) and first()
    with pytest.raises(
        DatasetError, match="--devices 4 was asked for, but 2 processes on each of 3 nodes were started"
    ):
        Layout.of(4)


def test_a_batch_that_cannot_be_shared(balls, tmp_path, capsys):
    assert main(["fit", str(balls), str(tmp_path / "run"), *SMALL, "--devices", "3"]) == 1
    assert "A batch of 4 cannot be shared by 3 processes; make it 6." in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


SGD = ["--set", "optimizer=sgd", "--set", "momentum=0.9", "--learning-rate", "0.05", "--set", "ema_decay=0"]
ADAMW = ["--set", "optimizer=adamw", "--set", "weight_decay=0.1", "--learning-rate", "0.01", "--set", "ema_decay=0.9"]
WEIGHTED = ["--set", "class_weights=[1.0, 2.0, 3.0]"]  # their mean goes over all processes too


@pytest.mark.slow
@pytest.mark.parametrize(("options", "parts"), [(SGD + WEIGHTED, "12"), (ADAMW, "2")], ids=["sgd", "adamw-averaged"])
def test_two_processes_end_with_the_weights_of_one(balls, tmp_path, options, parts):
    """Also where they were interrupted after the first of two epochs. Sums in another order are all that differs."""
    options = [*SMALL, *options]
    assert main(["fit", str(balls), str(tmp_path / "one"), *options, "--epochs", "2"]) == 0
    for epochs in parts:
        done = two("fit", balls, tmp_path / "two", *options, "--epochs", epochs)
        assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("epoch 2/2") == 1 and "on 2 processes" in done.stdout  # one of them speaks
    one, both = (torch.load(tmp_path / run / "weights.pt", weights_only=True) for run in ("one", "two"))
    saved = torch.load(tmp_path / "two" / "checkpoints" / "last.ckpt", weights_only=False)
    assert saved["global_step"] == 4
    for key in one:
        torch.testing.assert_close(both[key], one[key], rtol=1e-4, atol=1e-4 if options[-1] == ADAMW[-1] else 1e-5)
    if "current_model_state" in saved:  # what ships is the mean, which differs from the last step's weights
        last = {key.removeprefix("network."): value for key, value in saved["current_model_state"].items()}
        assert max(float((last[key] - both[key]).abs().max()) for key in both) > 1e-3
    assert ("current_model_state" in saved) == ("ema_decay=0.9" in options)
    logs = [sorted((tmp_path / run).glob("log/*/metrics.csv"))[-1].read_text() for run in ("one", "two")]
    dices = [[line for line in log.splitlines() if line][0] for log in logs]
    assert all("dice" in head for head in dices)


BROKEN = """
import os, sys
from unetsegment_training.cli import main
from unetsegment_training.patches import Patches

whole = Patches.__getitem__
def spoilt(patches, index):
    x, y, names = whole(patches, index)
    if os.environ["RANK"] == "1" and index == (0, 1):
        x[0, 0, 0, 0, 0] = float("nan")
    return x, y, names
Patches.__getitem__ = spoilt
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_loss_that_is_no_number_in_one_process_stops_both(balls, tmp_path):
    script = tmp_path / "broken.py"
    script.write_text(BROKEN)
    done = two("fit", balls, tmp_path / "run", *SMALL, "--epochs", "2", "--loss", "ce", program=[script])
    assert done.returncode != 0
    told = [line for line in done.stderr.splitlines() if "The loss is not a number at step 1" in line]
    assert len(told) == 1 and told[0].count("ball_") == 4  # the cases of both

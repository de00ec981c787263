"""When memory or disk is short: one sentence that says what to do, and the run folder as it was."""

import os
import subprocess
import sys

import pytest
import torch
from unetsegment_training.cli import main
from unetsegment_training.config import FitConfig
from unetsegment_training.pace import loading_processes
from unetsegment_training.troubles import advice

LIMITED = """
import resource, sys
import torch, unetsegment_training.fit
from unetsegment_training.cli import main
if "address" in sys.argv[1]:
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 700 * 2**20,) * 2)
else:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
sys.exit(main(sys.argv[3:]))
"""
SMALL = ["--filters", "16,16,16", "--batch", "2", "--device", "cpu", "--validate-every", "9", "--set", "precision=fp32"]


def limited(what, size, *arguments):
    command = [sys.executable, "-c", LIMITED, what, str(size), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


linux = pytest.mark.skipif(sys.platform != "linux", reason="limits are Linux's")


@linux
def test_memory_that_runs_out_names_the_knobs_and_the_run_goes_on_with_others(balls, tmp_path, capsys):
    run = tmp_path / "run"
    done = limited("address", 0, "fit", balls, run, *SMALL, "--patch", "96,96,80", "--epochs", "1")
    assert done.returncode == 1, done.stderr[-2000:]
    told = done.stderr.splitlines()[-1]
    assert told.startswith("unetsegment-train: Memory ran out (training step 0, batch 2, patch 96 x 96 x 80, precision")
    for way in ("set checkpointing = true", "set batch = 1", "set patch = [48, 96, 80]", "set filters = [8, 8, 8]"):
        assert way in told
    assert main(["fit", str(balls), str(run), *SMALL, "--patch", "16,16,16", "--epochs", "1"]) == 0  # nothing was begun
    assert main(["fit", str(balls), str(run), *SMALL, "--patch", "8,16,16", "--epochs", "2"]) == 1
    assert "holds a run with patch" in capsys.readouterr().err
    assert (
        main(
            ["fit", str(balls), str(run), *SMALL, "--patch", "16,16,16", "--epochs", "2", "--set", "checkpointing=true"]
        )
        == 0
    )


@linux
def test_a_full_disk_keeps_the_last_checkpoint(balls, tmp_path):
    run = tmp_path / "run"
    small = [*SMALL, "--patch", "16,16,16"]
    assert main(["fit", str(balls), str(run), *small, "--epochs", "1"]) == 0
    before = (run / "checkpoints" / "last.ckpt").read_bytes()
    done = limited("disk", len(before) // 2, "fit", balls, run, *small, "--epochs", "2")
    assert done.returncode == 1, done.stderr[-2000:]
    assert "The disk is full or its quota is used up" in done.stderr.splitlines()[-1]
    assert (run / "checkpoints" / "last.ckpt").read_bytes() == before
    assert os.listdir(run / "checkpoints") == ["last.ckpt"]
    assert main(["fit", str(balls), str(run), *small, "--epochs", "2"]) == 0
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=False)["epoch"] == 1


def test_advice_knows_its_errors():
    config = FitConfig(batch=1, filters=(4, 4, 4), patch=(40, 56, 40), checkpointing=True)
    told = advice(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), config, "training step 7")
    assert "training step 7, batch 1, patch 40 x 56 x 40" in told and "set patch = [40, 28, 40]" in told
    assert "checkpointing" not in told and "batch =" not in told
    assert "workers = 0" in advice(
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error."), config, "x"
    )
    assert advice(RuntimeError("sizes do not match"), config, "x") is None
    assert advice(FileNotFoundError(2, "no such file"), config, "x") is None


def test_loading_processes_leave_cores_to_training(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    asked = [("cpu", 1), ("cuda", 1), ("cuda", 8)]
    assert [loading_processes(None, *each) for each in asked] == [0, 12, 0]
    assert loading_processes(5, "cpu") == 5
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert loading_processes(None, "cuda") == 0

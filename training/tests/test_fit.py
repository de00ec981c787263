"""The whole way: fit, kill, resume, pack, evaluate, and stock MONAI on the package."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from unetsegment_training.cli import main
from unetsegment_training.dataset import read_dataset
from UNetSegmentLib import io, package
from UNetSegmentLib.package import thumbnail
from UNetSegmentLib.predict import Predictor

SMALL = [
    "--epochs",
    "4",
    "--filters",
    "8,16,16",
    "--patch",
    "16,16,16",
    "--batch",
    "2",
    "--validate-every",
    "2",
    "--device",
    "cpu",
]
CARD = {"name": "balls", "title": "Balls", "version": "1.0.0", "description": "Balls.", "intended_use": "Tests."}


def command(*arguments):
    return [sys.executable, "-m", "unetsegment_training.cli", *map(str, arguments)]


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_and_ends_like_an_unbroken_run(balls, tmp_path):
    assert main(["fit", str(balls), str(tmp_path / "whole"), *SMALL]) == 0
    for attempt in range(12):
        process = subprocess.Popen(
            command("fit", balls, tmp_path / "broken", *SMALL), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        last = tmp_path / "broken" / "checkpoints" / "last.ckpt"
        before = last.stat().st_mtime if last.exists() else 0
        while process.poll() is None and attempt < 3:
            time.sleep(0.02)
            if last.exists() and last.stat().st_mtime != before:
                time.sleep(0.1 * attempt)  # somewhere in the next epoch
                os.kill(process.pid, signal.SIGKILL) if hasattr(signal, "SIGKILL") else process.kill()
        if process.wait() == 0:
            break
    whole, broken = (torch.load(tmp_path / run / "weights.pt", weights_only=True) for run in ("whole", "broken"))
    assert attempt >= 1  # it was interrupted at least once
    for key in whole:
        torch.testing.assert_close(whole[key], broken[key])


@pytest.mark.slow
def test_fit_pack_evaluate_and_stock_monai_agree(balls, tmp_path, capsys):
    run, model = tmp_path / "run", tmp_path / "balls-model"
    fast = [*SMALL, "--learning-rate", "0.01"]
    fast[1] = "30"
    assert main(["fit", str(balls), str(run), *fast]) == 0
    card = tmp_path / "card.json"
    card.write_text(json.dumps(CARD))
    picture = package.load("hippocampus-mr-t1").root / thumbnail.PLACE
    assert main(["pack", str(balls), str(run), str(model), "--card", str(card), "--thumbnail", str(picture)]) == 0
    loaded = package.load(model)
    assert thumbnail.of_folder(model).read_bytes() == picture.read_bytes()
    loaded.verify()
    assert {m["label"] for m in loaded.manifest.metrics} == {1, 2}
    assert min(m["dice"] for m in loaded.manifest.metrics) > 0.6  # it learned the balls
    rows = (run / "evaluation" / "cases.csv").read_text().splitlines()
    assert rows[0].startswith("case,label,name,dice,iou,hd95_mm,surface_dice") and len(rows) == 1 + 2 * 2

    pytest.importorskip("fire")
    pytest.importorskip("ignite")
    case = read_dataset(balls)[0].cases[0]
    bundle = ["-m", "monai.bundle", "run", "--config_file", "configs/inference.json", "--bundle_root", "."]
    keys = ["--datalist", f"$['{case.images[0]}']", "--output_dir", str(tmp_path / "stock")]
    subprocess.run([sys.executable, *bundle, *keys], cwd=model, check=True, capture_output=True)
    theirs = io.read_labelmap(next((tmp_path / "stock").rglob("*.nii.gz"))).array
    ours = Predictor(loaded).predict(io.read_volume(case.images[0])).labels.array
    assert np.mean(ours == theirs) >= 0.999


def test_a_run_folder_belongs_to_its_settings(balls, tmp_path, capsys):
    run = tmp_path / "run"
    small = [*SMALL]
    small[1] = "1"
    assert main(["fit", str(balls), str(run), *small]) == 0
    more = [*small]
    more[1] = "2"
    assert main(["fit", str(balls), str(run), *more]) == 0
    logs = sorted(run.glob("log/*/metrics.csv"))
    epochs = {row["epoch"] for log in logs for row in csv.DictReader(log.open())}
    assert {"0", "1"} <= epochs  # going on keeps the logs of the epochs before
    assert main(["fit", str(balls), str(run), *small, "--seed", "7"]) == 1
    assert "holds a run with seed = 0, now 7 is asked for" in capsys.readouterr().err
    assert (
        main(["pack", str(balls), str(tmp_path / "none"), str(tmp_path / "x"), "--card", str(run / "config.json")]) == 1
    )
    assert not (tmp_path / "x").exists()


def test_devices_that_are_not_here(balls, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for device, words in (("quantum", "There is no device 'quantum'"), ("gpu", "PyTorch finds no GPU")):
        assert main(["fit", str(balls), str(tmp_path / "run"), *SMALL[:-1], device]) == 1
        assert words in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fit", "nowhere", "run"], "There is no folder 'nowhere'"),
        (["fit", "nowhere", "run", "--patch", "17,16,16"], "multiple of 8"),
        (["fit", "nowhere", "run", "--fold", "9"], "Fold 9 does not exist"),
        (["fit", "nowhere", "run", "--wrong", "9"], "No such option"),
        (["fit", "nowhere", "run", "--patch", "a,b"], "'a,b' are no whole numbers"),
        (["fit", "nowhere", "run", "--learning-rate", "inf"], "learning_rate cannot be 'inf'"),
    ],
)
def test_mistakes_are_one_line(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    message = capsys.readouterr().err
    assert words in message and message.count("\n") == 1

"""Run folders that are damaged, of something else, or not there to be written: one sentence, and everything as it was."""

import json
import math
import re
import shutil

import pytest
import torch
from unetsegment_training.cli import main
from unetsegment_training.plan_file import Configuration, Normalization, Plan

SMALL = ["--filters", "4,4,4", "--patch", "8,8,8", "--batch", "2", "--device", "cpu", "--set", "precision=fp32"]
LINE = [*SMALL, "--set", "steps_per_epoch=1", "--validate-every", "9"]


@pytest.fixture(scope="module")
def work(tmp_path_factory, make_balls):
    """A dataset, and a run of one epoch on it."""
    root = tmp_path_factory.mktemp("folders")
    make_balls(root / "balls", 5)
    assert main(["fit", str(root / "balls"), str(root / "run"), *LINE, "--epochs", "1"]) == 0
    return root


@pytest.fixture
def run(work, tmp_path):
    """A copy of the run to change."""
    return shutil.copytree(work / "run", tmp_path / "run")


def content(folder):
    """Every file but the logs of starts."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "tensorboard"]
    return {path: path.read_bytes() for path in files}


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {
    "settings": (lambda run: half(run / "config.json"), "holds no settings of a run"),
    "other settings": (lambda run: (run / "config.json").write_text('{"trainer": "x"}'), "holds no settings of a run"),
    "split": (lambda run: half(run / "split.json"), "'.*split.json' is damaged"),
    "other split": (lambda run: (run / "split.json").write_text('{"a": 1}'), "is not a list of folds"),
    "manifest": (lambda run: half(run / "manifest.json"), "'.*manifest.json' is damaged"),
    "checkpoint": (lambda run: half(run / "checkpoints" / "last.ckpt"), "checkpoint '.*last.ckpt' is damaged"),
    "empty checkpoint": (
        lambda run: (run / "checkpoints" / "last.ckpt").write_bytes(b""),
        "checkpoint '.*last.ckpt' is damaged",
    ),
    "settings gone": (lambda run: (run / "config.json").unlink(), "has 'manifest.json' but no run"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_run_is_left_as_it_is(work, run, name, capsys):
    damage, words = DAMAGE[name]
    damage(run)
    before = content(run)
    assert main(["fit", str(work / "balls"), str(run), *LINE, "--epochs", "1"]) == 1
    error = capsys.readouterr().err
    assert re.search(words, error) and error.count("\n") == 1
    assert content(run) == before


def test_folders_of_something_else_are_not_written_to(work, tmp_path, capsys):
    dataset, other, file = work / "balls", tmp_path / "other", tmp_path / "file"
    file.write_text("mine")
    other.mkdir()
    (other / "config.json").write_text('{"another": "program"}')
    for place, words in (
        (dataset, "holds a dataset; give another folder"),
        (file, "is a file; give a folder"),
        (file / "run", "cannot be used (Not a directory)"),
        (other, "holds no settings of a run"),
    ):
        before = content(tmp_path) | content(dataset)
        assert main(["fit", str(dataset), str(place), *LINE, "--epochs", "1"]) == 1
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
        assert content(tmp_path) | content(dataset) == before


def test_a_fold_that_a_split_of_ones_own_lacks(work, tmp_path, capsys):
    names = sorted(path.name.partition(".")[0] for path in (work / "balls" / "imagesTr").iterdir())
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "split.json").write_text(json.dumps([{"train": names[1:], "val": names[:1]}]))
    assert main(["fit", str(work / "balls"), str(tmp_path / "run"), *LINE, "--fold", "3"]) == 1
    assert "There is no fold 3" in capsys.readouterr().err


def test_an_image_under_two_names_does_not_train_and_validate(work, tmp_path, capsys):
    balls = shutil.copytree(work / "balls", tmp_path / "balls")
    for folder in ("imagesTr", "labelsTr"):
        shutil.copy(balls / folder / "ball_00.nii.gz", balls / folder / "twin.nii.gz")
    names = [f"ball_{n:02d}" for n in range(5)]
    run = tmp_path / "run"
    run.mkdir()
    line = ["fit", str(balls), str(run), *LINE, "--epochs", "1"]
    (run / "split.json").write_text(json.dumps([{"train": names, "val": ["twin"]}]))
    assert main(line) == 1
    assert "'twin' validates and is the same image as 'ball_00', which trains" in capsys.readouterr().err
    (run / "split.json").write_text(json.dumps([{"train": [*names[1:]], "val": ["ball_00", "twin"]}]))
    assert main(line) == 0


def test_weights_that_are_no_numbers_do_not_replace_the_last_good_ones(work, run, capsys, monkeypatch):
    """A last step that spoils them shows in no loss of that epoch."""
    before = (run / "checkpoints" / "last.ckpt").read_bytes()
    step = torch.optim.AdamW.step

    def spoilt(optimizer, *arguments, **options):
        result = step(optimizer, *arguments, **options)
        optimizer.param_groups[0]["params"][0].data[0] = math.nan
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", spoilt)
    assert main(["fit", str(work / "balls"), str(run), *LINE, "--epochs", "2"]) == 1
    assert "Weights are not numbers after step 2" in capsys.readouterr().err
    assert (run / "checkpoints" / "last.ckpt").read_bytes() == before


def test_a_plan_of_another_dataset(work, tmp_path, capsys):
    chosen = Configuration(
        name="3d_fullres", axes=("i", "j", "k"), spacing=(1, 1, 1), median_shape=(20, 18, 23), patch=(8, 8, 8), batch=2,
        filters=(4, 4, 4), kernels=((3, 3, 3),) * 3, strides=((1, 1, 1), (2, 2, 2), (2, 2, 2)),
    )  # fmt: skip
    plan = Plan(
        dataset="Livers", channels=("MRI",), labels={0: "background", 1: "Liver"}, cases=9, memory_gb=8, device="cpu",
        normalization=(Normalization(channel="MRI", method="zscore"),), configurations={"3d_fullres": chosen},
    )  # fmt: skip
    path = tmp_path / "plan.json"
    path.write_text(plan.model_dump_json())
    line = ["fit", str(work / "balls"), str(tmp_path / "run"), *LINE]
    assert main([*line, "--plan", str(path)]) == 1
    assert "The plan is for the labels background, Liver of 'Livers'" in capsys.readouterr().err
    assert main([*line, "--configuration", "2d"]) == 1
    assert "--configuration belongs to --plan" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_cases_that_a_run_trained_on_do_not_pass_for_validation(work, tmp_path, capsys):
    line = ["evaluate", str(work / "balls"), "hippocampus-mr-t1", str(tmp_path / "out"), "--run", str(work / "run")]
    assert main([*line, "--fold", "2"]) == 1
    assert "trained on the cases of fold 2; those that it has not seen are fold 0" in capsys.readouterr().err
    assert main([*line, "--previous", str(tmp_path)]) == 1
    assert "holds no cases.json" in capsys.readouterr().err
    whole = shutil.copytree(work / "run", tmp_path / "whole")
    config = json.loads((whole / "config.json").read_text())
    (whole / "config.json").write_text(json.dumps(config | {"fold": -1}))
    line[-1] = str(whole)
    assert main(line) == 1
    assert "trained on every case; measure it on others" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_report_says_whether_the_cases_are_new_to_the_model(work, tmp_path, capsys):
    names = ["evaluate", str(work / "balls"), "hippocampus-mr-t1"]
    assert main([*names, str(tmp_path / "own"), "--run", str(work / "run")]) == 0
    assert "1 case," in (page := (tmp_path / "own" / "report.html").read_text())
    assert "which was not trained on them." in page
    assert main([*names, str(tmp_path / "all")]) == 0
    assert "Whether the model was trained on them is not known here." in (tmp_path / "all" / "report.html").read_text()
    told = capsys.readouterr().err
    assert "compared by value: 'Shell' with 'Anterior hippocampus', 'Core' with 'Posterior hippocampus'" in told

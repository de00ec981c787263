"""The command line: exit codes, one line per error, and what is written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from UNetSegmentLib import cli, io
from UNetSegmentLib.labels import Label
from UNetSegmentLib.volume import Grid, LabelMap, dice

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "Resources" / "SampleData" / "hippocampus" / "hippocampus_084_image.nii.gz"
EXPERT = SAMPLE.with_name("hippocampus_084_label.nii.gz")
MODEL = "hippocampus-mr-t1"


def run(*arguments: object) -> int:
    return cli.main([str(a) for a in arguments])


def test_segment_writes_labels_and_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.seg.nrrd"
    assert run("segment", SAMPLE, "-m", MODEL, "-o", out, "--compare", EXPERT, "--threads", 1) == 0
    printed = capsys.readouterr().out
    assert "Anterior hippocampus" in printed and " ml" in printed and "Dice 0." in printed
    result = io.read_labelmap(out)
    assert result.grid.is_close(io.read_volume(SAMPLE).grid)
    assert all(label.terminology for label in result.segments)
    assert any(MODEL in text for text in result.metadata.values())
    expert = io.read_labelmap(EXPERT).array
    assert all(dice(result.array == label.value, expert == label.value) > 0.8 for label in result.segments)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image": "gone.nii.gz"}, "no file or folder"),
        ({"out": "out.jpg"}, "no known ending"),
        ({"out": "gone/out.nrrd"}, "Cannot write"),
        ({"model": "no-such-model"}, "no-such-model"),
        ({"extra": ["--preview", "gone/a.png"]}, "Cannot write"),
        ({"extra": ["--compare", "gone.nrrd"]}, "no file"),
        ({"extra": [str(SAMPLE)]}, "2 were given"),
    ],
)
def test_an_error_is_one_line_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], change: dict, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    image, out, model = change.get("image", SAMPLE), change.get("out", "out.nrrd"), change.get("model", MODEL)
    extra = change.get("extra", [])
    images = [image, *(e for e in extra if e == str(SAMPLE))]
    code = run("segment", *images, "-m", model, "-o", out, *(e for e in extra if e != str(SAMPLE)))
    error = capsys.readouterr().err
    assert code == 1 and words in error and error.count("\n") == 1 and "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_an_unexpected_fault_is_one_line_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a\nb")

    monkeypatch.setattr(io, "read_volume", fail)
    arguments = ("segment", SAMPLE, "-m", MODEL, "-o", tmp_path / "out.nrrd")
    assert run(*arguments) == 1
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(ZeroDivisionError):
        run(*arguments, "--debug")


def test_the_expert_on_another_grid_is_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = Grid.from_spacing((3, 3, 3), (1, 1, 1))
    other = tmp_path / "other.nrrd"
    io.write_labelmap(other, LabelMap(np.zeros(grid.shape, np.uint8), grid, (Label(1, "a"),)))
    assert run("segment", SAMPLE, "-m", MODEL, "-o", tmp_path / "out.nrrd", "--compare", other) == 1
    assert "not on the grid" in capsys.readouterr().err
    assert not (tmp_path / "out.nrrd").exists()


def test_models_lists_what_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models") == 0
    assert MODEL in capsys.readouterr().out


def test_as_a_program_it_starts_without_the_heavy_libraries() -> None:
    code = "import sys, UNetSegmentLib.cli; print([m for m in ('torch', 'monai', 'SimpleITK', 'openvino', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "UNetSegment", capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "UNetSegmentLib.cli", "segment"],
        cwd=ROOT / "UNetSegment",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "required" in done.stderr

"""``unetsegment models ...`` and ``unetsegment info``: readable tables, one sentence per error."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from synthetic import catalogs
from synthetic.server import serve
from synthetic.zips import model, zipped
from UNetSegmentLib import cli, io
from UNetSegmentLib.labels import Label
from UNetSegmentLib.volume import Grid, LabelMap

OURS = "hippocampus-mr-t1"


pytestmark = pytest.mark.usefixtures("cache")


class Run:
    """What a command answered: exit code, and the lines of both streams."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: object) -> None:
        capsys.readouterr()
        self.code = cli.main([str(a) for a in arguments])
        captured = capsys.readouterr()
        self.out, self.error = captured.out.splitlines(), captured.err.splitlines()

    def row(self, start: str) -> str:
        return next(line for line in self.out if line.strip(" *-").startswith(start))


def catalog(path: Path, url: str, **download: object) -> Path:
    speed = {"cpu": 2.5, "gpu": 0.5, "on": "a test computer"}
    return catalogs.write(path, catalogs.entry(url, task="Things for tests", seconds=speed, download=download))


def test_the_life_of_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("requests")
    with serve(zipped(model(tmp_path / "source"))) as server:
        extra = ("--catalog", catalog(tmp_path / "catalog.json", server.url))
        found = Run(capsys, "models", "search", "things", *extra)
        assert found.code == 0 and "MR · Things for tests · CC0-1.0" in found.row("synthetic")
        about = Run(capsys, "models", "info", "synthetic", *extra)
        assert "trusted on first use" in about.row("hash") and "2.5 s on the CPU" in about.row("seconds")
        assert about.row("clinical use").endswith("no") and about.row("commercial use").endswith("not known")
        got = Run(capsys, "models", "get", "synthetic", *extra)
        assert got.code == 0 and "ready" in got.out[0] and "No hash is published" in got.out[1] and got.error == []
        again = Run(capsys, "models", "get", "synthetic", *extra)
        assert again.out[1] == "'synthetic' 1.0.0 is here already."
        assert Run(capsys, "models", "search", "things", *extra).out[-1] == "* on this computer"
        assert server.url in "".join(Run(capsys, "models", "info", "synthetic").out)
    listed = Run(capsys, "models", "list")
    assert listed.code == 0 and listed.out == Run(capsys, "models").out
    assert "ships" in listed.row(OURS) and "MR T1" in listed.row("synthetic")
    assert Run(capsys, "models", "verify").out == [f"{OURS}: sound", "synthetic: sound (2 files)"]
    removed = Run(capsys, "models", "remove", "synthetic")
    assert removed.code == 0 and removed.out[0] == "synthetic removed, 1 kB freed"
    assert not any("synthetic" in line for line in Run(capsys, "models").out)


def test_import_verify_and_remove_all(tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zipped(model(tmp_path / "mine"))
    assert "mine-2 1.0.0 is ready" in Run(capsys, "models", "import", tmp_path / "mine.zip", "--name", "mine-2").out[0]
    assert "synthetic 1.0.0 is ready" in Run(capsys, "models", "import", tmp_path / "mine").out[0]
    (cache / "models" / "mine-2" / "models" / "model.onnx").write_bytes(b"harmed!")
    one = Run(capsys, "models", "verify", "mine-2")
    assert one.code == 1 and len(one.error) == 1 and "checksum of models/model.onnx is wrong" in one.error[0]
    every = Run(capsys, "models", "verify")
    assert every.code == 1 and every.error[-1].endswith("1 of 3 models failed the check.") and len(every.out) == 2
    assert "all models removed" in Run(capsys, "models", "remove", "--all").out[0]
    assert len(Run(capsys, "models").out) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["get", "nothing-like-it"], "No catalog has a model"),
        (["get", "wholebrainseg-large-unest-segmentation"], "cannot be run by UNetSegment"),
        (["info", "nothing-like-it"], "No catalog has a model"),
        (["import", "gone.zip"], "no file or folder"),
        (["verify", "nothing-like-it"], "no installed model"),
        (["remove"], "Name the models to remove"),
        (["remove", OURS, "--all"], "Name the models to remove"),
        (["remove", OURS], "cannot be removed"),
        (["remove", "../../etc"], "no installed model"),
    ],
)
def test_an_error_is_one_sentence(capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    done = Run(capsys, "models", *arguments)
    assert done.code == 1 and done.out == [] and len(done.error) == 1
    assert done.error[0].startswith("unetsegment: ") and words in done.error[0]


def test_a_wrong_file_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("requests")
    with serve(b"something else") as server:
        wrong = hashlib.sha256(b"the right thing").hexdigest()
        extra = ("--catalog", catalog(tmp_path / "catalog.json", server.url, sha256=wrong))
        done = Run(capsys, "models", "get", "synthetic", *extra)
    assert done.code == 1 and len(done.error) == 1 and "is not the file that was promised" in done.error[0]


def test_remarks_on_catalogs_go_to_the_error_stream(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = Run(capsys, "models", "search", "spleen", "--catalog", tmp_path / "gone.json")
    assert done.code == 0 and len(done.error) == 1 and "cannot be read" in done.error[0]
    assert done.row("spleen-ct-segmentation")


def test_search_without_a_find(capsys: pytest.CaptureFixture[str]) -> None:
    assert Run(capsys, "models", "search", "unicorn").out == ["No model of the catalogs has these words."]
    free = Run(capsys, "models", "search", "--commercial").out
    assert not any("multi-organ-segmentation" in line for line in free)


def test_info_prints_how_a_result_was_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = Grid.from_spacing((3, 4, 5), (1, 1, 1))
    made = {
        "model": OURS,
        "model_version": "1.0.0",
        "model_hash": "a" * 64,
        "options": json.dumps({"patch_size": [40, 56, 40], "overlap": 0.5}),
        "software": json.dumps({"unetsegment": "0.1.0", "numpy": "2.0"}),
        "time": "2026-01-01T00:00:00+00:00",
    }
    labels = LabelMap(np.zeros(grid.shape, np.uint8), grid, (Label(1, "a"),), made)
    io.write_labelmap(tmp_path / "a.seg.nrrd", labels)
    done = Run(capsys, "info", tmp_path / "a.seg.nrrd")
    assert done.code == 0 and done.row("model ").split() == ["model", OURS]
    assert done.row("model hash").endswith("a" * 64)
    assert done.row("options").endswith("patch_size 40x56x40, overlap 0.5")
    assert done.row("software").endswith("unetsegment 0.1.0, numpy 2.0")
    io.write_labelmap(tmp_path / "a.nii.gz", labels)
    done = Run(capsys, "info", tmp_path / "a.nii.gz")
    assert [line.split()[-1] for line in done.out] == [OURS, "1.0.0", "a" * 16]
    io.write_labelmap(tmp_path / "b.nii.gz", LabelMap(labels.array, grid, labels.labels))
    io.write_labelmap(tmp_path / "c.nii.gz", labels, {"model": "x" * 64})
    for file, words in (
        ("b.nii.gz", "does not say how it was made"),
        ("c.nii.gz", "does not say how it was made"),
        ("gone.nrrd", "no file"),
    ):
        done = Run(capsys, "info", tmp_path / file)
        assert done.code == 1 and len(done.error) == 1 and words in done.error[0]

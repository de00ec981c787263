"""The cache of models: what is in it was proven, what fails leaves it as it was, and nothing else is touched."""

from __future__ import annotations

import gzip
import os
import shutil
from pathlib import Path

import pytest
from synthetic.stores import models_there
from synthetic.zips import model, zipped
from UNetSegmentLib import package
from UNetSegmentLib.errors import Cancelled, PackageError
from UNetSegmentLib.package import store

pytest.importorskip("requests")
pytestmark = pytest.mark.usefixtures("cache")


@pytest.mark.parametrize("as_zip", [False, True])
def test_import_needs_no_network_and_leaves_the_original(tmp_path: Path, as_zip: bool) -> None:
    source = model(tmp_path / "mine")
    if as_zip:
        zipped(source)
        shutil.rmtree(source)
        source = tmp_path / "mine.zip"
    outcome = store.import_(source)
    assert outcome.name == "synthetic" and outcome.remarks == () and source.exists()
    assert store.verify("synthetic") == 2
    assert "replaces" in store.import_(source).remarks[0]
    assert store.import_(source, name="copy-2").name == "copy-2"
    assert {"synthetic", "copy-2"} <= set(store.installed())


def test_import_leaves_patients_behind(tmp_path: Path) -> None:
    source = model(tmp_path / "mine")
    for name in (
        "fold_0/validation/summary.json",
        "predictions/Patient.NII.gz",
        "scan.dcm",
        ".git/config",
        "fold_0/keep.json",
    ):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("{}")
    store.import_(source)
    kept = {name for name in models_there() if name.startswith("models/")}
    assert {name.removeprefix("models/synthetic/") for name in kept} == {
        "configs/manifest.json",
        "models/model.onnx",
        "fold_0/keep.json",
    }


@pytest.mark.parametrize(
    ("name", "words"),
    [("..", "cannot be the name"), ("a/b", "cannot be"), ("", "cannot be"), ("CON", "cannot be"), ("nul", "cannot be")],
)
def test_names_that_cannot_be(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(PackageError, match=words):
        store.import_(model(tmp_path / "mine"), name=name)
    for action in (store.remove, store.info, store.verify):
        with pytest.raises(PackageError, match="no installed model"):
            action(name)


def test_import_of_what_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.zip").write_text("no zip")
    (tmp_path / "cut.zip").write_bytes(zipped(model(tmp_path / "mine"))[:-100])
    (tmp_path / "image.nii.gz").write_bytes(gzip.compress(b"voxels"))
    there = models_there()
    for source, words in (
        ("gone", "no file or folder"),
        ("empty", r"not a model package: there is no configs/manifest.json .* MONAI bundle .* nnU-Net \(plans.json"),
        ("text.zip", "'text.zip' is not a zip file; give the zip or the folder of a model"),
        ("image.nii.gz", "not a zip file; give the zip"),
        ("cut.zip", "not a sound zip file .*; fetch it again"),
    ):
        with pytest.raises(PackageError, match=words):
            store.import_(tmp_path / source)
    assert models_there() == there


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_import_of_a_damaged_model(tmp_path: Path, packed: bool) -> None:
    source = model(tmp_path / "mine")
    weights = next(file for file in package.load(source).manifest.files.values())
    (source / weights.path).write_bytes((source / weights.path).read_bytes()[:-1])
    if packed:
        (tmp_path / "mine.zip").write_bytes(zipped(source))
        source = tmp_path / "mine.zip"
    there = models_there()
    with pytest.raises(PackageError, match=f"'synthetic' is damaged: the checksum of {weights.path} is wrong"):
        store.import_(source)
    assert models_there() == there


@pytest.mark.parametrize("harm", ["change", "cut", "delete", "extra"])
def test_verify_finds_every_change(tmp_path: Path, cache: Path, harm: str) -> None:
    source = model(tmp_path / "mine")
    (source / "notes.txt").write_text("not in the manifest")
    store.import_(source)
    notes = cache / "models" / "synthetic" / "notes.txt"
    if harm == "delete":
        notes.unlink()
    elif harm != "extra":
        notes.write_text("not in the manifesT" if harm == "change" else "not")
    if harm == "extra":
        (notes.parent / "more.txt").write_text("a note of the user's own")
        assert store.verify("synthetic") == 3
        return
    with pytest.raises(PackageError, match="notes.txt is missing" if harm == "delete" else "notes.txt is wrong"):
        store.verify("synthetic")


def test_remove_frees_the_space_and_nothing_else(tmp_path: Path, cache: Path) -> None:
    for name in ("one", "two"):
        store.import_(model(tmp_path / name, bytes(100_000), name=name))
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("keep")
    if os.name != "nt":
        (cache / "models" / "two" / "link").symlink_to(outside)
    compiled = package.load("one").compiled_folder
    compiled.mkdir(parents=True)
    (compiled / "x.blob").write_bytes(bytes(200_000))
    assert store.remove("one") > 300_000 and not compiled.exists()
    assert not (cache / "models" / "one").exists() and "one" not in store.installed()
    (cache / "downloads").mkdir(exist_ok=True)
    (cache / "downloads" / "x.zip.part").write_bytes(bytes(50_000))
    (cache / "compiled" / "x.blob").write_bytes(bytes(50_000))
    (cache / "catalogs").mkdir()
    (cache / "catalogs" / "mine.json").write_text("{}")
    assert store.remove_all() > 200_000
    assert (outside / "precious").read_text() == "keep"
    assert list(models_there()) == ["catalogs/mine.json"]
    assert store.remove_all() == 0


def test_what_the_loader_converted_goes_with_its_model(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for models of other kinds: loading makes a package in ``converted``, named by the content."""
    real = package.load

    def load(source: Path) -> package.Package:
        if not (Path(source) / "foreign.txt").is_file():
            return real(source)
        made = cache / "converted" / (Path(source) / "foreign.txt").read_text()
        return real(made if made.is_dir() else model(made, bytes(50_000), name="foreign"))

    monkeypatch.setattr(package.package, "load", load)
    source = tmp_path / "foreign"
    source.mkdir()
    (source / "foreign.txt").write_text("abc123")
    for name in ("first", "second"):
        store.import_(source, name)
    assert store.info("first").size > 50_000 and store.verify("first") == 1
    assert store.remove("first") < 1000 and (cache / "converted" / "abc123").is_dir()  # the second needs it
    assert store.remove("second") > 50_000 and not (cache / "converted" / "abc123").exists()
    (source / "foreign.txt").write_text("def456")
    with pytest.raises(Cancelled):
        monkeypatch.setattr(store.staging, "install", lambda *_: (_ for _ in ()).throw(Cancelled()))
        store.import_(source)
    assert list((cache / "converted").iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_link_in_place_of_a_model_is_removed_alone(tmp_path: Path, cache: Path) -> None:
    source = model(tmp_path / "mine")
    (cache / "models").mkdir(parents=True)
    (cache / "models" / "linked").symlink_to(source)
    store.remove("linked")
    assert not (cache / "models" / "linked").is_symlink() and (source / "configs" / "manifest.json").is_file()


@pytest.mark.parametrize("content", ["", "[]", "{", '{"files": 3}', '{"files": {"../../x": [1, "a"]}}'])
def test_a_broken_record_is_no_record(tmp_path: Path, cache: Path, content: str) -> None:
    store.import_(model(tmp_path / "mine"))
    (cache / "records" / "synthetic.json").write_text(content)
    assert store.info("synthetic").record == {}
    assert store.verify("synthetic") == 0

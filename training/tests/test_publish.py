"""From a package to a web server and back into the module."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from synthetic import packages
from unetsegment_training.cli import main
from unetsegment_training.publish import publish
from UNetSegmentLib import package
from UNetSegmentLib.errors import PackageError
from UNetSegmentLib.package import catalog, store, thumbnail
from UNetSegmentLib.predict import Predictor
from UNetSegmentLib.volume import Grid, Volume


@contextmanager
def web_server(folder: Path) -> Iterator[str]:
    """What ``python -m http.server`` serves; its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    metrics = [{"label": 3, "dice": 0.9, "cases": 5, "split": "fold 0 validation"}]
    return packages.threshold_package(tmp_path / "model", metrics=metrics)


def test_published_model_comes_back_and_segments_the_same(model: Path, tmp_path: Path) -> None:
    with web_server(tmp_path / "web") as url:
        publish(model, tmp_path / "web", url)
        entries, refused = catalog.read(f"{url}/catalog.json")
        assert refused == [] and [e.name for e in entries] == ["synthetic"]
        assert entries[0].raw["dice"]["source"] == "its manifest: 5 cases of fold 0 validation"
        outcome = store.get(entries[0])
    assert outcome.remarks == ()  # proven by the published hash, not trusted on first use
    image = np.random.default_rng(0).uniform(0, 3, (20, 26, 18)).astype(np.float32)
    scan = Volume(image[None], Grid.from_spacing(image.shape, (1, 1, 1)), ("T1",))
    answers = [
        Predictor(package.load(source), device="cpu").predict(scan).labels.array for source in (model, "synthetic")
    ]
    assert answers[0].max() == 300
    np.testing.assert_array_equal(*answers)


def test_a_published_model_brings_its_picture(model: Path, tmp_path: Path) -> None:
    picture = package.load("hippocampus-mr-t1").root / thumbnail.PLACE
    thumbnail.put(model, thumbnail.read(picture))
    with web_server(tmp_path / "web") as url:
        publish(model, tmp_path / "web", url)
        (entry,), refused = catalog.read(f"{url}/catalog.json")
        assert refused == [] and thumbnail.of_entry(entry).read_bytes() == picture.read_bytes()
        outcome = store.get(entry)
    assert thumbnail.of_folder(outcome.package.root).read_bytes() == picture.read_bytes()


def test_a_picture_that_cannot_be_shown_is_refused_before_anything_is_packed(tmp_path: Path, capsys) -> None:
    (tmp_path / "note.txt").write_text("no picture")
    assert main(["pack", str(tmp_path), "run", str(tmp_path / "x"), "--thumbnail", str(tmp_path / "note.txt")]) == 1
    assert "cannot be a model's thumbnail" in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_zip_is_the_same_bytes_and_its_hash_is_beside_it(model: Path, tmp_path: Path) -> None:
    first = publish(model, tmp_path / "a")
    os.utime(model / "configs" / "manifest.json", (1e9, 1e9))
    (model / ".hidden").write_text("mine")
    second = publish(model, tmp_path / "b")
    assert first.zipped.read_bytes() == second.zipped.read_bytes()
    assert hashlib.sha256(first.zipped.read_bytes()).hexdigest() == first.sha256 == first.entry["download"]["sha256"]
    assert first.zipped.with_suffix(".zip.sha256").read_text() == f"{first.sha256}  synthetic-1.0.0.zip\n"


def test_other_entries_stay_and_a_version_is_published_once(model: Path, tmp_path: Path) -> None:
    web, other = tmp_path / "web", packages.threshold_package(tmp_path / "other", name="other")
    publish(other, web)
    kept = json.loads((web / "catalog.json").read_text("utf-8"))["models"]
    publish(model, web)
    before = {path.name: path.read_bytes() for path in web.iterdir()}
    with pytest.raises(PackageError, match="has 'synthetic' 1.0.0 already"):
        publish(model, web)
    assert {path.name: path.read_bytes() for path in web.iterdir()} == before
    publish(model, web, replace=True)
    publish(packages.threshold_package(tmp_path / "next", version="1.1.0"), web)
    models = json.loads((web / "catalog.json").read_text("utf-8"))["models"]
    assert models[:1] == kept and [(m["name"], m["version"]) for m in models[1:]] == [("synthetic", "1.1.0")]
    assert (web / "synthetic-1.0.0.zip").exists()


def test_bad_input_is_one_sentence_and_writes_nothing(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    web = tmp_path / "web"
    (tmp_path / "bad.json").write_text("{}")
    damaged = packages.threshold_package(tmp_path / "damaged")
    (damaged / "models" / "model.onnx").write_bytes(b"x")
    for line, words in [
        ([str(model), str(web), "--url", "ftp://x"], "is not the address of a web server"),
        ([str(model), str(web), "--catalog", str(tmp_path / "bad.json")], "is not valid"),
        ([str(damaged), str(web)], "is damaged"),
        ([str(tmp_path / "nothing"), str(web)], "nothing"),
    ]:
        assert main(["publish", *line]) == 1
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1
        assert not web.exists()
    assert main(["publish", str(model), str(web), "--catalog", str(tmp_path / "ours.json")]) == 0
    assert catalog.read(tmp_path / "ours.json")[0][0].url == "http://localhost:8000/synthetic-1.0.0.zip"


def test_a_card_without_the_names_of_a_model_is_refused(tmp_path: Path, model: Path) -> None:
    from unetsegment_training.dataset import Dataset
    from unetsegment_training.pack import pack

    draft = packages.manifest(name="draft", version="0.0.0", intended_use="")
    nothing = Dataset(tmp_path, "none", ("T1",), {0: "background"}, (), {})
    with pytest.raises(PackageError, match="does not say the model's version and intended_use"):
        pack([tmp_path / "run"], nothing, tmp_path / "out", {"name": "ours"}, draft=draft)
    assert not (tmp_path / "out").exists()

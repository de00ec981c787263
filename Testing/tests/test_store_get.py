"""Models are fetched, proven and installed, or the cache stays as it was."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from synthetic.server import Server
from synthetic.stores import QUICK, entry, models_there, sha256
from synthetic.zips import model, zipped
from UNetSegmentLib import package
from UNetSegmentLib.errors import Cancelled, DownloadError, OutputError, PackageError
from UNetSegmentLib.package import catalog, store
from UNetSegmentLib.package.download import Mismatch, Progress

pytest.importorskip("requests")
pytestmark = pytest.mark.usefixtures("cache")


def test_get_fetches_proves_and_installs(server: Server, cache: Path) -> None:
    told: list[Progress] = []
    wanted = entry(server.url, download={"sha256": sha256(server)}, size=len(server.content))
    outcome = store.get(wanted, told.append, policy=QUICK)
    assert outcome.remarks == () and outcome.package.root == (cache / "models" / "synthetic").resolve()
    assert package.load("synthetic").manifest.title == "Synthetic"
    assert store.verify("synthetic") == 2
    assert {now.stage for now in told} == {"download", "unpack", "check"}
    facts = store.info("synthetic")
    assert not facts.ships and facts.size > 0
    assert facts.record["source"] == server.url and facts.record["sha256"] == sha256(server)
    assert [path.name for path in (cache / "staging").iterdir()] == []
    assert [path.suffix for path in (cache / "downloads").iterdir()] == [".lock"]


def test_get_again_asks_no_one(server: Server) -> None:
    wanted = entry(server.url)
    store.get(wanted, policy=QUICK)
    assert "here already" in store.get(wanted, policy=QUICK).remarks[0]
    assert len(server.requests) == 1


def test_get_mends_a_damaged_model(server: Server, cache: Path) -> None:
    wanted = entry(server.url)
    store.get(wanted, policy=QUICK)
    (cache / "models" / "synthetic" / "models" / "model.onnx").write_bytes(b"damaged")
    store.get(wanted, policy=QUICK)
    assert store.verify("synthetic") == 2 and len(server.requests) == 2


@pytest.mark.parametrize("algorithm", ["md5", "sha1"])
def test_older_hashes_are_checked_where_only_they_are_published(server: Server, algorithm: str) -> None:
    digest = hashlib.new(algorithm, server.content).hexdigest()
    assert store.get(entry(server.url, download={algorithm: digest.upper()}), policy=QUICK).remarks == ()
    store.remove_all()
    with pytest.raises(Mismatch):
        store.get(entry(server.url, download={algorithm: "0" * len(digest)}), policy=QUICK)


def test_trust_on_first_use(server: Server, tmp_path: Path) -> None:
    wanted = entry(server.url)
    (remark,) = store.get(wanted, policy=QUICK).remarks
    assert "No hash is published" in remark and sha256(server)[:12] in remark
    store.remove("synthetic")
    assert store.get(wanted, policy=QUICK).remarks == ()
    store.remove_all()
    server.content = zipped(model(tmp_path / "changed", b"other weights"))
    with pytest.raises(DownloadError, match="not the file first downloaded on 20.*--forget"):
        store.get(wanted, policy=QUICK)
    assert "synthetic" not in store.installed()
    (remark,) = store.get(wanted, forget=True, policy=QUICK).remarks
    assert sha256(server)[:12] in remark
    store.remove("synthetic")
    assert store.get(wanted, policy=QUICK).remarks == ()


@pytest.mark.parametrize("content", ["", "[]", '{"url": 5}', '{"url": "%s", "sha256": 5, "time": 5}'])
def test_a_broken_note_of_trust_is_none(server: Server, cache: Path, content: str) -> None:
    (cache / "trust").mkdir(parents=True)
    (cache / "trust" / "synthetic-1.0.0.json").write_text(content.replace("%s", server.url))
    assert "No hash is published" in store.get(entry(server.url), policy=QUICK).remarks[0]


def test_a_new_version_replaces_the_old_one(server: Server, tmp_path: Path) -> None:
    store.get(entry(server.url), policy=QUICK)
    server.content = zipped(model(tmp_path / "new", b"better", version="1.1.0"))
    remarks = store.get(entry(server.url, version="1.1.0"), policy=QUICK).remarks
    assert remarks[0] == "It replaces the model 'synthetic' 1.0.0 that was there."
    assert package.load("synthetic").manifest.version == "1.1.0"
    assert store.verify("synthetic") == 2


@pytest.mark.parametrize("inside", ["", "synthetic/", "a/b/c/synthetic/"])
def test_the_model_may_lie_in_folders_of_its_zip(server: Server, tmp_path: Path, inside: str) -> None:
    server.content = zipped(tmp_path / "source", inside)
    store.get(entry(server.url), policy=QUICK)
    assert (package.cache_folder() / "models" / "synthetic" / "configs" / "manifest.json").is_file()


def wrong_name(folder: Path) -> bytes:
    return zipped(model(folder, name="another"))


def no_model(folder: Path) -> bytes:
    folder.mkdir()
    (folder / "readme.txt").write_text("nothing here")
    return zipped(folder)


def no_weights(folder: Path) -> bytes:
    model(folder)
    (folder / "models" / "model.onnx").unlink()
    return zipped(folder)


def evil(folder: Path) -> bytes:
    content = zipped(model(folder))
    with zipfile.ZipFile(folder.with_name("evil.zip"), "w") as file:
        file.writestr("../../../evil", b"1")
    assert content
    return folder.with_name("evil.zip").read_bytes()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (wrong_name, "where the catalog promises 'synthetic' 1.0.0"),
        (no_model, "not a model package"),
        (no_weights, "incomplete"),
        (evil, "leads out of its folder"),
        (lambda folder: b"<html>log in first</html>", "not a zip file"),
    ],
)
@pytest.mark.parametrize("before", [False, True], ids=["empty", "with an older version"])
def test_a_failing_get_leaves_the_cache_as_it_was(
    server: Server, tmp_path: Path, make: Callable[[Path], bytes], words: str, before: bool
) -> None:
    if before:
        store.import_(model(tmp_path / "old", b"old", version="0.9.0"))
    there = models_there()
    server.content = make(tmp_path / "bad")
    with pytest.raises(PackageError, match=words) as caught:
        store.get(entry(server.url), policy=QUICK)
    assert "\n" not in str(caught.value) and "staging" not in str(caught.value)
    assert models_there() == there
    assert not list(tmp_path.glob("evil"))


@pytest.mark.parametrize("stage", ["download", "unpack"])
def test_cancel_leaves_the_models_as_they_were(server: Server, tmp_path: Path, stage: str) -> None:
    server.content = zipped(model(tmp_path / "large", os.urandom(4 << 20)))
    store.import_(model(tmp_path / "old", b"old", version="0.9.0"))
    there = models_there()
    seen: list[str] = []
    with pytest.raises(Cancelled):
        store.get(entry(server.url), lambda now: seen.append(now.stage), lambda: stage in seen, policy=QUICK)
    now = {name: digest for name, digest in models_there().items() if not name.startswith("downloads/")}
    assert now == there
    asked = len(server.requests)
    digest = {"sha256": sha256(server)}
    store.get(entry(server.url, download=digest), policy=QUICK)
    assert stage == "download" or len(server.requests) == asked  # what was fetched is used


def test_a_failure_at_the_last_moment_brings_the_old_model_back(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.import_(model(tmp_path / "old", b"old", version="0.9.0"))
    there = models_there()

    def fail(*_: object) -> None:
        raise OutputError("The disk is full.")

    monkeypatch.setattr(store.records, "write", fail)
    with pytest.raises(OutputError):
        store.get(entry(server.url), policy=QUICK)
    assert models_there() == there
    assert store.verify("synthetic") == 2


def test_what_cannot_run_is_not_fetched(server: Server) -> None:
    with pytest.raises(PackageError, match="cannot be run by UNetSegment: it is a poem"):
        store.get(entry(server.url, cannot_run="it is a poem"))
    assert server.requests == []


def test_a_bundled_model_is_there() -> None:
    wanted = catalog.load().entry("hippocampus-mr-t1")
    assert "ships with" in store.get(wanted).remarks[0]
    assert store.verify("hippocampus-mr-t1") == 0
    with pytest.raises(PackageError, match="cannot be removed"):
        store.remove("hippocampus-mr-t1")
    assert store.info("hippocampus-mr-t1").ships


def test_a_cache_copied_from_another_computer_works(
    server: Server, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = entry(server.url)
    store.get(wanted, policy=QUICK)
    assert not [p for p in cache.rglob("*.json") if str(tmp_path) in p.read_text("utf-8")]
    cache.rename(tmp_path / "elsewhere")
    monkeypatch.setenv("UNETSEGMENT_CACHE", str(tmp_path / "elsewhere"))
    assert package.load("synthetic").root == (tmp_path / "elsewhere" / "models" / "synthetic").resolve()
    assert store.verify("synthetic") == 2
    assert "here already" in store.get(wanted, policy=QUICK).remarks[0]

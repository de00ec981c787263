"""The cache of models: what is in it was proven, what fails leaves it as it was, and nothing else is touched."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from synthetic.server import Server, serve
from synthetic.zips import model, zipped
from UNetSegmentLib import package
from UNetSegmentLib.errors import Cancelled, DownloadError, OutputError, PackageError, UNetSegmentError
from UNetSegmentLib.package import catalog, store
from UNetSegmentLib.package.download import Mismatch, Policy, Progress

pytest.importorskip("requests")
QUICK = Policy(attempts=3, wait=0.01, longest=0.05, connect=2, silence=0.6)


def entry(url: str, **changes: Any) -> catalog.Entry:
    """An entry as a catalog of a hospital would have it."""
    download = {"url": url, "sha256": None} | changes.pop("download", {})
    raw = {
        "name": "synthetic",
        "version": "1.0.0",
        "title": "Synthetic",
        "kind": "unetsegment",
        "task": "Tests",
        "modality": ["MR"],
        "channels": ["T1"],
        "labels": ["Dim structure"],
        "size": None,
        "licence": {"name": "CC0-1.0", "clinical_use": False, "commercial_use": True},
        "download": download,
    } | changes
    path = package.cache_folder().parent / "catalog.json"
    path.write_text(json.dumps({"catalog_version": "1.0", "title": "Tests", "models": [raw]}), "utf-8")
    entries, refused = catalog.read(path)
    assert refused == []
    return entries[0]


def models_there() -> dict[str, str]:
    """What the cache holds but locks: paths and hashes."""
    root = package.cache_folder()
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serve(zipped(model(tmp_path / "source"))) as running:
        yield running


def sha256(server: Server) -> str:
    return hashlib.sha256(server.content).hexdigest()


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
        (lambda folder: b"<html>log in first</html>", "not a sound zip"),
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
    there = models_there()
    for source, words in (("gone", "no file or folder"), ("empty", "not a model package"), ("text.zip", "sound zip")):
        with pytest.raises(PackageError, match=words):
            store.import_(tmp_path / source)
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
    assert store.remove("one") > 100_000
    assert not (cache / "models" / "one").exists() and "one" not in store.installed()
    (cache / "downloads").mkdir(exist_ok=True)
    (cache / "downloads" / "x.zip.part").write_bytes(bytes(50_000))
    (cache / "compiled").mkdir()
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
        monkeypatch.setattr(store, "_install", lambda *_: (_ for _ in ()).throw(Cancelled()))
        store.import_(source)
    assert list((cache / "converted").iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_link_in_place_of_a_model_is_removed_alone(tmp_path: Path, cache: Path) -> None:
    source = model(tmp_path / "mine")
    (cache / "models").mkdir(parents=True)
    (cache / "models" / "linked").symlink_to(source)
    store.remove("linked")
    assert not (cache / "models" / "linked").is_symlink() and (source / "configs" / "manifest.json").is_file()


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


@pytest.mark.parametrize("content", ["", "[]", "{", '{"files": 3}', '{"files": {"../../x": [1, "a"]}}'])
def test_a_broken_record_is_no_record(tmp_path: Path, cache: Path, content: str) -> None:
    store.import_(model(tmp_path / "mine"))
    (cache / "records" / "synthetic.json").write_text(content)
    assert store.info("synthetic").record == {}
    assert store.verify("synthetic") == 0


def _child(url: str, sha: str, results: multiprocessing.Queue) -> None:
    try:
        outcome = store.get(entry(url, download={"sha256": sha}), policy=QUICK)
        results.put((outcome.name, *outcome.remarks))
    except UNetSegmentError as error:
        results.put(("failed", str(error)))


def test_two_processes_that_want_one_model_take_turns(server: Server) -> None:
    server.delay = 0.5
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    children = [context.Process(target=_child, args=(server.url, sha256(server), results)) for _ in range(2)]
    for child in children:
        child.start()
    answers = sorted(results.get(timeout=60) for _ in children)
    for child in children:
        child.join()
    assert answers == [("synthetic",), ("synthetic", "'synthetic' 1.0.0 is here already.")]
    assert len(server.requests) == 1
    assert store.verify("synthetic") == 2


def test_what_a_killed_process_left_is_cleared(server: Server, cache: Path) -> None:
    left = cache / "staging" / "synthetic.deadbeef" / "content"
    left.mkdir(parents=True)
    (cache / "models").mkdir()
    model(left.parent / "before" / "rescued", name="rescued")  # killed between two renames
    other = cache / "staging" / "another.deadbeef"
    other.mkdir()
    store.get(entry(server.url), policy=QUICK)
    assert [path.name for path in (cache / "staging").iterdir()] == ["another.deadbeef"]
    assert package.load("rescued").manifest.name == "rescued"


NOBODY = """
import os, sys
from UNetSegmentLib.package import store
try:
    os.setuid(65534)
except PermissionError:
    pass
try:
    store.import_(sys.argv[1])
    print("imported")
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="needs POSIX rights")
def test_a_read_only_cache_says_so(tmp_path: Path, cache: Path) -> None:
    source = model(tmp_path / "mine")
    cache.mkdir()
    open_to_all(tmp_path)
    cache.chmod(0o555)
    done = subprocess.run(
        [sys.executable, "-c", NOBODY, str(source)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    cache.chmod(0o755)
    assert done.stdout.startswith("OutputError Cannot write to the folder"), done.stdout + done.stderr
    assert "UNETSEGMENT_CACHE" in done.stdout and done.stdout.count("\n") == 1
    assert list(cache.iterdir()) == []


SHARED = """
import json, os, sys
from UNetSegmentLib.package import catalog, store
entry = catalog.read(sys.argv[1])[0][0]
store.get(entry)
try:
    os.setuid(65534)
except PermissionError:
    pass
try:
    print(*store.get(entry).remarks)
    print(store.verify(entry.name), *store.installed())
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="needs POSIX rights")
def test_a_read_only_cache_is_of_use(server: Server, tmp_path: Path, cache: Path) -> None:
    store.get(entry(server.url), policy=QUICK)
    open_to_all(tmp_path)
    cache.chmod(0o555)
    done = subprocess.run(
        [sys.executable, "-c", SHARED, str(tmp_path / "catalog.json")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    cache.chmod(0o755)
    assert done.stdout.splitlines()[0] == "'synthetic' 1.0.0 is here already.", done.stdout + done.stderr
    assert done.stdout.splitlines()[1].startswith("2 ")


def open_to_all(place: Path) -> None:
    """Let another user come here."""
    for folder in (place, *place.parents):
        if folder.stat().st_uid == os.getuid() and len(folder.parts) > 2:
            folder.chmod(folder.stat().st_mode | 0o055)


def test_waiting_for_another_process_can_be_cancelled(tmp_path: Path) -> None:
    from UNetSegmentLib.package.lock import locked

    source = model(tmp_path / "mine")
    began = time.monotonic()
    with locked(package.cache_folder() / "locks" / "+import.lock"), pytest.raises(Cancelled):
        store.import_(source, cancel=lambda: time.monotonic() - began > 0.3)
    store.import_(source)

"""A cache that several processes use, that one left in the middle, or that may only be read."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from synthetic.server import Server
from synthetic.stores import QUICK, entry, sha256
from synthetic.zips import model
from UNetSegmentLib import package
from UNetSegmentLib.errors import Cancelled, UNetSegmentError
from UNetSegmentLib.package import store

pytest.importorskip("requests")
pytestmark = pytest.mark.usefixtures("cache")


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

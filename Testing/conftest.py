"""Test set-up: the repository's packages on the path, the stand-in host for files that import slicer."""

import gc
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
for folder in ("Testing", "UNetSegment", "training/src"):
    if str(ROOT / folder) not in sys.path:
        sys.path.insert(0, str(ROOT / folder))

from host.pytest_plugin import pytest_pycollect_makemodule  # noqa: E402, F401
from synthetic import packages, processes, zips  # noqa: E402
from synthetic.server import serve  # noqa: E402
from UNetSegmentLib.worker import Worker  # noqa: E402


@pytest.fixture
def server(tmp_path):
    """A server of the synthetic model in the folder ``source``, as a zip."""
    with serve(zips.zipped(zips.model(tmp_path / "source"))) as running:
        yield running


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Folder of the model that labels voxels by thresholds."""
    return str(packages.threshold_package(tmp_path_factory.mktemp("model")))


@pytest.fixture
def worker():
    """A worker that leaves neither a process nor shared memory behind."""
    before = processes.shared_names(os.getpid())
    made = Worker()
    yield made
    pid = made.pid
    made.stop()
    assert not made.is_alive and (pid is None or processes.wait_until(lambda: not processes.is_running(pid)))
    gc.collect()
    is_clean = processes.wait_until(lambda: processes.shared_names(os.getpid()) <= before, 3)
    assert is_clean, processes.shared_names(os.getpid()) - before

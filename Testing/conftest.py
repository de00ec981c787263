"""Test set-up: the repository's packages on the path, the stand-in host for files that import slicer."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
for folder in ("Testing", "UNetSegment", "training/src"):
    if str(ROOT / folder) not in sys.path:
        sys.path.insert(0, str(ROOT / folder))

from host.pytest_plugin import pytest_pycollect_makemodule  # noqa: E402, F401
from synthetic.server import serve  # noqa: E402
from synthetic.zips import model, zipped  # noqa: E402


@pytest.fixture
def server(tmp_path):
    """A server of the synthetic model in the folder ``source``, as a zip."""
    with serve(zipped(model(tmp_path / "source"))) as running:
        yield running

"""Test set-up: the repository's packages on the path, the stand-in host for files that import slicer."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
for folder in ("Testing", "UNetSegment", "training/src"):
    if str(ROOT / folder) not in sys.path:
        sys.path.insert(0, str(ROOT / folder))

from host.pytest_plugin import pytest_pycollect_makemodule  # noqa: E402, F401

"""Lets pytest run these files on the stand-in host; Slicer itself never reads this."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
for folder in ("Testing", "UNetSegment"):
    if str(ROOT / folder) not in sys.path:
        sys.path.insert(0, str(ROOT / folder))

from host.pytest_plugin import pytest_pycollect_makemodule  # noqa: E402, F401

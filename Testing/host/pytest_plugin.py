"""For pytest: bring the host up before a test file that imports slicer, qt or ctk is collected."""

import re
from pathlib import Path

import pytest

_NEEDS_SLICER = re.compile(r"^\s*(?:import|from)\s+(?:slicer|qt|ctk)\b", re.MULTILINE)


def pytest_pycollect_makemodule(module_path: Path, parent):
    """Start the host for files that need it; without slicer-core or PySide6 such a file is skipped, with the reason."""
    if not _NEEDS_SLICER.search(module_path.read_text(encoding="utf8")):
        return None
    try:
        import host

        host.start()
    except ImportError as error:
        return _Skipped.from_parent(
            parent, path=module_path, reason=f"the stand-in host needs slicer-core and PySide6: {error}"
        )
    return None


class _Skipped(pytest.Module):
    def __init__(self, *args, reason="", **kwargs):
        super().__init__(*args, **kwargs)
        self.reason = reason

    def collect(self):
        pytest.skip(self.reason, allow_module_level=True)

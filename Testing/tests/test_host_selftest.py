"""The module's test as Slicer runs it: from an installed extension, without main window, twice, with and without a library."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("slicer", reason="the stand-in host needs slicer-core")
pytest.importorskip("PySide6", reason="the stand-in host needs PySide6")

ROOT = Path(__file__).parents[2]
LIBRARIES = ("openvino", "torch", "monai")
RUN = """
    import logging, sys
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    import host
    host.start()
    import slicer, slicer.testing
    slicer.util.mainWindow = lambda: None
    from host import pythonqt, scripted
    folder = sys.argv[1]
    scripted.load(folder + "/UNetSegment.py")
    slicer.app.startupCompleted()
    for _ in range(2):
        slicer.testing.runUnitTest([folder], "UNetSegment")
        slicer.selfTests["UNetSegment"]()
    from UNetSegmentLib import package
    print("from", package.__file__, package.load("hippocampus-mr-t1").root)
    print("errors", len(pythonqt.slot_errors))
"""


def hide_libraries(folder):
    """This Python's packages without the libraries that run networks, for every Python that has ``folder`` on its path."""
    packages, others = Path(sysconfig.get_path("purelib")), folder / "packages"
    others.mkdir()
    for entry in packages.iterdir():
        if not entry.name.lower().startswith(LIBRARIES):
            (others / entry.name).symlink_to(entry)
    code = (
        f"import sys\nsys.path[:] = [{str(others)!r} if place == {str(packages)!r} else place for place in sys.path]\n"
    )
    (folder / "sitecustomize.py").write_text(code)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """What CMake installs, in one folder, as Slicer lays it out."""
    folder = tmp_path_factory.mktemp("installed") / "qt-scripted-modules"
    text = (ROOT / "UNetSegment" / "CMakeLists.txt").read_text("utf-8").replace("${MODULE_NAME}", "UNetSegment")
    for name, top in (("PYTHON_SCRIPTS", "UNetSegment"), ("PYTHON_RESOURCES", "UNetSegment"), ("RESOURCES", "")):
        prefix = "MODULE_" if top else "EXTENSION_"
        for entry in re.search(rf"set\({prefix}{name}\n(.*?)\)", text, re.S)[1].split():
            (folder / entry).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / top / entry, folder / entry)
    return folder


@pytest.mark.parametrize("library", [pytest.param(True, marks=pytest.mark.slow), False])
def test_from_an_installed_extension(installed, tmp_path, library):
    if library:
        pytest.importorskip("openvino")
    else:
        hide_libraries(tmp_path)
    before = sorted(installed.rglob("*"))
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / "Testing")]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "UNETSEGMENT_CACHE": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(RUN), str(installed)],
        **{"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "timeout": 400},
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    passed = 5 if library else 3
    assert said.count(f"{passed} of 5 tests passed.") == 2, said
    assert said.count("was skipped: No library to run networks") == (0 if library else 4)
    assert "errors 0" in done.stdout and str(ROOT / "UNetSegment") not in done.stdout
    assert f"from {installed}" in done.stdout
    assert sorted(installed.rglob("*")) == before

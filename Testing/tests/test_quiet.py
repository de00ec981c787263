"""OpenVINO without its telemetry: a stand-in for that package notes who imports it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from UNetSegmentLib.predict.backends import is_installed

LIBRARY = Path(__file__).parents[2] / "UNetSegment"
PREDICT = """
from UNetSegmentLib import package
from UNetSegmentLib.predict import Predictor
assert Predictor(package.load("hippocampus-mr-t1"), device="cpu", mode="parity").description()["backend"] == "openvino"
import sys
assert "openvino_telemetry" not in sys.modules
"""


@pytest.mark.skipif(not is_installed("openvino"), reason="openvino is not installed")
@pytest.mark.parametrize(("code", "asked"), [("import openvino", True), (PREDICT, False)], ids=["as it is", "ours"])
def test_no_telemetry_is_imported(tmp_path, code, asked):
    note, stand_in = tmp_path / "asked", tmp_path / "openvino_telemetry.py"
    stand_in.write_text(f"import pathlib\npathlib.Path({str(note)!r}).touch()\nraise ImportError\n")
    path = os.pathsep.join([str(tmp_path), str(LIBRARY)])
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": path})
    assert note.exists() == asked

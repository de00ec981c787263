"""Runs through the whole panel that end badly: nothing is lost, half-written or left behind. The attacks are in ``soak.py``."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soak
from UNetSegmentLib.predict.backends import is_installed

pytest.importorskip("psutil")
pytest.importorskip("PySide6")
TESTING = Path(__file__).resolve().parents[1]
pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX"),
    pytest.mark.skipif(
        not (is_installed("openvino") and is_installed("onnx")), reason="openvino or onnx is not installed"
    ),
]
GROWTH = 20
"""MB that the process may grow by, from its third tenth to its end: ten cards stay, and each of five reloads leaves 1 MB of the old
module in Python. 14 and 16 were measured."""


def report(*arguments):
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen"}
    command = [sys.executable, "-m", "soak", *arguments]
    done = subprocess.run(command, cwd=TESTING, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return json.loads(done.stdout)


def test_a_few_runs_that_end_badly():
    found = report("--share", "0.03", "--seed", "3")
    assert found["hits"]["cancel"] == 6 and found["hits"]["kill"] == 2, found
    assert any(end == "cancel: cancelled" for end in found["ends"]), found


@pytest.mark.slow
def test_hundreds_of_runs_that_end_badly():
    found = report()
    print(json.dumps(found, indent=1))
    assert found["hits"] == soak.PLAN
    assert found["resident"][-1] - found["resident"][3] < GROWTH, found["resident"]

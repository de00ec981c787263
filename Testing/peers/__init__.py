"""Other programs' answers: scripts that run where their packages are installed, and the way to run them from a test."""

import os
import subprocess
import sys
from pathlib import Path


def run_peer(script: str, needs: str, *arguments: object) -> None:
    """Run a script of this folder with the interpreter that has the package ``needs``; the test is skipped without it.

    ``UNETSEGMENT_PEER_PYTHON`` names that interpreter; this one by default.
    """
    import pytest  # the peers' Python, which runs the scripts as modules of this package, may not have it

    python = os.environ.get("UNETSEGMENT_PEER_PYTHON", sys.executable)
    look = subprocess.run(
        [python, "-c", f"import importlib.util as u, sys; sys.exit(u.find_spec({needs!r}) is None)"], check=False
    )
    if look.returncode:
        pytest.skip(f"needs {needs}: install it, or name an interpreter that has it in UNETSEGMENT_PEER_PYTHON")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    command = [python, "-m", f"peers.{script}", *map(str, arguments)]
    testing = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, env=environment, cwd=testing, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]

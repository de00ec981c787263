"""A child process apart from this one, and its end together with everything that it started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import Any


def apart() -> dict[str, Any]:
    """Options of :class:`subprocess.Popen` for a process that can be ended with all it starts; it has no window."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def interrupt(pid: int) -> None:
    """Ask a process made with :func:`apart`, and what it started, to stop as Ctrl+C does; Windows has no such way."""
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGINT)


def end(pid: int, *others: int) -> None:
    """End a process made with :func:`apart` and what it started; returns at once, the system takes its time.

    The executable may be a launcher; ``others`` are its children, where they are known.
    """
    if sys.platform == "win32":
        for number in (pid, *others):
            command = ["taskkill", "/PID", str(number), "/T", "/F"]
            null = subprocess.DEVNULL
            with contextlib.suppress(OSError):
                subprocess.Popen(command, stdout=null, stderr=null, creationflags=subprocess.CREATE_NO_WINDOW)
        return
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
    for number in others:
        with contextlib.suppress(OSError):
            os.kill(number, signal.SIGKILL)

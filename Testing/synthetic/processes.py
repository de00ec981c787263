"""Processes that tests start: whether they run, what they left in memory, and waiting for them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from UNetSegmentLib.worker.memory import PREFIX

SHARED = Path("/dev/shm")
"""Where Linux lists shared memory."""


def is_running(pid: int) -> bool:
    """Whether a process runs; one that ended and waits for its parent to notice does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z" if Path("/proc").is_dir() else True
    except (OSError, IndexError):
        return False


def shared_names(pid: int | str) -> set[str]:
    """Names of the shared memory that a process made (``"*"``: any), where the system lists them."""
    return {path.name for path in SHARED.glob(f"{PREFIX}{pid}-*")} if SHARED.is_dir() else set()


def wait_until(true: Callable[[], object], seconds: float = 15) -> bool:
    """Whether it came to that in time."""
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(true())

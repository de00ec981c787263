"""Whose processor seconds: ours, or those of the application that the stand-in host imitates."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PERIOD = 0.0005
"""Seconds between two looks at the stack."""
OTHERS = "others"


@contextmanager
def attributed(rooms: Mapping[str, Path]) -> Iterator[dict[str, float]]:
    """Processor seconds of this process by room, while the block runs in its main thread.

    A timer looks at the stack; what was computed since the last look belongs to the innermost frame that is in a room, with
    whatever the standard library and compiled code did for it. Other work on the machine does not lengthen it. Not on Windows.

    Args:
        rooms: Folders of Python files by name.

    Yields:
        A dictionary that is filled when the block ends, with an entry for each room and for ``others``.
    """
    folders = {name: f"{folder.resolve()}/" for name, folder in rooms.items()}
    known: dict[str, str | None] = {}
    seconds = dict.fromkeys([*rooms, OTHERS], 0.0)
    last = time.process_time()

    def room(path: str) -> str | None:
        if path not in known:
            known[path] = next((name for name, folder in folders.items() if path.startswith(folder)), None)
        return known[path]

    def look(_signal: int, frame: Any) -> None:
        nonlocal last
        found = None
        while frame is not None and (found := room(frame.f_code.co_filename)) is None:
            frame = frame.f_back
        now = time.process_time()
        seconds[found or OTHERS] += now - last
        last = now

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, PERIOD, PERIOD)
    try:
        yield seconds
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        seconds[OTHERS] += time.process_time() - last

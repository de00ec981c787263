"""A module's worker: started when it is first needed, polled by a timer for as long as it has something to do."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

import qt

if TYPE_CHECKING:
    from ..worker import Worker

POLL_MS, SOON_MS = 30, 4
"""Milliseconds between two polls, and where the answer is expected any moment."""


class Background:
    """For a module's logic to inherit. ``worker`` is one to use instead of a process of our own; tests may give theirs."""

    def __init__(self, worker: Worker | None = None) -> None:
        self._worker = worker
        self._polling = False
        self._timer = None

    def worker(self) -> Worker:
        """The process that runs models; it starts with the first request."""
        from ..worker import Worker

        if self._worker is None:
            self._worker = Worker([shutil.which("PythonSlicer") or sys.executable])
        return self._worker

    def watch(self) -> None:
        """Poll by a timer for as long as the worker has something to do."""
        if self._timer is None:
            self._timer = qt.QTimer()
            self._timer.setInterval(POLL_MS)
            self._timer.connect("timeout()", self.onTimer)
        self._timer.start()

    def onTimer(self) -> None:
        """Take what the worker reports; asleep while there is nothing to wait for."""
        self.poll()
        if not self.isBusy():
            self._timer.stop()
        self._timer.setInterval(SOON_MS if self._worker is not None and self._worker.is_ending else POLL_MS)

    def poll(self) -> None:
        """Call what waits for the worker's reports; does nothing when called from within one of them."""
        if self._worker is None or self._polling:
            return
        self._polling = True
        try:
            self._worker.poll()
        finally:
            self._polling = False

    def isBusy(self) -> bool:
        """Whether the worker has something to do."""
        return self._worker is not None and self._worker.is_busy

    def moveInside(self) -> bool:
        """Where no worker ever started on this computer: run models in a thread of this process from now on.

        Returns:
            Whether that is new.
        """
        from ..worker import Worker

        if self._worker is None or self._worker.has_answered or self._worker.is_alive or self._worker.is_inside:
            return False
        self._worker = Worker(inside=True)
        return True

    def log(self) -> list[str]:
        """The last lines of the worker's log."""
        return list(self._worker.lines) if self._worker is not None else []

    def stop(self) -> None:
        """End the worker."""
        if self._timer is not None:
            self._timer.stop()
        if self._worker is not None:
            self._worker.stop()

"""Looks after one errand at a time, by a timer of the window: whoever sent it is called back in Slicer's main thread."""

from __future__ import annotations

from collections.abc import Callable

import qt

from .errand import Errand, Work

EVERY_MS = 50
"""From one look to the next."""


class Lookout:
    """At most one errand under way.

    Args:
        done: Called with each errand that ended, however it ended.
        told: Called at each look at one that goes on.
    """

    def __init__(self, done: Callable[[Errand], None], told: Callable[[Errand], None] | None = None) -> None:
        self._done, self._told = done, told
        self._errand: Errand | None = None
        self._timer = qt.QTimer()
        self._timer.setInterval(EVERY_MS)
        self._timer.connect("timeout()", self.look)

    @property
    def is_busy(self) -> bool:
        """Whether an errand is under way."""
        return self._errand is not None

    def send(self, work: Work) -> None:
        """Begin an errand."""
        self._errand = Errand(work)
        self._timer.start()

    def cancel(self) -> None:
        """Ask the errand to stop; ``done`` is called when it has."""
        if self._errand is not None:
            self._errand.cancel()

    def stop(self, seconds: float | None = 0.0) -> None:
        """Look no more and call nobody: the errand is asked to stop, and waited for that long."""
        self._timer.stop()
        errand, self._errand = self._errand, None
        if errand is not None:
            errand.cancel()
            errand.wait(seconds)

    def look(self) -> None:
        """See how far it is."""
        errand = self._errand
        if errand is None:
            return
        if not errand.finished:  # asked once: each time gives it a moment to work
            if self._told is not None:
                self._told(errand)
            return
        self._errand = None
        self._timer.stop()
        self._done(errand)

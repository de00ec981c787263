"""Work that takes long, in a thread of its own: no widget and no node is touched in it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ..errors import Cancelled

Work = Callable[[Callable[[Any], None], Callable[[], bool]], Any]
BREATH = 0.02
"""Seconds that whoever looks after an errand gives it at each look. Slicer holds Python's lock while its window waits for
events: a thread runs only while the main thread is in Python and waits there."""


class Errand:
    """``work(tell, cancelled)`` under way.

    Args:
        work: Calls ``tell`` with reports, asks ``cancelled`` often, and raises :class:`Cancelled` when it says so.

    ``report`` is the latest report; ``result`` or ``error`` is there once ``finished``. Look at it some twenty times a second:
    each look is also its time to work.
    """

    def __init__(self, work: Work) -> None:
        self.report: Any = None
        self.result: Any = None
        self.error: BaseException | None = None
        self._cancelled = threading.Event()
        self._thread = threading.Thread(target=self._go, args=(work,), daemon=True)
        self._thread.start()

    def _go(self, work: Work) -> None:
        try:
            self.result = work(self._tell, self._cancelled.is_set)
        except BaseException as error:
            self.error = error

    def _tell(self, report: Any) -> None:
        self.report = report

    @property
    def finished(self) -> bool:
        """Whether it has ended, in whatever way; lets it work for a moment first."""
        self._thread.join(BREATH)
        return not self._thread.is_alive()

    @property
    def is_cancelled(self) -> bool:
        """Whether it was asked to stop, or said that it was."""
        return self._cancelled.is_set() or isinstance(self.error, Cancelled)

    def cancel(self) -> None:
        """Ask it to stop; returns at once."""
        self._cancelled.set()

    def wait(self, seconds: float | None = None) -> None:
        """Block until it has ended: for the end of the application, and for tests."""
        self._thread.join(seconds)

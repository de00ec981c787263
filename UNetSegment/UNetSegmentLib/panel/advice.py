"""What looks wrong about the chosen volumes: looked at shortly after they are chosen, and again by each run."""

from __future__ import annotations

from typing import Any

import qt

from ..predict.sanity import InputWarning

DELAY_MS = 300
"""A choice must stand this long before it is looked at."""


class Advice:
    """The warnings of a panel, and what they are about.

    Args:
        panel: Asked for its choices, and refreshed when there is something to say.
    """

    def __init__(self, panel: Any) -> None:
        self._panel = panel
        self._about: tuple = ()
        self._warnings: tuple[InputWarning, ...] = ()
        self._seen: tuple = ()
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(DELAY_MS)
        self._timer.connect("timeout()", self.look)

    def warnings(self) -> tuple[InputWarning, ...]:
        """Those about the present choices; the volumes are looked at soon where they are new."""
        now = self._choices()
        if now != self._seen and None not in now:
            self._seen = now
            self._timer.start()
        return self._warnings if now == self._about else ()

    def take(self, warnings: list[InputWarning]) -> None:
        """A run says what looks wrong."""
        self._about, self._warnings = self._choices(), tuple(warnings)

    def forget(self) -> None:
        """Look at everything again: a run begins, or the scene went."""
        self._about, self._warnings, self._seen = (), (), ()

    def look(self) -> None:
        """Look at the chosen volumes now."""
        panel, now = self._panel, self._choices()
        if panel.isRunning or not now or None in now or now == self._about:
            return
        self._about, self._warnings = now, tuple(panel.logic.check(panel.inputs(), now[0]))
        if self._warnings:
            panel.refresh()

    def stop(self) -> None:
        """The panel goes."""
        self._timer.stop()

    def _choices(self) -> tuple:
        panel = self._panel
        if not panel.isConnected:
            return ()
        return (panel.model.name, *(node.GetID() if node else None for node in panel.inputs()))

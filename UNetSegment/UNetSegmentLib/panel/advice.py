"""What looks wrong about the chosen volumes: told shortly after they are chosen, asked about before a run, told by each run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import qt
import slicer
from slicer.i18n import tr as _

if TYPE_CHECKING:
    from ..predict.reports import InputWarning

DELAY_MS = 300
"""A choice must stand this long before it is looked at."""
READING = 0.7
"""Seconds after the question in which a click is no answer: it is the second half of a double click."""


def asks() -> bool:
    """Whether somebody is there to be asked: not in Slicer's testing mode."""
    return not slicer.app.testingEnabled()


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
        self._is_outdated = False
        self._asked: tuple = ()
        self._asked_at = 0.0
        self._agreed: set[tuple] = set()
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
        if self._asked != self._subject():  # the question went with the choice
            self.withdraw()
        return self._warnings if now == self._about else ()

    def take(self, warnings: list[InputWarning]) -> None:
        """A run says what looks wrong."""
        self._about, self._warnings, self._is_outdated = self._choices(), tuple(warnings), False

    def outdate(self) -> None:
        """The chosen volumes are not what they were: look at them again; until then, what was seen stays."""
        self._is_outdated, self._seen = True, ()

    def forget(self) -> None:
        """Look at everything again: a run begins."""
        self._about, self._warnings, self._seen, self._asked = (), (), (), ()

    def clear(self) -> None:
        """The scene went, and with it what was agreed to about its volumes."""
        self.forget()
        self._agreed.clear()

    @property
    def is_refused(self) -> bool:
        """Whether the present choices cannot be run at all."""
        return any(each.stops for each in self.warnings())

    @property
    def is_asking(self) -> bool:
        """Whether the user was asked about the present choices, and has not answered."""
        return bool(self._asked) and self._asked == self._subject()

    @property
    def question(self) -> str:
        """What the user is asked."""
        if self._panel.corrected():
            return _("What was corrected by hand would be lost: see above. Segment anyway?")
        return _("This will probably not work: see above. Segment anyway?")

    def agreed(self) -> bool:
        """Whether the present choices may be run: nothing severe is wrong with them and no correction is lost, or the user wants it
        all the same.

        The first time it is no; asked once more for the same choices, as by a second click, it is yes, and stays it, but for
        what is corrected later.
        """
        now, subject = self._choices(), self._subject()
        self.look()
        doubtful = bool(self._doubts()) and now not in self._agreed
        if not (doubtful or self._panel.corrected()) or not asks():
            return True
        if not self.is_asking:
            self._asked, self._asked_at = subject, time.monotonic()
        elif time.monotonic() - self._asked_at > READING:
            self._agreed.add(now)
            return True
        return False

    def _doubts(self) -> list[InputWarning]:
        cut = self._panel.region is not None  # large as the image is, the region of interest need not be
        severe = [each for each in self._warnings if each.is_severe]
        return [each for each in severe if not (cut and each.code == "field_of_view_large")]

    def look(self) -> None:
        """Look at the chosen volumes now."""
        panel, now = self._panel, self._choices()
        if panel.isRunning or not now or None in now or (now == self._about and not self._is_outdated):
            return
        before = self._warnings if now == self._about else ()
        self._about, self._warnings = now, tuple(panel.logic.check(panel.inputs(), now[0]))
        self._is_outdated = False
        if self._warnings != before:
            panel.refresh()

    def stop(self) -> None:
        """The panel goes."""
        self._timer.stop()

    def _subject(self) -> tuple:
        """What the user is asked about: the choices, and what was corrected by hand in the segmentation that is written to."""
        panel = self._panel
        if not panel.isConnected:
            return ()
        return self._choices(), panel.output and panel.output.GetID(), *panel.corrected()

    def withdraw(self) -> None:
        """What was asked about cannot be run any more: ask no longer."""
        if self._asked:
            self._asked = ()
            self._panel.say("")

    def _choices(self) -> tuple:
        panel = self._panel
        if not panel.isConnected:
            return ()
        return (panel.model.name, *((node.GetID(), node.GetName()) if node else None for node in panel.inputs()))

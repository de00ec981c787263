"""The button "Check this computer": runs :mod:`checkup` in the panel's worker and shows its report."""

from __future__ import annotations

from typing import Any

import slicer
from slicer.i18n import tr as _

from .. import package
from ..errors import InputError, WorkerError

MODEL = "hippocampus-mr-t1"


class SelfTest:
    """The self-test of a panel; ``report`` is the last one's text."""

    def __init__(self, panel: Any) -> None:
        self._panel = panel
        self.report = ""

    def onButton(self, checked: bool = False) -> None:
        """Begin; the panel's Cancel button stops it."""
        panel = self._panel
        if panel.isRunning:
            return
        try:
            sample = panel.sample()
            if sample is None:
                raise InputError("The sample image is not installed, so this computer cannot be checked.")
            model, device = package.load(MODEL), panel.options()["device"]
        except Exception as error:
            panel.onError(error)
            return
        panel.dependencies.then(model.manifest, device, lambda: self._start(model, sample, device))

    def _start(self, model: package.Package, sample: tuple, device: str) -> None:
        from .checkup import Checkup

        panel = self._panel
        worker = panel.logic.worker()

        def done(well: bool, report: str) -> None:
            if not well and not panel.isCancelled and panel.logic.moveInside():  # as Apply does
                self._start(model, sample, device)
            else:
                self._done(well, report)

        try:
            checkup = Checkup(
                worker,
                model,
                *sample,
                options={"device": device, "mode": "auto"},
                on_progress=panel.showProgress,
                on_done=done,
                host=f"{slicer.app.applicationName} {slicer.app.applicationVersion}"
                + (", models run inside of it" if worker.is_inside else ""),
            )
        except WorkerError as error:
            if panel.logic.moveInside():
                self._start(model, sample, device)
            else:
                panel.onError(error)
            return
        except Exception as error:
            panel.onError(error)
            return
        panel.begin(checkup, _("Checking this computer"))

    def _done(self, well: bool, report: str) -> None:
        panel, self.report = self._panel, report
        if panel.isCancelled:
            panel.say(_("Cancelled; the scene is as it was."))
        else:
            words = _("This computer passed the self-test.") if well else _("This computer failed the self-test.")
            panel.say(words)
            panel._paper.show(_("Self-test"), report, "UNetSegment-self-test.txt")
        panel.end()
        panel.ui.logButton.visible = False  # the report tells more

"""Where no worker can be started: segment in this process, in which the window lives on between patches only."""

from __future__ import annotations

import time
from typing import Any

import slicer
from slicer.i18n import tr as _


class Here:
    """A run in this process, which is cancelled by the panel's flag."""

    def __init__(self, panel: Any) -> None:
        self._panel = panel

    def cancel(self) -> None:
        """Ask it to stop; it asks between patches."""
        self._panel._cancel = True

    def segment(self) -> None:
        """Do what the panel's choices say; ends with the panel's ``onDone`` or ``onError``."""
        panel, began = self._panel, time.monotonic()
        parameters = panel._parameterNode

        def progress(report: Any) -> None:
            elapsed = time.monotonic() - began
            panel.onProgress(report, elapsed / report.fraction - elapsed if report.fraction > 0.05 else None)
            slicer.app.processEvents()

        panel._run = self
        panel.say(_("Working without a worker"))
        try:
            panel.logic.process(
                panel.inputs(),
                parameters.outputSegmentation,
                model=panel.model.name,
                progress=progress,
                cancel=lambda: panel._cancel,
                show3D=parameters.show3D,
                region=parameters.region,
                keep=panel._kept(),
                **panel.options(),
            )
        except Exception as error:
            panel._run = None
            panel.onError(error)
            return
        panel.onDone(panel.logic.lastOutcome)

"""What a press of Apply begins: from the choices of that moment to the card of its result."""

from __future__ import annotations

import logging
import time
from typing import Any

from slicer.i18n import tr as _

from ..errors import InputError, WorkerError
from . import outcome, state


class Apply:
    """A segmentation with a panel's present choices: the user may make others, or open another module, while it runs.

    Args:
        panel: Shows how far it is, and what comes of it.
        parameters: The parameter node with the choices; it takes the new segmentation.
    """

    def __init__(self, panel: Any, parameters: Any) -> None:
        inputs = panel.inputs()
        self._panel, self._parameters, self._volume = panel, parameters, inputs[0]
        self._manifest, self._title = panel.model.manifest, panel.model.title
        self._nodes = [*inputs, panel.output, parameters.region]
        self._began = 0.0
        self._choices = {
            "inputVolume": inputs,
            "outputSegmentation": panel.output,
            "model": panel.model.name,
            "show3D": parameters.show3D,
            "region": parameters.region,
            "keep": panel.kept(),
            "everyFrame": panel.frames() > 1,
            **panel.options(),
        }

    def begin(self) -> None:
        """Have installed what the model needs, then segment."""
        self._panel.ready.begin()
        self._panel.dependencies.then(self._manifest, self._choices["device"], self._start)

    def _start(self) -> None:
        try:
            for node in self._nodes:  # something may have been installed meanwhile
                if node is not None and node.GetScene() is None:
                    raise InputError(f"'{node.GetName()}' is not in the scene any more; choose again and press Apply.")
            run = self._panel.logic.start(
                **self._choices,
                onProgress=self._progress,
                onWarnings=self._panel.onWarnings,
                onDone=self._done,
                onError=self._failed,
            )
        except Exception as error:
            self._failed(error)
            return
        self._began = time.monotonic()
        self._panel.ui.installHint.visible = False
        self._panel.begin(run, _("Starting"))

    def _progress(self, report: Any, seconds_left: float | None) -> None:
        left = state.remaining(seconds_left, time.monotonic() - self._began, _)
        self._panel.showProgress(report.fraction, " · ".join(filter(None, [report.message, left])))

    def _done(self, result: Any) -> None:
        """Take the scene's :class:`Result`."""
        panel, ran = self._panel, dict(result.provenance)
        # else a scene came meanwhile, with choices of its own; what shows a sequence's frames is nothing to write one result to
        if self._parameters.input1 is self._volume and not self._choices["everyFrame"]:
            self._parameters.outputSegmentation = result.node
        panel.ready.took(ran)
        card = outcome.card(
            volume=self._volume.GetName(),
            model=self._title,
            labels=result.labels,
            volumes_ml=result.volumes_ml,
            provenance=ran,
            warnings=result.warnings,
            clock=time.strftime("%H:%M"),
            tr=_,
        )
        panel.onResult(card, result.node, self._volume, ran)

    def _failed(self, error: Exception) -> None:
        """Where no worker ever started on this computer, do the work in this process; else let the panel say why not."""
        panel = self._panel
        if isinstance(error, WorkerError) and not panel.isCancelled and panel.logic.moveInside():
            logging.warning("UNetSegment: %s Models run inside of Slicer from now on.", error)
            self._start()
        else:
            panel.onError(error, self._volume.GetScene() is None)

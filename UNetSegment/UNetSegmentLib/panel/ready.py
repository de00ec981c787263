"""Has the chosen model ready in the worker before Apply is pressed, and knows what it would run on."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib import import_module
from typing import Any


class Ready:
    """The chosen model, warm for the present options.

    Args:
        panel: Asked for its choices, and refreshed when the worker has answered.
    """

    def __init__(self, panel: Any) -> None:
        self._panel = panel
        self._asked: tuple | None = None
        self._ran: dict[str, str] | None = None

    @property
    def ran(self) -> dict[str, str] | None:
        """What a run with the present options uses, as the worker told; None where it did not yet."""
        return self._ran if self._asked == self._choices() else None

    def warm(self) -> None:
        """Have the model ready in the background, where everything for it is installed; else say what is not."""
        panel, manifest = self._panel, self._panel.model.manifest
        if not panel.isConnected or panel.isRunning:
            return
        panel.ui.installHint.text = words = panel.dependencies.hint(manifest, panel.options()["device"])
        panel.ui.installHint.visible = bool(words)
        if manifest is None or words:
            return
        asked = self._choices()
        if asked == self._asked and panel.logic.worker().is_alive:
            return
        self._asked, self._ran = asked, None
        panel.logic.warm(panel.model.name, onDone=partial(self._answered, asked), **panel.options())

    def begin(self) -> None:
        """A run begins with the present options."""
        self._asked, self._ran = self._choices(), self.ran

    def took(self, ran: Mapping[str, str]) -> None:
        """That run told what it used."""
        self._ran = dict(ran)
        self._panel.expected.forget()

    def _answered(self, asked: tuple, result: dict) -> None:
        import_module("..scene.run", __package__)  # reading it takes 40 ms: not when Apply is pressed
        if asked == self._asked:  # else it is about what was chosen before
            self.took(result["ran"])
            self._panel.refresh()

    def _choices(self) -> tuple:
        return (self._panel.model.name, *self._panel.options().values())

"""How long a run will take here, in words: for the chosen volumes in the panel, and on the cards of models."""

from __future__ import annotations

from typing import Any

from slicer.i18n import tr as _

from . import state


class Expected:
    """What a panel says about time.

    Args:
        panel: Asked for its choices; its logic foretells.
    """

    def __init__(self, panel: Any) -> None:
        self._panel = panel
        self._about: tuple = ()
        self._words = ""

    def words(self) -> str:
        """``about 20 s``, for the panel's present choices; nothing where it is not known."""
        panel, node, region = self._panel, self._panel.inputs()[0], self._panel.region
        if node is None:
            return ""
        nodes = [(each.GetID(), each.GetMTime()) for each in (node, region) if each is not None]
        frames = panel.frames()
        about = (panel.model.name, *panel.options().values(), *nodes, frames, panel.ready.ran)
        if about != self._about:
            seconds = panel.logic.expectedSeconds(
                node, panel.model.name, region=region, ran=panel.ready.ran, **panel.options()
            )
            self._about, self._words = about, "" if seconds is None else state.about(seconds * frames, _)
        return self._words

    def forget(self) -> None:
        """Ask again: a run measured more."""
        self._about = ()

    def of_model(self, name: str) -> str:
        """``about 20 s for 'MRHead'``, or for an image as those of training where no volume is chosen; for any model."""
        panel = self._panel
        node = panel.inputs()[0] if panel.isConnected else None
        chosen = panel.options() if panel.isConnected else {}  # not while another module is open
        options = {key: value for key, value in chosen.items() if key in ("device", "mode")}
        seconds = panel.logic.expectedSeconds(node, name, **options)
        if seconds is None:
            return ""
        about = state.about(seconds, _)
        if node is not None:
            return _("{about} for '{volume}'").format(about=about, volume=node.GetName())
        return _("{about} for an image like those it was trained on").format(about=about)

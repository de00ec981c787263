"""Which model is chosen in the panel: its list of installed models, and the window with all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import slicer
from slicer.i18n import tr as _

from ..package import Manifest
from . import state

if TYPE_CHECKING:
    from .models import ModelChooser


class ChosenModel:
    """The model that a panel works with.

    Args:
        panel: Told when another model is chosen, by its ``onModelChanged``, and refreshed when models came or went.
    """

    def __init__(self, panel: Any) -> None:
        self._panel = panel
        self.known: dict[str, tuple[Manifest | None, str]] = {}
        self.chooser: ModelChooser | None = None
        self._missing = ""

    @property
    def name(self) -> str:
        """By which it is loaded; empty where there is none."""
        return self._panel.ui.modelSelector.currentData or ""

    @property
    def title(self) -> str:
        """What people call it."""
        return self._panel.ui.modelSelector.currentText

    @property
    def manifest(self) -> Manifest | None:
        """Its manifest; None where it cannot be read, or there is no model."""
        return self.known.get(self.name, (None, ""))[0]

    @property
    def problem(self) -> str:
        """Why it has no manifest."""
        if self._missing:
            words = _(
                "This scene's model '{name}' is not on this computer; get or import it (...), or choose another one."
            )
            return words.format(name=self._missing)
        return self.known.get(self.name, (None, _("No model is installed.")))[1]

    def fill(self) -> None:
        """List the models on this computer; the one that is chosen stays chosen where it is still there."""
        selector, chosen = self._panel.ui.modelSelector, self._panel.ui.modelSelector.currentData
        self.known = state.installed_models()
        selector.blockSignals(True)
        selector.clear()
        titles = {name: manifest.title if manifest else name for name, (manifest, _problem) in self.known.items()}
        for name, title in state.distinct(titles).items():
            selector.addItem(title, name)
        index = selector.findData(chosen or self._missing)
        selector.setCurrentIndex(index if self._missing else max(index, 0))
        selector.blockSignals(False)
        if selector.currentData != chosen:
            self._panel.onModelChanged(selector.currentIndex)

    def follow(self, name: str) -> bool:
        """Show the model that the scene asks for, or none where it is not on this computer; whether that was a change."""
        if name == self.name:
            self._missing = ""
        if name in ("", self.name, self._missing) or self._panel.isRunning:
            return False
        selector = self._panel.ui.modelSelector
        index = selector.findData(name)
        selector.blockSignals(True)  # nobody chose it just now
        selector.setCurrentIndex(index)
        selector.blockSignals(False)
        self._missing = name if index < 0 else ""
        return True

    def select(self, name: str) -> None:
        """Choose an installed model by name; any other name is passed over."""
        selector = self._panel.ui.modelSelector
        index = selector.findData(name)
        if index >= 0 and index != selector.currentIndex:
            selector.setCurrentIndex(index)

    def onButton(self, checked: bool = False) -> None:
        """Open the window with all models."""
        from .models import ModelChooser

        if self.chooser is None:
            ui_file = self._panel.resourcePath("UI/ModelChooser.ui")
            self.chooser = ModelChooser(ui_file, self.onChanged, self.onChosen, self._panel.expected.of_model)
        self.chooser.show(self.name)

    def onChosen(self, name: str) -> str:
        """A model was chosen in that window; returns why it is not taken, or nothing where it is."""
        if self._panel.isRunning:
            return _("Something is under way in the panel; use this model when it has ended.")
        if not self._panel.isConnected:  # the window stays open beside other modules
            slicer.util.selectModule(self._panel.moduleName)
        self.select(name)
        return ""

    def onChanged(self, name: str | None = None) -> None:
        """Models came or went; one that came is chosen, unless a run is under way."""
        self.fill()
        if name is not None and not self._panel.isRunning:
            self.select(name)
        self._panel.refresh()

    def close(self) -> None:
        """End the window for good."""
        if self.chooser is not None:
            self.chooser.close()

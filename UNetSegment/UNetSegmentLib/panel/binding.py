"""Puts a :class:`PanelView` into the widgets of ``UNetSegment.ui``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from slicer.i18n import tr as _

from .state import MAX_INPUTS, PanelView

CHOICES = (
    "modelSelector", "outputSelector", "deviceSelector", "modeSelector", "foldsSelector", "show3DCheckBox",
    "regionSelector", "everyFrameCheckBox", "checkupButton", "structuresList", "structuresAllButton",
    "structuresNoneButton",
)  # fmt: skip
"""What cannot be changed while a segmentation is under way."""


def fill(ui: Any) -> None:
    """List what there is to choose from, whatever the model."""
    hints = [getattr(ui, f"inputHint{n}") for n in range(1, MAX_INPUTS + 1)]
    hints += [ui.modelHint, ui.outputHint, ui.applyHint, ui.installHint, ui.statusLabel]
    for label in hints:
        label.setMinimumWidth(1)  # else the longest word, such as the name of a DICOM series, would widen the panel
    for text, device in ((_("Automatic"), "auto"), (_("CPU"), "cpu"), (_("GPU (NVIDIA)"), "cuda")):
        ui.deviceSelector.addItem(text, device)
    for text, mode in ((_("Automatic"), "auto"), (_("As trained"), "parity"), (_("Fast"), "fast")):
        ui.modeSelector.addItem(text, mode)


def show(ui: Any, view: PanelView, shown: PanelView | None = None) -> None:
    """Set texts, visibility and enabled states, where the view is another than was ``shown`` last.

    ``ui`` is what ``slicer.util.childWidgetVariables`` gives.
    """
    if view != shown:
        _write(ui, view)
    _choose(ui.modeSelector, view.mode)  # always: the user may have touched them, and the view be the same
    _choose(ui.foldsSelector, view.fold)


def _write(ui: Any, view: PanelView) -> None:
    for number, row in enumerate(view.inputs, start=1):
        label, selector = getattr(ui, f"inputLabel{number}"), getattr(ui, f"inputSelector{number}")
        hint = getattr(ui, f"inputHint{number}")
        label.text = on_button(row.label)
        hint.text = row.hint
        label.setVisible(row.visible)
        selector.setVisible(row.visible)
        if row.tip:
            selector.toolTip = in_tip(row.tip)
        hint.setVisible(bool(row.hint))
        selector.enabled = view.inputs_enabled
    ui.modelHint.text = view.model_line
    ui.modelSelector.toolTip = in_tip(view.model_tip)
    for label, words in ((ui.outputHint, view.output_hint), (ui.applyHint, view.apply_hint)):
        label.text = words
        label.setVisible(bool(words))
    ui.structuresButton.text = view.structures
    ui.optionsButton.text = on_button(view.options)
    ui.optionsButton.toolTip = in_tip(view.options_tip)
    ui.applyButton.text = view.apply_text
    ui.applyButton.enabled = view.apply_enabled
    ui.applyButton.toolTip = in_tip(view.apply_tip)
    ui.mirrorCheckBox.enabled = view.inputs_enabled and view.can_mirror
    _offer(ui.foldsSelector, view.folds)
    for widget in (ui.foldsLabel, ui.foldsSelector):
        widget.setVisible(bool(view.folds))
    for name in CHOICES:
        getattr(ui, name).enabled = view.inputs_enabled


def on_button(words: str) -> str:
    """Text for a button, or for the label of a control: in a name such as ``H&N`` the ``&`` is to be seen, and makes no keyboard shortcut."""
    return words.replace("&", "&&")


def in_tip(words: str) -> str:
    """Text for a tool tip or a message, which Qt takes for HTML where it looks so: names with ``<`` are to be seen as they are."""
    if "<" not in words and "&" not in words:
        return words
    from html import escape

    return f"<qt>{escape(words)}</qt>".replace("\n", "<br>")


def _offer(selector: Any, choices: Sequence[tuple[str, str]]) -> None:
    """List these choices, where others are listed."""
    if [(selector.itemText(n), selector.itemData(n)) for n in range(selector.count)] != list(choices):
        selector.blockSignals(True)
        selector.clear()
        for text, value in choices:
            selector.addItem(text, value)
        selector.blockSignals(False)


def _choose(selector: Any, value: str) -> None:
    """Show the choice ``value``: nobody chose it just now, so nobody is told."""
    selector.blockSignals(True)
    selector.setCurrentIndex(selector.findData(value))
    selector.blockSignals(False)

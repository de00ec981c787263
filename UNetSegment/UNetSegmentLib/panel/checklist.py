"""The section "Structures": a list to check, with a search box."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import qt

from ..labels import Label
from .binding import in_tip

FEW = 6
"""Structures that need no search box."""
HIGHEST = 180
"""Pixels the list grows to; then it scrolls."""


class Checklist:
    """The widgets of the section.

    Args:
        ui: Has ``structuresSearch``, ``structuresList``, ``structuresAllButton`` and ``structuresNoneButton``.
        changed: Called with the label values that are checked, after the user changed one.
    """

    def __init__(self, ui: Any, changed: Callable[[set[int]], None]) -> None:
        self._ui, self._changed = ui, changed
        self._labels: tuple[Label, ...] = ()
        ui.structuresList.connect("itemChanged(QListWidgetItem*)", self._onItem)
        ui.structuresSearch.connect("textChanged(QString)", self._onSearch)
        ui.structuresAllButton.connect("clicked(bool)", self._onAll)
        ui.structuresNoneButton.connect("clicked(bool)", self._onNone)

    def show(self, labels: Collection[Label], values: Collection[int] | None) -> None:
        """List ``labels`` and check those of ``values``; None: all."""
        widget = self._ui.structuresList
        widget.blockSignals(True)
        if tuple(labels) != self._labels:
            self._labels = tuple(labels)
            widget.clear()
            for label in self._labels:
                item = qt.QListWidgetItem(label.name)
                item.setIcon(swatch(label.color))
                item.setToolTip(in_tip(label.name))
                widget.addItem(item)
            self._onSearch(self._ui.structuresSearch.text)
            row_height = max(widget.sizeHintForRow(0), 16)
            widget.setFixedHeight(min(len(self._labels) * row_height + 8, HIGHEST))
            self._ui.structuresSearch.setVisible(len(self._labels) > FEW)
        for row, label in enumerate(self._labels):
            on = values is None or label.value in values
            widget.item(row).setCheckState(qt.Qt.Checked if on else qt.Qt.Unchecked)
        widget.blockSignals(False)

    def _onSearch(self, text: str) -> None:
        words = text.lower().split()
        for row, label in enumerate(self._labels):
            self._ui.structuresList.item(row).setHidden(not all(word in label.name.lower() for word in words))

    def _onItem(self, item: Any) -> None:
        widget = self._ui.structuresList
        on = {label.value for row, label in enumerate(self._labels) if widget.item(row).checkState() == qt.Qt.Checked}
        self._changed(on)

    def _onAll(self, checked: bool = False) -> None:
        self._set(qt.Qt.Checked)

    def _onNone(self, checked: bool = False) -> None:
        self._set(qt.Qt.Unchecked)

    def _set(self, state: int) -> None:
        """Check or clear what the search leaves."""
        widget = self._ui.structuresList
        widget.blockSignals(True)
        for row in range(len(self._labels)):
            if not widget.item(row).isHidden():
                widget.item(row).setCheckState(state)
        widget.blockSignals(False)
        self._onItem(None)


def swatch(color: tuple[int, int, int]) -> Any:
    """A small square of a structure's colour."""
    pixmap = qt.QPixmap(12, 12)
    pixmap.fill(qt.QColor(*color))
    return qt.QIcon(pixmap)

"""Result cards under the Apply button: newest on top, earlier ones folded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ctk
import qt
import slicer
from slicer.i18n import tr as _

from .binding import in_tip, on_button
from .checklist import HIGHEST, swatch
from .outcome import Card

KEPT = 10
"""Cards that stay."""


@dataclass(eq=False)
class Shown:
    """A card in the panel: what it says, the segmentation and volume nodes, and what was run."""

    card: Card
    node: Any
    volume: Any
    ran: dict[str, str]
    widget: Any = None
    buttons: tuple[Any, ...] = ()


class Cards:
    """The cards of this session.

    Args:
        layout: A vertical layout; cards go to its top.
        log: Called with the :class:`Shown` whose log is to be seen.
        before: The widget that the Tab key comes from to the newest card.
    """

    def __init__(self, layout: Any, log: Callable[[Shown], None], before: Any) -> None:
        self._layout, self._before = layout, before
        self._actions: list[tuple[str, str, Callable[[Shown], None]]] = [
            (_("Edit"), _("Correct this result in the Segment Editor."), edit),
            (_("Statistics"), _("Measure this result in the Segment Statistics module."), measure),
            (_("Save"), _("Save this result and whatever else is new, with Slicer's own dialog."), save),
            (_("Log"), _("Show what was run and what it wrote to its log."), log),
        ]  # the last one needs no node
        self.shown: list[Shown] = []

    def add(self, card: Card, node: Any, volume: Any, ran: dict[str, str]) -> Shown:
        """Put a card on top and fold the others."""
        for other in self.shown:
            other.widget.collapsed = True
        shown = Shown(card, node, volume, ran)
        shown.widget = self._build(shown)
        self._layout.insertWidget(0, shown.widget)
        self._reach(shown)
        self.shown.insert(0, shown)
        for old in self.shown[KEPT:]:
            self._remove(old)
        return shown

    def clear(self) -> None:
        """Take all cards away: their nodes went with the scene."""
        for shown in list(self.shown):
            self._remove(shown)

    def refresh(self, running: bool = False) -> None:
        """Turn off the buttons of results that are no longer in the scene, and let go of their voxels."""
        for shown in self.shown:
            there = shown.node is not None and shown.node.GetScene() is not None
            if not there:
                shown.node = None
            if shown.volume is not None and shown.volume.GetScene() is None:
                shown.volume = None
            for button in shown.buttons[:-1]:
                button.enabled = there and not running

    def _reach(self, shown: Shown) -> None:
        """The Tab key comes to a new card before the others, as the eye does."""
        chain = [self._before, shown.widget, *shown.widget.findChildren(qt.QTreeWidget), *shown.buttons]
        for one, other in zip(chain, chain[1:], strict=False):
            qt.QWidget.setTabOrder(one, other)

    def _remove(self, shown: Shown) -> None:
        self.shown.remove(shown)
        self._layout.removeWidget(shown.widget)
        shown.widget.hide()
        shown.widget.deleteLater()
        shown.node = shown.volume = None  # the buttons' slots may outlive the card: not with a scene's voxels

    def _build(self, shown: Shown) -> Any:
        card = shown.card
        frame = ctk.ctkCollapsibleButton()
        frame.text = on_button(card.title)
        frame.setMinimumWidth(200)  # else the title's length would set the width of the whole panel
        frame.toolTip = in_tip(_("{title}: a result, click to open or close it.").format(title=card.title))
        frame.setAccessibleName(_("Result: {title}").format(title=card.title))
        column = qt.QVBoxLayout(frame)
        column.addWidget(_text(card.line, qt.Qt.PlainText))
        if card.rows:
            column.addWidget(_table(card))
        if html := card.html():
            column.addWidget(_text(html, qt.Qt.RichText))
        row = qt.QHBoxLayout()
        column.addLayout(row)
        buttons = []
        for text, tip, action in self._actions:
            button = qt.QPushButton(text)
            button.toolTip = tip
            button.setMinimumWidth(30)
            button.connect("clicked(bool)", lambda checked=False, action=action: action(shown))
            row.addWidget(button)
            buttons.append(button)
        shown.buttons = tuple(buttons)
        return frame


def edit(shown: Shown) -> None:
    """Open the Segment Editor on a result and, where it is still there, its volume."""
    slicer.util.selectModule("SegmentEditor")
    editor = slicer.modules.segmenteditor.widgetRepresentation().self().editor
    editor.setSegmentationNode(shown.node)
    editor.setSourceVolumeNode(shown.volume)


def measure(shown: Shown) -> None:
    """Open Segment Statistics on a result."""
    slicer.util.selectModule("SegmentStatistics")
    widget = slicer.modules.segmentstatistics.widgetRepresentation().self()
    widget.segmentationSelector.setCurrentNode(shown.node)
    widget.scalarSelector.setCurrentNode(shown.volume)


def save(shown: Shown) -> None:
    """Open Slicer's save dialog."""
    slicer.util.openSaveDataDialog()


def _text(words: str, form: int) -> Any:
    label = qt.QLabel()
    label.setTextFormat(form)  # else names with < in them might be taken for markup
    label.text = words
    label.wordWrap = True
    label.setMinimumWidth(1)
    label.setTextInteractionFlags(qt.Qt.TextSelectableByMouse)
    return label


def _table(card: Card) -> Any:
    """Structures and millilitres: long names are cut, never the figures; many structures scroll."""
    tree = qt.QTreeWidget()
    tree.setColumnCount(2)
    tree.headerHidden = True
    tree.rootIsDecorated = False
    tree.setFrameShape(qt.QFrame.NoFrame)
    tree.alternatingRowColors = True
    tree.uniformRowHeights = True
    tree.toolTip = _("Volume of each structure.")
    tree.setAccessibleName(_("Volume of each structure"))
    tree.setHorizontalScrollBarPolicy(qt.Qt.ScrollBarAlwaysOff)
    for (name, ml), color in zip(card.rows, card.colors, strict=True):
        item = qt.QTreeWidgetItem([name, ml])
        item.setIcon(0, swatch(color))
        item.setTextAlignment(1, int(qt.Qt.AlignRight))
        item.setToolTip(0, in_tip(name))
        tree.addTopLevelItem(item)
    tree.header().setStretchLastSection(False)
    tree.header().setSectionResizeMode(0, qt.QHeaderView.Stretch)
    tree.header().setSectionResizeMode(1, qt.QHeaderView.ResizeToContents)
    tree.setSizePolicy(qt.QSizePolicy.Expanding, qt.QSizePolicy.Fixed)  # else the card would take all of a tall panel
    tree.setFixedHeight(min(len(card.rows) * max(tree.sizeHintForRow(0), 14) + 2, HIGHEST))
    return tree

"""Pictures of models in their list: thumbnails, fetched in the background where a catalog gives an address, or drawn ones."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import qt

from ..errors import UNetSegmentError
from ..package import thumbnail
from . import shelf
from .errand import Errand
from .lookout import Lookout

SIDE = 28
"""Pixels of a picture in the list."""
DISCS = (
    ((0.5, 0.5, 0.7),),
    ((0.34, 0.38, 0.5), (0.7, 0.66, 0.42)),
    ((0.3, 0.32, 0.44), (0.72, 0.4, 0.38), (0.46, 0.74, 0.4)),
    ((0.28, 0.28, 0.4), (0.72, 0.3, 0.34), (0.32, 0.72, 0.34), (0.72, 0.72, 0.4)),
    ((0.24, 0.26, 0.36), (0.74, 0.26, 0.34), (0.26, 0.76, 0.34), (0.76, 0.74, 0.36), (0.5, 0.5, 0.34)),
)
"""Centre and diameter of the discs of a drawn picture, in parts of its side, by how many there are."""


class Pictures:
    """Icons of the list, and the thumbnails that are still to be fetched, one after the other.

    Args:
        arrived: Called when one came.
    """

    def __init__(self, arrived: Callable[[], None]) -> None:
        self._arrived = arrived
        self._lookout = Lookout(self._ended)
        self._asked: set[str] = set()

    def icon(self, item: shelf.Item) -> Any:
        """A QIcon."""
        return qt.QIcon(str(item.thumbnail)) if item.thumbnail else qt.QIcon(drawn(item.colors))

    def want(self, item: shelf.Item) -> None:
        """Fetch an item's thumbnail where it is not here: only of what the user looks at, and tried once."""
        entry = item.entry
        if item.thumbnail or entry is None or self.is_busy or entry.name in self._asked:
            return
        if thumbnail.to_fetch(entry):
            self._asked.add(entry.name)
            self._lookout.send(lambda tell, cancelled: thumbnail.fetch(entry, cancelled))

    def _ended(self, errand: Errand) -> None:
        if isinstance(errand.error, UNetSegmentError):
            logging.info("UNetSegment: no thumbnail: %s", errand.error)
        elif errand.error is not None:
            logging.error("UNetSegment: a thumbnail could not be fetched", exc_info=errand.error)
        elif errand.result is not None:
            self._arrived()

    @property
    def is_busy(self) -> bool:
        """Whether one is being fetched."""
        return self._lookout.is_busy

    def close(self) -> None:
        """The window goes."""
        self._lookout.stop()


def drawn(colors: Sequence[tuple[int, int, int]]) -> Any:
    """A QPixmap for a model without a picture: a disc for each of its structures, the first five."""
    pixmap = qt.QPixmap(SIDE, SIDE)
    pixmap.fill(qt.QColor(0, 0, 0, 0))
    painter = qt.QPainter()
    painter.begin(pixmap)
    painter.setRenderHint(qt.QPainter.Antialiasing)
    shown = list(colors)[: len(DISCS)]
    for color, (x, y, width) in zip(shown, DISCS[len(shown) - 1], strict=True):
        pen, side = qt.QPen(), round(width * SIDE)
        pen.setColor(qt.QColor(*color))
        painter.setPen(pen)
        painter.setBrush(qt.QBrush(qt.QColor(*color)))
        painter.drawEllipse(round(x * SIDE) - side // 2, round(y * SIDE) - side // 2, side, side)
    painter.end()
    return pixmap

"""The line of the model chooser that adds and removes catalogs on web servers, and fetches them again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import qt
from slicer.i18n import tr as _

from ..errors import Cancelled, UNetSegmentError
from .errand import Errand

POLL_MS = 30


class Catalogs:
    """Looks after ``catalogSelector`` and ``catalogButton``; the network is asked in a thread.

    Args:
        ui: The widgets of ``ModelChooser.ui``.
        changed: Called when the catalogs are others than before.
        say: Shows a line.
    """

    def __init__(self, ui: Any, changed: Callable[[], None], say: Callable[[str], None]) -> None:
        self.ui, self._changed, self._say = ui, changed, say
        self._errand: Errand | None = None
        self._adding = False
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL_MS)
        self._timer.connect("timeout()", self.onTimer)
        self._line = ui.catalogSelector.lineEdit()
        self._line.setPlaceholderText(_("Address, for example https://models.hospital.example"))
        self._line.connect("returnPressed()", self.onReturn)
        ui.catalogSelector.connect("editTextChanged(QString)", self.onText)
        ui.catalogButton.connect("clicked(bool)", self.onButton)

    @property
    def is_busy(self) -> bool:
        """Whether the network is being asked."""
        return self._errand is not None

    def show(self) -> None:
        """List the addresses, and fetch their catalogs again in the background."""
        from ..package import addresses

        self._list("")
        if addresses.addresses() and self._errand is None:
            self._start(lambda tell, cancelled: addresses.refresh(cancelled), adding=False)

    def stop(self) -> None:
        """Look after nothing any more; what is under way ends by itself."""
        self._timer.stop()
        if self._errand is not None:
            self._errand.cancel()

    def onText(self, text: str) -> None:
        self._buttons()

    def onReturn(self) -> None:
        """Return adds; it never removes."""
        if self.ui.catalogButton.enabled and self.ui.catalogButton.text == _("Add"):
            self.onButton()

    def onButton(self, checked: bool = False) -> None:
        """Add the address that was typed, or remove it where it was added before."""
        from ..package import addresses

        address = self.ui.catalogSelector.currentText.strip()
        if address not in addresses.addresses():
            self._say(_("Fetching the catalog"))
            self._start(lambda tell, cancelled: addresses.add(address), adding=True)
            return
        try:
            addresses.remove(address)
        except UNetSegmentError as error:
            self._say(str(error))
            return
        self._list("")
        self._changed()
        self._say(_("The catalog was removed; models that came from there stay."))

    def onTimer(self) -> None:
        """Take over what the thread ended with."""
        errand = self._errand
        if errand is None or not errand.finished:
            return
        self._errand = None
        self._timer.stop()
        if errand.error is None:
            address, remarks = errand.result if self._adding else ("", errand.result)
            if self._adding:
                self._list("")
                remarks = [_("The catalog '{address}' was added.").format(address=address), *remarks]
            self._changed()
            if remarks:
                self._say(" ".join(remarks))
        elif isinstance(errand.error, UNetSegmentError) and not isinstance(errand.error, Cancelled):
            self._say(str(errand.error))
        elif not isinstance(errand.error, Cancelled):
            logging.error("UNetSegment: the catalogs could not be fetched", exc_info=errand.error)
            self._say(
                _("This failed unexpectedly ({error}); the catalogs are as they were.").format(error=errand.error)
            )
        self._buttons()

    def _start(self, work: Callable[[Any, Any], Any], adding: bool) -> None:
        self._errand, self._adding = Errand(work), adding
        self._timer.start()
        self._buttons()

    def _list(self, text: str) -> None:
        from ..package import addresses

        selector = self.ui.catalogSelector
        selector.blockSignals(True)
        selector.clear()
        selector.addItems(addresses.addresses())
        selector.setCurrentIndex(-1)
        selector.setEditText(text)
        selector.blockSignals(False)
        self._buttons()

    def _buttons(self) -> None:
        from ..package import addresses

        text = self.ui.catalogSelector.currentText.strip()
        self.ui.catalogButton.text = _("Remove") if text in addresses.addresses() else _("Add")
        self.ui.catalogButton.enabled = bool(text) and self._errand is None

"""The line of the model chooser that adds and removes catalogs on web servers, and fetches them again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _

from ..errors import Cancelled, UNetSegmentError
from .errand import Errand, Work
from .lookout import Lookout


class Catalogs:
    """Looks after ``catalogSelector`` and ``catalogButton``; the network is asked in a thread.

    Args:
        ui: The widgets of ``ModelChooser.ui``.
        changed: Called when the catalogs are others than before.
        say: Shows a line.
    """

    def __init__(self, ui: Any, changed: Callable[[], None], say: Callable[[str], None]) -> None:
        self.ui, self._changed, self._say = ui, changed, say
        self._lookout = Lookout(self._ended)
        self._adding = False
        self._line = ui.catalogSelector.lineEdit()
        self._line.setPlaceholderText(_("Address, for example https://models.hospital.example"))
        self._line.connect("returnPressed()", self.onReturn)
        ui.catalogSelector.connect("editTextChanged(QString)", self.onText)
        ui.catalogButton.connect("clicked(bool)", self.onButton)

    @property
    def is_busy(self) -> bool:
        """Whether the network is being asked."""
        return self._lookout.is_busy

    def show(self) -> None:
        """List the addresses, and fetch their catalogs again in the background."""
        from ..package import addresses

        self._list("")
        if addresses.addresses() and not self.is_busy:
            self._start(lambda tell, cancelled: addresses.refresh(cancelled), adding=False)

    def stop(self) -> None:
        """Look after nothing any more; what is under way ends by itself."""
        self._lookout.stop()

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

    def _ended(self, errand: Errand) -> None:
        """Take over what the thread ended with."""
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

    def _start(self, work: Work, adding: bool) -> None:
        self._adding = adding
        self._lookout.send(work)
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
        self.ui.catalogButton.enabled = bool(text) and not self.is_busy

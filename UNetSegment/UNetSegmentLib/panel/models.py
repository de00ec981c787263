"""The model chooser: a window beside the panel that lists, describes, fetches, imports and deletes models."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from ..errors import Cancelled, UNetSegmentError
from ..package.archive import size_text
from . import shelf
from .advice import READING
from .binding import in_tip
from .catalogs import Catalogs
from .errand import Errand, Work
from .lookout import Lookout
from .pictures import SIDE, Pictures


class ModelChooser:
    """The window, made when it is first shown. It never blocks: what takes long is done in a thread that a timer looks after.

    Args:
        ui_file: Path of ``ModelChooser.ui``.
        changed: Called with the name of a model that was added, or None after a deletion: the models on this computer
            are others now.
        chosen: Called with the name of the model that is to be used; returns why it cannot be taken now, or nothing.
        expected: Asked with the name of an installed model how long it will take here, in words.
    """

    def __init__(
        self,
        ui_file: str,
        changed: Callable[[str | None], None],
        chosen: Callable[[str], str],
        expected: Callable[[str], str],
    ) -> None:
        self._changed, self._chosen, self._expected = changed, chosen, expected
        self._items: list[shelf.Item] = []
        self._lookout = Lookout(self._ended, self._told)
        self._asked: tuple[str, str] = ("", "")
        self._asked_at = 0.0
        self.dialog = qt.QDialog(slicer.util.mainWindow())
        self.dialog.setWindowTitle(_("Models"))
        self.dialog.setModal(False)
        widget = slicer.util.loadUI(ui_file)
        layout = qt.QVBoxLayout(self.dialog)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        header = self.ui.modelList.header()
        header.setStretchLastSection(False)
        header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        header.setSectionResizeMode(0, qt.QHeaderView.Stretch)
        header.setSectionResizeMode(1, qt.QHeaderView.Interactive)
        self.ui.modelList.setColumnWidth(1, 100)
        self.ui.modelList.setIconSize(qt.QSize(SIDE, SIDE))
        self._pictures = Pictures(self.onCatalogs)
        self.dialog.resize(1120, 600)
        self.ui.splitter.setSizes([690, 430])
        self.ui.searchBox.connect("textChanged(QString)", self.onSearch)
        self.ui.modelList.connect("itemSelectionChanged()", self.onSelection)
        self.ui.modelList.connect("itemDoubleClicked(QTreeWidgetItem*,int)", self.onDoubleClick)
        self.ui.getButton.connect("clicked(bool)", self.onGet)
        self.ui.importFileButton.connect("clicked(bool)", self.onImportFile)
        self.ui.importFolderButton.connect("clicked(bool)", self.onImportFolder)
        self.ui.deleteButton.connect("clicked(bool)", self.onDelete)
        self.ui.deleteAllButton.connect("clicked(bool)", self.onDeleteAll)
        self.ui.useButton.connect("clicked(bool)", self.onUse)
        self._catalogs = Catalogs(self.ui, self.onCatalogs, self._say)

    def show(self, name: str = "") -> None:
        """Bring the window up with the model ``name`` chosen, whatever was searched for before."""
        self.ui.searchBox.setText("")
        self.refresh(name)
        self._catalogs.show()
        self.dialog.show()
        getattr(self.dialog, "raise")()
        self.dialog.activateWindow()

    def close(self) -> None:
        """End it for good, with whatever is under way."""
        self._lookout.stop()
        self._catalogs.stop()
        self._pictures.close()
        self.dialog.close()
        self.dialog.deleteLater()

    def refresh(self, name: str = "") -> None:
        """Read again what there is; keep ``name`` chosen, or what was."""
        name = name or self._name()
        self._items, remarks = shelf.read()
        self._fill(name)
        if remarks:
            self._say(" ".join(remarks))

    @property
    def is_busy(self) -> bool:
        """Whether a download or import is under way, or catalogs are being fetched."""
        return self._lookout.is_busy or self._catalogs.is_busy

    def _fill(self, name: str) -> None:
        words = self.ui.searchBox.text.split()
        tree = self.ui.modelList
        tree.blockSignals(True)
        tree.clear()
        current = None
        for item in sorted((each for each in self._items if each.matches(words)), key=lambda item: item.rank(words)):
            line = qt.QTreeWidgetItem([item.title, item.anatomy, item.modality, item.size_words(), item.state_words(_)])
            line.setData(0, qt.Qt.UserRole, item.name)
            line.setIcon(0, self._pictures.icon(item))
            line.setToolTip(0, in_tip(item.title))
            line.setToolTip(1, in_tip(item.anatomy))
            if item.problem:
                line.setToolTip(4, in_tip(item.problem))
            tree.addTopLevelItem(line)
            if current is None or item.name == name:
                current = line
        if current is not None:
            tree.setCurrentItem(current)
        tree.blockSignals(False)
        self.onSelection()

    def _name(self) -> str:
        line = self.ui.modelList.currentItem()
        return line.data(0, qt.Qt.UserRole) if line is not None else ""

    def item(self) -> shelf.Item | None:
        """The model that is chosen in the list."""
        name = self._name()
        return next((item for item in self._items if item.name == name), None)

    def onCatalogs(self) -> None:
        """Catalogs or pictures are others now; a question that was asked or work under way is left alone, the next look shows them."""
        if not self._lookout.is_busy and not self._asked[0]:
            self.refresh()

    def onSearch(self, text: str) -> None:
        """What fits best is described at once; without words, what was chosen stays."""
        self._fill("" if text.split() else self._name())

    def onSelection(self) -> None:
        """Describe the chosen model, and offer what can be done with it."""
        self._asked = ("", "")
        self._say("")
        item = self.item()
        expected = self._expected(item.name) if item and item.manifest else ""
        self.ui.cardBrowser.setHtml(shelf.card(item, _, expected) if item else _nothing())
        if item is not None:
            self._pictures.want(item)
        self._buttons()

    def onDoubleClick(self, line: Any, column: int) -> None:
        if self.ui.useButton.enabled:
            self.onUse()

    def onUse(self, checked: bool = False) -> None:
        """Hand the chosen model to the panel."""
        item = self.item()
        if item is not None:
            words = self._chosen(item.name)
            if words:
                self._say(words)
            else:
                self.dialog.hide()

    def onGet(self, checked: bool = False) -> None:
        """Show the licence; the second click fetches. While something is under way: cancel it."""
        if self._lookout.is_busy:
            self._lookout.cancel()
            self._say(_("Stopping"))
            return
        item = self.item()
        if item is None or not item.can_get:
            return
        if self._asked != ("get", item.name):
            self._ask(("get", item.name))
            self.ui.cardBrowser.setHtml(shelf.licence(item, _))
            self._say(_("Read the licence; press Accept and get to fetch the model."))
            self._buttons()
            return
        if self._is_double_click():
            return
        from ..package import store

        self._start(lambda tell, cancelled: store.get(item.entry, tell, cancelled))

    def onImportFile(self, checked: bool = False) -> None:
        path = qt.QFileDialog.getOpenFileName(self.dialog, _("Import a model"), "", _("Models (*.zip);;All files (*)"))
        if path:
            self.import_(path)

    def onImportFolder(self, checked: bool = False) -> None:
        path = qt.QFileDialog.getExistingDirectory(self.dialog, _("Import a model"))
        if path:
            self.import_(path)

    def import_(self, path: str) -> None:
        """Add the model in a zip or folder."""
        from ..package import store

        self._start(lambda tell, cancelled: store.import_(Path(path), None, tell, cancelled))

    def onDelete(self, checked: bool = False) -> None:
        """Delete the chosen model, at the second click."""
        item = self.item()
        if item is None or not item.removable:
            return
        words = _("Press Delete again to delete '{name}' ({size}) from this computer.")
        if self._confirmed(("delete", item.name), words.format(name=item.title, size=item.size_words())):
            from ..package import store

            self._delete(lambda: store.remove(item.name))

    def onDeleteAll(self, checked: bool = False) -> None:
        """Delete all fetched and imported models, at the second click."""
        size = sum(item.size or 0 for item in self._items if item.removable)
        words = _("Press Delete all again to delete every fetched and imported model ({size}) from this computer.")
        if self._confirmed(("delete all", ""), words.format(size=size_text(size))):
            from ..package import store

            self._delete(store.remove_all)

    def _confirmed(self, what: tuple[str, str], words: str) -> bool:
        if self._asked == what:
            if self._is_double_click():
                return False
            self._asked = ("", "")
            return True
        self._ask(what)
        self._say(words)
        self._buttons()
        return False

    def _ask(self, what: tuple[str, str]) -> None:
        self._asked, self._asked_at = what, time.monotonic()

    def _is_double_click(self) -> bool:
        """Whether the answer comes too soon to be one: nobody has read the question."""
        return time.monotonic() - self._asked_at < READING

    def _delete(self, work: Callable[[], int]) -> None:
        try:
            words = _("{size} freed.").format(size=size_text(work()))
        except UNetSegmentError as error:
            words = str(error)
        self._changed(None)
        self.refresh()
        self._say(words)

    def _start(self, work: Work) -> None:
        if self._lookout.is_busy:
            return
        self._asked = ("", "")
        self._lookout.send(work)
        self.ui.chooserProgress.setValue(0)
        self.ui.chooserProgress.setVisible(True)
        self._say(_("Starting"))
        self._buttons()

    def _told(self, errand: Errand) -> None:
        """Show how far it is."""
        report = errand.report
        if report is not None and not errand.is_cancelled:
            self.ui.chooserProgress.setMaximum(1000 if report.total else 0)
            if report.total:
                self.ui.chooserProgress.setValue(round(1000 * report.done / report.total))
            self._say(report.message)

    def _ended(self, errand: Errand) -> None:
        """Show what came of it."""
        self.ui.chooserProgress.setVisible(False)
        if errand.error is None:
            self._changed(errand.result.name)
            self.refresh(errand.result.name)
            words = _("'{title}' is ready.").format(title=errand.result.package.manifest.title)
            self._say(" ".join([words, *errand.result.remarks]))
            return
        self._buttons()
        if isinstance(errand.error, Cancelled):
            self._say(_("Cancelled; the models are as they were. What was fetched is kept for the next time."))
        elif isinstance(errand.error, UNetSegmentError):
            self._say(str(errand.error))
        else:
            logging.error("UNetSegment: a model could not be added", exc_info=errand.error)
            words = _("This failed unexpectedly ({error}); the models are as they were, see the log.")
            self._say(words.format(error=errand.error))

    def _buttons(self) -> None:
        item, ui, busy = self.item(), self.ui, self._lookout.is_busy
        asked = self._asked[0] == "get"
        size = size_text(item.entry.size) if item and item.entry and item.entry.size else ""
        if busy:
            text = _("Cancel")
        elif asked:
            text = _("Accept and get {size}").format(size=size).strip()
        else:
            text = _("Update") if item and item.status == shelf.UPDATE else _("Get")
        ui.getButton.text = text
        ui.getButton.enabled = busy or bool(item and item.can_get)
        for button in (ui.importFileButton, ui.importFolderButton):
            button.enabled = not busy
        ui.deleteButton.enabled = not busy and bool(item and item.removable)
        ui.deleteAllButton.enabled = not busy and any(each.removable for each in self._items)
        ui.useButton.enabled = bool(item and item.manifest is not None)

    def _say(self, words: str) -> None:
        self.ui.chooserStatus.text = words


def _nothing() -> str:
    """The card where no model fits the search."""
    return f"<p>{_('No model has all these words; take some away, or import a model from a file or folder.')}</p>"

"""A window with text to read, copy and save: logs and reports. It stays open beside the panel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _


class Paper:
    """The window, made when it is first shown."""

    def __init__(self) -> None:
        self.dialog: Any = None
        self.text: Any = None
        self._name = ""

    def show(self, title: str, words: str, name: str) -> None:
        """Show ``words``; ``name`` is offered as the file to save them to."""
        if self.dialog is None:
            self._build()
        self._name = name
        self.dialog.setWindowTitle(title)
        self.text.setPlainText(words)
        self.dialog.show()
        getattr(self.dialog, "raise")()

    def close(self) -> None:
        """End it for good."""
        if self.dialog is not None:
            self.dialog.close()
            self.dialog.deleteLater()
            self.dialog = None

    def _build(self) -> None:
        self.dialog = qt.QDialog(slicer.util.mainWindow())
        self.dialog.setModal(False)
        column = qt.QVBoxLayout(self.dialog)
        self.text = qt.QPlainTextEdit()
        self.text.readOnly = True
        self.text.toolTip = _("The text; it can be selected and copied.")
        self.text.setAccessibleName(_("Text"))
        column.addWidget(self.text)
        row = qt.QHBoxLayout()
        column.addLayout(row)
        for words, tip, slot in (
            (_("Copy"), _("Copy all of the text, for example into an issue."), self.onCopy),
            (_("Save..."), _("Write the text to a file."), self.onSave),
        ):
            button = qt.QPushButton(words)
            button.toolTip = tip
            button.setAutoDefault(False)
            button.connect("clicked(bool)", slot)
            row.addWidget(button)
        row.addStretch(1)
        self.dialog.resize(640, 480)

    def onCopy(self, checked: bool = False) -> None:
        self.text.selectAll()
        self.text.copy()

    def onSave(self, checked: bool = False) -> None:
        path = qt.QFileDialog.getSaveFileName(self.dialog, _("Save"), self._name, _("Text (*.txt)"))
        if path:
            self.save(path)

    def save(self, path: str) -> None:
        """Write the text to ``path``."""
        try:
            Path(path).write_text(self.text.plainText, "utf-8")
        except OSError as error:
            words = _("'{path}' cannot be written ({why}); choose another folder.")
            slicer.util.errorDisplay(words.format(path=path, why=error.strerror or error))

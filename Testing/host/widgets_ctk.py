"""CTK's widgets, as far as module panels use them: written for PySide6, named and behaving as CTK's."""

from PySide6.QtCore import Property, QEvent, QSize, Qt, Signal
from PySide6.QtGui import QIcon, QPainter
from PySide6.QtWidgets import (
    QAbstractButton,
    QLineEdit,
    QMessageBox,
    QSizePolicy,
    QStyle,
    QStyleOptionButton,
    QWidget,
)


def stored(kind, name, default, after=None):
    """A Qt property that is only kept (and announced to the method named ``after``, if any)."""

    def get(self):
        return self.__dict__.get("_" + name, default)

    def put(self, value):
        self.__dict__["_" + name] = value
        if after:
            getattr(self, after)()

    return Property(kind, get, put)


class ctkCollapsibleButton(QAbstractButton):
    """A section that folds. As in CTK, its title keeps it from getting narrower than the title's text, and what is shown in it
    while it is folded stays hidden until it is opened."""

    contentsCollapsed = Signal(bool)
    collapsedHeight = stored(int, "collapsedHeight", 14)
    contentsLineWidth = stored(int, "contentsLineWidth", 1)
    contentsMidLineWidth = stored(int, "contentsMidLineWidth", 0)
    contentsFrameShape = stored(int, "contentsFrameShape", 0)
    contentsFrameShadow = stored(int, "contentsFrameShadow", 16)
    flat = stored(bool, "flat", False)
    buttonTextAlignment, indicatorAlignment = (
        stored(int, n, 129) for n in ("buttonTextAlignment", "indicatorAlignment")
    )

    def __init__(self, *args):
        text = next((a for a in args if isinstance(a, str)), "")
        self._collapsed, self._wanted_hidden, self._ours, self._height = False, set(), False, 16777215
        super().__init__(next((a for a in args if isinstance(a, QWidget)), None))
        self.setText(text)
        self.setCheckable(True)
        self.setChecked(True)
        self.setContentsMargins(0, self._title_size().height(), 0, 0)
        self.setSizePolicy(QSizePolicy.Minimum, QSizePolicy.Preferred)
        self.toggled.connect(lambda on: self._fold(not on))

    def _title_size(self):
        option = QStyleOptionButton()
        option.initFrom(self)
        style, text = self.style(), self.fontMetrics().size(Qt.TextShowMnemonic, self.text() or "XXXX")
        mark = style.pixelMetric(QStyle.PM_IndicatorWidth, option, self)
        width = mark + style.pixelMetric(QStyle.PM_CheckBoxLabelSpacing, option, self) + text.width()
        height = max(style.pixelMetric(QStyle.PM_IndicatorHeight, option, self), text.height())
        return style.sizeFromContents(QStyle.CT_PushButton, option, QSize(width, height), self)

    def _get_collapsed(self):
        return self._collapsed

    def setCollapsed(self, fold):
        self.setChecked(not fold)

    collapsed = Property(bool, _get_collapsed, setCollapsed)

    def _fold(self, fold):
        if fold == self._collapsed:
            return
        self._collapsed = fold
        if fold:
            self._height = self.maximumHeight()
            self.setMaximumHeight(self.sizeHint().height())
        else:
            self.setMaximumHeight(self._height)
        self._show_children()
        self.updateGeometry()
        self.contentsCollapsed.emit(fold)

    def _show_children(self):
        for child in self.children():
            if isinstance(child, QWidget):
                self._show_child(child)

    def _show_child(self, child):
        if not self.testAttribute(Qt.WA_WState_Created):
            return  # hidden now, it would be shown with the window
        self._ours = True
        child.setVisible(not self._collapsed and id(child) not in self._wanted_hidden)
        self._ours = False

    def childEvent(self, event):
        child = event.child()
        if event.type() == QEvent.ChildAdded and isinstance(child, QWidget):
            if child.testAttribute(Qt.WA_WState_ExplicitShowHide) and child.testAttribute(Qt.WA_WState_Hidden):
                self._wanted_hidden.add(id(child))
            child.installEventFilter(self)
            self._show_child(child)
        super().childEvent(event)

    def eventFilter(self, child, event):
        if not self._ours and event.type() == QEvent.ShowToParent:
            self._wanted_hidden.discard(id(child))
            self._show_child(child)
        elif not self._ours and event.type() == QEvent.HideToParent:
            self._wanted_hidden.add(id(child))
        return False

    def setVisible(self, on):
        first = not self.testAttribute(Qt.WA_WState_Created)
        self._ours = True
        super().setVisible(on)
        self._ours = False
        if first:
            self._show_children()

    def sizeHint(self):
        title = self._title_size()
        if self._collapsed or self.layout() is None:
            return title + QSize(0, self.collapsedHeight)
        return self.layout().totalSizeHint().expandedTo(title + QSize(0, self.collapsedHeight))

    def minimumSizeHint(self):
        title = self._title_size()
        if self._collapsed:
            return title + QSize(0, self.collapsedHeight)
        return title if self.layout() is None else self.layout().totalMinimumSize().expandedTo(title)

    def hitButton(self, pos):
        return pos.y() < self._title_size().height()

    def paintEvent(self, event):
        painter, option = QPainter(self), QStyleOptionButton()
        option.initFrom(self)
        option.rect.setHeight(self._title_size().height())
        self.style().drawControl(QStyle.CE_PushButtonBevel, option, painter, self)
        arrow = QStyle.PE_IndicatorArrowRight if self._collapsed else QStyle.PE_IndicatorArrowDown
        text = option.rect.adjusted(22, 0, -4, 0)
        option.rect = option.rect.adjusted(6, 0, 0, 0)
        option.rect.setWidth(10)
        self.style().drawPrimitive(arrow, option, painter, self)
        self.style().drawItemText(
            painter,
            text,
            int(Qt.AlignLeft.value | Qt.AlignVCenter.value | Qt.TextHideMnemonic.value),  # as CTK: && is one &
            self.palette(),
            self.isEnabled(),
            self.text(),
            self.foregroundRole(),
        )


class ctkSearchBox(QLineEdit):
    showSearchIcon = stored(bool, "showSearchIcon", False)
    searchIcon, clearIcon = stored(QIcon, "searchIcon", QIcon()), stored(QIcon, "clearIcon", QIcon())

    def __init__(self, *args):
        super().__init__(*args)
        self.setClearButtonEnabled(True)
        self.setPlaceholderText("Search...")


class ctkMessageBox(QMessageBox):
    """What ``slicer.util`` asks with."""

    dontShowAgain = stored(bool, "dontShowAgain", False)
    dontShowAgainVisible = stored(bool, "dontShowAgainVisible", False)
    dontShowAgainSettingsKey = stored(str, "dontShowAgainSettingsKey", "")


CLASSES = {c.__name__: c for c in list(globals().values()) if isinstance(c, type) and c.__name__.startswith("ctk")}

"""The modules ``qt`` and ``ctk``: built from PySide6 and from the widgets of this folder."""

import sys
import tempfile
import types
import xml.etree.ElementTree as ElementTree

from PySide6 import QtCore, QtUiTools, QtWidgets

from . import facts, pythonqt, widgets_ctk, widgets_mrml
from .enums import enum_holder

CUSTOM = {**widgets_ctk.CLASSES, **widgets_mrml.CLASSES}


class _Qt(types.ModuleType):
    def __getattr__(self, name):
        if name == "Qt":
            return self.__dict__.setdefault("Qt", _Namespace())
        if name.startswith("__"):
            raise AttributeError(name)
        value = pythonqt.find(name)
        self.__dict__[name] = value
        return value


class _Namespace:
    """``qt.Qt``: every enum value of the Qt namespace as an integer."""

    def __getattr__(self, name):
        value = getattr(QtCore.Qt, name)
        return enum_holder(value) if isinstance(value, type) else pythonqt.wrap(value)


class _UiLoader(QtUiTools.QUiLoader):
    """Qt's own .ui loader, knowing CTK's and Slicer's widgets."""

    def createWidget(self, class_name, parent=None, name=""):
        if class_name in CUSTOM:
            widget = CUSTOM[class_name](parent)
            widget.setObjectName(name)
            return widget
        return super().createWidget(class_name, parent, name)


def load_ui(text: str):
    """The widget tree of a Designer file: as ``QUiLoader``, with connections to CTK's and Slicer's signals made."""
    tree = ElementTree.fromstring(text)
    unknown = {w.get("class") for w in tree.iter("widget")} - set(CUSTOM)
    unknown = {c for c in unknown if not c.startswith("Q") and c != "Line"}
    if unknown:
        raise NotImplementedError(f"the stand-in host has no widget class {', '.join(sorted(unknown))}")
    connections = [
        {p: c.findtext(p) for p in ("sender", "signal", "receiver", "slot")} for c in tree.iter("connection")
    ]
    for node in tree.findall("connections"):
        tree.remove(node)
    with tempfile.NamedTemporaryFile("wb", suffix=".ui", delete=False) as file:
        file.write(ElementTree.tostring(tree))
    native = _UiLoader().load(file.name, None)
    QtCore.QFile.remove(file.name)
    if native is None:
        return None
    root = pythonqt.proxy_of(native)
    for c in connections:
        sender, receiver = (
            root if root.objectName == c[k] else root.findChild(None, c[k]) for k in ("sender", "receiver")
        )
        if sender is None or receiver is None or not sender.connect(c["signal"], receiver, c["slot"]):
            raise RuntimeError(f"the .ui file connects what does not exist: {c}")
    return root


class QUiLoader:
    """``qt.QUiLoader``."""

    def load(self, device, parent=None):
        device.seek(0)
        root = load_ui(bytes(device.readAll().data()).decode())
        if root is not None and parent is not None:
            root.setParent(parent)
        return root


def install() -> None:
    """Put ``qt`` and ``ctk`` into ``sys.modules``."""
    if "qt" in sys.modules:
        return
    qt, ctk = _Qt("qt"), types.ModuleType("ctk")
    qt.QUiLoader = QUiLoader
    qt.Signal, qt.Slot, qt.Property = QtCore.Signal, QtCore.Slot, QtCore.Property
    qt.QTimer.singleShot = staticmethod(_single_shot)
    for name in ("getOpenFileName", "getSaveFileName", "getOpenFileNames"):
        setattr(qt.QFileDialog, name, staticmethod(_names_only(name)))
    for name, native in widgets_ctk.CLASSES.items():
        setattr(ctk, name, pythonqt.wrapper_class(native))
    sys.modules["qt"], sys.modules["ctk"] = qt, ctk


def _single_shot(msec, receiver, member=None):
    slot = receiver if callable(receiver) else getattr(receiver, member.split("(")[0])
    QtCore.QTimer.singleShot(int(msec), pythonqt.slot_for(slot))


def _names_only(name):
    """PySide6 also gives the filter that was chosen; PythonQt does not."""
    native = QtWidgets.QFileDialog
    return lambda *arguments: pythonqt.wrap(getattr(native, name)(*map(pythonqt.unwrap, arguments))[0])


def ui_problems(text: str) -> list[str]:
    """What Slicer would pass over in silence in a Designer file: properties its classes do not have, names used twice."""
    problems, names = [], set()
    for widget in ElementTree.fromstring(text).iter("widget"):
        kind, name = widget.get("class"), widget.get("name")
        if name in names:
            problems.append(f"two widgets are called {name}")
        names.add(name)
        known = facts.property_names(kind)
        for entry in widget.findall("property"):
            told = entry.get("stdset") == "0" or entry.get("name") == "buddy"  # read by the loader itself
            if known is not None and not told and entry.get("name") not in known:
                problems.append(f"{name} ({kind}) has no property {entry.get('name')}")
    return problems

"""Slicer's own widgets, as far as module panels use them: real MRML nodes behind PySide6 widgets."""

import vtk
from PySide6.QtCore import Property, QObject, Signal
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QInputDialog, QSizePolicy, QWidget

from .widgets_ctk import stored


def node_signal(name: str, argument: str = "vtkMRMLNode*") -> dict:
    """How a signal that carries a VTK object is spelled in ``connect()``; PySide6 declares it with a Python object."""
    return {f"{name}({argument})": (f"{name}(PyObject)", None)}


class _SceneHolder:
    """``mrmlScene()`` and ``setMRMLScene()``."""

    signal_aliases = node_signal("mrmlSceneChanged", "vtkMRMLScene*")
    _scene = None

    def mrmlScene(self):
        return self._scene

    def setMRMLScene(self, scene):
        if scene is self._scene:
            return
        self._scene = scene
        self.mrmlSceneChanged.emit(scene)


class qSlicerWidget(_SceneHolder, QWidget):
    mrmlSceneChanged = Signal(object)


class qMRMLWidget(_SceneHolder, QWidget):
    mrmlSceneChanged = Signal(object)


class qSlicerScriptedLoadableModuleWidget(qSlicerWidget):
    """The window of a scripted module; ``self()`` is the Python widget object."""

    python_self = None
    moduleName = stored(str, "moduleName", "")

    def self(self):
        return self.python_self

    def enter(self):
        """The panel is shown."""
        self._entered = True
        if hasattr(self.python_self, "enter"):
            self.python_self.enter()

    def exit(self):
        """Another module's panel is shown."""
        self._entered = False
        if hasattr(self.python_self, "exit"):
            self.python_self.exit()

    isEntered = Property(bool, lambda self: self.__dict__.get("_entered", False))

    def reload(self):
        from . import pythonqt, scripted

        scripted.fill(pythonqt.proxy_of(self))


class qMRMLNodeComboBox(QWidget):
    """Selector of the scene's nodes of some classes."""

    currentNodeChanged = Signal(object)
    currentNodeIDChanged = Signal(str)
    nodeActivated = Signal(object)
    nodeAdded = Signal(object)
    nodeAddedByUser = Signal(object)
    nodeAddedByUserAction = Signal(object)
    nodeAboutToBeRemoved = Signal(object)
    currentNodeRenamed = Signal(str)
    nodeAboutToBeEdited = Signal(object)
    signal_aliases = {
        "currentNodeChanged(bool)": ("currentNodeChanged(PyObject)", bool),
        **{
            k: v
            for name in (
                "currentNodeChanged",
                "nodeActivated",
                "nodeAdded",
                "nodeAddedByUser",
                "nodeAddedByUserAction",
                "nodeAboutToBeRemoved",
                "nodeAboutToBeEdited",
            )
            for k, v in node_signal(name).items()
        },
    }
    nodeTypes = stored("QStringList", "nodeTypes", [], "_rebuild")
    hideChildNodeTypes = stored("QStringList", "hideChildNodeTypes", [], "_rebuild")
    noneEnabled = stored(bool, "noneEnabled", False, "_rebuild")
    noneDisplay = stored(str, "noneDisplay", "None", "_rebuild")
    addEnabled = stored(bool, "addEnabled", True, "_rebuild")
    removeEnabled = stored(bool, "removeEnabled", True, "_rebuild")
    renameEnabled = stored(bool, "renameEnabled", False, "_rebuild")
    editEnabled = stored(bool, "editEnabled", False, "_rebuild")
    showHidden = stored(bool, "showHidden", False, "_rebuild")
    showChildNodeTypes = stored(bool, "showChildNodeTypes", True, "_rebuild")
    selectNodeUponCreation = stored(bool, "selectNodeUponCreation", True)
    interactionNodeSingletonTag = stored(str, "interactionNodeSingletonTag", "")

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene, self._tags, self._named, self._attributes, self._labels = None, [], {}, [], {}
        self._base_names, self._ids, self._current, self._requested, self._menu = {}, [], "", "", []
        self._text = ""
        self._combo = QComboBox(self)
        self._combo.setSizePolicy(QSizePolicy.Expanding, QSizePolicy.Fixed)
        self._combo.setMinimumContentsLength(6)
        self._combo.setSizeAdjustPolicy(QComboBox.AdjustToMinimumContentsLengthWithIcon)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._combo)
        self.setSizePolicy(QSizePolicy.Preferred, QSizePolicy.Fixed)
        self._combo.activated.connect(self._picked)
        self.setEnabled(False)
        self.destroyed.connect(lambda *_: self._unobserve())

    # the scene --------------------------------------------------------------------------------------------------------
    def mrmlScene(self):
        return self._scene

    def setMRMLScene(self, scene):
        if scene is self._scene:
            return
        self._unobserve()
        self._scene = scene
        if scene is not None:
            for event, slot in (
                (scene.NodeAddedEvent, self._on_added),
                (scene.NodeAboutToBeRemovedEvent, self._on_removing),
                (scene.NodeRemovedEvent, self._on_change),
                (scene.EndImportEvent, self._on_change),
                (scene.EndBatchProcessEvent, self._on_change),
                (scene.EndCloseEvent, self._on_change),
            ):
                slot_with_data = with_call_data(slot)
                self._tags.append((scene, scene.AddObserver(event, slot_with_data)))
        wanted, self._requested = self._requested, ""
        self._rebuild(wanted)
        self.setEnabled(scene is not None)

    def _unobserve(self):
        for obj, tag in self._tags + [(n, t) for n, t in self._named.values()]:
            obj.RemoveObserver(tag)
        self._tags, self._named = [], {}

    def _on_added(self, node):
        if node is not None and self._accepts(node) and not self._scene.IsImporting():
            self._rebuild()
            self.nodeAdded.emit(node)

    def _on_removing(self, node):
        if node is None or node.GetID() not in self._ids:
            return
        self.nodeAboutToBeRemoved.emit(node)
        if self._scene.IsClosing() or node.GetID() not in self._ids:
            return
        before, place = self._current, self._ids.index(node.GetID())
        self._rebuild(self._beside(place) if before == node.GetID() else None, but=node)

    def _beside(self, place):
        """The ID of the node that takes over for the one in a place, as QComboBox does when the current row goes."""
        return (self._ids[place + 1 :] or self._ids[:place][-1:] or [""])[0]

    def _on_change(self, node):
        # nodes of a scene that comes have no final IDs yet
        if not (self._scene.IsImporting() or self._scene.IsClosing()):
            self._rebuild()

    def _accepts(self, node):
        if node.GetHideFromEditors() and not self.showHidden:
            return False
        types_ = list(self.nodeTypes)
        exact = node.GetClassName() in types_
        if types_ and not exact and not (self.showChildNodeTypes and any(node.IsA(t) for t in types_)):
            return False
        if not exact and any(node.IsA(t) for t in self.hideChildNodeTypes):
            return False
        return all(
            node.GetAttribute(name) is not None if value is None else node.GetAttribute(name) == value
            for kind, name, value in self._attributes
            if node.IsA(kind)
        )

    def _rebuild(self, wanted=None, but=None):
        before = self._current
        wanted = before if wanted is None else wanted
        nodes = []
        if self._scene is not None:
            every = [self._scene.GetNthNode(i) for i in range(self._scene.GetNumberOfNodes())]
            nodes = [n for n in every if n is not but and self._accepts(n)]
        self._ids = [n.GetID() for n in nodes]
        for gone in set(self._named) - set(self._ids):
            node, tag = self._named.pop(gone)
            node.RemoveObserver(tag)
        for node in nodes:
            if node.GetID() not in self._named:
                tag = node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._show_names())
                self._named[node.GetID()] = node, tag
        self._combo.blockSignals(True)
        self._combo.clear()
        if self.noneEnabled:
            self._combo.addItem(self.noneDisplay, "")
        for node in nodes:
            self._combo.addItem(node.GetName(), node.GetID())
        for text, command in self._actions():
            self._combo.addItem(text, "!" + command)
        self._combo.blockSignals(False)
        self._select(wanted, before)

    def _select(self, wanted, before):
        if wanted not in self._ids:  # a current node that went: the last one takes over where "None" is not offered
            wanted = self._ids[-1] if wanted and self._ids and not self.noneEnabled else ""
        index = self._combo.findData(wanted) if wanted or self.noneEnabled else -1
        self._combo.setCurrentIndex(index)
        self._current = wanted
        self._tell(before)

    def _tell(self, before):
        """In Slicer these signals hang on QComboBox.currentTextChanged: with Qt 6, two nodes of one name are one to it."""
        text, self._text = self._text, self._combo.currentText() if self._current else ""
        if self._current != before and self._text != text:
            self.currentNodeChanged.emit(self.currentNode())
            self.currentNodeIDChanged.emit(self._current)

    def _show_names(self):
        for index in range(self._combo.count()):
            node = self._scene.GetNodeByID(self._combo.itemData(index) or "") if self._scene else None
            if node is not None and node.GetName() != self._combo.itemText(index):
                self._combo.setItemText(index, node.GetName())
                if index == self._combo.currentIndex():
                    self._tell("")

    # the choice ---------------------------------------------------------------------------------------------------------
    def currentNode(self):
        return self._scene.GetNodeByID(self._current) if self._scene is not None and self._current else None

    def setCurrentNode(self, node):
        self._set_id(node.GetID() if node is not None and not isinstance(node, str) else node or "")

    def _set_id(self, node_id):
        if self._scene is None:
            self._requested = node_id or ""
            return
        self._select_or_none(node_id or "")

    def _select_or_none(self, node_id):
        before = self._current
        if node_id in self._ids:
            self._select(node_id, before)
            return
        self._current = ""
        self._combo.setCurrentIndex(0 if self.noneEnabled else -1)
        self._tell(before)

    def setCurrentNodeID(self, node_id):
        self._set_id(node_id)

    def setCurrentNodeIndex(self, index):
        self.setCurrentNode(self.nodeFromIndex(index))

    currentNodeID = Property(str, lambda self: self._current, setCurrentNodeID)
    currentNodeId = Property(str, lambda self: self._current, setCurrentNodeID)

    def nodeCount(self):
        return len(self._ids) if self._scene is not None else 0

    def nodeFromIndex(self, index):
        return self._scene.GetNodeByID(self._ids[index]) if 0 <= index < len(self._ids) else None

    # the commands under the nodes ------------------------------------------------------------------------------------------
    def _actions(self):
        if self._scene is None:
            return []
        types_ = list(self.nodeTypes)
        label = self.nodeTypeLabel(types_[0] if len(types_) == 1 else "")
        found = [(f"Rename current {label}", "rename")] if self.renameEnabled else []
        if self.addEnabled:
            found += [(f"Create new {self.nodeTypeLabel(t)}", "create " + t) for t in types_]
        if self.removeEnabled:
            found.append((f"Delete current {label}", "delete"))
        return found + [(action.text(), f"menu {i}") for i, action in enumerate(self._menu)]

    def _picked(self, index):
        data = self._combo.itemData(index) or ""
        if not data.startswith("!"):
            self._select(data, self._current)
            self.nodeActivated.emit(self.currentNode())
            return
        self._combo.setCurrentIndex(self._combo.findData(self._current))
        command, _, rest = data[1:].partition(" ")
        if command == "create":
            self.nodeAddedByUserAction.emit(self.addNode(rest))
        elif command == "delete":
            self.removeCurrentNode()
        elif command == "rename":
            self.renameCurrentNode()
        else:
            self._menu[int(rest)].trigger()

    def addMenuAction(self, action):
        self._menu.append(action)
        self._rebuild()

    def addNode(self, node_type=None):
        node_type = node_type or (list(self.nodeTypes) or [None])[0]
        if self._scene is None or node_type not in self.nodeTypes:
            return None
        name = self._base_names.get(node_type) or self._scene.GetTagByClassName(node_type) or node_type
        node = self._scene.CreateNodeByClass(node_type)
        node.UnRegister(None)
        node.SetName(self._scene.GetUniqueNameByString(name))
        for _, attribute, value in self._attributes:
            node.SetAttribute(attribute, value or "")
        node = self._scene.AddNode(node)
        # by the Markups module; others have no display node until somebody makes one
        if node.IsA("vtkMRMLMarkupsNode"):
            node.CreateDefaultDisplayNodes()
        if self.selectNodeUponCreation:
            self.setCurrentNode(node)
        self.nodeAddedByUser.emit(node)
        return node

    def removeCurrentNode(self):
        if self.currentNode() is not None:
            self._scene.RemoveNode(self.currentNode())

    def renameCurrentNode(self):
        node = self.currentNode()
        name, ok = QInputDialog.getText(self, "Rename", "New name:", text=node.GetName()) if node else ("", False)
        if ok and name:
            node.SetName(name)
            self.currentNodeRenamed.emit(name)

    def addAttribute(self, node_type, name, value=None):
        self._attributes.append((node_type, name, None if value is None else str(value)))
        self._rebuild()

    def removeAttribute(self, node_type, name):
        self._attributes = [a for a in self._attributes if a[:2] != (node_type, name)]
        self._rebuild()

    def nodeTypeLabel(self, node_type):
        if node_type in self._labels:
            return self._labels[node_type]
        return (self._scene.GetTypeDisplayNameByClassName(node_type) if self._scene and node_type else "") or "node"

    def setNodeTypeLabel(self, label, node_type):
        self._labels[node_type] = label
        self._rebuild()

    def setBaseName(self, name, node_type=""):
        for kind in [node_type] if node_type else list(self.nodeTypes):
            self._base_names[kind] = name

    baseName = Property(str, lambda self: self._base_names.get((list(self.nodeTypes) or [""])[0], ""), setBaseName)


def with_call_data(slot):
    """An observer that gets the MRML node an event is about."""

    def observer(caller, event, data=None):
        slot(data)

    observer.CallDataType = vtk.VTK_OBJECT
    return observer


CLASSES = {
    c.__name__: c
    for c in list(globals().values())
    if isinstance(c, type) and issubclass(c, QObject) and c.__name__.startswith(("qMRML", "qSlicer"))
}

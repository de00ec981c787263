"""``slicer.parameterNodeWrapper``: a class with annotated fields, kept in a real ``vtkMRMLScriptedModuleNode``.

Written against Slicer's documentation and behaviour for what the module's panel uses: text, switches and MRML nodes, bound to
check boxes and node selectors. Values are stored in the node exactly as Slicer stores them (text parameters and node
references), so a scene saved by one opens in the other.
"""

import typing
import weakref

import qt
import slicer
import vtk

SlicerParameterNamePropertyName = "SlicerParameterName"


class _Field:
    """One annotated field: its type, and how it lies in the parameter node."""

    def __init__(self, name, kind, default):
        self.name, self.type = name, kind
        self.is_node = isinstance(kind, type) and issubclass(kind, slicer.vtkMRMLNode)
        if not (self.is_node or kind in (str, bool)):
            raise NotImplementedError(f"the stand-in host does not keep {kind} in a parameter node ('{name}')")
        self.default = default[0] if default else None if self.is_node else kind()

    def check(self, value):
        if value is None and not self.is_node:
            raise ValueError("Value must not be None")
        if value is not None and not isinstance(value, self.type):
            raise TypeError(f"'{self.name}' must be of type '{self.type}', is type '{type(value)}' value '{value}'")

    def write(self, node, key, value):
        self.check(value)
        with slicer.util.NodeModify(node):
            if self.is_node:
                node.SetParameter(key, "")
                node.SetNodeReferenceID(key, value.GetID() if value is not None else None)
            else:
                node.SetParameter(key, str(value))

    def read(self, node, key):
        if not node.HasParameter(key):
            self.write(node, key, self.default)
        if self.is_node:
            return node.GetNodeReference(key)
        text = node.GetParameter(key)
        return text == "True" if self.type is bool else text


class _Binding:
    """A widget and a field kept equal."""

    def __init__(self, widget, field):
        self.widget, self.slot = widget, None
        if field.type is bool and type(widget) is qt.QCheckBox:
            self.signal = "stateChanged"
            self.read, self.write = lambda: widget.checked, lambda value: setattr(widget, "checked", value)
        elif field.is_node and type(widget) is slicer.qMRMLNodeComboBox:
            self.signal, self.read, self.write = "currentNodeChanged", widget.currentNode, widget.setCurrentNode
            widget.nodeTypes = [field.type.__name__]  # whatever the .ui file says
        else:
            raise RuntimeError(f"Unable to create GUI connector from datatype '{field.type}' to '{type(widget)}'.")

    def watch(self, callback):
        if self.slot is not None:
            getattr(self.widget, self.signal).disconnect(self.slot)
        self.slot = callback
        if callback is not None:
            getattr(self.widget, self.signal).connect(callback)


class _Wrapper:
    """What the decorator mixes into the class."""

    def __init__(self, parameterNode, prefix=None):
        self.parameterNode, self._prefix = parameterNode, prefix or ""
        self._guis, self._next_tag, self._updating = {}, 0, False
        self._values = {}
        for name, field in self.allParameters.items():
            if not parameterNode.HasParameter(self._prefix + name):
                field.write(parameterNode, self._prefix + name, field.default)
            self._recall(name)
        here = weakref.ref(self)
        self._tag = parameterNode.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: here()._recall_all())

    def __del__(self):
        self.parameterNode.RemoveObserver(self._tag)

    def _recall(self, name):
        """As in Slicer, values are kept here from one ModifiedEvent of the node to the next."""
        self._values[name] = self._field(name).read(self.parameterNode, self._prefix + name)

    def _recall_all(self):
        for name in self.allParameters:
            self._recall(name)

    def getValue(self, name):
        self._field(name)
        return self._values[name]

    def setValue(self, name, value):
        with slicer.util.NodeModify(self.parameterNode):
            self._field(name).write(self.parameterNode, self._prefix + name, value)
            self._recall(name)

    def isCached(self, name):
        self._field(name)
        return True

    @classmethod
    def _field(cls, name):
        if name not in cls.allParameters:
            raise ValueError(f"Cannot find a param with the given name: {name}")
        return cls.allParameters[name]

    def connectGui(self, gui):
        """Bind every widget of ``gui`` whose dynamic property SlicerParameterName names a field."""
        is_widget = getattr(gui, "isWidgetType", lambda: False)()
        widgets = gui.findChildren(qt.QWidget) if is_widget else list(vars(gui).values())
        named = {
            w.property(SlicerParameterNamePropertyName): w
            for w in widgets
            if w.property(SlicerParameterNamePropertyName)
        }
        return self.connectParametersToGui(named)

    def connectParametersToGui(self, mapping):
        bindings = {name: _Binding(widget, self._field(name)) for name, widget in mapping.items()}
        tag, self._next_tag = self._next_tag, self._next_tag + 1
        for name, binding in bindings.items():
            binding.write(self.getValue(name))
            binding.watch(lambda *_, name=name: self._from_gui(tag, name))
        self._guis[tag] = bindings, self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._to_gui(tag))
        return tag

    def _from_gui(self, tag, name):
        if not self._updating and tag in self._guis:
            self.setValue(name, self._guis[tag][0][name].read())

    def _to_gui(self, tag):
        if self._updating or tag not in self._guis:
            return
        self._updating = True
        try:
            with slicer.util.NodeModify(self):
                for name, binding in self._guis[tag][0].items():
                    binding.write(self.getValue(name))
        finally:
            self._updating = False

    def disconnectGui(self, tag):
        bindings, observer = self._guis.pop(tag, ({}, None))
        for binding in bindings.values():
            binding.watch(None)
        if observer is not None:
            self.RemoveObserver(observer)

    def StartModify(self):
        return self.parameterNode.StartModify()

    def EndModify(self, before):
        return self.parameterNode.EndModify(before)

    def AddObserver(self, event, callback, priority=0.0):
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag):
        return self.parameterNode.RemoveObserver(tag)

    def Modified(self):
        return self.parameterNode.Modified()


def parameterNodeWrapper(cls):
    """The class decorator."""
    fields = {}
    for name, kind in typing.get_type_hints(cls).items():
        if hasattr(_Wrapper, name):
            raise ValueError(f"Cannot use reserved name '{name}' in a parameterNodeWrapper")
        fields[name] = _Field(name, kind, [vars(cls)[name]] if name in vars(cls) else [])
        setattr(cls, name, property(lambda self, n=name: self.getValue(n), lambda self, v, n=name: self.setValue(n, v)))
    cls.allParameters = fields
    for name, member in vars(_Wrapper).items():
        if name not in (
            "__dict__",
            "__weakref__",
            "__doc__",
            "__module__",
            "__qualname__",
            "__firstlineno__",
            "__static_attributes__",
        ):
            setattr(cls, name, member)
    return cls

"""``slicer.parameterNodeWrapper``: a class with annotated fields, kept in a real ``vtkMRMLScriptedModuleNode``.

Written against Slicer's documentation and behaviour for the types that module panels use: str, bool, int, float, Path,
enum, MRML nodes and Optional of these, with the annotations below. Values are stored in the node exactly as Slicer stores
them (text parameters and node references), so a scene saved by one opens in the other.
"""

import enum
import pathlib
import types
import typing
import weakref

import ctk
import qt
import slicer
import vtk

SlicerParameterNamePropertyName = "SlicerParameterName"


class Validator:
    """Base of the annotations that accept or refuse a value."""

    def validate(self, value):
        raise NotImplementedError


class _Checked(Validator):
    def __init__(self, *values):
        self.values = values

    def validate(self, value):
        if not self.accepts(value):
            raise ValueError(f"{value!r} is refused by {self!r}")

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(map(repr, self.values))})"


class WithinRange(_Checked):
    minimum, maximum = property(lambda self: self.values[0]), property(lambda self: self.values[1])

    def accepts(self, value):
        return self.minimum <= value <= self.maximum


class Minimum(_Checked):
    minimum = property(lambda self: self.values[0])

    def accepts(self, value):
        return value >= self.minimum


class Maximum(_Checked):
    maximum = property(lambda self: self.values[0])

    def accepts(self, value):
        return value <= self.maximum


class Choice(_Checked):
    choices = property(lambda self: self.values[0])

    def accepts(self, value):
        return value in self.choices


class Exclude(_Checked):
    def accepts(self, value):
        return value not in self.values[0]


class NotNone(_Checked):
    def accepts(self, value):
        return value is not None


class Default:
    """The value of a field before anyone sets it."""

    def __init__(self, value=None, *, generator=None):
        self._value, self._generator = value, generator

    @property
    def value(self):
        return self._generator() if self._generator else self._value


class Decimals:
    def __init__(self, value):
        self.value = value


class SingleStep:
    def __init__(self, value):
        self.value = value


def unannotatedType(kind):
    return typing.get_args(kind)[0] if typing.get_origin(kind) is typing.Annotated else kind


def splitAnnotations(kind):
    if typing.get_origin(kind) is typing.Annotated:
        base, *annotations = typing.get_args(kind)
        return base, annotations
    return kind, []


def isParameterNodeWrapper(thing):
    return getattr(thing, "_is_parameter_node_wrapper", False)


# storage -----------------------------------------------------------------------------------------------------------------
class _Field:
    """One annotated field: its type, its checks and how it lies in the parameter node."""

    def __init__(self, name, annotated, default):
        self.name, self.annotated = name, annotated
        base, annotations = splitAnnotations(annotated)
        self.optional = typing.get_origin(base) in (typing.Union, types.UnionType) and type(None) in typing.get_args(
            base
        )
        members = [t for t in typing.get_args(base) if t is not type(None)] if self.optional else [base]
        if len(members) != 1 or not isinstance(members[0], type):
            raise NotImplementedError(f"the stand-in host does not keep {annotated} in a parameter node ('{name}')")
        self.type = members[0]
        self.is_node = issubclass(self.type, slicer.vtkMRMLNode)
        if not (self.is_node or issubclass(self.type, str | bool | int | float | enum.Enum | pathlib.PurePath)):
            raise NotImplementedError(f"the stand-in host does not keep {self.type} in a parameter node ('{name}')")
        self.validators = [
            a() if isinstance(a, type) else a
            for a in annotations
            if isinstance(a, Validator) or (isinstance(a, type) and issubclass(a, Validator))
        ]
        given = [a for a in annotations if isinstance(a, Default)]
        self.default = Default(default[0]) if default else given[0] if given else Default(self._empty())
        self.annotations = annotations

    def _empty(self):
        if self.is_node or self.optional:
            return None
        return next(iter(self.type)) if issubclass(self.type, enum.Enum) else 0 if self.type is float else self.type()

    def check(self, value):
        if value is None:
            if not (self.is_node or self.optional):
                raise ValueError("Value must not be None")
            return
        allowed = (int, float) if self.type is float else self.type
        if not isinstance(value, allowed):
            raise TypeError(f"'{self.name}' must be of type '{allowed}', is type '{type(value)}' value '{value}'")
        for validator in self.validators:
            validator.validate(value)

    def is_in(self, node, key):
        return any(node.HasParameter(k) for k in self._keys(key))

    def _keys(self, key):
        """An Optional lies under one name for its type and another for None."""
        return (key + ".0", key + ".1") if self.optional else (key,)

    def write(self, node, key, value):
        self.check(value)
        keys = self._keys(key)
        with slicer.util.NodeModify(node):
            for old in keys if self.optional else ():
                node.UnsetParameter(old)
                node.RemoveNodeReferenceIDs(old)
            if self.is_node and not (self.optional and value is None):
                node.SetParameter(keys[0], "")
                node.SetNodeReferenceID(keys[0], value.GetID() if value is not None else None)
            elif value is None:
                node.SetParameter(keys[1], "True")
            else:
                node.SetParameter(keys[0], value.name if isinstance(value, enum.Enum) else str(value))

    def read(self, node, key):
        if not self.is_in(node, key):
            self.write(node, key, self.default.value)
        keys = self._keys(key)
        if self.optional and node.HasParameter(keys[1]):
            return None
        if self.is_node:
            return node.GetNodeReference(keys[0])
        text = node.GetParameter(keys[0])
        if self.type is bool:
            return text == "True"
        return self.type[text] if issubclass(self.type, enum.Enum) else self.type(text)


# widgets -------------------------------------------------------------------------------------------------------------------
class _Binding:
    """A widget and a field kept equal."""

    def __init__(self, widget, field):
        self.widget, self.field, self.slot = widget, field, None
        self.signal, self.read, self.write = _binding(widget, field)

    def watch(self, callback):
        if self.slot is not None and self.signal:
            getattr(self.widget, self.signal).disconnect(self.slot)
        self.slot = callback
        if callback is not None and self.signal:
            getattr(self.widget, self.signal).connect(callback)


def _binding(w, field):
    kind, base = field.type, type(w)
    find = lambda t: next((a for a in field.annotations if isinstance(a, t)), None)  # noqa: E731
    attribute = lambda name, to=lambda v: v: (  # noqa: E731
        lambda: to(getattr(w, name)),
        lambda value: setattr(w, name, value),
    )
    if kind is bool and base in (qt.QCheckBox, qt.QPushButton):
        if base is qt.QPushButton:
            w.checkable = True
        return ("stateChanged" if base is qt.QCheckBox else "toggled", *attribute("checked"))
    numeric = (qt.QSlider, qt.QSpinBox) if kind is int else ()
    real = (qt.QDoubleSpinBox, ctk.ctkSliderWidget)
    if kind in (int, float) and base in numeric + real:
        if base in real and (kind is int or find(Decimals)):
            w.decimals = 0 if kind is int else find(Decimals).value
        if find(SingleStep):
            w.singleStep = find(SingleStep).value
        limits = find(WithinRange) or find(Minimum), find(WithinRange) or find(Maximum)
        if None in limits and base in (qt.QSlider, ctk.ctkSliderWidget):
            raise RuntimeError(
                f"Cannot have a connection to {base.__name__} where the {kind.__name__} type is unbounded."
            )
        top = 2**31 - 1 if kind is int and base in numeric else float("inf")
        w.minimum = limits[0].minimum if limits[0] else -top
        w.maximum = limits[1].maximum if limits[1] else top
        return ("valueChanged", *attribute("value", kind))
    if base is qt.QComboBox and issubclass(kind, str | int | float | enum.Enum):
        if issubclass(kind, enum.Enum):
            choices, labels = list(kind), [e.label() if hasattr(e, "label") else e.name for e in kind]
        elif find(Choice) is None:
            raise RuntimeError("ComboBoxToStringableConnector requires the Choice annotation to be used.")
        else:
            choices = list(find(Choice).choices)
            labels = [str(c) for c in choices]
        w.clear()
        for label in labels:
            w.addItem(label)
        return (
            "currentIndexChanged",
            lambda: choices[w.currentIndex],
            lambda value: setattr(w, "currentIndex", choices.index(value)),
        )
    if kind is str and base is qt.QLineEdit:
        return ("textChanged", lambda: w.text, lambda value: value != w.text and w.setText(value))
    if kind is str and base is qt.QLabel:
        return (None, *attribute("text"))
    if kind is str and base is qt.QTextEdit:
        return (
            "textChanged",
            lambda: w.toPlainText(),
            lambda value: value != w.toPlainText() and w.setPlainText(value),
        )
    if issubclass(kind, pathlib.PurePath) and base is ctk.ctkPathLineEdit:
        return ("currentPathChanged", lambda: kind(w.currentPath), lambda value: setattr(w, "currentPath", str(value)))
    if field.is_node and base is slicer.qMRMLNodeComboBox:
        return ("currentNodeChanged", lambda: w.currentNode(), lambda value: w.setCurrentNode(value))
    raise RuntimeError(f"Unable to create GUI connector from datatype '{field.annotated}' to widget type '{base}'.")


# the decorator --------------------------------------------------------------------------------------------------------------
class _Wrapper:
    """What the decorator mixes into the class."""

    _is_parameter_node_wrapper = True

    def __init__(self, parameterNode, prefix=None):
        self.parameterNode, self._prefix = parameterNode, prefix or ""
        self._guis, self._next_tag, self._updating = {}, 0, False
        self._values = {}
        for name, field in self.allParameters.items():
            if not field.is_in(parameterNode, self._prefix + name):
                field.write(parameterNode, self._prefix + name, field.default.value)
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

    def default(self, name):
        return self._field(name).default

    def isCached(self, name):
        self._field(name)
        return True

    @classmethod
    def dataType(cls, name):
        return cls._field(name).annotated

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


def parameterNodeWrapper(cls=None):
    """The class decorator."""
    if cls is None:
        return parameterNodeWrapper
    fields = {}
    for name, annotated in typing.get_type_hints(cls, include_extras=True).items():
        if hasattr(_Wrapper, name):
            raise ValueError(f"Cannot use reserved name '{name}' in a parameterNodeWrapper")
        fields[name] = _Field(name, annotated, [vars(cls)[name]] if name in vars(cls) else [])
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

"""PySide6 objects wearing PythonQt's manners.

Slicer reaches Qt through PythonQt, which shows a Qt *property* as an attribute (``button.text``), keeps ``setText`` and
``isEnabled`` as methods, returns lists as tuples and enums as integers, connects by signature and refuses new attributes
on plain C++ objects. Here every PySide6 object is held by a thin proxy that behaves that way; which names are properties
is asked from Qt's own meta-object, so nothing has to be listed by hand.
"""

import enum
import types

import shiboken6
from PySide6 import QtCore, QtGui, QtNetwork, QtUiTools, QtWidgets

from . import facts
from .enums import enum_holder, with_enums
from .signals import resolve_signal
from .values import BoundMethod, call, slot_errors, slot_for, unwrap, wrap

__all__ = ["find", "proxy_of", "slot_errors", "slot_for", "unwrap", "wrap", "wrapper_class"]
_NATIVE_MODULES = (QtCore, QtGui, QtWidgets, QtNetwork, QtUiTools)
_wrappers: dict[type, type] = {}
_hybrids: dict[type, type] = {}


@wrap.register(shiboken6.Object)
def proxy_of(native):
    """The proxy of a PySide6 object: the same one each time for a QObject, as long as that lives."""
    held = getattr(native, "__dict__", {}).get("_proxy")
    if held is not None:
        return held
    cls = wrapper_class(type(native))
    proxy = cls.__new__(cls)
    proxy.__dict__["_native"] = native
    if isinstance(native, QtCore.QObject):
        native.__dict__["_proxy"] = proxy
    return proxy


class SignalProxy:
    """A signal as an attribute: ``button.clicked.connect(f)``; calling it emits it."""

    def __init__(self, proxy, name):
        self._proxy, self._name = proxy, name

    def connect(self, slot):
        return self._proxy._connect(self._name, slot)

    def disconnect(self, slot=None):
        return self._proxy._disconnect(self._name, slot)

    def __call__(self, *args):
        getattr(self._proxy._native, self._name).emit(*[unwrap(a) for a in args])

    def __repr__(self):
        return f"<qt signal {self._name} of {type(self._proxy).__name__} instance at {id(self._proxy):#x}>"


class _ProxyType(type):
    """Class attributes come from the PySide6 class: enums, static methods, methods to be called with an instance."""

    def __getattr__(cls, name):
        if name.startswith("__") or name == "_qt":
            raise AttributeError(name)
        try:
            value = getattr(cls._qt, name)
        except AttributeError:
            raise AttributeError(f"{cls.__name__} has no attribute named '{name}'") from None
        if isinstance(value, type) and issubclass(value, enum.Enum):
            return enum_holder(value)
        if isinstance(value, type) and issubclass(value, shiboken6.Object):
            return wrapper_class(value)
        if callable(value):
            return BoundMethod(value, cls.__name__, name)
        return wrap(value)


@unwrap.register
def _(value: _ProxyType):
    return value._qt


class _BaseMethod:
    """A virtual method that a Python subclass overrides: reached through ``super()`` it is Qt's own."""

    def __init__(self, name, qt):
        self._name, self._base = name, getattr(qt, name)

    def __get__(self, instance, owner=None):
        if instance is None:
            return BoundMethod(self._base, owner.__name__, self._name)
        if type(instance) in _hybrids:
            return BoundMethod(types.MethodType(self._base, instance._native), owner.__name__, self._name)
        return instance._lookup(self._name)


def _hybrid(cls):
    """A PySide6 class whose virtual methods call the methods of the Python subclass ``cls`` of a proxy class."""
    if cls not in _hybrids:
        namespace = {}
        for base in cls.__mro__:
            if base in (QtProxy, QObjectProxy) or base in _wrappers.values() or not issubclass(base, QtProxy):
                continue
            for name, function in vars(base).items():
                if callable(function) and not name.startswith("_") and callable(getattr(cls._qt, name, None)):
                    namespace.setdefault(name, _virtual(name))
        for name in namespace:
            wrapper = wrapper_class(cls._qt)
            if name not in vars(wrapper):
                setattr(wrapper, name, _BaseMethod(name, cls._qt))
        _hybrids[cls] = type(cls.__name__, (cls._qt,), namespace)
        _hybrids[cls]._wrapped_by = cls
    return _hybrids[cls]


def _virtual(name):
    def method(native, *args):
        return unwrap(getattr(native.__dict__["_proxy"], name)(*[wrap(a) for a in args]))

    method.__name__ = name
    return method


class QtProxy(metaclass=_ProxyType):
    """Base of every class in ``qt``, ``ctk`` and of the widgets in ``slicer``."""

    def __init__(self, *args):
        plain = type(self) in _wrappers.values()
        native_class = type(self)._qt if plain else _hybrid(type(self))
        args = [unwrap(a) for a in args]
        try:
            native = native_class(*args)
        except TypeError:
            converted = with_enums(type(self)._qt, args)
            if converted is None:
                raise
            native = native_class(*converted)
        self.__dict__["_native"] = native
        if isinstance(native, QtCore.QObject):
            native.__dict__["_proxy"] = self

    # attributes ------------------------------------------------------------------------------------------------------
    def __getattr__(self, name):
        if name.startswith("__") or "_native" not in self.__dict__:
            raise AttributeError(name)
        return self._lookup(name)

    def _lookup(self, name):
        native = unwrap(self)
        if type(self).__name__ == "qSlicerApplication" and name not in facts.of_application() | facts.ALWAYS:
            raise AttributeError(f"qSlicerApplication has no attribute named '{name}'")
        if isinstance(native, QtCore.QObject):
            name = _property_name(native, name)
            properties = facts.property_names(type(self).__name__)
            if native.metaObject().indexOfProperty(name) >= 0 and (properties is None or name in properties):
                return self._read(name)
        recorded = facts.of_class(type(self).__name__)
        if recorded is not None and name not in recorded["callable"] and name not in facts.ALWAYS:
            raise AttributeError(f"{type(self).__name__} has no attribute named '{name}'")
        try:
            value = getattr(native, name if name not in ("raise", "exec") else name + "_")
        except AttributeError:
            raise AttributeError(f"{type(self).__name__} has no attribute named '{name}'") from None
        if isinstance(value, QtCore.SignalInstance):
            return SignalProxy(self, name)
        if callable(value) and not isinstance(value, type):
            return BoundMethod(value, type(self).__name__, name)
        return getattr(type(self), name) if isinstance(value, type | enum.Enum) else wrap(value)

    def _read(self, name):
        native = self._native
        try:
            return wrap(native.property(name))
        except RuntimeError:  # PySide6 cannot convert some enums held by a QVariant; the getter can
            for getter in (name, "is" + name[0].upper() + name[1:]):
                if callable(getattr(native, getter, None)):
                    return wrap(getattr(native, getter)())
            raise

    def __setattr__(self, name, value):
        native = unwrap(self)
        if isinstance(native, QtCore.QObject):
            name = _property_name(native, name)
            index = native.metaObject().indexOfProperty(name)
            if index >= 0:
                if not native.metaObject().property(index).isWritable():
                    raise AttributeError(f"Property '{name}' of type '{type(self).__name__}' is not writable")
                self._write(name, value)
                return
        if type(self) not in _wrappers.values():
            self.__dict__[name] = value
            return
        cls = type(self).__name__
        if name in self.__dict__ or hasattr(native, name):
            raise AttributeError(f"Slot '{name}' can not be overwritten on {cls} object")
        raise AttributeError(
            f"'{name}' does not exist on {cls} and creating new attributes on C++ objects is not allowed"
        )

    def _write(self, name, value):
        native, value = self._native, unwrap(value)
        setter = getattr(native, "set" + name[0].upper() + name[1:], None)
        if setter is not None and (
            isinstance(value, enum.Enum)
            or native.metaObject().property(native.metaObject().indexOfProperty(name)).isEnumType()
        ):
            call(setter, [value])
        elif not native.setProperty(name, value):
            if setter is None:
                raise AttributeError(f"Property '{name}' of {type(self).__name__} cannot be set to {value!r}")
            call(setter, [value])

    def __dir__(self):
        native = self.__dict__.get("_native")
        return sorted(set(super().__dir__()) | set(dir(native) if native is not None else ()))

    def className(self):
        return (
            self._native.metaObject().className() if isinstance(self._native, QtCore.QObject) else type(self).__name__
        )

    def inherits(self, name):
        return name in (c.__name__ for c in type(self).__mro__)

    def delete(self):
        shiboken6.delete(self._native)

    def help(self):
        print("\n".join(sorted(dir(self))))

    # Python's own ---------------------------------------------------------------------------------------------------------
    def __eq__(self, other):
        if not isinstance(other, QtProxy):
            return NotImplemented
        return self is other or (not isinstance(self._native, QtCore.QObject) and self._native == other._native)

    def __hash__(self):
        return hash(id(self._native)) if isinstance(self._native, QtCore.QObject) else 0

    def __bool__(self):
        return shiboken6.isValid(self._native)

    def __getitem__(self, index):
        return wrap(self._native[index])

    def __len__(self):
        return len(self._native)

    def __repr__(self):
        native = self.__dict__.get("_native")
        if isinstance(native, QtCore.QSize | QtCore.QPoint | QtCore.QRect):
            numbers = native.getRect() if isinstance(native, QtCore.QRect) else native.toTuple()
            return f"{type(self).__name__} ({', '.join(map(str, numbers))}, )"
        label = f', name="{native.objectName()}"' if isinstance(native, QtCore.QObject) and native.objectName() else ""
        return f"{type(self).__name__} ({type(self).__name__}{label} at: {id(native):#x})"


@unwrap.register
def _(value: QtProxy):
    native = value.__dict__.get("_native")
    if native is None or not shiboken6.isValid(native):
        raise ValueError(f"Trying to use a destroyed {type(value).__name__} object")
    return native


class QObjectProxy(QtProxy):
    """What PythonQt adds to every QObject."""

    def connect(self, signature, *target):
        """``connect("signal(args)", slot)`` or ``connect("signal(args)", receiver, "slot(args)")``."""
        return self._connect(signature, _target(target))

    def _connect(self, signature, slot):
        found = resolve_signal(self._native, signature)
        if isinstance(slot, SignalProxy):
            slot = slot.__call__
        if found is None or not callable(slot):
            return False
        real, convert = found
        function = slot_for(slot, convert or wrap)
        QtCore.QObject.connect(self._native, QtCore.SIGNAL(real), function)
        self._connections().append((signature, real, slot, function))
        return True

    def disconnect(self, signature, *target):
        return self._disconnect(signature, _target(target) if target else None)

    def _disconnect(self, signature, slot):
        found = resolve_signal(self._native, signature)
        gone = [
            c
            for c in self._connections()
            if found and (c[0] == signature or c[1] == found[0]) and (slot is None or c[2] == slot)
        ]
        for connection in gone:
            QtCore.QObject.disconnect(self._native, QtCore.SIGNAL(connection[1]), connection[3])
            self._connections().remove(connection)
        return bool(gone)

    def _connections(self):
        return self._native.__dict__.setdefault("_python_connections", [])

    def setProperty(self, name, value):
        return bool(self._native.setProperty(name, unwrap(value)))

    def property(self, name):
        native = self._native
        return self._read(name) if native.metaObject().indexOfProperty(name) >= 0 else wrap(native.property(name))

    def dynamicPropertyNames(self):
        return wrap(self._native.dynamicPropertyNames())

    def findChildren(self, kind=None, name=""):
        return tuple(c for c in self._descendants() if _matches(c, kind) and name in ("", c.objectName))

    def findChild(self, kind, name=""):
        found = self.findChildren(kind, name)
        return found[0] if found else None

    def _descendants(self):
        for child in self._native.children():
            proxy = proxy_of(child)
            yield proxy
            yield from proxy._descendants()

    def exec_(self, *args):
        return call(self._native.exec, args)


def _property_name(native, name):
    """PythonQt's alias: ``name`` is the object name, unless the class has a property of that name."""
    return "objectName" if name == "name" and native.metaObject().indexOfProperty("name") < 0 else name


def _matches(proxy, kind):
    if kind is None:
        return True
    return proxy.inherits(kind) if isinstance(kind, str) else isinstance(proxy, kind)


def _target(target):
    return target[0] if len(target) == 1 else getattr(target[0], target[1].split("(")[0])


def wrapper_class(native: type) -> type:
    """The proxy class of a PySide6 class; it inherits what the PySide6 class inherits."""
    if "_wrapped_by" in vars(native):
        return native._wrapped_by
    if native not in _wrappers:
        top = (QObjectProxy,) if native is QtCore.QObject else (QtProxy,)
        bases = (
            tuple(
                wrapper_class(b)
                for b in native.__bases__
                if b is not shiboken6.Object and issubclass(b, shiboken6.Object)
            )
            or top
        )
        _wrappers[native] = _ProxyType(native.__name__, bases, {"_qt": native})
    return _wrappers[native]


def find(name: str):
    """The attribute ``name`` of the module ``qt``."""
    for module in _NATIVE_MODULES:
        value = getattr(module, name, None)
        if isinstance(value, type) and issubclass(value, shiboken6.Object):
            return wrapper_class(value)
        if value is not None and callable(value):
            return BoundMethod(value, "qt", name)
    raise AttributeError(f"module 'qt' has no attribute '{name}'")

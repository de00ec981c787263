"""Signals by their text, as PythonQt connects them: ``"clicked(bool)"``, and how many arguments a slot gets."""

import inspect
import types

from PySide6 import QtCore

from . import facts


def argument_limit(function) -> int | None:
    """How many arguments a Python slot takes (PythonQt drops the rest), None if that is open."""
    target = function.__func__ if isinstance(function, types.MethodType) else function
    code = getattr(target, "__code__", None)
    if code is None or code.co_flags & inspect.CO_VARARGS:
        return None
    return code.co_argcount - (1 if isinstance(function, types.MethodType) else 0)


def split_signature(signature: str):
    """``"clicked(bool)"`` -> ``("clicked", ("bool",))``."""
    name, _, rest = signature.partition("(")
    inner = rest.rstrip(") ")
    return name.strip(), tuple(_plain(t) for t in inner.split(",")) if inner.strip() else ()


def _plain(kind: str) -> str:
    return bytes(QtCore.QMetaObject.normalizedType(kind.strip()).data()).decode()


def resolve_signal(native, signature: str):
    """``(signature in Qt's meta-object, argument conversion or None)`` of a signal, None where there is no such signal."""
    name, types_ = split_signature(signature)
    normal = f"{name}({','.join(types_)})"
    meta = native.metaObject()
    if "(" not in signature:  # by name: the first of that name, as for ``button.clicked``
        for index in range(meta.methodCount()):
            method = meta.method(index)
            if method.methodType() == QtCore.QMetaMethod.Signal and bytes(method.name().data()).decode() == name:
                return bytes(method.methodSignature().data()).decode(), None
        return None
    recorded = facts.of_class(type(native).__name__)
    if recorded is not None and normal not in recorded["signals"]:
        return None
    aliases = getattr(type(native), "signal_aliases", {})
    if normal in aliases:
        return aliases[normal]
    return (normal, None) if meta.indexOfSignal(normal) >= 0 else None

"""Values on their way between Python and Qt, as PythonQt converts them, and Qt's functions called with them.

:mod:`pythonqt` adds how its proxies go to Qt, and how Qt's objects become proxies.
"""

import enum
import functools
import sys
import traceback
import types

from .enums import EnumInt, with_enums
from .signals import argument_limit

slot_errors: list[BaseException] = []  # what Python slots raised; PythonQt only prints it, tests may look here


@functools.singledispatch
def wrap(value):
    """A value coming from Qt, as PythonQt would show it."""
    return value


@wrap.register
def _(value: enum.Enum):
    return EnumInt(value)


@wrap.register(list)
@wrap.register(tuple)
def _(value):
    return tuple(wrap(item) for item in value)


@wrap.register
def _(value: dict):
    return {key: wrap(item) for key, item in value.items()}


@functools.singledispatch
def unwrap(value):
    """A value going to Qt."""
    return value


@unwrap.register
def _(value: EnumInt):
    return value.member


@unwrap.register(list)
@unwrap.register(tuple)
def _(value):
    return [unwrap(item) for item in value]


@unwrap.register
def _(value: dict):
    return {key: unwrap(item) for key, item in value.items()}


def call(function, args):
    """Call a PySide6 function with PythonQt arguments; plain integers become the enums that the signature asks for."""
    args = [unwrap(a) for a in args]
    try:
        return wrap(function(*args))
    except TypeError:
        converted = with_enums(function, args)
        if converted is None:
            raise
        return wrap(function(*converted))


class BoundMethod:
    """A method or slot of a Qt object."""

    def __init__(self, function, owner: str = "", name: str = ""):
        self._function, self._owner, self._name = function, owner, name

    def __call__(self, *args):
        return call(self._function, args)

    def call_with_at_most(self, args):
        """Called as a slot: with as many arguments as it takes."""
        for count in range(len(args), -1, -1):
            try:
                return self._function(*args[:count])
            except TypeError:
                if count == 0:
                    raise

    def __eq__(self, other):
        return isinstance(other, BoundMethod) and self._function == other._function

    def __hash__(self):
        return hash(self._name)

    def __repr__(self):
        return f"<qt slot {self._name} of {self._owner} instance at {id(self):#x}>"


@unwrap.register(BoundMethod)
@unwrap.register(types.FunctionType)
@unwrap.register(types.MethodType)
def slot_for(function, convert=wrap):
    """A callable for Qt that calls ``function`` with wrapped arguments, no more of them than it takes."""
    limit = argument_limit(function)

    def slot(*args):
        args = args if limit is None else args[:limit]
        try:
            if isinstance(function, BoundMethod):
                return function.call_with_at_most(args)
            return unwrap(function(*[convert(a) for a in args]))
        except Exception as error:  # PythonQt prints and goes on
            slot_errors.append(error)
            traceback.print_exc(file=sys.stderr)
            return None

    return slot

"""Enums as PythonQt has them: integers, which Qt takes where its signatures ask for enums."""

import enum
import types

from PySide6.support.signature import get_signature


class EnumInt(int):
    """An enum as PythonQt gives it: an integer. It remembers the Qt enum so that it can be handed back to Qt."""

    def __new__(cls, member):
        self = super().__new__(cls, member.value if isinstance(member.value, int) else 0)
        self.member = member
        return self

    def _combine(self, other, operation):
        value = operation(int(self), int(other))
        if isinstance(self.member, enum.Flag):
            try:
                return EnumInt(type(self.member)(value))
            except ValueError:
                pass
        return value

    def __or__(self, other):
        return self._combine(other, int.__or__)

    def __and__(self, other):
        return self._combine(other, int.__and__)

    __ror__, __rand__ = __or__, __and__

    def __reduce__(self):
        return int, (int(self),)


def with_enums(function, args):
    """Arguments with plain integers turned into the enums of one of the function's signatures; None where none fits."""
    signatures = get_signature(function)
    for signature in signatures if isinstance(signatures, list) else [signatures]:
        if signature is None:
            continue
        parameters = [p for p in signature.parameters.values() if p.name != "self"]
        if len(parameters) < len(args):
            continue
        converted, changed = [], False
        for parameter, arg in zip(parameters, args, strict=False):
            kind = parameter.annotation
            if isinstance(kind, type) and issubclass(kind, enum.Enum) and type(arg) is int:
                try:
                    arg, changed = kind(arg), True
                except ValueError:
                    converted = None
                    break
            converted.append(arg)
        if converted and changed:
            return converted
    return None


def enum_holder(kind):
    """An enum class: its members as integers."""
    return types.SimpleNamespace(**{name: EnumInt(member) for name, member in kind.__members__.items()})

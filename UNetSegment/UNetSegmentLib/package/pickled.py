"""Read the tensors of a torch checkpoint (.pth, .pt) without torch, and without running what the file asks for.

A pickle is a program for a small stack machine. This one here knows tables, lists, texts, numbers and tensors, and calls
nothing: the few names that checkpoints use are matched by their text, no name is ever looked up or imported. Tensors are
references at first; only those that are asked for are read from the zip.
"""

from __future__ import annotations

import pickletools
import zipfile
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from ..errors import PackageError
from .tensors import widened

PICKLE_LIMIT = 8 << 20
"""Bytes of the pickle itself, which holds no weights: those of real checkpoints take some 100 kB."""
ENTRY_LIMIT = 100_000
STORAGE_LIMIT = 4 << 30
"""Bytes of one tensor."""

_STORAGES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype("<u2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
_DTYPES = {"float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"}
_OPAQUE_NAMES = {"torch.device", "_codecs.encode", "numpy.dtype", "numpy.ndarray"}
_OPAQUE_NAMES |= {
    f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")
}
_OPAQUE_NAMES |= {f"numpy.dtypes.{name}DType" for name in ("Float64", "Float32", "Float16", "Int64", "Int32", "Bool")}
_OPAQUE_VALUES = {f"torch.{name}" for name in _DTYPES}
_CALLED = {
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch.Size",
}
_ALLOWED = _OPAQUE_NAMES | _OPAQUE_VALUES | _CALLED | {f"torch.{name}" for name in _STORAGES}

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINBYTES"}
_VALUES |= {"SHORT_BINBYTES", "BINSTRING", "SHORT_BINSTRING"}


class _Opaque:
    """A value that is not looked at: NumPy scalars of a training log, devices, types."""

    def __repr__(self) -> str:
        return "<not read>"


OPAQUE = _Opaque()


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass(frozen=True)
class _Storage:
    kind: str
    key: str
    size: int


@dataclass(frozen=True)
class Tensor:
    """A tensor that has not been read yet: the part of a storage, in units of its numbers."""

    kind: str
    key: str
    size: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Checkpoint:
    """A torch checkpoint in its zip form; a context manager that closes the file.

    ``content`` is what was saved: tables, lists, tuples, texts and numbers, with :class:`Tensor` for tensors and
    :data:`OPAQUE` for what is allowed but not read.

    Args:
        source: The file, or an open one, which is left open.
        name: How messages call it.

    Raises:
        PackageError: It is no such file, is damaged or too large, or asks for anything but the above.
    """

    def __init__(self, source: Path | BinaryIO, name: str | None = None) -> None:
        self.name = name or (source.name if isinstance(source, Path) else "the checkpoint")
        try:
            self._zip = zipfile.ZipFile(source)
        except (zipfile.BadZipFile, ValueError, NotImplementedError):
            raise PackageError(
                f"'{self.name}' is not a checkpoint in torch's zip form, or is cut off; "
                "older forms are pickles that could run code, and are refused."
            ) from None
        except OSError as error:
            raise PackageError(f"'{self.name}' cannot be read ({error.strerror or error}).") from None
        try:
            entries = {entry.filename: entry for entry in self._zip.infolist()}
            if len(entries) != len(self._zip.infolist()) or len(entries) > ENTRY_LIMIT:
                raise self._refused("its zip has entries of the same name, or too many")
            pickles = [key for key in entries if key.count("/") == 1 and key.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise self._refused("it has no data.pkl, so that it is no checkpoint of torch")
            self._root = pickles[0].removesuffix("data.pkl")
            if f"{self._root}byteorder" in entries and self._read(f"{self._root}byteorder", 16) != b"little":
                raise self._refused("its numbers are in big-endian order")
            self.content = self._run(self._read(pickles[0], PICKLE_LIMIT))
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._zip.close()

    def array(self, tensor: Tensor) -> np.ndarray:
        """The numbers of a tensor, in its shape, contiguous; bfloat16 becomes float32.

        Raises:
            PackageError: They are not there, or not as many as the tensor says.
        """
        dtype = _STORAGES[tensor.kind]
        content = self._read(f"{self._root}data/{tensor.key}", STORAGE_LIMIT)
        if len(content) != tensor.size * dtype.itemsize:
            raise self._refused(f"the numbers of storage {tensor.key} are not {tensor.size} of {tensor.kind}")
        flat = np.frombuffer(content, dtype)
        strides = [step * dtype.itemsize for step in tensor.strides]
        if prod(tensor.shape) == 0:
            array = np.empty(tensor.shape, dtype)
        else:  # the machine has seen that the last number lies inside
            array = np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides, writeable=False)
        array = np.ascontiguousarray(array).reshape(tensor.shape)
        return widened(array) if tensor.kind == "BFloat16Storage" else array

    def _refused(self, why: str) -> PackageError:
        return PackageError(f"'{self.name}' is refused: {why}.")

    def _read(self, path: str, limit: int) -> bytes:
        try:
            entry = self._zip.getinfo(path)
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                raise self._refused("its zip is packed or encrypted, which torch's files are not")
            if entry.file_size > limit:
                raise self._refused(f"{path} in it is larger than {limit >> 20} MiB")
            return self._zip.read(entry)
        except KeyError:
            raise self._refused(f"{path} is missing in it") from None
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError, ValueError):
            raise PackageError(f"'{self.name}' is damaged: {path} in it cannot be read; fetch it again.") from None

    def _run(self, program: bytes) -> Any:
        machine = _Machine(self)
        try:
            for opcode, argument, _ in pickletools.genops(program):
                if opcode.name == "STOP":
                    return machine.stack.pop()
                machine.step(opcode.name, argument)
        except PackageError:
            raise
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError):
            pass
        raise PackageError(f"'{self.name}' is damaged: what its data.pkl says cannot be followed; fetch it again.")


class _Machine:
    """The stack machine. Its errors (ValueError, IndexError ...) mean that the program is not sound."""

    def __init__(self, owner: Checkpoint) -> None:
        self.refused = owner._refused
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _VALUES:
            stack.append(argument)
        elif name in ("PROTO", "FRAME"):
            pass
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name in ("EMPTY_LIST", "EMPTY_SET"):
            stack.append([])
        elif name == "EMPTY_TUPLE":
            stack.append(())
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack.append(tuple(self.pop() for _ in range(count))[::-1])
        elif name == "TUPLE":
            stack.append(tuple(self.since_mark()))
        elif name == "APPEND":
            self.extend([self.pop()])
        elif name in ("APPENDS", "ADDITEMS"):
            self.extend(self.since_mark())
        elif name == "SETITEM":
            value = self.pop()
            self.update([self.pop(), value])
        elif name == "SETITEMS":
            self.update(self.since_mark())
        elif name == "GLOBAL":
            stack.append(self.named(argument.replace(" ", ".", 1)))
        elif name == "STACK_GLOBAL":
            last = self.pop()
            stack.append(self.named(f"{self.pop()}.{last}"))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments = self.pop()
            stack.append(self.call(self.pop(), arguments))
        elif name == "BUILD":
            self.pop()  # attributes of a table, or the rest of what is not read
            if not (isinstance(stack[-1], dict) or stack[-1] is OPAQUE):
                raise ValueError
        elif name == "BINPERSID":
            stack.append(self.storage(self.pop()))
        else:
            raise self.refused(f"it holds the pickle instruction {name}, which no weights need")

    def pop(self) -> Any:
        if self.marks and len(self.stack) <= self.marks[-1]:
            raise ValueError
        return self.stack.pop()

    def since_mark(self) -> list[Any]:
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def extend(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise ValueError
        self.stack[-1].extend(items)

    def update(self, items: list[Any]) -> None:
        table = self.stack[-1]
        if not isinstance(table, dict) or len(items) % 2:
            raise ValueError
        for key, value in zip(items[::2], items[1::2], strict=True):
            if isinstance(key, str | int):  # hashing others (tuples in tuples ...) may be made costly; none is needed
                table[key] = value

    def named(self, name: str) -> Any:
        if name not in _ALLOWED:
            raise self.refused(f"it asks for '{name[:100]}', which no weights need")
        return OPAQUE if name in _OPAQUE_VALUES else _Global(name)

    def call(self, what: Any, arguments: Any) -> Any:
        """What the calls that checkpoints hold would give; nothing is called."""
        if not isinstance(what, _Global) or not isinstance(arguments, tuple):
            raise ValueError
        if what.name in _OPAQUE_NAMES:
            return OPAQUE
        if what.name == "collections.OrderedDict":
            if arguments:
                raise ValueError
            return {}
        if what.name == "torch.Size":
            return tuple(arguments[0])
        if what.name == "torch._utils._rebuild_parameter":
            return arguments[0]
        if what.name == "torch._utils._rebuild_tensor_v2":
            return self.tensor(*arguments[:4])
        raise ValueError

    def storage(self, entry: Any) -> _Storage:
        tag, kind, key, _, size = entry
        kind = kind.name.removeprefix("torch.") if isinstance(kind, _Global) else ""
        if tag != "storage" or kind not in _STORAGES or type(size) is not int or size < 0:
            raise ValueError
        if not (isinstance(key, str) and key.isascii() and key.isdigit()):
            raise ValueError
        return _Storage(kind, key, size)

    def tensor(self, storage: Any, offset: Any, shape: Any, strides: Any) -> Tensor:
        """A reference to a part of a storage that lies inside of it and takes no number twice."""
        if not isinstance(storage, _Storage) or not isinstance(shape, tuple) or not isinstance(strides, tuple):
            raise ValueError
        numbers = (offset, *shape, *strides)
        if (
            not all(type(n) is int and 0 <= n < 1 << 48 for n in numbers)
            or len(shape) != len(strides)
            or len(shape) > 8
        ):
            raise ValueError
        last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        if prod(shape) and (last >= storage.size or prod(shape) > storage.size):
            raise self.refused(f"a tensor in it reaches beyond the numbers of its storage {storage.key}")
        return Tensor(storage.kind, storage.key, storage.size, offset, shape, strides)

"""Read and write safetensors files with NumPy alone: a length, a JSON header, and the numbers behind it."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from math import prod
from typing import Any, BinaryIO

import numpy as np

from ..errors import PackageError

DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
"""The types read, as they lie in the file."""
HEADER_LIMIT = 16 << 20
"""Bytes of the header."""
_NAMES = {dtype: name for name, dtype in DTYPES.items() if name != "BF16"}


def read_tensors(content: bytes, what: str = "The weights file") -> dict[str, np.ndarray]:
    """The tensors of a safetensors file, read-only views of ``content``; bfloat16 becomes float32 (a copy).

    Raises:
        PackageError: The file is cut off, or says of itself what is not so.
    """
    if len(content) < 8:
        raise PackageError(f"{what} is cut off.")
    (length,) = struct.unpack("<Q", content[:8])
    if length > min(HEADER_LIMIT, len(content) - 8):
        raise PackageError(f"{what} is not a safetensors file, or is cut off.")
    try:
        header: Any = json.loads(content[8 : 8 + length].decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise PackageError(f"{what} is not a safetensors file: its header cannot be read.") from None
    if not isinstance(header, dict):
        raise PackageError(f"{what} is not a safetensors file: its header is no table.")
    data, end = memoryview(content)[8 + length :], 0
    entries = [(name, *_entry(name, entry, what)) for name, entry in header.items() if name != "__metadata__"]
    found: dict[str, np.ndarray] = {}
    for name, dtype, shape, start, stop in sorted(entries, key=lambda entry: entry[3]):
        if start != end or stop > len(data) or stop - start != prod(shape) * DTYPES[dtype].itemsize:
            raise PackageError(f"{what} is damaged: the place of '{name[:80]}' in it is wrong.")
        array = np.frombuffer(data[start:stop], DTYPES[dtype]).reshape(shape)
        found[name] = widened(array) if dtype == "BF16" else array
        end = stop
    if end != len(data):
        raise PackageError(f"{what} is damaged: it holds more than its tensors.")
    return found


def write_tensors(sink: BinaryIO, tensors: Mapping[str, np.ndarray]) -> None:
    """Write tensors as safetensors, in order of their names: the same tensors give the same bytes.

    Raises:
        ValueError: A tensor is of a type that the format does not have.
    """
    header: dict[str, Any] = {}
    end = 0
    for name in sorted(tensors):
        array = tensors[name]
        little = array.dtype.newbyteorder("<")
        if little not in _NAMES:
            raise ValueError(f"safetensors has no type for {array.dtype}")
        start, end = end, end + array.nbytes
        header[name] = {"dtype": _NAMES[little], "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    sink.write(struct.pack("<Q", len(text)) + text)
    for name in sorted(tensors):
        array = tensors[name]
        sink.write(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())


def widened(bits: np.ndarray) -> np.ndarray:
    """bfloat16, given as uint16, as float32: it is the upper half."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _entry(name: str, entry: Any, what: str) -> tuple[str, tuple[int, ...], int, int]:
    try:
        dtype, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
        fits = set(entry) == {"dtype", "shape", "data_offsets"} and dtype in DTYPES and len(shape) <= 8
        fits = fits and all(type(n) is int and n >= 0 for n in (*shape, start, stop)) and isinstance(shape, list)
    except (TypeError, KeyError, ValueError):
        fits = False
    if not fits:
        raise PackageError(f"{what} is damaged: what it says of '{name[:80]}' cannot be right.")
    return dtype, tuple(shape), start, stop


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a name twice")
    return dict(pairs)

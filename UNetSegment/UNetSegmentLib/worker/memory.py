"""Arrays that two processes see: shared memory that no resource tracker knows and whose name soon goes.

Python's tracker starts a process of its own, with an executable that is Slicer itself inside of Slicer, and removes
what the other side still uses. Here the creator removes the name as soon as both sides hold the memory; the system
frees it when both have let go, however they end.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker, shared_memory
from typing import Any

import numpy as np

from ..errors import WorkerError

_LOCK = threading.Lock()


class SharedArray:
    """An array in shared memory; use :meth:`create` or :meth:`attach`.

    ``array`` is in C order; the memory is there until :meth:`close` was called and nobody looks at the array any more.
    """

    def __init__(self, memory: shared_memory.SharedMemory, shape: tuple[int, ...], dtype: Any) -> None:
        count = int(np.prod(shape, dtype=np.int64))
        self.array = np.frombuffer(memory._mmap, dtype, count).reshape(shape)  # type: ignore[attr-defined]
        self._memory, self._named = memory, False
        _let_go(memory)  # the array keeps the mapping, so it goes with the last view of it

    @classmethod
    def create(cls, shape: tuple[int, ...], dtype: Any) -> SharedArray:
        """New memory, all zero.

        Raises:
            WorkerError: There is no room for it.
        """
        dtype = np.dtype(dtype)
        size = max(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize, 1)
        try:
            with _untracked():
                memory = _open(create=True, size=size)
        except OSError as error:
            raise WorkerError(
                f"There is no room for {size >> 20} MB of shared memory ({error.strerror}); close other programs."
            ) from None
        shared = cls(memory, shape, dtype)
        shared._named = True
        return shared

    @classmethod
    def attach(cls, described: dict[str, Any]) -> SharedArray:
        """The memory that another process described."""
        with _untracked():
            memory = _open(name=described["name"])
        shared = cls(memory, tuple(described["shape"]), np.dtype(described["dtype"]))
        shared._named = True  # whoever attached may remove the name as well
        return shared

    def describe(self) -> dict[str, Any]:
        """What :meth:`attach` needs, as JSON."""
        return {"name": self._memory.name, "shape": list(self.array.shape), "dtype": self.array.dtype.str}

    def forget_name(self) -> None:
        """Remove the name: nobody else can attach, and the memory goes when its holders do."""
        if self._named:
            self._named = False
            with _untracked(), contextlib.suppress(FileNotFoundError):
                self._memory.unlink()

    def close(self) -> None:
        """Let go. Where somebody still looks at the array, the memory stays until they do no longer."""
        self.forget_name()
        self.array = np.empty(0)


def _let_go(memory: shared_memory.SharedMemory) -> None:
    """Take the mapping from Python's object, which would close it under the array or complain that it cannot."""
    memory._buf.release()  # type: ignore[attr-defined]
    memory._buf = memory._mmap = None  # type: ignore[attr-defined]
    memory.close()


def _open(**arguments: Any) -> shared_memory.SharedMemory:
    if sys.version_info >= (3, 13):
        arguments["track"] = False
    return shared_memory.SharedMemory(**arguments)


@contextlib.contextmanager
def _untracked() -> Iterator[None]:
    """Before Python 3.13 tracking cannot be turned off, so the tracker's two functions are set aside for a moment."""
    if sys.version_info >= (3, 13):
        yield
        return
    with _LOCK:
        kept = resource_tracker.register, resource_tracker.unregister
        resource_tracker.register = resource_tracker.unregister = lambda *_: None  # type: ignore[assignment]
        try:
            yield
        finally:
            resource_tracker.register, resource_tracker.unregister = kept  # type: ignore[assignment]

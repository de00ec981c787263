"""Arrays that two processes see: shared memory that no resource tracker knows and whose name soon goes.

Python's tracker starts a process of its own, with an executable that is Slicer itself inside of Slicer, and removes
what the other side still uses. Here the creator removes the name as soon as both sides hold the memory; the system
frees it when both have let go, however they end.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import copy
import errno
import os
import secrets
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import WorkerError
from ..predict import passes

PREFIX = "uns-"
"""How the names begin; the number of the process that made the memory follows. macOS allows 30 characters."""
FORGOTTEN_AFTER = 3600.0
"""Seconds after which a name is one that a crash left: both sides hold the memory within seconds, and the name goes."""
LARGE = 1 << 22
"""Bytes from which memory is given back in a thread."""
_LISTED = Path("/dev/shm")
"""Where Linux lists shared memory. Windows frees it with its last holder; macOS lists it nowhere."""
_LOCK = threading.Lock()
Need = tuple[tuple[int, ...], Any]
"""Shape and type of an array."""


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
            _need_room(size)
            with _untracked():
                memory = _open(name=f"{PREFIX}{os.getpid()}-{secrets.token_hex(6)}", create=True, size=size)
        except OSError as error:
            raise _no_room(size, error) from None
        shared = cls(memory, shape, dtype)
        shared._named = True
        _CREATED.add(shared)
        return shared

    @classmethod
    def attach(cls, described: dict[str, Any]) -> SharedArray:
        """The memory that another process described.

        Raises:
            WorkerError: It is gone.
        """
        try:
            with _untracked():
                memory = _open(name=described["name"])
        except FileNotFoundError:
            raise WorkerError("The memory that holds the volume is gone; run it again.") from None
        shared = cls(memory, tuple(described["shape"]), np.dtype(described["dtype"]))
        shared._named = True  # whoever attached may remove the name as well
        return shared

    def fill(self, values: np.ndarray) -> None:
        """Copy an array (K, J, I) of its shape and type into new memory.

        On Linux the system itself does so in half the time: it need not clear the memory first, nor is it asked for it page by
        page.

        Raises:
            WorkerError: There is no room for it.
        """
        if self.array.nbytes >= LARGE and values.flags.c_contiguous:
            with contextlib.suppress(FileNotFoundError), open(_LISTED / self.name, "r+b", buffering=0) as file:
                try:
                    left = memoryview(values.reshape(-1)).cast("B")
                    while left:
                        left = left[file.write(left) :]
                except OSError as error:
                    raise _no_room(self.array.nbytes, error) from None
                return
        passes.transfer(self.array, values, passes.count())

    @property
    def name(self) -> str:
        """The name; for good that of this memory, whether others can attach by it or not."""
        return self._memory.name

    def describe(self) -> dict[str, Any]:
        """What :meth:`attach` needs, as JSON."""
        return {"name": self.name, "shape": list(self.array.shape), "dtype": self.array.dtype.str}

    def forget_name(self) -> None:
        """Remove the name: nobody else can attach, and the memory goes when its holders do."""
        if self._named:
            self._named = False
            with _untracked(), contextlib.suppress(FileNotFoundError):
                self._memory.unlink()

    def pass_on(self) -> SharedArray:
        """The memory for another use: this array is empty from now on."""
        other = copy.copy(self)
        self.array, self._named = np.empty(0), False
        return other

    def close(self) -> None:
        """Let go. Where somebody still looks at the array, the memory stays until they do no longer."""
        self.forget_name()
        self._give_back()

    def _give_back(self) -> None:
        """The system takes a quarter of a millisecond for each megabyte: a large array is given back in a thread.

        Python's own ``Thread`` waits until it runs: for ever where the program is about to end.
        """
        held, self.array = [self.array], np.empty(0)
        if held[0].nbytes >= LARGE:
            _thread.start_new_thread(held.clear, ())

    def __del__(self) -> None:
        try:
            self._give_back()
        except Exception:  # at the end of the program much is missing
            return


_CREATED: weakref.WeakSet[SharedArray] = weakref.WeakSet()


@atexit.register
def _forget_names() -> None:
    """A program may end while it hands over a volume."""
    for shared in list(_CREATED):
        shared.forget_name()


def _no_room(size: int, error: OSError) -> WorkerError:
    return WorkerError(
        f"There is no room for {size >> 20} MB of shared memory ({error.strerror}); close other programs, or start "
        "the container with more of it (--shm-size)."
    )


def _need_room(size: int) -> None:
    """The system promises Linux's shared memory freely and kills the process that then writes to what is not there."""
    try:
        here = os.statvfs(_LISTED)
    except (OSError, AttributeError):  # macOS and Windows say so themselves
        return
    if here.f_bavail * here.f_frsize < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def sweep() -> None:
    """Free what programs that crashed while they handed over a volume left in memory."""
    with contextlib.suppress(OSError):  # not Linux, or another user's
        for path in _LISTED.glob(f"{PREFIX}*"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > FORGOTTEN_AFTER:
                    path.unlink()


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

"""One process at a time: a lock on a file, freed by the system when its process ends, however it ends."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import Cancelled, OutputError

_BUSY = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}


@contextmanager
def locked(
    path: Path, cancel: Callable[[], bool] | None = None, waiting: Callable[[], None] | None = None
) -> Iterator[None]:
    """Hold the lock file ``path``; where another process (or thread) holds it, wait until it is free.

    The file stays behind, empty: deleting it would let two processes lock two files of the same name.

    Args:
        path: The lock file; it and its folder are made.
        cancel: Asked some ten times a second while waiting; True stops it.
        waiting: Told as often, so that a caller can show that it is waiting.

    Raises:
        OutputError: The file cannot be made, or its file system knows no locks.
        Cancelled: ``cancel`` said so.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise OutputError(
            f"Cannot write to the folder '{path.parent}' ({error.strerror}); make it writable, or choose another cache "
            "folder with UNETSEGMENT_CACHE."
        ) from None
    try:
        while not _try(handle, path):
            if cancel is not None and cancel():
                raise Cancelled()
            if waiting is not None:
                waiting()
            time.sleep(0.1)
        yield
    finally:
        os.close(handle)  # frees the lock


def _try(handle: int, path: Path) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _BUSY:
            return False
        raise OutputError(
            f"The file system of '{path.parent}' cannot lock files ({error.strerror}); choose another cache folder "
            "with UNETSEGMENT_CACHE."
        ) from None
    return True

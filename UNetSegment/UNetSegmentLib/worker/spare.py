"""Shared memory that client and worker still hold after a request, for the next one: new memory is given, and first touched,
at some 2 GB/s, and is several times faster the second time."""

from __future__ import annotations

import _thread
import threading
import time
from collections.abc import Callable, Sequence

from ..errors import WorkerError
from ..predict import passes
from .memory import Need, SharedArray

KEPT = 300.0
"""Seconds that memory is kept."""
MOST = 1 << 29
"""Bytes that are kept at most."""
PATIENCE = 1.0
"""Seconds in which the worker lets go of memory when told."""


class Spare:
    """The client's part of what is kept, without what was in it. The worker holds its own until told to forget it.

    Args:
        forget: Tells the worker to let go of memory with these names.
    """

    def __init__(self, forget: Callable[[list[str]], None]) -> None:
        self._forget, self._lock = forget, threading.Lock()
        self._arrays: list[SharedArray] = []
        self._is_clean, self._since = True, 0.0

    def keep(self, arrays: Sequence[SharedArray]) -> bool:
        """Keep memory that nobody looks at any more, and wipe it in a thread; False where it is too much."""
        if sum(array.array.nbytes for array in arrays) > MOST:
            return False
        with self._lock:
            self._let_go(self._arrays)
            self._arrays, self._is_clean, self._since = list(arrays), False, time.monotonic()
        _thread.start_new_thread(self.tend, ())
        return True

    def room(self, needs: Sequence[Need], into: list[SharedArray]) -> bool:
        """Put arrays of these shapes and types into an empty list, of what is kept or new ones, the last one all zero; the rest
        of what is kept goes. Returns whether one is not new.

        Raises:
            WorkerError: There is no room for them; some may be in the list.
        """
        with self._lock:
            left, self._arrays, is_clean = self._arrays, [], self._is_clean
        found: list[SharedArray | None] = []
        for shape, dtype in needs:
            match = next((one for one in left if one.array.shape == shape and one.array.dtype == dtype), None)
            left = [one for one in left if one is not match]
            found.append(match)
        into += filter(None, found)
        self._let_go(left)
        if found[-1] is not None and not is_clean:
            _wipe(found[-1])
        is_reused, until = bool(into), time.monotonic() + (PATIENCE if left else 0.0)
        for place, need in enumerate(needs):
            if found[place] is None:
                found[place] = made = _create(need, until)
                into.append(made)
        into[:] = filter(None, found)
        return is_reused

    def tend(self) -> None:
        """Let go of what is kept in time; to be called every second or so while no request is under way. In a thread also: wipe
        it."""
        with self._lock:
            if self._arrays and time.monotonic() - self._since > KEPT:
                self._let_go(self._arrays)
                self._arrays = []
            if not self._is_clean:
                for array in self._arrays:
                    _wipe(array)
                self._is_clean = True

    def drop(self) -> None:
        """Let go of what is kept."""
        with self._lock:
            self._let_go(self._arrays)
            self._arrays = []

    def _let_go(self, arrays: Sequence[SharedArray]) -> None:
        if arrays:
            self._forget([array.name for array in arrays])
        for array in arrays:
            array.close()


def _create(need: Need, until: float) -> SharedArray:
    while True:
        try:
            return SharedArray.create(*need)
        except WorkerError:
            if time.monotonic() >= until:
                raise
        time.sleep(0.02)


def _wipe(array: SharedArray) -> None:
    passes.each(lambda part: part.fill(0), array.array, passes.count())

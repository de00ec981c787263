"""What a worker runs in: a process of its own, ended with all it started; where none can be started, a thread in this one.

Both speak lines and are read in threads of their own.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import WorkerError
from . import protocol, tree

LAST_WORDS = 2.0
"""Seconds to wait for the last lines of a process that ended."""
FAREWELL = 20.0
"""Seconds that a program which ends waits for a thread of its own to finish a patch."""
Heard = Callable[[Any, bytes], None]
"""Given the process and a line of it; called in a thread."""


class Child:
    """A process.

    Args:
        command: Python executable with its arguments. It may be a launcher, and the worker its child.
        on_line: Given each line of its answers.
        on_log: Given each line of its log.

    ``worker_pid`` is for whoever hears it from the worker, which is ended as well then.

    Raises:
        WorkerError: The executable cannot be started.
    """

    def __init__(self, command: Sequence[str], on_line: Heard, on_log: Heard) -> None:
        library = str(Path(__file__).resolve().parents[2])
        begin = f"import sys; sys.path.insert(0, {library!a}); from UNetSegmentLib.worker.server import main; main()"
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(
                [*command, "-c", begin],
                **{"stdin": pipe, "stdout": pipe, "stderr": pipe, "bufsize": 0},
                # PYTHONSAFEPATH: nothing is imported from the folder in which Slicer was started
                env=os.environ | {"PYTHONUTF8": "1", "PYTHONSAFEPATH": "1"},
                **tree.apart(),
            )
        except OSError as error:
            raise WorkerError(
                f"The process that runs models cannot be started ({command[0]}: {error.strerror})."
            ) from None
        self.pid, self.worker_pid = self._process.pid, None
        self._lock = threading.Lock()
        self._ended_at: float | None = None
        self._readers = [
            threading.Thread(target=_read, args=(self, os.dup(stream.fileno()), heard), daemon=True)  # type: ignore[union-attr]
            for stream, heard in ((self._process.stdout, on_line), (self._process.stderr, on_log))
        ]
        for reader in self._readers:
            reader.start()

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    @property
    def has_said_all(self) -> bool:
        """Whether the last line was heard of a process that ended; what it started, and now keeps the pipes, is not waited for."""
        now = time.monotonic()
        self._ended_at = self._ended_at or now
        return now - self._ended_at > LAST_WORDS or not any(reader.is_alive() for reader in self._readers)

    def send(self, line: bytes) -> None:
        """Write a line; one that ended is seen by its exit code."""
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(line)  # type: ignore[union-attr]
            self._process.stdin.flush()  # type: ignore[union-attr]

    def end(self) -> None:
        """End it and what it started."""
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.close()  # type: ignore[union-attr]
        if self.exit_code is None or any(reader.is_alive() for reader in self._readers):
            tree.end(
                *filter(None, (self.pid, self.worker_pid))
            )  # else nothing of it is left, and its number may be another's
        threading.Thread(target=self._bury, daemon=True).start()  # the system takes its time to free its memory

    def _bury(self) -> None:
        self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.close()  # type: ignore[union-attr]


class Inside:
    """A thread of this process, in the place of a :class:`Child`: what it does wrong, this process does."""

    worker_pid: int | None = None
    has_said_all = True

    def __init__(self, on_line: Heard) -> None:
        from .server import Server

        requests, self._requests = os.pipe()
        self._answers, answers = os.pipe()
        self._ended = threading.Event()
        self.pid, self._lock = os.getpid(), threading.Lock()
        server = Server(os.fdopen(requests, "rb"), os.fdopen(answers, "wb", buffering=0), leave=lambda code: None)

        def serve() -> None:
            try:
                server.serve()
            finally:
                self._ended.set()
                atexit.unregister(self._leave)

        atexit.register(self._leave)
        for work in (serve, lambda: _read(self, self._answers, on_line)):
            threading.Thread(target=work, daemon=True).start()

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return 0 if self._ended.is_set() else None

    def send(self, line: bytes) -> None:
        """Write a line."""
        with self._lock, contextlib.suppress(OSError):
            if self._requests >= 0:
                os.write(self._requests, line)

    def end(self) -> None:
        """Let it stop at the next patch; nothing can end a thread."""
        with self._lock:
            if self._requests >= 0:
                os.close(self._requests)
                self._requests = -1

    def _leave(self) -> None:
        """At the end of Python: a thread that it ends within a library's C++ takes the whole program with it."""
        self.end()
        self._ended.wait(FAREWELL)


def _read(process: Any, stream: int, heard: Heard) -> None:
    with os.fdopen(stream, "rb") as lines:
        for line in iter(lambda: lines.readline(protocol.LONGEST + 2), b""):
            heard(process, line)

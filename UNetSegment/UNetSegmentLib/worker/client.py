"""The client's side: sends a worker its work, hands out what it reports, and survives whatever happens to it.

Threads of its own read and copy voxels; all other callbacks are called by :meth:`Worker.poll` alone, on the caller's
thread, so that a panel can touch widgets and scene in them.
"""

from __future__ import annotations

import collections
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import Cancelled, UNetSegmentError, WorkerError
from ..predict import Progress, passes
from ..predict.sanity import InputWarning
from ..volume import Volume
from . import protocol
from .memory import SharedArray, sweep
from .process import Child, Inside

SILENCE = 30.0
"""Seconds without a sign of life after which a worker counts as hung."""
GRACE = 3.0
"""Seconds a worker has to stop when cancelled, before it is ended."""
BREATH, BREATH_INSIDE = 0.003, 0.015
"""Seconds a poll waits while there is something to do, for a worker that is a process or a thread of this one. Slicer holds
Python's lock while its window waits for events: threads run only while the main thread is in Python and waits there."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a prediction gave.

    Args:
        array: (I, J, K) numbers as asked for, in shared memory that lives as long as this object.
        voxels: Count of voxels by label value.
        provenance: What was run.
    """

    array: np.ndarray
    voxels: dict[int, int]
    provenance: dict[str, str]
    memory: SharedArray = field(repr=False)


@dataclass(eq=False)
class Job:
    """A request under way. Exactly one of ``on_done`` and ``on_error`` is called, once, by :meth:`Worker.poll`."""

    number: int
    on_done: Callable[[Any], None] | None = None
    on_error: Callable[[UNetSegmentError], None] | None = None
    on_progress: Callable[[Progress, float | None], None] | None = None
    on_slab: Callable[[tuple[slice, slice, slice], np.ndarray], None] | None = None
    on_grown: Callable[[], None] | None = None
    on_answer: Callable[[np.ndarray], None] | None = None
    on_warnings: Callable[[list[InputWarning]], None] | None = None
    finished: bool = False
    result: Any = None
    error: UNetSegmentError | None = None
    _shared: list[SharedArray] = field(default_factory=list)
    _cancelled_at: float | None = None

    @property
    def is_cancelled(self) -> bool:
        """Whether it was asked to stop."""
        return self._cancelled_at is not None


class Worker:
    """A process that runs models for one program.

    It is started by the first request, and a fresh one by the first request after it ended.

    Args:
        command: Python executable with its arguments, e.g. ``["PythonSlicer"]``; this Python by default.
        log: Given each line the worker writes to its log, by :meth:`poll`.
        inside: Work in a thread of this process, where no other can be started.

    ``has_answered`` tells whether a worker ever ran here, ``is_inside`` whether in this process; ``lines`` holds the end of
    its log.
    """

    def __init__(
        self,
        command: Sequence[str] | None = None,
        log: Callable[[str], None] | None = None,
        inside: bool = False,
    ) -> None:
        self._command, self.is_inside = list(command or [sys.executable]), inside
        self._log, self.lines = log, collections.deque(maxlen=2000)
        self._process: Child | Inside | None = None
        self._events: queue.Queue[tuple[Any, str, Any]] = queue.Queue()
        self._jobs: dict[int, Job] = {}
        self._next, self._heard = 0, 0.0
        self.has_answered = False

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.exit_code is None

    @property
    def is_busy(self) -> bool:
        """Whether a request is under way."""
        return bool(self._jobs)

    @property
    def pid(self) -> int | None:
        """Number of the process that computes, once it has said so."""
        return None if self._process is None else self._process.worker_pid

    def start(self) -> None:
        """Start the process where it does not run; returns at once.

        Raises:
            WorkerError: The executable cannot be started.
        """
        if self.is_alive:
            return
        if self._process is not None:
            self._process.end()
        self._process = None
        self._process = Inside(self._read) if self.is_inside else Child(self._command, self._read, self._read_log)
        threading.Thread(target=sweep, daemon=True).start()
        self._heard = time.monotonic()
        self._request("hello", {}, Job(0, on_done=self._met))

    def load(self, model: str, options: dict[str, Any] | None = None, **callbacks: Any) -> Job:
        """Have a model warm; ``callbacks`` as for :meth:`predict`. The result tells what it would run on."""
        job = Job(0, **callbacks)
        self.start()
        return self._request("load", {"model": model, "options": options or {}}, job)

    def predict(
        self,
        model: str,
        volumes: Sequence[Volume],
        numbering: dict[int, int],
        options: dict[str, Any] | None = None,
        **callbacks: Any,
    ) -> Job:
        """Segment volumes; returns at once.

        Args:
            model: Package folder or name of an installed model.
            volumes: One single-channel volume per channel. Their voxels are copied in a thread: they must not change
                before the first progress report.
            numbering: Number to write for each label value of the model.
            options: Those of :class:`predict.Predictor` and its ``predict`` that can be JSON.
            callbacks: ``on_done(Outcome)``, ``on_error(UNetSegmentError)``, ``on_progress(Progress, seconds_left)``;
                ``on_warnings(list)`` gets what looks wrong about the volumes, once, before the first patch and only
                where something does; see :func:`predict.sanity.check`. Two are called in a thread of the client's,
                which is the place to copy voxels: ``on_slab(box, array)`` with the result's array, final inside of the
                box, and ``on_answer(array)`` before ``on_done``. ``on_grown()`` follows ``on_slab``.

        Raises:
            WorkerError: The process cannot be started.
        """
        job = Job(0, **callbacks)
        self.start()
        self._enter(job)
        arguments = (self._process, job, model, list(volumes), dict(numbering), options or {})
        threading.Thread(target=self._share_and_send, args=arguments, daemon=True).start()
        return job

    def cancel(self, job: Job) -> None:
        """Ask a job to stop. It ends with :class:`Cancelled` within a patch, or with the process after a grace."""
        if not job.finished and job._cancelled_at is None:
            job._cancelled_at = time.monotonic()
            self._send(self._process, {"method": "cancel", "params": {"id": job.number}})

    def poll(self) -> None:
        """Call the callbacks of what has happened since; call it some thirty times a second while a job runs."""
        if self._jobs:
            time.sleep(BREATH_INSIDE if self.is_inside else BREATH)
        while True:
            try:
                process, kind, content = self._events.get_nowait()
            except queue.Empty:
                break
            if kind == "log":
                if self._log is not None:
                    self._log(content)
            elif process is self._process:  # not the last words of one that was ended
                self._heard = time.monotonic()
                self._take(kind, content)
        if self._jobs:
            self._watch()

    def wait(self, job: Job, step: float = 0.01, idle: Callable[[], None] | None = None) -> Any:
        """Poll until a job is finished; its result. ``idle`` is called in between.

        Raises:
            UNetSegmentError: What the job ended with.
        """
        while not job.finished:
            self.poll()
            if idle is not None:
                idle()
            if not job.finished:
                time.sleep(step)
        if job.error is not None:
            raise job.error
        return job.result

    def stop(self, words: str = "The worker was stopped; nothing was changed.") -> None:
        """End the process and everything it started; jobs under way end with an error."""
        process, self._process = self._process, None
        if process is not None:
            process.end()
        self._fail_all(WorkerError(words))

    def _met(self, result: dict[str, Any]) -> None:
        self.has_answered = True
        if self._process is not None:
            self._process.worker_pid = int(result["pid"])

    def _enter(self, job: Job) -> None:
        self._next += 1
        job.number = self._next
        self._jobs[job.number] = job
        if len(self._jobs) == 1:
            self._heard = time.monotonic()

    def _request(self, method: str, params: dict[str, Any], job: Job) -> Job:
        self._enter(job)
        self._send(self._process, {"id": job.number, "method": method, "params": params})
        return job

    def _send(self, process: Any, message: dict[str, Any]) -> None:
        if process is not None:  # one that ended is seen by _watch
            process.send(protocol.encode(message))

    def _share_and_send(
        self, process: Any, job: Job, model: str, volumes: list[Volume], numbering: dict[int, int], options: Any
    ) -> None:
        try:
            entries = []
            for volume in volumes:
                voxels = volume.array[0].T  # (k, j, i): as Slicer stores them, so this is one straight copy
                if voxels.dtype.kind not in "buif":
                    raise WorkerError(f"Volume '{volume.channels[0]}' does not hold plain numbers.")
                shared = SharedArray.create(voxels.shape, voxels.dtype)
                job._shared.append(shared)
                passes.transfer(shared.array, voxels, passes.count())
                matrix = volume.grid.ijk_to_ras.ravel().tolist()
                entries.append({"array": shared.describe(), "ijk_to_ras": matrix, "name": volume.channels[0]})
            target = SharedArray.create(volumes[0].grid.shape[::-1], _smallest(numbering))
            job._shared.append(target)
            params = {
                "model": model,
                "volumes": entries,
                "labels": target.describe(),
                "numbering": [list(pair) for pair in numbering.items()],
                "options": options,
            }
            self._send(process, {"id": job.number, "method": "predict", "params": params})
        except UNetSegmentError as error:
            self._events.put((process, "failed", (job.number, error)))
        except Exception as error:
            words = f"The volume could not be handed over ({type(error).__name__}: {error})."
            self._events.put((process, "failed", (job.number, WorkerError(words))))
        finally:
            if job.finished:  # ended meanwhile: nobody else lets go of what was made since
                for shared in list(job._shared):
                    shared.close()

    def _read(self, process: Any, line: bytes) -> None:
        """In the reading thread: a line of the process."""
        try:
            message = protocol.decode(line)
        except ValueError:
            self._events.put((process, "garbage", None))
            return
        try:
            self._copied(message)
        except Exception as error:
            words = f"The result could not be taken over ({type(error).__name__}: {error})."
            self._events.put((process, "failed", (_job_number(message), WorkerError(words))))
        self._events.put((process, "message", message))

    def _copied(self, message: dict[str, Any]) -> None:
        """In the reading thread: let the caller copy what is there of the result."""
        job = self._jobs.get(_job_number(message))
        held = job._shared[-1:] if job is not None else []  # the main thread may let go of them meanwhile
        if job is None or not held or job.is_cancelled:
            return
        if "result" in message and job.on_answer is not None:
            job.on_answer(held[0].array.T)
        elif message.get("method") == "slab" and job.on_slab is not None and (box := _box(message)) is not None:
            job.on_slab(box, held[0].array.T)

    def _read_log(self, process: Any, line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip()
        self.lines.append(text)
        self._events.put((process, "log", text))

    def _take(self, kind: str, content: Any) -> None:
        if kind == "garbage":
            self._broken("The worker sent something that cannot be read")
        elif kind == "failed":
            number, error = content
            self._finish(self._jobs.get(number), error=error)
        elif "method" in content:
            try:
                self._notified(content["method"], content.get("params", {}))
            except (KeyError, TypeError, ValueError, IndexError):
                self._broken("The worker sent something that cannot be read")
        else:
            job = self._jobs.get(content.get("id"))
            if job is None:
                return
            if "error" in content:
                self._finish(job, error=protocol.restore_error(content["error"]))
            else:
                self._finish(job, result=content.get("result"))

    def _notified(self, method: str, params: dict[str, Any]) -> None:
        job = self._jobs.get(params.get("id"))  # type: ignore[arg-type]
        if job is None:
            return
        if method == "attached":
            for shared in job._shared:
                shared.forget_name()
        elif method == "progress" and job.on_progress is not None and not job.is_cancelled:
            report = Progress(str(params["stage"]), float(params["fraction"]), str(params["message"]))
            left = params.get("seconds_left")
            job.on_progress(report, None if left is None else float(left))
        elif method == "warnings" and job.on_warnings is not None and not job.is_cancelled:
            messages = [InputWarning(str(m["channel"]), str(m["code"]), str(m["message"])) for m in params["messages"]]
            job.on_warnings(messages)
        elif method == "slab" and not job.is_cancelled:
            if _box({"params": params}) is None:
                raise ValueError("no box")
            if job.on_grown is not None:
                job.on_grown()

    def _finish(self, job: Job | None, result: Any = None, error: UNetSegmentError | None = None) -> None:
        if job is None or self._jobs.pop(job.number, None) is None:
            return
        job.finished = True
        if job.is_cancelled:  # also where the answer came first: who cancels wants nothing
            error, result = Cancelled(), None
        if error is None and job._shared:
            try:
                voxels = {int(value): int(count) for value, count in result["voxels"].items()}
                memory = job._shared[-1]
                result = Outcome(memory.array.T, voxels, dict(result["provenance"]), memory)
                job._shared.pop().forget_name()
            except (KeyError, TypeError, ValueError, AttributeError):
                error, result = WorkerError("The worker's answer cannot be read; press Apply again."), None
        while job._shared:
            job._shared.pop().close()
        job.result, job.error = result, error
        if error is not None and job.on_error is not None:
            job.on_error(error)
        elif error is None and job.on_done is not None:
            job.on_done(result)

    def _fail_all(self, error: UNetSegmentError) -> None:
        for job in list(self._jobs.values()):
            self._finish(job, error=error)

    def _broken(self, what: str) -> None:
        self.stop(f"{what}; it was ended. Press Apply to start a fresh one.")

    def _watch(self) -> None:
        """See whether the process ended, hangs, or does not stop when cancelled."""
        now = time.monotonic()
        process = self._process
        if process is None:
            self._fail_all(WorkerError("The worker was stopped; nothing was changed."))
        elif (code := process.exit_code) is not None and self._events.empty():
            why = "it was ended from outside, perhaps because memory was short" if code in (-9, 137) else f"code {code}"
            last = next((line for line in reversed(self.lines) if line.strip()), "")
            hint = f": {last[:200]}" if last and code not in (-9, 137, -15) else ""
            self._broken(f"The worker stopped unexpectedly ({why}{hint})")
        elif now - self._heard > SILENCE:
            self._broken(f"The worker has not answered for {round(now - self._heard)} s")
        elif any(job._cancelled_at is not None and now - job._cancelled_at > GRACE for job in self._jobs.values()):
            self._broken("The worker did not stop when asked")


def _smallest(numbering: dict[int, int]) -> Any:
    most = max(numbering.values(), default=0)
    return np.uint8 if most < 256 else np.int16 if most < 2**15 else np.uint16


def _job_number(message: dict[str, Any]) -> Any:
    return message.get("id") if "result" in message else message.get("params", {}).get("id")


def _box(message: dict[str, Any]) -> tuple[slice, slice, slice] | None:
    """The box of a slab's message; None where it is none."""
    try:
        i, j, k = (slice(int(a), int(b)) for a, b in message["params"]["box"])
    except (KeyError, TypeError, ValueError):
        return None
    return i, j, k

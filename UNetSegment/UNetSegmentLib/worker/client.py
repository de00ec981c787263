"""The client's side: sends a worker its work, hands out what it reports, and survives whatever happens to it.

Threads of its own read and copy voxels; all other callbacks are called by :meth:`Worker.poll` alone, on the caller's
thread, so that a panel can touch widgets and scene in them.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from ..errors import UNetSegmentError, WorkerError
from ..volume import Volume
from . import protocol
from .job import Job
from .memory import sweep
from .process import Child, Inside
from .spare import Spare

SILENCE, FIRST_SILENCE = 60.0, 180.0
"""Seconds without a sign of life after which a worker counts as hung; and without the first one: where a virus scanner reads
every file, Python and a large library take minutes to start the first time."""
ATTENTION = 1.0
"""Seconds that count of the time between two polls: while the computer slept or Slicer stood still, nobody listened."""
GRACE = 3.0
"""Seconds a worker has to stop when cancelled, before it is ended."""
BREATH, BREATH_INSIDE = 0.003, 0.015
"""Seconds a poll waits while there is something to do, for a worker that is a process or a thread of this one. Slicer holds
Python's lock while its window waits for events: threads run only while the main thread is in Python and waits there."""
ENDING, LAST_BREATH = 0.9, 0.008
"""Fraction of a request from which on its answer may come any moment; a poll then waits for the first word, so long at most."""
HANDING_OVER = "unetsegment-hand-over"
"""Name of the threads that copy volumes for a worker."""
_CRASHED = "exit abnormally"
"""In the last words of Slicer's launcher, which ends with code 1, where a signal ended the worker behind it."""
_UNREADABLE = "The model's process sent something that cannot be read"
_STOPPED = "The model's process was stopped; nothing was changed."
_NEXT = "The next run starts a fresh one."


class Worker:
    """A process that runs models for one program.

    It is started by the first request, and a fresh one by the first request after it ended. A request that it had not begun
    when it ended goes to a fresh one by itself, once, unless a request for the same model was what it worked on.

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
        self._sending = threading.RLock()  # held while a process takes another's place, too
        self._events: queue.Queue[tuple[Any, str, Any]] = queue.Queue()
        self._jobs: dict[int, Job] = {}
        self._spare = Spare(self._forget)
        self._next, self._silent, self._polled = 0, 0.0, 0.0
        self.has_answered, self._last_words = False, ""

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.exit_code is None

    @property
    def is_busy(self) -> bool:
        """Whether a request is under way."""
        return bool(self._jobs)

    @property
    def is_ending(self) -> bool:
        """Whether a request is about to be answered."""
        return any(job.fraction >= ENDING for job in self._jobs.values())

    @property
    def pid(self) -> int | None:
        """Number of the process that computes, once it has said so."""
        return None if self._process is None else self._process.worker_pid

    def start(self) -> None:
        """Start the process where it does not run; returns at once.

        Raises:
            WorkerError: The executable cannot be started.
        """
        if self.is_alive or self._jobs and self._process is not None:  # one that ended at work is seen by _watch
            return
        if self._process is not None:
            self._process.end()
        self._spare.drop()
        self._process, self._last_words = None, ""
        self._process = Inside(self._read) if self.is_inside else Child(self._command, self._read, self._read_log)
        threading.Thread(target=sweep, daemon=True).start()
        self._silent = 0.0
        self._request("hello", {}, Job(on_done=self._met))

    def load(self, model: str, options: dict[str, Any] | None = None, **callbacks: Any) -> Job:
        """Have a model warm; ``callbacks`` as for :meth:`predict`. The result tells what it would run on."""
        job = Job(model=model, **callbacks)
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
                box, and ``on_answer(array)`` before ``on_done``, unless the slabs were all of it. ``on_grown()`` follows
                ``on_slab``.

        Raises:
            WorkerError: The process cannot be started.
        """
        job = Job(model=model, **callbacks)
        self.start()
        self._enter(job)
        arguments = (job, list(volumes), dict(numbering), options or {})
        job.hand_over = functools.partial(self._share_and_send, *arguments)
        _in_thread(job.hand_over)
        return job

    def cancel(self, job: Job) -> None:
        """Ask a job to stop. It ends with :class:`Cancelled` within a patch, or with the process after a grace."""
        if not job.finished and not job.is_cancelled:
            job.cancel()
            self._send(protocol.encode({"method": "cancel", "params": {"id": job.number}}))

    def poll(self) -> None:
        """Call the callbacks of what has happened since; call it some thirty times a second while a job runs.

        What a callback raises comes out here; the work goes on at the next call.
        """
        now, before = time.monotonic(), self._polled
        self._polled, self._silent = now, self._silent + min(now - before, ATTENTION)
        for process, kind, content in self._happened():
            if kind == "log":
                if self._log is not None:
                    self._log(content)
            elif kind == "failed":
                number, error = content
                self._finish(self._jobs.get(number), error=error)
            elif process is self._process:  # not the last words of one that was ended
                self._silent = 0.0
                self._take(content)
        if self._jobs:
            self._watch(now)

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

    def stop(self, words: str = _STOPPED) -> None:
        """End the process and everything it started; jobs under way end with an error."""
        with self._sending:
            process, self._process = self._process, None
            self._spare.drop()
        if process is not None:
            process.end()
        self._fail(list(self._jobs.values()), WorkerError(words))

    def _happened(self) -> Iterator[tuple[Any, str, Any]]:
        """What threads have put down since; while there is something to do, after a breath that lets them run."""
        breath = BREATH_INSIDE if self.is_inside else BREATH
        with contextlib.suppress(queue.Empty):
            if self.is_ending:
                yield self._events.get(timeout=max(breath, LAST_BREATH))
            elif self._jobs:
                time.sleep(breath)
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._events.get_nowait()

    def _met(self, result: Any) -> None:
        try:
            pid = int(result["pid"])
        except (KeyError, TypeError, ValueError, OverflowError):
            self._broken(_UNREADABLE)
            return
        self.has_answered = True
        if self._process is not None:
            self._process.worker_pid = pid

    def _enter(self, job: Job) -> None:
        self._next += 1
        job.number = self._next
        self._jobs[job.number] = job
        if len(self._jobs) == 1:
            self._silent = 0.0

    def _request(self, method: str, params: dict[str, Any], job: Job) -> Job:
        self._enter(job)
        self._ask(job, method, params)
        return job

    def _ask(self, job: Job, method: str, params: dict[str, Any]) -> None:
        """Send a request; kept, so that it can go to another process."""
        with self._sending:
            job.line = protocol.encode({"id": job.number, "method": method, "params": params})
            if not job.finished:
                self._send(job.line)

    def _send(self, line: bytes) -> None:
        process = self._process
        if process is not None:  # one that ended is seen by _watch
            process.send(line)

    def _share_and_send(self, job: Job, volumes: list[Volume], numbering: dict[int, int], options: Any) -> None:
        """In a thread: hand a prediction over; once more where the worker went that holds the memory given to it."""
        try:
            is_sent = False
            while not is_sent:
                process = self._process
                job.let_go()
                handed = job.share(volumes, numbering, self._spare)
                with self._sending:
                    if is_sent := process is self._process or not job.is_bound or job.finished:
                        self._ask(job, "predict", {"model": job.model, **handed, "options": options})
        except UNetSegmentError as error:
            self._events.put((None, "failed", (job.number, error)))
        except Exception as error:
            words = f"The volume could not be handed over ({type(error).__name__}: {error})."
            self._events.put((None, "failed", (job.number, WorkerError(words))))
        finally:
            if job.finished and not job.was_begun:  # ended meanwhile: nobody else lets go of what was made since
                names = [shared.name for shared in job.shared]
                job.let_go()
                self._forget(names)

    def _read(self, process: Any, line: bytes) -> None:
        """In the reading thread: a line of the process."""
        try:
            message = protocol.decode(line)
        except ValueError:
            self._events.put((process, "message", None))
            return
        if message.get("method") == "alive" and not self._jobs:  # nobody polls, nobody need know
            self._spare.tend()
            return
        number = message.get("id") if "result" in message else message.get("params", {}).get("id")
        job = self._jobs.get(number)  # type: ignore[arg-type]
        try:
            if job is not None:
                job.copied(message)
        except Exception as error:
            words = f"The result could not be taken over ({type(error).__name__}: {error})."
            self._events.put((process, "failed", (number, WorkerError(words))))
        self._events.put((process, "message", message))

    def _read_log(self, process: Any, line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip()
        self._last_words = text if text.strip() else self._last_words
        self._note(text)

    def _note(self, text: str) -> None:
        self.lines.append(text)
        self._events.put((None, "log", text))

    def _take(self, message: dict[str, Any] | None) -> None:
        """A message of the worker; None where it was none."""
        if message is None:
            self._broken(_UNREADABLE)
        elif "method" in message:
            params = message.get("params", {})
            job, call = self._jobs.get(params.get("id")), None
            try:
                if job is not None:
                    call = job.told(message["method"], params)
            except (KeyError, TypeError, ValueError, OverflowError):
                self._broken(_UNREADABLE)
            if call is not None:
                call()
        elif "error" in message:
            self._finish(self._jobs.get(message.get("id")), error=protocol.restore_error(message["error"]))
        else:
            self._finish(self._jobs.get(message.get("id")), result=message.get("result"))

    def _finish(self, job: Job | None, result: Any = None, error: UNetSegmentError | None = None) -> None:
        if job is None or self._jobs.pop(job.number, None) is None:
            return
        names = {shared.name for shared in job.shared}
        try:
            job.finish(result, error)
        finally:
            free, job.free = [shared.pass_on() for shared in job.free], []
            if not free or self._jobs or not self.is_alive or not self._spare.keep(free):
                free = []
            self._forget(names - {shared.name for shared in free})

    def _forget(self, names: Iterable[str]) -> None:
        """Let the worker let go of memory with these names."""
        if names := list(names):
            self._send(protocol.encode({"method": "forget", "params": {"names": names}}))

    def _fail(self, jobs: Sequence[Job], error: UNetSegmentError) -> None:
        for job in jobs:
            self._finish(job, error=error)

    def _broken(self, what: str) -> None:
        self.stop(f"{what}; it was ended. {_NEXT}")

    def _ended(self, what: str) -> None:
        """The process is gone by itself: what it had not begun goes to a fresh one, the rest fails."""
        fatal = {job.model for job in self._jobs.values() if job.was_begun}
        failing: list[Job] = []
        waiting: list[Job] = []
        for job in self._jobs.values():
            fails = job.was_begun or job.was_sent_again or job.is_cancelled or not job.model or job.model in fatal
            (failing if fails else waiting).append(job)
        error = WorkerError(f"{what}. {_NEXT}")
        with self._sending:
            process, self._process = self._process, None
            self._spare.drop()
            if process is not None:  # what it started may still be there
                process.end()
            if waiting:
                try:
                    self._hand_on(what, waiting)
                except WorkerError as refused:
                    failing, error = [*failing, *waiting], refused
        self._fail(failing, error)

    def _hand_on(self, what: str, jobs: list[Job]) -> None:
        self.start()
        self._note(f"{what}; a fresh one was started.")
        for job in jobs:
            job.was_sent_again = True
            if job.line is not None and job.is_bound and job.hand_over is not None:
                job.line = None
                _in_thread(job.hand_over)
            elif job.line is not None:  # else its volumes are still being copied
                self._send(job.line)

    def _watch(self, now: float) -> None:
        """See whether the process ended, hangs, or does not stop when cancelled."""
        process = self._process
        if process is None:  # what a callback raised kept :meth:`stop` from ending all jobs
            self._fail(list(self._jobs.values()), WorkerError(_STOPPED))
        elif (code := process.exit_code) is not None:
            if process.has_said_all and self._events.empty():
                self._ended(f"The model's process stopped unexpectedly ({self._reason(code)})")
        elif self._silent > (FIRST_SILENCE if process.worker_pid is None else SILENCE):
            self._broken(f"The model's process has not answered for {round(self._silent)} s")
        elif any(job.is_cancelled and now - job.cancelled_at > GRACE for job in self._jobs.values()):
            self._broken("The model's process did not stop when asked")

    def _reason(self, code: int) -> str:
        last = self._last_words
        if code in (-9, 137):
            return "it was ended from outside, perhaps because memory was short"
        if code == 1 and _CRASHED in last:
            return "it crashed or was ended from outside, perhaps because memory was short"
        return f"code {code}" + (f": {last[:200]}" if last and code != -15 else "")


def _in_thread(hand_over: Callable[[], None]) -> None:
    threading.Thread(target=hand_over, name=HANDING_OVER, daemon=True).start()

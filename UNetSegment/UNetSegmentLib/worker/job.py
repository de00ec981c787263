"""One request to a worker: its callbacks, the memory that it shares, and what came of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import Cancelled, UNetSegmentError, WorkerError
from ..predict import Progress
from ..predict.reports import InputWarning
from ..volume import Volume
from .memory import SharedArray
from .spare import Spare

_CALLBACKS = ("on_done", "on_error", "on_progress", "on_slab", "on_grown", "on_answer", "on_warnings")


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a prediction gave.

    Args:
        memory: Where the numbers are; (K, J, I), as Slicer stores them. Where ``on_answer`` copied them, they are gone when
            ``on_done`` has returned.
        voxels: Count of voxels by label value.
        provenance: What was run.
    """

    memory: SharedArray = field(repr=False)
    voxels: dict[int, int]
    provenance: dict[str, str]

    @property
    def array(self) -> np.ndarray:
        """(I, J, K) numbers as asked for."""
        return self.memory.array.T


@dataclass(eq=False)
class Job:
    """A request under way. Exactly one of ``on_done`` and ``on_error`` is called, once, by :meth:`Worker.poll`.

    For its :class:`Worker` alone: ``number`` and ``line``, the request as it is sent, once it can be; ``model``, which a
    worker that ended may not have survived; ``was_begun``, the worker works on it; ``was_sent_again``, its first worker ended
    before that; ``hand_over``, copies the volumes and sends it, until it was begun; ``shared``, the memory of the volumes and
    then of the result; ``is_bound``, no other worker has it; ``fraction``, how much is done; ``free``, what of it is of no use
    to anybody once ``on_done`` has returned.
    """

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
    number: int = 0
    line: bytes | None = None
    model: str = ""
    was_begun: bool = False
    was_sent_again: bool = False
    cancelled_at: float | None = None
    hand_over: Callable[[], None] | None = None
    shared: list[SharedArray] = field(default_factory=list)
    fraction: float = 0.0
    is_bound: bool = False
    free: list[SharedArray] = field(default_factory=list)

    @property
    def is_cancelled(self) -> bool:
        """Whether it was asked to stop."""
        return self.cancelled_at is not None

    def cancel(self) -> None:
        """Note that it is not wanted any more."""
        self.cancelled_at = time.monotonic()

    def share(self, volumes: Sequence[Volume], numbering: dict[int, int], spare: Spare) -> dict[str, Any]:
        """In a thread: copy voxels to shared memory, and make room for the result; both as JSON, for the worker.

        Raises:
            WorkerError: There is no room, or what a volume holds are no plain numbers.
        """
        # (k, j, i): as Slicer stores them, so this is one straight copy
        voxels = [volume.array[0].T for volume in volumes]
        for volume, values in zip(volumes, voxels, strict=True):
            if values.dtype.kind not in "buif":
                raise WorkerError(f"Volume '{volume.channels[0]}' does not hold plain numbers.")
        needs = [(values.shape, values.dtype) for values in voxels]
        self.is_bound = spare.room([*needs, (volumes[0].grid.shape[::-1], _smallest(numbering))], self.shared)
        *inputs, target = self.shared
        for array, values in zip(inputs, voxels, strict=True):
            array.fill(values)
        entries = [
            {"array": array.describe(), "ijk_to_ras": v.grid.ijk_to_ras.ravel().tolist(), "name": v.channels[0]}
            for array, v in zip(inputs, volumes, strict=True)
        ]
        return {
            "volumes": entries,
            "labels": target.describe(),
            "numbering": [list(pair) for pair in numbering.items()],
        }

    def copied(self, message: dict[str, Any]) -> None:
        """In the reading thread: let the caller copy what is there of the result."""
        # the main thread may let go of them meanwhile
        held, on_answer, on_slab = self.shared[-1:], self.on_answer, self.on_slab
        if not held or self.is_cancelled:
            return
        if "result" in message and on_answer is not None:
            answer = message["result"]
            if on_slab is None or not isinstance(answer, dict) or answer.get("given") is not True:
                on_answer(held[0].array.T)
        elif message.get("method") == "slab" and on_slab is not None:
            box = _box(message.get("params", {}))
            if box is not None:
                on_slab(box, held[0].array.T)

    def told(self, method: str, params: dict[str, Any]) -> Callable[[], None] | None:
        """What a notification of the worker calls for; None: nothing.

        Raises:
            KeyError, TypeError, ValueError, OverflowError: It cannot be read.
        """
        if method == "begun":
            self.was_begun, self.hand_over = True, None
        elif method == "attached":
            for shared in self.shared:
                shared.forget_name()
        elif self.is_cancelled:
            return None
        elif method == "progress" and (on_progress := self.on_progress) is not None:
            report = Progress(str(params["stage"]), float(params["fraction"]), str(params["message"]))
            self.fraction = report.fraction
            left = params.get("seconds_left")
            left = None if left is None else float(left)
            return lambda: on_progress(report, left)
        elif method == "warnings" and (on_warnings := self.on_warnings) is not None:
            messages = [InputWarning(str(m["channel"]), str(m["code"]), str(m["message"])) for m in params["messages"]]
            return lambda: on_warnings(messages)
        elif method == "slab":
            if _box(params) is None:
                raise ValueError("no box")
            return self.on_grown
        return None

    def finish(self, result: Any = None, error: UNetSegmentError | None = None) -> None:
        """Let go of what it held, and call back."""
        self.finished, self.hand_over = True, None
        if self.is_cancelled:  # also where the answer came first: who cancels wants nothing
            error, result = Cancelled(), None
        if error is None and self.shared:
            try:
                voxels = {int(value): int(count) for value, count in result["voxels"].items()}
                result = Outcome(self.shared[-1], voxels, dict(result["provenance"]))
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
                error, result = WorkerError("The answer of the model's process cannot be read; run it again."), None
        if error is not None:
            self.let_go()
        self.free, self.shared = self.shared, []
        for shared in self.free:
            shared.forget_name()
        if self.on_answer is None:
            del self.free[-1:]  # the result is whose who asked for it
        self.result, self.error = result, error
        on_done, on_error = self.on_done, self.on_error
        # whoever waits for this job holds it: held in return, both would keep the result in memory
        for name in _CALLBACKS:
            setattr(self, name, None)
        if error is not None and on_error is not None:
            on_error(error)
        elif error is None and on_done is not None:
            on_done(result)

    def let_go(self) -> None:
        """Free the memory that it shares; may be called from two threads at once."""
        with contextlib.suppress(IndexError):
            while True:
                self.shared.pop().close()


def _smallest(numbering: dict[int, int]) -> Any:
    most = max(numbering.values(), default=0)
    return np.uint8 if most < 256 else np.int16 if most < 2**15 else np.uint16


def _box(params: dict[str, Any]) -> tuple[slice, slice, slice] | None:
    """The box of a slab's message; None where it is none."""
    try:
        i, j, k = (slice(int(a), int(b)) for a, b in params["box"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return i, j, k

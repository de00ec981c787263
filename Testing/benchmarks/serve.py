"""The measured side: a process that waits for requests on stdin and answers on stdout, a JSON object per line.

Standard library alone, because every contender imports it in its own Python.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

try:
    import resource
except ImportError:  # Windows: no peak from the kernel, coarser processor times
    resource = None  # type: ignore[assignment]

_STAGES: dict[str, dict[str, float]] = {}


def cpu_seconds() -> float:
    """Processor seconds of this process, all its threads, and its children that have ended."""
    if resource is None:
        return sum(os.times()[:4])
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def peak_bytes() -> int:
    """The most memory this process ever held, as the kernel counts it; 0 where it does not.

    On Linux ``VmHWM``: ``ru_maxrss`` there begins with the size of the process that started this one.
    """
    try:
        with open("/proc/self/status", encoding="utf-8") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        pass
    if resource is None:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Mark the part of a request that counts; the watcher finds its memory by the times (monotonic is system-wide)."""
    cpu, began = cpu_seconds(), time.monotonic()
    yield
    _STAGES[name] = {"began": began, "ended": time.monotonic(), "cpu": cpu_seconds() - cpu}


class Stopwatch:
    """Adds up wall and processor time over the calls of a function."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0
        self.calls = 0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed; calls with several patches (N, C, ...) in the first argument count N times."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            cpu, began = cpu_seconds(), time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.wall += time.perf_counter() - began
                self.cpu += cpu_seconds() - cpu
                self.calls += len(args[0])

        return timed

    def take(self) -> dict[str, float]:
        """What has been added up since the last time, and start again."""
        result = {"wall": self.wall, "cpu": self.cpu, "calls": self.calls}
        self.__init__()  # type: ignore[misc]
        return result


def gpu_memory() -> dict[str, int]:
    """The most bytes that PyTorch held on an NVIDIA GPU since the last time; empty where it used none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.max_memory_allocated():
        return {}
    peak = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return {"gpu_peak": peak}


def serve(handlers: Mapping[str, Callable[..., Any]]) -> None:
    """Answer requests ``{"do": name, "with": {...}}`` until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    handlers = {"hello": dict, **handlers}
    for line in sys.stdin:
        request = json.loads(line)
        _STAGES.clear()
        try:
            answer = {"result": handlers[request["do"]](**request["with"])}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        answer |= {"stages": dict(_STAGES), "cpu_since_start": cpu_seconds(), "peak": peak_bytes()}
        print(json.dumps(answer), file=answers, flush=True)

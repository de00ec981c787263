"""The watching side: start a contender, send it requests, and measure its process tree from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
PERIOD = 0.02
"""Seconds between two looks at the process tree."""


class ContenderError(Exception):
    """A contender failed; the text is its own."""


@dataclass(frozen=True)
class Stage:
    """What a part of a request took: seconds, and bytes of resident memory of the whole process tree."""

    wall: float
    cpu: float
    rss_start: int
    rss_peak: int

    @property
    def extra(self) -> int:
        """Bytes over what was resident when the stage began."""
        return self.rss_peak - self.rss_start


@dataclass(frozen=True)
class Answer:
    """A contender's answer to one request: its result, its stages, and what the whole request took."""

    result: Any
    stages: dict[str, Stage]
    whole: Stage
    cpu_since_start: float
    peak: int


@dataclass
class _Look:
    """The process tree at one moment: resident bytes, and processor seconds of the children that still run."""

    time: float
    rss: int
    children_cpu: float


@dataclass
class Session:
    """A running contender; use it in a ``with`` block.

    Args:
        name: What the table calls it.
        module: Module to run, e.g. ``benchmarks.contenders.ours``.
        python: Interpreter to run it with.
        threads: Processor threads it may use, set in the ways that libraries look at before they start.
        scratch: Folder for its caches, log and results.
    """

    name: str
    module: str
    python: str
    threads: int
    scratch: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> Session:
        self.scratch.mkdir(parents=True, exist_ok=True)
        self._log = (self.scratch / f"{self.name.replace(' ', '-')}.log").open("ab")
        self._began = time.monotonic()
        self._process = subprocess.Popen(
            [self.python, "-m", self.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=self._environment(),
            cwd=self.scratch,
            encoding="utf-8",
        )
        self._looks: list[_Look] = []
        self._watched = psutil.Process(self._process.pid)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        self.spawn = 0.0
        self.call("hello")
        self.spawn = time.monotonic() - self._began
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(10 if kind is None else 1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def call(self, do: str, **arguments: Any) -> Answer:
        """Send a request and wait for its answer.

        Raises:
            ContenderError: It answered with an error, or died.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        began = time.monotonic()
        self._looks = [self._look()]
        try:
            self._process.stdin.write(json.dumps({"do": do, "with": arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        ended = time.monotonic()
        if not line:
            raise ContenderError(f"{self.name} died in '{do}' (exit {self._process.wait()}): {self.log_tail()}")
        answer = json.loads(line)
        if "error" in answer:
            raise ContenderError(f"{self.name} failed in '{do}': {answer['error']}\n{answer['traceback']}")
        looks = [*self._looks, self._look()]
        stages = {name: _stage(looks, **times) for name, times in answer["stages"].items()}
        whole = _stage(looks, began, ended, sum(part["cpu"] for part in answer["stages"].values()))
        return Answer(answer["result"], stages, whole, answer["cpu_since_start"], answer["peak"])

    def log_tail(self) -> str:
        """The last lines that the contender printed."""
        self._log.flush()
        return Path(self._log.name).read_text("utf-8", "replace")[-1500:]

    def _environment(self) -> dict[str, str]:
        """Paths, thread limits, and caches that start empty: nothing of the user's own is read or filled."""
        threads = str(self.threads)
        names = ("OMP", "MKL", "OPENBLAS", "NUMBA")
        limits = {f"{name}_NUM_THREADS": threads for name in names} | {"nnUNet_def_n_proc": threads}
        folders = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "UNETSEGMENT_CACHE", "NUMBA_CACHE_DIR")
        places = {name: str(self.scratch / "caches" / name) for name in folders}
        path = os.pathsep.join(str(ROOT / folder) for folder in ("Testing", "UNetSegment"))
        return {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore", **limits, **places, **self.environment}

    def _watch(self) -> None:
        while not self._stop.wait(PERIOD):
            self._looks.append(self._look())

    def _look(self) -> _Look:
        rss, cpu = 0, 0.0
        try:
            rss = self._watched.memory_info().rss
            for child in self._watched.children(recursive=True):
                try:
                    rss += child.memory_info().rss
                    cpu += sum(child.cpu_times()[:2])
                except psutil.Error:
                    continue  # ended between the two looks; its time is now among the parent's
        except psutil.Error:
            pass
        return _Look(time.monotonic(), rss, cpu)


def _stage(looks: list[_Look], began: float, ended: float, cpu: float) -> Stage:
    """A stage from its times: the looks within, and the last one before it."""
    before = [look for look in looks if look.time <= began] or looks[:1]
    within = [look for look in looks if began < look.time <= ended] or before[-1:]
    children = max(within[-1].children_cpu - before[-1].children_cpu, 0.0)
    start = before[-1].rss
    return Stage(ended - began, cpu + children, start, max([start, *(look.rss for look in within)]))


def interpreter(given: str | None) -> str:
    """The interpreter a contender runs in: the one given, else the one that runs this."""
    return given or sys.executable

"""The module's panel on the stand-in host: opened, and Apply clicked as a person would, while the main thread is watched."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.attribution import attributed
from benchmarks.serve import serve, stage

ROOT = Path(__file__).resolve().parents[3]
TICK = 0.005
"""Seconds the main thread rests between two looks at its events."""
SUSPECT = 0.015
"""Seconds without a tick after which the watching thread notes what the main thread is doing."""
_state: dict[str, Any] = {}


class Ticking:
    """Times between two ticks of the main thread: seconds, processor seconds of its own, and the call that it was in."""

    def __init__(self) -> None:
        self.gaps: list[tuple[float, float, str]] = []
        self._last, self._cpu, self._doing, self._on = time.perf_counter(), time.thread_time(), "", True
        self._main = threading.get_ident()

    def tick(self) -> None:
        """The main thread is here."""
        now, cpu = time.perf_counter(), time.thread_time()
        self.gaps.append((now - self._last, cpu - self._cpu, self._doing))
        self._last, self._cpu, self._doing = now, cpu, ""

    @contextmanager
    def watched(self) -> Iterator[None]:
        """With a thread that looks at what the main thread does."""
        watcher = threading.Thread(target=self._watch, daemon=True)
        self._last, self._cpu = time.perf_counter(), time.thread_time()
        watcher.start()
        yield
        self._on = False
        watcher.join()

    def _watch(self) -> None:
        while self._on:
            time.sleep(0.004)
            if time.perf_counter() - self._last > SUSPECT:
                self._doing = _where(sys._current_frames().get(self._main))

    def worst(self, what: int) -> tuple[float, str]:
        """The greatest of the seconds (0; without the rest between ticks) or processor seconds (1), and where."""
        gap = max(self.gaps, key=lambda each: each[what])
        return gap[what] - (TICK if what == 0 else 0.0), gap[2]


def _where(frame: Any) -> str:
    """The innermost function of the module and what it calls."""
    inner, leaf = "", ""
    while frame is not None:
        path, name = Path(frame.f_code.co_filename), frame.f_code.co_name
        leaf = leaf or f"{path.stem}.{name}"
        if "UNetSegment" in path.parts:
            inner = f"{path.parent.name}/{path.stem}.{name}"
            break
        frame = frame.f_back
    return inner if inner.endswith(leaf) else " > ".join(filter(None, [inner, leaf]))


def begin(package: str) -> dict[str, Any]:
    """Open the module in a fresh application, with a package among the installed models.

    Returns:
        ``took``: seconds, wall; ``ours`` and ``host``: processor seconds of either's code by step; what was imported.
    """
    import host

    host.start()
    import slicer

    cache = Path(os.environ["UNETSEGMENT_CACHE"])
    (cache / "models").mkdir(parents=True, exist_ok=True)
    (cache / "models" / "empty").symlink_to(package, target_is_directory=True)
    host.process_events()
    before, took = set(sys.modules), {}
    computed: dict[str, dict[str, float]] = {}
    rooms = {"ours": ROOT / "UNetSegment", "host": ROOT / "Testing" / "host"}
    module = ROOT / "UNetSegment" / "UNetSegment.py"
    with stage("open"):
        began = time.perf_counter()
        sys.path.insert(0, str(module.parent))
        with attributed(rooms) as computed["import"]:
            import UNetSegment  # noqa: F401

        took["import"] = time.perf_counter() - began
        with attributed(rooms) as computed["build"]:
            panel = host.load_module(module)
        took["import and build"] = time.perf_counter() - began
        imported = {name.split(".")[0] for name in set(sys.modules) - before}
        began = time.perf_counter()
        with attributed(rooms) as computed["enter"]:
            panel.enter()
        took["enter"] = time.perf_counter() - began
    ours = {
        "UNetSegment",
        "UNetSegmentLib",
        "benchmarks",
        "__mp_main__",
        "vtk",
        "qt",
        "ctk",
        "slicer",
    }  # and Slicer's own
    third = sorted(name for name in imported - ours if name not in sys.stdlib_module_names)
    _state.update(panel=panel, slicer=slicer)
    return {"took": took, "computed": computed, "third_party": third}


def prepare(slices: int, plane: int, inside: bool) -> None:
    """A CT-like volume, chosen with the model; the worker is started and warm, in a process or inside of this one."""
    from UNetSegmentLib.worker import Worker

    from benchmarks.cases.depth import scan

    panel, slicer = _state["panel"], _state["slicer"]
    panel.logic.stop()
    command = [sys.executable, "-m", "benchmarks.contenders.timed_worker"]
    panel.logic._worker = Worker(command, inside=inside)
    if "volume" not in _state:
        voxels = np.ascontiguousarray(scan(slices, plane)[0].T)
        _state["volume"] = slicer.util.addVolumeFromArray(voxels, name="CT")
    panel.ui.inputSelector1.setCurrentNode(_state["volume"])
    index = panel.ui.modelSelector.findData("empty")
    panel.ui.modelSelector.setCurrentIndex(index)
    panel.ready.warm()
    end = time.monotonic() + 120
    while panel.logic.isBusy() and time.monotonic() < end:
        panel.logic.poll()
        slicer.app.processEvents()
        time.sleep(0.01)


def apply(into: bool = False) -> dict[str, Any]:
    """Click Apply and let the application live until the result is there.

    Args:
        into: Write into the last result, one of whose structures is marked as completed, instead of a new segmentation.
    """
    panel, slicer = _state["panel"], _state["slicer"]
    outside, lines = not panel.logic.worker().is_inside, len(panel.logic.log())
    results = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    if into and results:
        results[0].GetSegmentation().GetNthSegment(0).SetTag("Segmentation.Status", "completed")
        panel.ui.outputSelector.setCurrentNode(results[0])
    else:
        for node in results:
            slicer.mrmlScene.RemoveNode(node)
    slicer.app.processEvents()
    if not outside:
        from benchmarks.contenders import timed_worker

        timed_worker.watch()
    ticking = Ticking()
    with stage("apply"), ticking.watched():
        began = time.perf_counter()
        panel.ui.applyButton.click()
        if panel._run is None:  # it asks whether the warning is meant to be passed over
            panel.ui.applyButton.click()
        ticking.tick()
        while panel._run is not None:
            slicer.app.processEvents()
            ticking.tick()
            time.sleep(TICK)
        wall = time.perf_counter() - began
    words = panel.ui.statusLabel.text
    if words:
        raise RuntimeError(words)
    if outside:
        network = _told(panel.logic, lines)
    else:
        network = timed_worker.WATCH.take()
    (gap, where), (busy, busy_in) = ticking.worst(0), ticking.worst(1)
    return {
        "wall": wall,
        "engine": float(panel.ready.ran["seconds"]),
        "network": network,
        "gap": gap,
        "where": where,
        "busy": busy,
        "busy_in": busy_in,
    }


def _told(logic: Any, lines: int) -> dict[str, float]:
    """What the worker's stopwatch says, a moment after the result."""
    for _ in range(100):
        told = [line for line in logic.log()[lines:] if line.startswith("NETWORK ")]
        if told:
            return json.loads(told[-1].removeprefix("NETWORK "))
        time.sleep(0.05)
    raise RuntimeError("the worker did not say what its network took: " + " / ".join(logic.log()[-5:]))


def end() -> None:
    """Leave the module and the application's scene."""
    _state["panel"].logic.stop()
    _state["slicer"].mrmlScene.Clear(0)


if __name__ == "__main__":
    serve({"begin": begin, "prepare": prepare, "apply": apply, "end": end})

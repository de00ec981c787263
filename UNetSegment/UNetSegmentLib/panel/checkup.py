"""The self-test: does this computer give what the shipped model is known to give, however an image lies in space?

The sample goes through the worker as it is, turned in space, with its voxels stored from right to left, and with its axes
swapped: the labels must be the same each time. No Qt here: whoever polls the worker moves it along.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

import numpy as np

from .. import __version__
from ..errors import UNetSegmentError
from ..package import Package
from ..volume import Grid, Volume, dice
from ..worker import Outcome, Worker

LEAST_DICE = 0.8
"""What each structure of the sample must reach against the expert; the model has 0.88 and 0.90 on unseen images."""
LIBRARIES = ("numpy", "openvino", "torch", "monai", "SimpleITK", "numba")


class Checkup:
    """The self-test under way; ``on_done`` is called once, while the worker is polled.

    Args:
        worker: Runs the model.
        model: The model that ships.
        image: The sample.
        expert: (I, J, K), the expert's labels of it.
        options: See :meth:`Worker.predict`.
        on_progress: Given how far it is, from 0 to 1, and a line for the user.
        on_done: Given whether all went well, and the report.
        host: Words for the program it runs in, for the report.
    """

    def __init__(
        self,
        worker: Worker,
        model: Package,
        image: Volume,
        expert: np.ndarray,
        options: dict[str, Any],
        on_progress: Callable[[float, str], None],
        on_done: Callable[[bool, str], None],
        host: str = "",
    ) -> None:
        self._worker, self._model, self._options, self._host = worker, model, options, host
        self._on_progress, self._on_done = on_progress, on_done
        self._expert, self._poses = expert, poses(image)
        self._lines: list[str] = []
        self._failed = 0
        self._plain: np.ndarray | None = None
        self._ran: dict[str, str] = {}
        self._job: Any = None
        self._next = 0
        self._began = 0.0
        self.finished = False
        self._start()

    def cancel(self) -> None:
        """Stop; ends with a report that says so."""
        if self._job is not None:
            self._worker.cancel(self._job)

    def _start(self) -> None:
        name, volume, _back = self._poses[self._next]
        self._on_progress(self._next / len(self._poses), f"Check {self._next + 1} of {len(self._poses)}: {name}")
        numbering = {label.value: label.value for label in self._model.manifest.labels}
        self._began = time.monotonic()
        self._job = self._worker.predict(
            str(self._model.root), [volume], numbering, self._options, on_done=self._take, on_error=self._stop
        )

    def _take(self, outcome: Outcome) -> None:
        name, _volume, back = self._poses[self._next]
        took = time.monotonic() - self._began
        labels = np.array(back(outcome.array))
        if self._plain is None:
            self._plain, self._ran = labels, dict(outcome.provenance)
            self._tell(bool(labels.any()), f"{name}: {took:.2f} s, {np.count_nonzero(labels)} voxels labelled")
            self._compare(labels)
            proof = self._ran.get("reference_dice", "")
            self._tell(
                True, f"proof of the model's own answer: {f'Dice {proof}' if proof else 'not needed as trained'}"
            )
        else:
            differ = int(np.count_nonzero(labels != self._plain))
            self._tell(differ == 0, f"{name}: {took:.2f} s, {differ} voxels differ")
        self._next += 1
        if self._next < len(self._poses):
            self._start()
        else:
            self._finish()

    def _compare(self, labels: np.ndarray) -> None:
        for label in self._model.manifest.segments:
            overlap = dice(labels == label.value, self._expert == label.value)
            words = f"{label.name}: Dice {overlap:.3f} against the expert, at least {LEAST_DICE}"
            self._tell(overlap >= LEAST_DICE, words)

    def _stop(self, error: UNetSegmentError) -> None:
        self._tell(False, f"{self._poses[self._next][0]}: {error}")
        self._finish()

    def _tell(self, good: bool, words: str) -> None:
        self._failed += not good
        self._lines.append(f"[{'ok' if good else 'FAILED'}] {words}")

    def _finish(self) -> None:
        self.finished = True
        log = list(self._worker.lines)[-20:] if self._failed else []
        self._on_done(not self._failed, report(self._lines, self._model, self._ran, self._host, log))


def poses(image: Volume) -> list[tuple[str, Volume, Callable[[np.ndarray], np.ndarray]]]:
    """The image as it is and in other poses, each with what brings its labels back to the first one's voxels."""
    array, grid = image.array, image.grid
    turn = _rotation((1.0, 1.0, 0.0), 25.0)
    from_right = np.diag([-1.0, 1.0, 1.0, 1.0])
    from_right[0, 3] = grid.shape[0] - 1
    swap = np.eye(4)[[2, 0, 1, 3]]  # index of the new grid to index of the old one
    swapped = array.transpose(0, 2, 3, 1)
    places = [
        ("as it is", image, lambda labels: labels),
        ("turned by 25 degrees", Volume(array, grid.transformed(turn), image.channels), lambda labels: labels),
        (
            "stored from the other side, left-handed",
            Volume(array[:, ::-1], Grid(grid.shape, grid.ijk_to_ras @ from_right), image.channels),
            lambda labels: labels[::-1],
        ),
        (
            "axes in another order",
            Volume(swapped, Grid(swapped.shape[1:], grid.ijk_to_ras @ swap), image.channels),
            lambda labels: labels.transpose(2, 0, 1),
        ),
    ]
    return places  # type: ignore[return-value]


def _rotation(axis: Sequence[float], degrees: float) -> np.ndarray:
    """4x4 matrix of a rotation (Rodrigues)."""
    x, y, z = np.asarray(axis, float) / np.linalg.norm(axis)
    cross, angle = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]), np.radians(degrees)
    matrix = np.eye(4)
    matrix[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return matrix


def report(lines: Sequence[str], model: Package, ran: dict[str, str], host: str, log: Sequence[str]) -> str:
    """The plain-text report to attach to an issue: nothing in it tells who or where the user is, but for the log."""
    versions = {name: _version(name) for name in LIBRARIES}
    facts = {
        "UNetSegment": __version__,
        "program": host,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "Python": platform.python_version(),
        "processors": str(os.cpu_count()),
        **{name: version for name, version in versions.items() if version},
        "model": f"{model.manifest.name} {model.manifest.version} ({model.content_hash[:12]})",
        **{key: ran.get(key, "") for key in ("backend", "device", "precision", "mode", "seconds", "notes", "options")},
    }
    failed = sum("FAILED" in line for line in lines)
    head = f"UNetSegment self-test: {'all well' if not failed else f'{failed} of {len(lines)} checks failed'}"
    told = [f"{key}: {text}" for key, text in facts.items() if text]
    return "\n".join([head, "", *lines, "", *told, *(["", "Log of the worker:", *log] if log else []), ""])


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""

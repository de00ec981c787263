"""What tests of the worker share: an image whose right labels are known, and workers that end badly."""

from __future__ import annotations

import os
import signal
import sys

import numpy as np
from UNetSegmentLib.volume import Grid, Volume
from UNetSegmentLib.worker import Worker

NUMBERS = {0: 0, 3: 1, 300: 2}
"""Numbers to write for the label values of :func:`packages.threshold_package`."""


def image(shape: tuple[int, int, int] = (40, 36, 30), seed: int = 0) -> Volume:
    """Random intensities from 0 to 3."""
    array = np.random.default_rng(seed).uniform(0, 3, shape).astype(np.float32)
    return Volume(array[None], Grid.from_spacing(shape, (1, 1, 1)), ("T1",))


def labels_of(voxels: np.ndarray) -> np.ndarray:
    """What the network of :func:`packages.threshold_package` answers, as :data:`NUMBERS` writes it."""
    return np.where(voxels > 2, 2, np.where(voxels > 1, 1, 0))


def kill(worker: Worker) -> None:
    """SIGKILL to its process and all that this started, as the system does when memory is short."""
    os.killpg(worker._process.pid, signal.SIGKILL)


def pretend(code: str) -> list[str]:
    """A command that runs ``code`` instead of the worker."""
    return [sys.executable, "-c", f"import sys, time\n{code}\n"]

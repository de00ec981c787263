"""Is the device kept busy? How many processes load patches, and how long a step waits for them."""

from __future__ import annotations

import os
import sys
import time

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback


def loading_processes(wanted: int | None, device: str, here: int = 1) -> int:
    """How many processes make patches ready while the device computes.

    Args:
        wanted: The setting ``workers``; None chooses.
        device: Kind of the device, ``cpu`` or another.
        here: Processes that train on this computer.
    """
    if wanted is not None:
        return wanted
    if device == "cpu":  # patches take a few percent of a step, and the same cores
        return 0
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = allowed // here
    if cores <= 2:
        return 0
    most = 12 if sys.platform == "linux" else 4  # where processes are not forked, each has its own copy of the cases
    return min(cores - 1, most)


class Pace(Callback):
    """Seconds per step, and how many of them went by before its patches were there; to the logs, and in words."""

    def __init__(self) -> None:
        self.waited = self.computed = 0.0
        self.steps = 0
        self._epoch = (0.0, 0.0, 0)

    @property
    def words(self) -> str:
        """Of the whole run."""
        whole = self.waited + self.computed
        if not self.steps or not whole:
            return "no step was done"
        return f"{whole / self.steps:.3g} s per step, {self.waited / whole:.0%} of it waiting for data"

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._epoch = (self.waited, self.computed, self.steps)
        self._since = time.perf_counter()

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: object, index: int) -> None:
        now = time.perf_counter()
        self.waited += now - self._since
        self._since = now

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: object) -> None:
        now = time.perf_counter()
        self.computed += now - self._since
        self.steps += 1
        self._since = now

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        waited, computed, steps = self._epoch
        done = max(self.steps - steps, 1)
        module.log("seconds/data", (self.waited - waited) / done)
        module.log("seconds/step", (self.waited - waited + self.computed - computed) / done)

"""Optimisers and the course of the learning rate, from the settings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from .config import FitConfig


def make_optimizer(parameters: Iterable[torch.nn.Parameter], config: FitConfig) -> torch.optim.Optimizer:
    """The optimiser that the settings name."""
    rate, decay = config.learning_rate, config.weight_decay
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, rate, momentum=config.momentum, nesterov=config.momentum > 0, weight_decay=decay
        )
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(parameters, rate, momentum=config.momentum, weight_decay=decay)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, rate, weight_decay=decay)


def share_of_peak(step: int, config: FitConfig, steps: int) -> float:
    """Learning rate at a step as a share of its peak, for every schedule but ``plateau``.

    Args:
        step: Optimisation steps done.
        config: Settings of the run.
        steps: Optimisation steps of an epoch.
    """
    done = min(step / max(config.epochs * steps, 1), 1.0)
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.schedule == "poly":  # nnU-Net's, a stair per epoch
        return warm * (1 - min(step // steps / config.epochs, 1.0)) ** 0.9
    if config.schedule == "cosine":
        return warm * (0.5 * (1 + float(np.cos(np.pi * done))) + 0.002)
    return warm


def make_schedules(optimizer: torch.optim.Optimizer, config: FitConfig, steps: int) -> list[dict[str, Any]]:
    """Schedules in Lightning's form."""
    if config.schedule != "plateau":
        course = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: share_of_peak(step, config, steps))
        return [{"scheduler": course, "interval": "step"}]
    # both multiply what they find, so warm-up and plateau do not undo each other
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=1 / 3, patience=config.plateau_patience)
    schedules: list[dict[str, Any]] = [{"scheduler": plateau, "interval": "epoch", "monitor": "loss"}]
    if config.warmup_steps:
        warm = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / config.warmup_steps, 1.0, config.warmup_steps)
        schedules.append({"scheduler": warm, "interval": "step"})
    return schedules

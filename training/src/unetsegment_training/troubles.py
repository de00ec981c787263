"""When a computer runs short: what to say of memory that is used up and of a disk that is full."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from .config import FitConfig
from .dataset import DatasetError

_MEMORY = ("can't allocate memory", "out of memory", "not enough memory", "cannot allocate memory")
_LOADERS = ("dataloader worker", "unable to open shared memory", "bus error", "unable to write to file </torch")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def explained(config: FitConfig, doing: Callable[[], str]) -> Iterator[None]:
    """Errors of the kinds that :func:`advice` knows leave this block as its sentence.

    Raises:
        DatasetError: Memory or disk was short.
    """
    try:
        yield
    except (OSError, RuntimeError, MemoryError) as error:
        if words := advice(error, config, doing()):
            raise DatasetError(words) from error
        raise


def advice(error: BaseException, config: FitConfig, doing: str) -> str | None:
    """One sentence and what to do, for an error that says that memory or disk is short; None for others.

    Args:
        error: What was raised.
        config: Settings of the run.
        doing: What was being done, e.g. ``training step 12``.
    """
    text = str(error).lower()
    if isinstance(error, OSError) and error.errno in _FULL:
        return (
            f"The disk is full or its quota is used up ('{error.filename or 'run folder'}', {doing}); "
            "the last good checkpoint was kept. Free some space and run the same command again."
        )
    if isinstance(error, RuntimeError) and any(words in text for words in _LOADERS):
        return (
            f"A process that loads patches ended ({doing}), most likely for want of memory or of shared memory (/dev/shm); "
            "set workers = 0 and run the same command again."
        )
    short = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    if not short and not (isinstance(error, RuntimeError) and any(words in text for words in _MEMORY)):
        return None
    shape = " x ".join(map(str, config.patch))
    return (
        f"Memory ran out ({doing}, batch {config.batch}, patch {shape}, precision {config.precision}): {_less(config)}."
    )


def _less(config: FitConfig) -> str:
    """What to set lower, and to what."""
    ways = []
    if not config.checkpointing:
        ways.append("set checkpointing = true (the same answer in less memory; the run goes on)")
    if config.precision == "fp32":
        ways.append("set precision = auto (the run goes on)")
    if config.batch > 1:
        ways.append(f"set batch = {config.batch // 2}")
    smaller = _smaller_patch(config)
    if smaller:
        ways.append(f"set patch = {list(smaller)}")
    if len(config.filters) > 1 and min(config.filters) >= 8:
        ways.append(f"set filters = {[n // 2 for n in config.filters]}")
    return ", or ".join(ways) + " (other settings than the first need a new run folder once an epoch is done)"


def _smaller_patch(config: FitConfig) -> tuple[int, ...] | None:
    """The patch with its longest axis about halved, that the network still takes."""
    longest = max(range(len(config.patch)), key=config.patch.__getitem__)
    for size in range(config.patch[longest] // 2, config.patch[longest]):
        patch = tuple(size if axis == longest else n for axis, n in enumerate(config.patch))
        try:
            return config.changed(patch=patch).patch
        except DatasetError:
            continue
    return None

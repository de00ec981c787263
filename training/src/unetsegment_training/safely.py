"""Files that are there whole or not at all, whenever the process is killed."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from .dataset import DatasetError


@contextmanager
def _beside(path: Path) -> Iterator[BinaryIO]:
    """A file beside ``path``, on the same file system, that is moved into place when it is whole, or else removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException as error:
        beside.unlink(missing_ok=True)
        raise _of_the_system(error, path) from None


def _of_the_system(error: BaseException, path: Path) -> BaseException:
    """The system's error where one is behind ``error``: closing half an archive, torch raises another on top of it."""
    behind: BaseException | None = error
    while behind is not None and not isinstance(behind, OSError):
        behind = behind.__context__
    if behind is None:
        return error
    behind.filename = behind.filename or str(path)
    return behind


def replace_bytes(path: Path, content: bytes) -> None:
    """Write beside ``path`` and move into place."""
    with _beside(path) as file:
        file.write(content)


def replace_text(path: Path, content: str) -> None:
    """:func:`replace_bytes` for UTF-8 text."""
    replace_bytes(path, content.encode("utf-8"))


def replace_tensors(path: Path, content: Any) -> None:
    """:func:`replace_bytes` for what ``torch.save`` takes."""
    with _beside(path) as file:
        torch.save(content, file)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint on the processor. It is a pickle: one that ``fit`` wrote, of a run that you trust.

    Raises:
        DatasetError: It is damaged.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, OSError, RuntimeError) as error:
        short = isinstance(error, FileNotFoundError | PermissionError)
        if short or (isinstance(error, RuntimeError) and "PytorchStreamReader" not in str(error)):
            raise
        raise DatasetError(
            f"The checkpoint '{path}' is damaged; put a copy back, or remove it and weights.pt to begin anew."
        ) from None


class SafeCheckpointIO(TorchCheckpointIO):
    """Lightning's own writer goes through the folder for temporary files and copies from there when that is another
    file system (a tmpfs, often): a kill during the copy would leave half a checkpoint where the only one was. A damaged
    one is named when it is read."""

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        return load_checkpoint(Path(path))

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        replace_tensors(Path(path), checkpoint)

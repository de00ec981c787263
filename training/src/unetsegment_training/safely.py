"""Files that are there whole or not at all, whenever the process is killed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO


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


class SafeCheckpointIO(TorchCheckpointIO):
    """Lightning's own writer goes through the folder for temporary files and copies from there when that is another
    file system (a tmpfs, often): a kill during the copy would leave half a checkpoint where the only one was."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        replace_tensors(Path(path), checkpoint)

"""Files that are there whole or not at all, whenever the process is killed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO


def replace_bytes(path: Path, content: bytes) -> None:
    """Write beside ``path``, on the same file system, and move into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    with beside.open("wb") as file:
        file.write(content)
        _settle(file)
    os.replace(beside, path)


def replace_text(path: Path, content: str) -> None:
    """:func:`replace_bytes` for UTF-8 text."""
    replace_bytes(path, content.encode("utf-8"))


def replace_tensors(path: Path, content: Any) -> None:
    """:func:`replace_bytes` for what ``torch.save`` takes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    with beside.open("wb") as file:
        torch.save(content, file)
        _settle(file)
    os.replace(beside, path)


def _settle(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


class SafeCheckpointIO(TorchCheckpointIO):
    """Lightning's own writer goes through the folder for temporary files and copies from there when that is another
    file system (a tmpfs, often): a kill during the copy would leave half a checkpoint where the only one was."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        replace_tensors(Path(path), checkpoint)

"""Packages that load but cannot run, in a folder or a zip: for tests of the way there."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from . import packages


def model(root: Path, weights: bytes = b"weights", **changes: Any) -> Path:
    """A package that loads; its weights are not a network."""
    return packages.write(root, packages.manifest(**changes), {"onnx": ("models/model.onnx", weights)})


def zipped(folder: Path, inside: str = "") -> bytes:
    """``folder`` as a zip, below ``inside``; the zip is also beside it."""
    target = folder.with_name(folder.name + ".zip")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, inside + path.relative_to(folder).as_posix())
    return target.read_bytes()

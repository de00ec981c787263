"""Where in an unpacked folder the model is, what of a folder is a model's own, and what a model may be called."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import PackageError
from . import package
from .archive import is_device
from .package import Package

_IMAGES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".dcm")


def find(content: Path, what: str) -> tuple[Path, Package]:
    """The folder of the model in what was unpacked: often it lies in one folder, or several within each other."""
    folder = content
    while True:
        try:
            return folder, package.load(folder)
        except PackageError as error:
            inner = [p for p in folder.iterdir() if p.name != "__MACOSX" and not p.name.startswith(".")]
            if len(inner) != 1 or not inner[0].is_dir():
                place = folder.relative_to(content).as_posix()
                shown = what if place == "." else f"{what}/{place}"
                raise PackageError(str(error).replace(str(folder), shown)) from None
            folder = inner[0]


def leave_out(path: str) -> bool:
    """Whether a file of a model's folder stays behind when it is copied: images of patients, hidden files, caches.

    Args:
        path: Its path below the folder, ``/`` between parts.
    """
    parts = path.lower().split("/")
    beside_weights = len(parts) > 1 and parts[-2].startswith("fold_") and parts[-1].startswith("validation")
    hidden = parts[-1].startswith(".") or parts[-1] in ("__pycache__", "__macosx")
    return beside_weights or hidden or parts[-1].endswith(_IMAGES)


def check_name(name: str) -> None:
    """Raise :class:`PackageError` unless ``name`` can be a model's folder on every system."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9_-])?", name) or is_device(name):
        raise PackageError(
            f"'{name}' cannot be the name of a model; use up to 64 of the letters a-z, digits, '.', '_' and '-'."
        )


def plain_name(name: str) -> str:
    """``name`` in the letters that the store allows."""
    plain = re.sub(r"[^a-z0-9._-]+", "-", name.lower())[:64].strip("-._")
    return plain or "model"

"""Models of other kinds as packages of ours, in the cache under the hash of their content; the originals are left alone."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import OutputError
from .hashes import NOTES, noted_sha256
from .manifest import MANIFEST_PATH

CONVERSION = "1"
"""Counts up when the same model would be written differently."""


@dataclass(frozen=True)
class Content:
    """A manifest without its ``files``, and the file of each role."""

    manifest: dict[str, Any]
    files: dict[str, Path] = field(default_factory=dict)


def convert(content: Content, cache: Path) -> Path:
    """Write a package into the folder ``cache``, all of it or nothing; what is there already is used again.

    The weights are linked where the file system can, and copied elsewhere.

    Returns:
        The package's folder.

    Raises:
        OutputError: The cache folder cannot be written.
    """
    manifest = {
        **content.manifest,
        "files": {role: _entry(role, path, cache / NOTES) for role, path in content.files.items()},
    }
    text = json.dumps(manifest, indent=1, allow_nan=False)
    name = hashlib.sha256(f"{CONVERSION}\n{text}".encode()).hexdigest()[:32]
    target = cache / name
    if all((target / place).is_file() for place in (MANIFEST_PATH, *(f["path"] for f in manifest["files"].values()))):
        return target
    stage = target.with_name(f"{name}.{secrets.token_hex(4)}.part")
    try:
        for role, path in content.files.items():
            place = stage / manifest["files"][role]["path"]
            place.parent.mkdir(parents=True, exist_ok=True)
            _bring(path, place)
        (stage / MANIFEST_PATH).parent.mkdir(parents=True, exist_ok=True)
        (stage / MANIFEST_PATH).write_text(text, "utf-8")
        if target.exists():  # without a manifest or a file: not whole
            shutil.rmtree(target, ignore_errors=True)
        try:
            os.rename(stage, target)
        except OSError:
            if not (target / MANIFEST_PATH).is_file():  # another process was not faster
                raise
    except OSError as error:
        raise OutputError(
            f"The model cannot be written to '{cache}' ({error.strerror or error}); make room there, or set "
            "UNETSEGMENT_CACHE to another folder."
        ) from None
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return target


def plain_name(text: str) -> str:
    """A title as the name of a package: small letters, digits, ``.``, ``_`` and ``-``."""
    return re.sub(r"[^a-z0-9._]+", "-", text.lower())[:64].strip("-._") or "model"


def _entry(role: str, path: Path, notes: Path) -> dict[str, Any]:
    suffix = {"torch": ".pt"}.get(role.split(".")[0], path.suffix)
    fold = role.partition(".")[2]
    place = f"models/model{f'_{fold}' if fold else ''}{suffix}"
    return {"path": place, "sha256": noted_sha256(path, notes), "size": path.stat().st_size}


def _bring(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)

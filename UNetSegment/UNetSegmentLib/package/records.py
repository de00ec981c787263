"""What the store writes down: where a model came from, the hashes of its files, and downloads trusted on first use.

Small JSON files without absolute paths, so that a cache folder can be copied to another computer. What cannot be read
counts as not written: a record helps, but a model runs without one.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from . import schema
from .archive import write_error
from .hashes import sha256
from .package import cache_folder


def record_path(name: str) -> Path:
    """The record of the installed model ``name``."""
    return cache_folder() / "records" / f"{name}.json"


def trust_path(name: str, version: str) -> Path:
    """The hash of a download for which none is published."""
    return cache_folder() / "trust" / f"{name}-{version}.json"


def record(name: str) -> dict[str, Any]:
    """``source``, ``version``, ``kind``, ``sha256``, ``time``, ``size``, ``files``; empty where there is none."""
    found = read(record_path(name))
    files = found.get("files")
    sound = isinstance(files, dict) and all(_is_fact(file, fact) for file, fact in files.items())
    return found if sound else {}


def trusted(name: str, version: str, url: str | None) -> dict[str, str]:
    """``sha256`` and ``time`` of the first download of ``url``; empty where there was none."""
    found = read(trust_path(name, version))
    sha, time = str(found.get("sha256")), str(found.get("time"))
    sound = found.get("url") == url and re.fullmatch(r"[0-9a-f]{64}", sha)
    return {"sha256": sha, "time": time} if sound else {}


def read(path: Path) -> dict[str, Any]:
    """A small JSON object; empty where it is missing or broken."""
    try:
        content = schema.load_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a small JSON object, whole or not at all.

    Raises:
        OutputError: The disk is full, or the folder cannot be written.
    """
    write_whole(path, json.dumps(content, indent=1).encode())


def write_whole(path: Path, content: bytes) -> None:
    """Write a small file, whole or not at all; its folder is made where it is not there.

    Raises:
        OutputError: The disk is full, or the folder cannot be written.
    """
    with written(path, content):
        pass


@contextmanager
def written(path: Path, content: bytes) -> Iterator[Path]:
    """A small file beside ``path`` to look at; it takes the place of ``path`` at the end, if nothing was raised.

    Raises:
        OutputError: The disk is full, or the folder cannot be written.
    """
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        yield part
        os.replace(part, path)
    except OSError as error:
        raise write_error(error, path.parent) from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def facts(folder: Path) -> dict[str, list[Any]]:
    """Size in bytes and SHA-256 of every file below ``folder``, by its path there."""
    return {path.relative_to(folder).as_posix(): [path.stat().st_size, sha256(path)] for path in files(folder)}


def files(folder: Path) -> list[Path]:
    """The plain files below ``folder``; links are not followed."""
    if folder.is_symlink():
        return []
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def size(*folders: Path) -> int:
    """Bytes of the plain files below ``folders``; what is linked twice is counted once."""
    found = [path.stat() for folder in folders for path in files(folder)]
    return sum({(facts.st_dev, facts.st_ino): facts.st_size for facts in found}.values())


def converted_name(root: Path) -> str:
    """Name of the folder in ``converted`` where the loader put its form of a model; empty if the model needs none."""
    return root.name if root.parent == (cache_folder() / "converted").resolve() else ""


def converted_path(content: dict[str, Any]) -> Path | None:
    """The converted form that a record names, where it is there."""
    name = content.get("converted")
    if not isinstance(name, str) or not re.fullmatch(r"[0-9A-Za-z_-]+", name):
        return None
    path = cache_folder() / "converted" / name
    return path if path.is_dir() else None


def drop_converted(path: Path | None) -> None:
    """Delete a converted form unless the record of an installed model names it."""
    known = [read(record).get("converted") for record in (cache_folder() / "records").glob("*.json")]
    if path is not None and path.name not in known:
        shutil.rmtree(path, ignore_errors=True)


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _is_fact(file: str, fact: Any) -> bool:
    inside = not Path(file).is_absolute() and ".." not in Path(file).parts
    return inside and isinstance(fact, list) and len(fact) == 2 and isinstance(fact[0], int)

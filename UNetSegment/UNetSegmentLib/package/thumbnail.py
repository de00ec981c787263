"""Small pictures of models: in a package's folder, in a catalog's entry, or at an address that the entry gives.

A picture is shown only where it is a small PNG: what an unknown publisher sends is not handed to an image reader unseen.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import OutputError, PackageError
from . import records
from .catalog import Entry
from .download import Policy, download
from .package import cache_folder

PLACE = "docs/thumbnail.png"
"""Where a package, of whatever kind, has its picture."""
LIMIT = 30_000
"""Bytes it may have."""
SIDE = 512
"""Pixels it may have along each side."""
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def is_sound(content: bytes) -> bool:
    """Whether this is a PNG that is small enough, in bytes and pixels, to be shown."""
    if len(content) > LIMIT or content[:8] != _SIGNATURE or content[12:16] != b"IHDR" or len(content) < 33:
        return False
    width, height = struct.unpack(">II", content[16:24])
    return 0 < width <= SIDE and 0 < height <= SIDE


def of_folder(folder: Path) -> Path | None:
    """The picture in a model's folder; None where there is none that can be shown."""
    path = folder / PLACE
    return path if _is_sound_file(path) else None


def of_entry(entry: Entry) -> Path | None:
    """The picture of a catalog's entry as a file, where it is here: in the entry itself, or fetched before."""
    told = entry.raw.get("thumbnail", {})
    if "png" in told:
        with suppress(binascii.Error, OutputError):
            content = base64.b64decode(told["png"], validate=True)
            if is_sound(content):
                return _kept(content)
        return None
    path = _cached(told["sha256"]) if told else None
    return path if path is not None and _is_sound_file(path) else None


def to_fetch(entry: Entry) -> bool:
    """Whether the entry gives an address of a picture that is not here yet."""
    told = entry.raw.get("thumbnail", {})
    return "url" in told and not _cached(told["sha256"]).exists()


def fetch(entry: Entry, cancel: Callable[[], bool] | None = None, policy: Policy | None = None) -> Path | None:
    """Fetch an entry's picture into the cache; None where it is none that can be shown.

    Raises:
        DownloadError: It cannot be fetched, is larger than :data:`LIMIT`, or is not the file that the catalog promises.
        OutputError: The cache folder cannot be written.
        Cancelled: ``cancel`` said so.
    """
    told = entry.raw["thumbnail"]
    path = _cached(told["sha256"])
    download(told["url"], path, hashes={"sha256": told["sha256"]}, limit=LIMIT, policy=policy, cancel=cancel)
    return of_entry(entry)


def as_entry(folder: Path) -> dict[str, Any]:
    """What a catalog's entry says of the picture in a model's folder: ``{"thumbnail": ...}``, or nothing."""
    path = of_folder(folder)
    return {} if path is None else {"thumbnail": {"png": base64.b64encode(path.read_bytes()).decode()}}


def read(path: Path) -> bytes:
    """A file that is to be a model's picture.

    Raises:
        PackageError: It is not there, no PNG, or too large.
    """
    if not _is_sound_file(path):
        raise PackageError(
            f"'{path}' cannot be a model's thumbnail; give a PNG of at most {SIDE} x {SIDE} pixels and "
            f"{LIMIT // 1000} kB."
        )
    return path.read_bytes()


def put(folder: Path, content: bytes) -> None:
    """Make this PNG the picture of the model in ``folder``.

    Raises:
        OutputError: It cannot be written.
    """
    records.write_whole(folder / PLACE, content)


def _kept(content: bytes) -> Path:
    path = _cached(hashlib.sha256(content).hexdigest())
    if not path.is_file():
        records.write_whole(path, content)
    return path


def _cached(sha256: str) -> Path:
    return cache_folder() / "thumbnails" / f"{sha256.lower()}.png"


def _is_sound_file(path: Path) -> bool:
    try:
        with path.open("rb") as source:
            return is_sound(source.read(LIMIT + 1))
    except OSError:
        return False

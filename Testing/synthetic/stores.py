"""What tests of the store share: quick retries, entries of a catalog, and what the cache holds."""

from __future__ import annotations

import hashlib
from typing import Any

from UNetSegmentLib import package
from UNetSegmentLib.package import catalog
from UNetSegmentLib.package.download import Policy

from . import catalogs
from .server import Server

QUICK = Policy(attempts=3, wait=0.01, longest=0.05, connect=2, silence=0.6)


def entry(url: str, **changes: Any) -> catalog.Entry:
    """An entry as a catalog of a hospital would have it, read from ``catalog.json`` beside the cache folder."""
    entries, refused = catalog.read(
        catalogs.write(package.cache_folder().parent / "catalog.json", catalogs.entry(url, **changes))
    )
    assert refused == []
    return entries[0]


def models_there() -> dict[str, str]:
    """What the cache holds but locks: paths and hashes."""
    root = package.cache_folder()
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def sha256(server: Server) -> str:
    """Of what it serves."""
    return hashlib.sha256(server.content).hexdigest()

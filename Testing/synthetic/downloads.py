"""What tests of downloads share: a file with known hashes, and fetching it into a folder that holds nothing else then."""

from __future__ import annotations

import hashlib
from pathlib import Path

from UNetSegmentLib.package.download import Policy, download

from .server import Server

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HASHES = {"sha256": SHA256}
QUICK = Policy(attempts=4, wait=0.01, longest=0.05, connect=2, silence=0.6)


def fetch(server: Server, folder: Path, **options: object) -> Path:
    """Download what ``server`` has as ``model.zip``; it is :data:`CONTENT`, and nothing else is left in the folder."""
    target = folder / "model.zip"
    settings: dict = {"hashes": HASHES, "policy": QUICK} | options
    assert download(server.url, target, **settings) == SHA256
    assert target.read_bytes() == CONTENT
    assert leftovers(folder) == []
    return target


def leftovers(folder: Path) -> list[str]:
    """What is in the folder beside the file and its lock."""
    return sorted(path.name for path in folder.iterdir() if path.name not in ("model.zip", "model.zip.lock"))

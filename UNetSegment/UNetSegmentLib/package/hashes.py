"""SHA-256 of files, and a note of those already taken: large weights are read once per computer, not at every start."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
from pathlib import Path

from . import schema

NOTES = "hashes.json"
"""Name of the file of notes, in the folder of converted models."""
WORTH_A_NOTE = 1 << 20
"""Smaller files are hashed again: that takes less than a note."""
MOST_NOTES = 2000


def sha256(path: Path) -> str:
    """The file's hash in hexadecimal digits, taken now.

    Raises:
        OSError: It cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as source:
        while block := source.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def noted_sha256(path: Path, notes: Path) -> str:
    """The file's hash, from the file of ``notes`` where its size and time of change are those of the note.

    For finding what was made from a file; where a file must be proven, :func:`sha256` is asked.

    Raises:
        OSError: The file cannot be read.
    """
    facts = path.stat()
    if facts.st_size < WORTH_A_NOTE:
        return sha256(path)
    key = f"{path.resolve()}|{facts.st_size}|{facts.st_mtime_ns}"
    known = _read(notes)
    if (found := known.get(key)) is not None:
        return found
    made = sha256(path)
    known = {old: value for old, value in known.items() if not old.startswith(f"{path.resolve()}|")}
    _write(notes, dict([*known.items(), (key, made)][-MOST_NOTES:]))
    return made


def _read(notes: Path) -> dict[str, str]:
    with contextlib.suppress(OSError, ValueError):
        content = schema.load_json(notes)
        if isinstance(content, dict):
            return {key: str(value) for key, value in content.items() if re.fullmatch(r"[0-9a-f]{64}", str(value))}
    return {}


def _write(notes: Path, content: dict[str, str]) -> None:
    """Whole or not at all; a folder that cannot be written costs time, and nothing else."""
    part = notes.with_name(f"{notes.name}.{secrets.token_hex(4)}.part")
    with contextlib.suppress(OSError):
        notes.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(content), "utf-8")
        os.replace(part, notes)

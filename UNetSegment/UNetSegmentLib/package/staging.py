"""Models on their way into the store: worked on under a lock, moved to their place whole, taken back where anything fails."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import PackageError
from . import arrival, package, records
from .archive import write_error
from .download import Progress
from .lock import locked
from .package import Package, cache_folder

Tell = Callable[[Progress], None]
Cancel = Callable[[], bool]


@contextmanager
def folder(name: str, cancel: Cancel | None = None, progress: Tell | None = None) -> Iterator[Path]:
    """Hold the lock of ``name`` and give a folder for unfinished work; it is gone afterwards."""

    def waiting() -> None:
        if progress is not None:
            progress(Progress("wait", 0, None, "Waiting for another process that works on this model"))

    root = cache_folder() / "staging"
    with locked(cache_folder() / "locks" / f"{name}.lock", cancel, waiting):
        made = root / f"{name}.{secrets.token_hex(4)}"
        try:
            for left in root.glob(f"{name}.????????") if root.is_dir() else ():  # of a process that was killed
                for old in (left / "before").glob("*"):
                    if not (cache_folder() / "models" / old.name).exists():
                        os.rename(old, cache_folder() / "models" / old.name)
                delete(left)
            made.mkdir(parents=True)
        except OSError as error:
            raise write_error(error, cache_folder()) from None
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)


def install(
    name: str, root: Path, found: Package, stage: Path, origin: dict[str, Any], progress: Tell | None
) -> Package:
    """Move the model at ``root`` to its place, and note where it came from; where one was, it comes back if anything fails.

    Args:
        name: To install it by.
        root: Its folder, in ``stage``.
        found: What the loader made of it there.
        stage: The folder of unfinished work.
        origin: Entries of its record.
        progress: Told that it is checked.

    Raises:
        PackageError: A file is not what the manifest promises, or it cannot be loaded from its place.
        OutputError: The cache folder cannot be written.
    """
    arrival.check_name(name)
    if progress is not None:
        progress(Progress("check", 0, None, "Checking the model"))
    files = records.facts(root)
    if found.root == root.resolve():  # what was converted has just been read
        for promised in found.manifest.files.values():
            if files[promised.path] != [promised.size, promised.sha256]:
                raise PackageError(
                    f"Model '{name}' is damaged: the checksum of {promised.path} is wrong; copy or fetch it again."
                )
    size = sum(size for size, _ in files.values())
    record = {**origin, "time": records.now(), "size": size, "files": files}
    target, before = cache_folder() / "models" / name, stage / "before" / name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        before.parent.mkdir()
        kept = target.exists() or target.is_symlink()
        if kept:
            os.rename(target, before)
        try:
            os.rename(root, target)
            loaded = package.load(target)
            record["converted"] = records.converted_name(loaded.root)
            records.write(records.record_path(name), record)
        except BaseException:
            if target.exists():
                os.rename(target, stage / "failed")
            if kept:
                os.rename(before, target)
            raise
    except OSError as error:
        raise write_error(error, target.parent) from None
    return loaded


@contextmanager
def undone(found: Package) -> Iterator[None]:
    """Take back what the loader made of a model if it cannot be installed."""
    try:
        yield
    except BaseException:
        if name := records.converted_name(found.root):
            records.drop_converted(cache_folder() / "converted" / name)
        raise


def delete(path: Path) -> None:
    """Delete a file, link or folder; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

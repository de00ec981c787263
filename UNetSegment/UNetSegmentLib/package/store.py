"""The user's cache of models: fetch, import, check and remove. Nothing outside the cache folder is touched.

``models/NAME`` holds a model, ``records/NAME.json`` where it came from and the hashes of its files, ``trust`` the
hashes of downloads for which none is published. ``converted`` and ``compiled`` are what the loader and a backend made
of models, ``speeds`` how fast they ran, ``downloads`` and ``staging`` work that is not finished: these can be made
again. Nothing says where the folder is, so that it can be copied to another computer.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Cancelled, DownloadError, OutputError, PackageError
from . import archive, arrival, hashes, package, records, staging
from .archive import size_text
from .catalog import Entry
from .download import Mismatch, Policy, Progress, download
from .lock import locked
from .manifest import MANIFEST_PATH
from .package import Package, cache_folder
from .staging import Cancel, Tell


@dataclass(frozen=True)
class Outcome:
    """A model that was put into the store, its publisher's version, and what the user should be told about it."""

    name: str
    version: str
    package: Package
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Info:
    """What the store knows of a model.

    Args:
        name: By which it is loaded.
        folder: Where it is.
        ships: Whether it came with UNetSegment and cannot be removed.
        size: Bytes on disk.
        record: Where it came from: ``source``, ``version``, ``kind``, ``sha256`` of its zip, ``time``; empty for a
            model that ships or was copied there by hand.
    """

    name: str
    folder: Path
    ships: bool
    size: int
    record: dict[str, Any]


def installed() -> dict[str, Path]:
    """Names and folders of the models on this computer, of every kind; the user's win over those that ship."""
    return package.installed(recorded=True)


def info(name: str) -> Info:
    """What is known of the installed model ``name``.

    Raises:
        PackageError: There is none.
    """
    folder = _folder(name)
    ships = folder.parent != cache_folder() / "models"
    record = {} if ships else records.record(name)
    more = [path for path in [records.converted_path(record)] if path]
    return Info(name, folder, ships, records.size(folder, *more), record)


def get(
    entry: Entry,
    progress: Tell | None = None,
    cancel: Cancel | None = None,
    *,
    forget: bool = False,
    policy: Policy | None = None,
) -> Outcome:
    """Fetch a model of the catalog, prove it, and put it into the store.

    Two processes that want the same model take turns; the second finds it there.

    Args:
        entry: The model.
        progress: Told some ten times a second.
        cancel: Asked as often; True stops the work.
        forget: Accept a file that differs from the one first downloaded, where no hash is published.
        policy: How patient to be with the server.

    Raises:
        DownloadError: It cannot be fetched, or is not the file that was promised.
        PackageError: What was fetched is not a model that can be loaded.
        OutputError: The disk is full, or the cache folder cannot be written.
        Cancelled: ``cancel`` said so. In all these cases the models are as they were.
    """
    if entry.cannot_run:
        raise PackageError(f"Model '{entry.name}' cannot be run by UNetSegment: {entry.cannot_run}.")
    if entry.bundled:
        return Outcome(
            entry.name, entry.version, package.load(_folder(entry.name)), (f"'{entry.name}' ships with UNetSegment.",)
        )
    here = (f"'{entry.name}' {entry.version} is here already.",)
    if there := _present(entry):  # asked before the lock too: a shared cache may be read-only
        return Outcome(entry.name, entry.version, there, here)
    with staging.folder(entry.name, cancel, progress) as stage:
        if there := _present(entry):
            return Outcome(entry.name, entry.version, there, here)
        known = {} if forget or entry.hashes else records.trusted(entry.name, entry.version, entry.url)
        zipped = cache_folder() / "downloads" / f"{entry.name}-{entry.version}.zip"
        sha256 = _fetch(entry, zipped, known, {"policy": policy, "progress": progress, "cancel": cancel})
        try:
            archive.unpack(zipped, stage / "content", progress=_told(progress, "unpack", "Unpacking"), cancel=cancel)
            root, found = arrival.find(stage / "content", zipped.name)
            origin = {"source": entry.url, "version": entry.version, "kind": entry.kind, "sha256": sha256}
            with staging.undone(found):
                _check_promise(entry, found)
                remarks = _replaced(entry.name)
                loaded = staging.install(entry.name, root, found, stage, origin, progress)
        except Cancelled:  # the zip stays for the next time, as a part does
            raise
        except BaseException:
            zipped.unlink(missing_ok=True)
            raise
        zipped.unlink(missing_ok=True)
        if not entry.hashes and not known:
            trust = records.trust_path(entry.name, entry.version)
            records.write(trust, {"url": entry.url, "sha256": sha256, "time": records.now()})
            remarks.append(
                f"No hash is published for '{entry.name}': this first download is trusted, and later ones must be the same "
                f"file (SHA-256 {sha256[:12]}...)."
            )
        return Outcome(entry.name, entry.version, loaded, tuple(remarks))


def import_(
    path: str | os.PathLike[str],
    name: str | None = None,
    progress: Tell | None = None,
    cancel: Cancel | None = None,
) -> Outcome:
    """Put a model from a folder or zip into the store, without network; the original is left alone.

    Args:
        path: The folder or zip.
        name: What to call it; by default what it calls itself.
        progress: Told while it is copied.
        cancel: Asked as often; True stops the work.

    Raises:
        PackageError: It is not a model that can be loaded, or holds what a model must not hold.
        OutputError: The disk is full, or the cache folder cannot be written.
        Cancelled: ``cancel`` said so. In all these cases the store is as it was.
    """
    source = Path(path)
    try:
        source.stat()
    except OSError as error:
        reason = "" if isinstance(error, FileNotFoundError) else f" that can be read ({error.strerror or error})"
        raise PackageError(f"There is no file or folder '{source}'{reason}; check the path.") from None
    if name is not None:
        arrival.check_name(name)
    with staging.folder("+import", cancel, progress) as stage:
        content = stage / "content"
        told = _told(progress, "import", "Copying")
        origin: dict[str, Any] = {"source": source.name}
        if source.is_dir():
            archive.copy(source.resolve(), content, skip=arrival.leave_out, progress=told, cancel=cancel)
        else:
            archive.unpack(source, content, progress=told, cancel=cancel)
            origin["sha256"] = hashes.sha256(source)
        root, found = arrival.find(content, source.name)
        name = name or arrival.plain_name(found.manifest.name)
        origin["version"] = found.manifest.version
        with staging.undone(found), locked(cache_folder() / "locks" / f"{name}.lock", cancel):
            remarks = _replaced(name)
            loaded = staging.install(name, root, found, stage, origin, progress)
            return Outcome(name, found.manifest.version, loaded, tuple(remarks))


def verify(name: str) -> int:
    """Prove that the installed model ``name`` is what was installed: every file's size and SHA-256.

    Returns:
        How many files were compared with the hashes noted when it was installed.

    Raises:
        PackageError: There is no such model, or a file of it is missing or changed.
    """
    folder = _folder(name)
    noted = {} if info(name).ships else records.record(name).get("files", {})
    for file, (size, sha256) in noted.items():
        path = folder / file
        try:
            same = path.stat().st_size == size and hashes.sha256(path) == sha256
        except OSError as error:
            reason = "missing" if isinstance(error, FileNotFoundError) else f"not readable ({error.strerror or error})"
            raise PackageError(f"Model '{name}' is damaged: {file} is {reason}; install it again.") from None
        if not same:
            raise PackageError(f"Model '{name}' is damaged: the checksum of {file} is wrong; install it again.")
    package.load(folder).verify()
    return len(noted)


def remove(name: str) -> int:
    """Delete the model ``name`` from the store; returns the bytes freed.

    Raises:
        PackageError: There is none, or it ships with UNetSegment.
        OutputError: It cannot be deleted.
    """
    if info(name).ships:
        raise PackageError(f"Model '{name}' ships with UNetSegment and cannot be removed alone.")
    with staging.folder(name) as stage:
        folder = cache_folder() / "models" / name
        converted = records.converted_path(records.record(name))
        compiled = _compiled(converted or folder)
        everything = [path for path in (folder, converted, compiled) if path]
        before = records.size(*everything)
        try:
            os.rename(folder, stage / "removed")
            records.record_path(name).unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"'{folder}' cannot be deleted ({error.strerror or error}); is it in use?") from None
        records.drop_converted(converted)
        if compiled is not None:
            shutil.rmtree(compiled, ignore_errors=True)
        return before - records.size(*(path for path in everything if path.exists()))


def remove_all() -> int:
    """Delete all models and unfinished downloads, but no hash trusted on first use and no catalog; returns the bytes freed.

    Raises:
        OutputError: Something cannot be deleted.
    """
    names = ("models", "records", "converted", "compiled", "downloads", "speeds", "staging")
    parts = [cache_folder() / name for name in names]
    freed = records.size(*parts)
    for folder in parts:
        for child in sorted(folder.iterdir()) if folder.is_dir() else ():
            if child.suffix == ".lock":  # deleted, two processes could hold two locks of one name
                continue
            try:
                staging.delete(child)
            except OSError as error:
                raise OutputError(
                    f"'{child}' cannot be deleted ({error.strerror or error}); is a model in use?"
                ) from None
    return freed


def _fetch(entry: Entry, zipped: Path, known: dict[str, str], how: dict[str, Any]) -> str:
    """Download the zip of ``entry``, which must have the published hash or the one ``known`` from the first time."""
    hashes = entry.hashes or ({"sha256": known["sha256"]} if known else {})
    try:
        return download(entry.url or "", zipped, size=entry.size, hashes=hashes, **how)
    except Mismatch:
        if not known:
            raise
        raise DownloadError(
            f"What '{entry.url}' sends now is not the file first downloaded on {known['time'][:10]}; ask its publisher, "
            "and repeat with --forget if the change is meant."
        ) from None


def _compiled(root: Path) -> Path | None:
    """What a backend made of the model at ``root``; None where nobody can tell any more."""
    try:
        return package.load(root).compiled_folder if (root / MANIFEST_PATH).is_file() else None
    except (PackageError, OSError):
        return None


def _replaced(name: str) -> list[str]:
    """What to say where a model of that name is there already."""
    if name not in installed():
        return []
    before = f" {version}" if (version := records.record(name).get("version")) else ""
    return [f"It replaces the model '{name}'{before} that was there."]


def _check_promise(entry: Entry, package: Package) -> None:
    found = package.manifest
    if entry.kind == "unetsegment" and (found.name, found.version) != (entry.name, entry.version):
        raise PackageError(
            f"'{entry.url}' holds the model '{found.name}' {found.version} where the catalog promises '{entry.name}' "
            f"{entry.version}; tell the publisher of the catalog '{entry.catalog}'."
        )


def _present(entry: Entry) -> Package | None:
    """The model of ``entry`` where this very version is installed and sound."""
    record = records.record(entry.name)
    if (record.get("source"), record.get("version")) != (entry.url, entry.version):
        return None
    if "sha256" in entry.hashes and record.get("sha256") != entry.hashes["sha256"]:
        return None
    try:
        verify(entry.name)
        return package.load(cache_folder() / "models" / entry.name)
    except PackageError:
        return None


def _told(progress: Tell | None, stage: str, verb: str) -> archive.Progress:
    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress(Progress(stage, done, total, f"{verb} {size_text(done)} of {size_text(total)}"))

    return tell


def _folder(name: str) -> Path:
    known = installed()
    if name not in known:
        names = ", ".join(sorted(known)) or "none"
        raise PackageError(f"There is no installed model '{name}'; there are: {names}.")
    return known[name]

"""Unpack the zip of a model, or copy its folder, without trusting what is in it: whole and confined, or not at all."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import Cancelled, OutputError, PackageError

SIZE_LIMIT = 20 << 30
"""Bytes that a model may take unpacked."""
COUNT_LIMIT = 20_000
"""Files and folders that a model may have."""
RATIO_LIMIT = 100
"""Unpacked bytes per packed byte; weights hardly shrink, the zip bombs known swell a thousandfold and more."""
SMALL = 64 << 20
"""Bytes below which the ratio does not matter: text alone may shrink a lot."""

_CHUNK = 1 << 20
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|clock\$|com[0-9¹²³]|lpt[0-9¹²³])( *\..*)?", re.IGNORECASE)
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\]')
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
Progress = Callable[[int, int], None]
"""Told the bytes written so far and the bytes in all."""


def unpack(
    archive: Path,
    target: Path,
    *,
    size_limit: int = SIZE_LIMIT,
    count_limit: int = COUNT_LIMIT,
    progress: Progress | None = None,
    cancel: Callable[[], bool] | None = None,
) -> None:
    """Unpack a zip into the new folder ``target``.

    The entries are checked before anything is written, and the bytes are counted while they are: what the archive
    says of its sizes is not believed. Everything goes to a temporary folder beside ``target``, renamed at the end.

    Args:
        archive: The zip.
        target: Must not exist; its parent must.
        size_limit: Bytes the whole may take unpacked.
        count_limit: Entries it may have.
        progress: Told bytes done and in all.
        cancel: Asked for every MiB; True stops the work.

    Raises:
        PackageError: It is no zip, is damaged or encrypted, or holds what a model's archive must not hold.
        OutputError: The disk is full or the folder cannot be written.
        Cancelled: ``cancel`` said so. In all these cases nothing is left behind.
    """
    _check_start(archive)
    try:
        with zipfile.ZipFile(archive) as file:
            entries = file.infolist()
            _check_entries(archive.name, entries, count_limit)
            total = sum(entry.file_size for entry in entries)
            _check_size(archive.name, total, size_limit)
            room = min(size_limit, max(SMALL, RATIO_LIMIT * archive.stat().st_size))
            with _new_folder(target, total) as folder:
                done = 0
                for entry in entries:
                    place = folder / entry.filename
                    if _is_folder(entry):
                        place.mkdir(parents=True, exist_ok=True)
                        continue
                    place.parent.mkdir(parents=True, exist_ok=True)
                    with file.open(entry) as source, place.open("xb") as sink:
                        while block := source.read(_CHUNK):
                            done += len(block)
                            if done > room:
                                raise PackageError(
                                    f"'{archive.name}' swells to more than {size_text(room)} when it is unpacked, which "
                                    "no model does; it was refused."
                                )
                            sink.write(block)
                            _tell(progress, cancel, done, total)
    except (zipfile.BadZipFile, zlib.error, EOFError, UnicodeDecodeError, NotImplementedError, ValueError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise PackageError(f"'{archive.name}' is not a sound zip file ({text}); fetch it again.") from None
    except RuntimeError:  # zipfile's word for "a password is needed"
        raise PackageError(f"'{archive.name}' is encrypted; give a zip without a password.") from None
    except OSError as error:
        if error.filename == str(archive):
            raise PackageError(f"'{archive}' cannot be read ({error.strerror}).") from None
        raise PackageError(f"'{archive.name}' is not a sound zip file ({error.strerror or error}).") from None


def _check_start(archive: Path) -> None:
    """Tell what is something else altogether, as an image is, from a zip that was damaged on its way."""
    try:
        with archive.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise PackageError(f"'{archive}' cannot be read ({error.strerror}).") from None
    if start and start[:2] != b"PK":  # an empty file may be what was left of a download
        raise PackageError(f"'{archive.name}' is not a zip file; give the zip or the folder of a model.")


def copy(
    source: Path,
    target: Path,
    *,
    skip: Callable[[str], bool] = lambda _: False,
    size_limit: int = SIZE_LIMIT,
    count_limit: int = COUNT_LIMIT,
    progress: Progress | None = None,
    cancel: Callable[[], bool] | None = None,
) -> None:
    """Copy a model's folder to the new folder ``target``; the same rules and promises as :func:`unpack`.

    Args:
        source: The folder.
        target: Must not exist; its parent must.
        skip: Asked for each path below ``source`` (``/`` between parts) whether to leave it out.
        size_limit: Bytes the whole may have.
        count_limit: Files and folders it may have.
        progress: Told bytes done and in all.
        cancel: Asked for every MiB; True stops the work.

    Raises:
        PackageError: The folder cannot be read, or holds links or special files, or is too large.
        OutputError: The disk is full or the folder cannot be written.
        Cancelled: ``cancel`` said so.
    """
    found: dict[str, os.stat_result] = {}
    try:
        for path in _walk(source, skip):
            name, facts = path.relative_to(source).as_posix(), path.lstat()
            if not stat.S_ISDIR(facts.st_mode) and not stat.S_ISREG(facts.st_mode):
                kind = "link" if stat.S_ISLNK(facts.st_mode) else "special file"
                raise PackageError(f"'{source.name}' holds the {kind} '{name}'; give a folder of plain files.")
            found[name] = facts
            if len(found) > count_limit:
                raise PackageError(f"'{source.name}' holds more than {count_limit} files; a model has fewer.")
        _check_names(source.name, found, {name for name, facts in found.items() if stat.S_ISDIR(facts.st_mode)})
        total = sum(facts.st_size for facts in found.values() if stat.S_ISREG(facts.st_mode))
        _check_size(source.name, total, size_limit)
        with _new_folder(target, total) as folder:
            done = 0
            for name, facts in found.items():
                if stat.S_ISDIR(facts.st_mode):
                    (folder / name).mkdir(exist_ok=True)
                    continue
                with (source / name).open("rb") as reader, (folder / name).open("xb") as sink:
                    while block := reader.read(_CHUNK):
                        done += len(block)
                        if done > size_limit:
                            raise PackageError(f"'{source.name}' grew while it was copied; try again.")
                        sink.write(block)
                        _tell(progress, cancel, done, total)
    except OSError as error:
        raise PackageError(f"'{source}' cannot be read ({error.strerror or error}).") from None


def size_text(size: float) -> str:
    """A number of bytes for people: ``3.2 MB``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit in ("bytes", "kB") else f"{size:.1f} {unit}"


def write_error(error: OSError, folder: Path) -> OutputError:
    """What to tell the user when writing below ``folder`` failed."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return OutputError(
            f"The disk or quota of '{folder}' is full; free some space, or choose another cache folder with "
            "UNETSEGMENT_CACHE."
        )
    return OutputError(
        f"Cannot write to the folder '{folder}' ({error.strerror or error}); make it writable, or choose another cache "
        "folder with UNETSEGMENT_CACHE."
    )


def check_space(folder: Path, needed: int) -> None:
    """Find out before the work whether ``needed`` bytes fit on the disk of ``folder``.

    Raises:
        OutputError: They do not.
    """
    try:
        free = shutil.disk_usage(folder).free
    except OSError:  # some network drives do not tell; the writing will
        return
    if needed > free:
        raise OutputError(
            f"The disk of '{folder}' has {size_text(free)} free where {size_text(needed)} are needed; free some space, "
            "or choose another cache folder with UNETSEGMENT_CACHE."
        )


def is_device(name: str) -> bool:
    """Whether Windows takes a file of this name for a device, such as ``con`` or ``nul.txt``."""
    return _DEVICE.fullmatch(name) is not None


def _check_entries(archive: str, entries: list[zipfile.ZipInfo], count_limit: int) -> None:
    if not entries:
        raise PackageError(f"'{archive}' is an empty zip; give the zip of a model.")
    if len(entries) > count_limit:
        raise PackageError(f"'{archive}' holds {len(entries)} entries; a model has fewer than {count_limit}.")
    for entry in entries:
        name = entry.orig_filename
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind == stat.S_IFLNK:
            raise PackageError(
                f"'{archive}' holds the link {name!r}, which a model's archive must not; it was refused."
            )
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise PackageError(f"'{archive}' holds the special file {name!r}; it was refused.")
        if entry.flag_bits & 0x41:  # encryption, and strong encryption
            raise PackageError(f"'{archive}' is encrypted; give a zip without a password.")
        if entry.compress_type not in _METHODS:
            raise PackageError(f"'{archive}' is compressed by a method other than deflate; zip the model again.")
        if _is_folder(entry) and entry.file_size:
            raise PackageError(
                f"'{archive}' is not a sound zip file (the folder {name!r} has content); fetch it again."
            )
    _check_names(
        archive, [entry.orig_filename for entry in entries], {e.orig_filename for e in entries if _is_folder(e)}
    )


def _is_folder(entry: zipfile.ZipInfo) -> bool:
    return entry.orig_filename.endswith("/")  # before Python 3.13, is_dir() fails for a name that begins with NUL


def _check_names(what: str, names: Iterable[str], folders: Iterable[str] = ()) -> None:
    """Refuse names that leave the folder, or mean different files on different systems."""
    seen: set[str] = set()
    parents: dict[str, str] = {}
    folders = set(folders)
    for name in names:
        plain = name.removesuffix("/") if name in folders else name
        parts = plain.split("/")
        if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name):
            raise PackageError(f"'{what}' holds the absolute path {name!r}; it was refused.")
        if ".." in parts or ".." in name.split("\\"):
            raise PackageError(f"'{what}' holds the path {name!r}, which leads out of its folder; it was refused.")
        if _FORBIDDEN.search(name) or len(name) > 1000:
            raise PackageError(
                f"'{what}' holds the file name {name[:200]!r}, which not every system can have; it was refused."
            )
        for part in parts:
            if part in ("", ".") or part != part.rstrip(". ") or len(part.encode("utf-8", "replace")) > 255:
                raise PackageError(f"'{what}' holds the path {name[:200]!r}, which is not a plain one; it was refused.")
            if is_device(part):
                raise PackageError(f"'{what}' holds {name!r}, the name of a device on Windows; it was refused.")
        # one file on Windows and macOS, where case and Unicode's forms do not tell names apart
        same = unicodedata.normalize("NFC", plain).casefold()
        if same in seen:
            raise PackageError(f"'{what}' holds {name!r} twice; it was refused.")
        seen.add(same)
        if name not in folders:
            parents[same] = name
    for same in seen:
        above = same.split("/")
        for end in range(1, len(above)):
            if name := parents.get("/".join(above[:end])):
                raise PackageError(f"'{what}' holds {name!r} both as a file and as a folder; it was refused.")


def _check_size(what: str, total: int, limit: int) -> None:
    if total > limit:
        raise PackageError(
            f"'{what}' would take {size_text(total)} unpacked; at most {size_text(limit)} are allowed, so it was refused."
        )


def _walk(source: Path, skip: Callable[[str], bool]) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise error

    for folder, folders, files in os.walk(source, onerror=fail):
        below = Path(folder)
        keep = [n for n in sorted(folders) if not skip((below / n).relative_to(source).as_posix())]
        folders[:] = [n for n in keep if not (below / n).is_symlink()]
        yield from (below / n for n in keep)
        yield from (below / n for n in sorted(files) if not skip((below / n).relative_to(source).as_posix()))


@contextmanager
def _new_folder(target: Path, needed: int) -> Iterator[Path]:
    """A temporary folder beside ``target`` that becomes it when the block ends well, and is gone otherwise."""
    if target.exists() or target.is_symlink():
        raise OutputError(f"The folder '{target}' exists already; choose another one.")
    check_space(target.parent, needed)
    folder = target.with_name(f".{target.name}-{secrets.token_hex(4)}")
    try:
        try:
            folder.mkdir()
            yield folder
            os.rename(folder, target)
        except OSError as error:
            if error.errno in (None, errno.EINVAL):  # a seek that the archive asked for, not the disk
                raise
            raise write_error(error, target.parent) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _tell(progress: Progress | None, cancel: Callable[[], bool] | None, done: int, total: int) -> None:
    if cancel is not None and cancel():
        raise Cancelled()
    if progress is not None:
        progress(done, max(done, total))

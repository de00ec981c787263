"""Which models can be fetched: our catalog, and those that users and hospitals add."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import PackageError, UNetSegmentError
from . import schema
from .archive import is_device
from .package import cache_folder, resource_folders

SUPPORTED_MAJOR = 1


@dataclass(frozen=True)
class Entry:
    """A model that can be fetched, as a catalog describes it. See ``catalog.schema.json`` for every entry.

    Args:
        name: What it is called on the command line and in the cache folder.
        version: Its publisher's version.
        title: What people call it.
        kind: ``unetsegment``, ``monai-bundle`` or ``nnunet-v2``.
        task: What it segments, in one line.
        modality: DICOM modalities of its images.
        channels: The images it takes, in order.
        labels: The structures it answers.
        size: Bytes of the download, where known.
        url: Address of its zip; None where it ships with UNetSegment.
        hashes: Published hex digests of the zip by ``sha256``, ``sha1``, ``md5``; empty: trusted on first use.
        catalog: Title of the catalog that has it.
        raw: The JSON form.
    """

    name: str
    version: str
    title: str
    kind: str
    task: str
    modality: tuple[str, ...]
    channels: tuple[str, ...]
    labels: tuple[str, ...]
    size: int | None
    url: str | None
    hashes: dict[str, str]
    catalog: str
    raw: dict[str, Any] = field(repr=False)

    @property
    def bundled(self) -> bool:
        """Whether it ships with UNetSegment."""
        return self.url is None

    @property
    def cannot_run(self) -> str:
        """Why UNetSegment cannot run it; empty where nothing is known against it."""
        return self.raw.get("cannot_run", "")

    @property
    def licence(self) -> str:
        """Short name of the licence."""
        return self.raw["licence"]["name"]

    def allows(self, use: str) -> bool | None:
        """Whether the licence allows ``clinical`` or ``commercial`` use; None where that is not known."""
        return self.raw["licence"][f"{use}_use"]

    def matches(self, words: Iterable[str]) -> bool:
        """Whether every word is somewhere in its name, title, task, anatomy, modality, kind, channels or labels."""
        parts = [self.name, self.title, self.task, self.kind, *self.raw.get("anatomy", [])]
        text = " ".join([*parts, *self.modality, *self.channels, *self.labels]).lower().replace("_", " ")
        return all(word.lower().replace("_", " ") in text for word in words)


@dataclass(frozen=True)
class Catalog:
    """What can be fetched by name, and what is to be said about the catalogs: refused entries, entries replaced."""

    entries: dict[str, Entry]
    remarks: tuple[str, ...]

    def entry(self, name: str) -> Entry:
        """The model called ``name``.

        Raises:
            PackageError: There is none.
        """
        if name not in self.entries:
            near = [n for n, entry in self.entries.items() if entry.matches([name])][:5]
            hint = f"did you mean {', '.join(near)}?" if near else "'unetsegment models search' lists them."
            raise PackageError(f"No catalog has a model '{name}'; {hint}")
        return self.entries[name]


def load(extra: Iterable[str] = ()) -> Catalog:
    """Read our catalog, those in the folder ``catalogs`` of the user's cache, the last copies of those at addresses that
    the user added (:mod:`addresses`), then ``extra``; later ones win.

    A catalog or entry that cannot be used is left out and named in ``remarks``, so that one bad entry does not take
    the others away.

    Args:
        extra: File paths or ``https://`` addresses.

    Raises:
        PackageError: Our catalog's folder is missing.
    """
    from . import addresses

    places = [_folder() / "catalog.json"]
    places += sorted((cache_folder() / "catalogs").glob("*.json"))
    copies = [(str(addresses.copy_of(address)), address) for address in addresses.addresses()]
    entries: dict[str, Entry] = {}
    remarks: list[str] = []
    for place, name in [*((str(path), None) for path in places), *copies, *((source, None) for source in extra)]:
        try:
            found, refused = read(place, name)
        except UNetSegmentError as error:
            remarks.append(str(error))
            continue
        remarks.extend(refused)
        for entry in found:
            if entry.name in entries:
                before = entries[entry.name]
                remarks.append(
                    f"Model '{entry.name}' {entry.version} of the catalog '{entry.catalog}' replaces {before.version} of "
                    f"'{before.catalog}'."
                )
            entries[entry.name] = entry
    return Catalog(entries, tuple(remarks))


def read(source: str | os.PathLike[str], name: str | None = None) -> tuple[list[Entry], list[str]]:
    """Read one catalog: its sound entries, and one sentence for each entry that was refused.

    Args:
        source: A file path or an ``https://`` address.
        name: What to call it in errors, by default ``source``.

    Raises:
        PackageError: It is no catalog, or too new.
        DownloadError: It cannot be fetched.
    """
    where = name or os.fspath(source)
    try:
        return _read(os.fspath(source), where)
    except RecursionError:
        raise PackageError(f"The catalog '{where}' is nested too deeply.") from None


def _read(source: str, where: str) -> tuple[list[Entry], list[str]]:
    try:
        raw = _fetch(source) if source.lower().startswith(("http://", "https://")) else schema.load_json(Path(source))
    except OSError as error:
        raise PackageError(f"The catalog '{where}' cannot be read ({error.strerror or error}).") from None
    except ValueError as error:
        raise PackageError(_printable(f"The catalog '{where}' {error}.")) from None
    version = raw.get("catalog_version") if isinstance(raw, dict) else None
    major = re.match(r"[0-9]{1,9}(?=\.)", version) if isinstance(version, str) else None
    if major and int(major[0]) > SUPPORTED_MAJOR:
        raise PackageError(
            f"The catalog '{where}' is of version {version}, newer than this program reads ({SUPPORTED_MAJOR}.x); "
            "update UNetSegment."
        )
    for problem in schema.problems(raw, _schema()):
        raise PackageError(_printable(f"The catalog '{where}' is not valid: {problem}."))
    entries, refused = [], []
    for index, item in enumerate(raw["models"]):
        problem = next(_problems(item), None)
        if problem is None:
            entries.append(_entry(item, raw["title"]))
        else:
            name = item.get("name") if isinstance(item, dict) else None
            which = f"'{name[:64]}'" if isinstance(name, str) and name else f"number {index + 1}"
            refused.append(_printable(f"Entry {which} of the catalog '{raw['title']}' was refused: {problem}."))
    return entries, refused


def _problems(item: Any) -> Iterator[str]:
    whole = _schema()
    yield from schema.problems(item, whole["$defs"]["model"], whole)
    if is_device(item["name"]):
        yield f"name: '{item['name']}' is the name of a device on Windows"
    if item["download"].get("bundled") and item["kind"] != "unetsegment":
        yield "download: only models of kind unetsegment are bundled"


def _entry(item: dict[str, Any], catalog: str) -> Entry:
    download = item["download"]
    return Entry(
        name=item["name"],
        version=item["version"],
        title=item["title"],
        kind=item["kind"],
        task=item["task"],
        modality=tuple(item["modality"]),
        channels=tuple(item["channels"]),
        labels=tuple(item["labels"]),
        size=None if item["size"] is None else int(item["size"]),
        url=download.get("url"),
        hashes={name: download[name].lower() for name in ("sha256", "sha1", "md5") if download.get(name)},
        catalog=catalog,
        raw=item,
    )


def _fetch(url: str) -> Any:
    from .download import read_text

    text = read_text(url)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "catalog.json"
        path.write_text(text, "utf-8", newline="")
        return schema.load_json(path)


def _printable(text: str) -> str:
    """``text`` without what would move the cursor or cannot be written: it quotes a file that is not trusted."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


@cache
def _schema() -> dict[str, Any]:
    return schema.load_json(_folder() / "catalog.schema.json")


def _folder() -> Path:
    folders = resource_folders("Catalog")
    if not folders:
        raise PackageError(
            "The folder Resources/Catalog is not beside UNetSegment; run it from its clone, or install it as the extension."
        )
    return folders[0]

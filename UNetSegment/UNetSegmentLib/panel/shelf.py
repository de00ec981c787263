"""What the model chooser shows, in plain Python: the models on this computer and in the catalogs, and a card of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

from .. import package
from ..errors import UNetSegmentError
from ..package.archive import size_text
from . import state

if TYPE_CHECKING:
    from ..package import Manifest
    from ..package.catalog import Entry

Translate = Callable[[str], str]
CARD_PICTURE = 96
"""Pixels of a thumbnail on a card."""
PALETTE = (
    (128, 174, 128), (241, 214, 145), (177, 122, 101), (111, 184, 210), (216, 101, 79), (221, 130, 101),
    (144, 196, 144), (192, 104, 88), (150, 140, 200), (200, 170, 90), (90, 150, 170), (210, 150, 180),
)  # fmt: skip
"""Quiet colours that can be seen on dark and light windows."""
READY, UPDATE, GET, REFUSED, BROKEN = "ready", "update", "get", "refused", "broken"


@dataclass(frozen=True)
class Item:
    """One model: a line of the list.

    Args:
        name: By which it is loaded and fetched.
        status: ``ready``, ``update``, ``get``, ``refused`` (cannot run here) or ``broken``.
        problem: Why it is refused or broken.
        size: Bytes on disk, or to fetch; None where that is not known.
        removable: Whether it can be deleted.
        thumbnail: A small PNG, where there is one.
    """

    name: str
    title: str
    anatomy: str
    modality: str
    status: str
    problem: str = ""
    size: int | None = None
    removable: bool = False
    origin: str = ""
    thumbnail: Path | None = None
    entry: Entry | None = field(default=None, repr=False)
    manifest: Manifest | None = field(default=None, repr=False)

    @property
    def colors(self) -> tuple[tuple[int, int, int], ...]:
        """Of its structures: their own, or one that follows from the name where only a catalog tells of them."""
        if self.manifest is not None:
            return tuple(label.color for label in self.manifest.segments)
        names = self.entry.labels if self.entry is not None else (self.name,)
        return tuple(PALETTE[crc32(name.encode()) % len(PALETTE)] for name in names)

    @property
    def can_get(self) -> bool:
        """Whether it can be fetched now."""
        return self.entry is not None and self.status in (GET, UPDATE)

    def size_words(self) -> str:
        """``22 MB``, or nothing."""
        return size_text(self.size) if self.size else ""

    def state_words(self, tr: Translate = lambda text: text) -> str:
        """The last column: ``ready``, ``get 22 MB``, ``cannot run here``."""
        words = {READY: tr("ready"), REFUSED: tr("cannot run here"), BROKEN: tr("damaged")}
        if self.status in words:
            return words[self.status]
        word = tr("get") if self.status == GET else tr("update")
        size = size_text(self.entry.size) if self.entry and self.entry.size else ""
        return f"{word} {size}".strip()

    def rank(self, words: Sequence[str]) -> tuple[bool, bool, bool]:
        """By which the models that match a search are sorted: those that are here, then those named so, before others."""
        name = f"{self.title} {self.name}".lower()
        named = all(word.lower() in name for word in words)
        return self.status in (GET, REFUSED), self.status == REFUSED, not named

    def matches(self, words: Sequence[str]) -> bool:
        """Whether every word is somewhere in what is known of it."""
        parts = [self.name, self.title, self.anatomy, self.modality, self.status]
        if self.entry is not None:
            parts += [self.entry.task, self.entry.licence, *self.entry.channels, *self.entry.labels]
        if self.manifest is not None:
            parts += [self.manifest.description, *(label.name for label in self.manifest.segments)]
        text = " ".join(parts).lower().replace("_", " ")
        return all(word.lower().replace("_", " ") in text for word in words)


def read() -> tuple[list[Item], list[str]]:
    """Every model that is here or can be fetched, those that are here first; and remarks about the catalogs."""
    from ..package import catalog, store

    entries: dict[str, Entry] = {}
    remarks: list[str] = []
    try:
        known = catalog.load()
        entries, remarks = known.entries, list(known.remarks)
    except UNetSegmentError as error:  # no catalog: the models that are here can be used all the same
        remarks.append(str(error))
    here = [_installed(name, folder, entries.get(name)) for name, folder in store.installed().items()]
    titles = state.distinct({item.name: item.title for item in here})
    here = [replace(item, title=titles[item.name]) for item in here]
    names = {item.name for item in here}
    there = [_offered(entry) for entry in entries.values() if entry.name not in names]
    order = {GET: 0, REFUSED: 1}
    return (
        sorted(here, key=lambda item: item.title.lower())
        + sorted(there, key=lambda item: (order[item.status], item.title.lower())),
        remarks,
    )


def _installed(name: str, folder: Any, entry: Entry | None) -> Item:
    from ..package import store, thumbnail

    manifest, problem = None, ""
    try:
        manifest = package.load(folder).manifest
    except UNetSegmentError as error:
        problem = str(error)
    facts = store.info(name)
    status = READY if manifest is not None else BROKEN
    fetchable = entry is not None and entry.url is not None
    # One that was imported by hand is the user's own: it is not offered to be replaced by one of the same name.
    outdated = fetchable and facts.record.get("source") == entry.url and facts.record.get("version") != entry.version
    if outdated or (fetchable and status == BROKEN):
        status = UPDATE
    modality = "+".join(dict.fromkeys(c.modality for c in manifest.channels)) if manifest else ""
    return Item(
        name=name,
        title=manifest.title if manifest else name,
        anatomy=", ".join(
            entry.raw.get("anatomy", []) if entry else manifest.raw.get("anatomy", []) if manifest else []
        ),
        modality=modality or ("+".join(entry.modality) if entry else ""),
        status=status,
        problem=problem,
        size=facts.size,
        removable=not facts.ships,
        origin="ships with UNetSegment" if facts.ships else str(facts.record.get("source", "")),
        thumbnail=thumbnail.of_folder(folder) or (thumbnail.of_entry(entry) if entry else None),
        entry=entry,
        manifest=manifest,
    )


def _offered(entry: Entry) -> Item:
    from ..package import thumbnail

    return Item(
        name=entry.name,
        title=entry.title,
        anatomy=", ".join(entry.raw.get("anatomy", [])),
        modality="+".join(entry.modality),
        status=REFUSED if entry.cannot_run else GET,
        problem=entry.cannot_run,
        size=entry.size,
        origin=entry.url or "",
        thumbnail=thumbnail.of_entry(entry),
        entry=entry,
    )


def card(item: Item, tr: Translate = lambda text: text, expected: str = "") -> str:
    """All about one model, as HTML without colours of its own: it is read on dark and on light windows.

    Args:
        item: The model.
        tr: Translates a text.
        expected: How long it will take on this computer, in words.
    """
    rows = [(what, text) for what, text in _facts(item, tr, expected) if text]
    task = item.entry.task if item.entry else item.manifest.description if item.manifest else ""
    head = f"<h3>{escape(item.title)}</h3>" + (f"<p>{escape(task)}</p>" if task else "")
    if item.thumbnail is not None:  # beside a floating picture, Qt would hide the table's text behind it
        address = escape(item.thumbnail.absolute().as_uri())
        picture = f'<img src="{address}" width="{CARD_PICTURE}">'
        head = f'<table width="100%"><tr><td>{head}</td><td width="{CARD_PICTURE}" align="right">{picture}</td></tr></table>'
    lines = [head]
    if item.problem:
        words = tr("This model cannot run here: {why}.") if item.status == REFUSED else "{why}"
        lines.append(f"<p><b>{escape(words.format(why=item.problem.rstrip('.')))}</b></p>")
    cells = "".join(
        f'<tr><td style="padding-right:8px"><i>{escape(what)}</i></td><td>{text}</td></tr>' for what, text in rows
    )
    lines.append(f"<table>{cells}</table>")
    return "\n".join(filter(None, lines))


def licence(item: Item, tr: Translate = lambda text: text) -> str:
    """What is to be read before a model is fetched, as HTML."""
    entry = item.entry
    assert entry is not None
    uses = {True: tr("yes"), False: tr("no"), None: tr("not known")}
    lines = [
        f"<h3>{escape(tr('Licence of {title}').format(title=entry.title))}</h3>",
        f"<p>{_licence(entry.raw['licence'])}</p>",
        f"<p>{escape(tr('Clinical use: {answer}').format(answer=uses[entry.allows('clinical')]))}<br>"
        f"{escape(tr('Commercial use: {answer}').format(answer=uses[entry.allows('commercial')]))}</p>",
    ]
    if remark := entry.raw["licence"].get("remark"):
        lines.append(f"<p>{escape(remark[:1].upper() + remark[1:].rstrip('.'))}.</p>")
    words = tr(
        "The licence binds whoever uses the model. Nothing is sent from this computer but the request for the file."
    )
    lines += [f"<p>{escape(words)}</p>", f"<p>{escape(proof(entry, tr))}</p>"]
    return "\n".join(lines)


def proof(entry: Entry, tr: Translate = lambda text: text) -> str:
    """How it is known that what arrives is what was published."""
    if entry.bundled:
        return ""
    if entry.hashes:
        return tr("The download is compared with the published hash.")
    return tr(
        "Its publisher gives no hash, so the first download is trusted; later ones must be the same file (trust on first use)."
    )


def _facts(item: Item, tr: Translate, expected: str) -> list[tuple[str, str]]:
    """Label and HTML of each row of a card."""
    entry, manifest = item.entry, item.manifest
    if manifest is not None:
        labels = [label.name for label in manifest.segments]
        channels = [c.described(c.title or c.name) for c in manifest.channels]
        terms = manifest.raw["licence"]
        cited = manifest.raw.get("citation", [])
    else:
        assert entry is not None or item.status == BROKEN
        labels = list(entry.labels) if entry else []
        kinds = "/".join(entry.modality) if entry else ""
        channels = [c if c.startswith(kinds) else f"{kinds}: {c}" for c in entry.channels] if entry else []
        terms = entry.raw["licence"] if entry else {}
        cited = entry.raw.get("citation", []) if entry else []
    if isinstance(cited, str):
        cited = [cited]
    uses = {True: tr("yes"), False: tr("no"), None: tr("not known")}
    shown = ", ".join(labels[:12]) + (f", ... ({len(labels)})" if len(labels) > 12 else "")
    return [
        (tr("Segments"), escape(shown)),
        (tr("On"), escape("; ".join(channels))),
        (tr("Licence"), _licence(terms) if terms else ""),
        (tr("Clinical use"), uses[terms.get("clinical_use")] if terms else ""),
        (tr("Commercial use"), uses[terms.get("commercial_use")] if terms else ""),
        (tr("Measured"), escape(_dice(item, tr))),
        (tr("Expected time here"), escape(expected)),
        (tr("Time elsewhere"), escape(_seconds(entry, tr)) if entry is not None else ""),
        (tr("Size"), escape(item.size_words() or tr("not known"))),
        (tr("Source"), _link(item.origin)),
        (tr("Home page"), _link(entry.raw.get("homepage", "")) if entry is not None else ""),
        (tr("Proof"), escape(proof(entry, tr)) if entry is not None and item.status in (GET, UPDATE) else ""),
        (tr("Note"), escape(entry.raw.get("remark", "")) if entry is not None else ""),
        (tr("Cite"), "<br>".join(escape(text) for text in cited)),
    ]


def _dice(item: Item, tr: Translate) -> str:
    if item.manifest is not None and item.manifest.metrics:
        by_value = {label.value: label.name for label in item.manifest.segments}
        measured = [(by_value.get(m["label"], ""), m["dice"]) for m in item.manifest.metrics if "dice" in m]
        source = ""
    elif item.entry is not None and item.entry.raw.get("dice"):
        dice = item.entry.raw["dice"]
        measured = [(each["label"], each["dice"]) for each in dice.get("labels", [])]
        if "mean" in dice and len(measured) != 1:
            measured.insert(0, (tr("mean"), dice["mean"]))
        source = dice.get("source", "")
    else:
        return tr("not told")
    words = ", ".join(f"{name} {value:.2f}" for name, value in measured[:6] if name)
    return tr("Dice {values}").format(values=words) + (f" ({source})" if source else "")


def _seconds(entry: Entry, tr: Translate) -> str:
    """What its publisher measured: ``20 s on CPU, 3 s on GPU (8 cores; RTX 4090; 512 x 512 x 300)``."""
    seconds = entry.raw.get("seconds", {})
    parts = [
        tr("{seconds:g} s on {device}").format(seconds=seconds[device], device=device.upper())
        for device in ("cpu", "gpu")
        if device in seconds
    ]
    return f"{', '.join(parts)} ({seconds['on']})" if parts else ""


def _licence(terms: dict[str, Any]) -> str:
    name, url = escape(terms["name"]), terms.get("url", "")
    return f'<a href="{escape(url)}">{name}</a>' if url.startswith(("https://", "http://")) else name


def _link(text: str) -> str:
    if not text.startswith(("https://", "http://")):
        return escape(text)
    host = text.split("/")[2]
    return f'<a href="{escape(text)}">{escape(host)}</a>'

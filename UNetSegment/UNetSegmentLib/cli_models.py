"""``unetsegment models ...`` and ``unetsegment info FILE``: the store of models, and where a result came from."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from . import io, package
from .errors import PackageError, UNetSegmentError
from .package.archive import size_text

if TYPE_CHECKING:
    from .package.catalog import Catalog, Entry
    from .package.download import Progress
    from .package.store import Outcome


def add(commands: Any) -> None:
    """Add the commands ``models`` and ``info`` to the command line's sub-parsers."""
    models = commands.add_parser("models", help="list, search, fetch, import, check and remove models")
    models.set_defaults(run=_list)
    actions = models.add_subparsers(metavar="ACTION")

    def action(name: str, run: Callable[[argparse.Namespace], None], words: str, catalogs: bool = False) -> Any:
        parser = actions.add_parser(name, help=words, description=words[:1].upper() + words[1:] + ".")
        parser.add_argument("--debug", action="store_true", help="show the traceback of an unexpected error")
        if catalogs:
            parser.add_argument(
                "--catalog",
                action="append",
                default=[],
                metavar="FILE_OR_URL",
                help="one more catalog; may be repeated",
            )
        parser.set_defaults(run=run)
        return parser

    action("list", _list, "list the models on this computer")
    search = action("search", _search, "list the models that can be fetched", catalogs=True)
    search.add_argument("words", nargs="*", help="only models with all these words: an organ, CT, MR, ...")
    search.add_argument("--commercial", action="store_true", help="only models whose licence allows commercial use")
    get = action("get", _get, "fetch models from a catalog", catalogs=True)
    get.add_argument("name", nargs="+")
    get.add_argument("--forget", action="store_true", help="accept a file that changed since the first download")
    bring = action("import", _import, "put a model from a folder or zip into the store, without network")
    bring.add_argument("path")
    bring.add_argument("--name", help="what to call it (default: what it calls itself)")
    about = action(
        "info", _info, "tell about a model: what it needs and answers, its licence, its origin", catalogs=True
    )
    about.add_argument("name")
    verify = action("verify", _verify, "compare the files of models with the hashes noted when they were installed")
    verify.add_argument("name", nargs="*", help="(default: all)")
    remove = action("remove", _remove, "delete models and free their space")
    remove.add_argument("name", nargs="*")
    remove.add_argument("--all", action="store_true", help="delete all models that do not ship with UNetSegment")

    known = action("catalogs", _catalogs, "list, add or remove the addresses of more catalogs, and fetch them again")
    known.add_argument("address", nargs="?", help="of a catalog to add, e.g. https://models.hospital.example")
    known.add_argument("--remove", action="store_true", help="forget that address; models from there stay")

    provenance = commands.add_parser("info", help="tell how a result was made: model, version, options, time")
    provenance.add_argument(
        "file", help="a label map that UNetSegment wrote: .seg.nrrd (everything) or NIfTI (the model)"
    )
    provenance.add_argument("--debug", action="store_true", help="show the traceback of an unexpected error")
    provenance.set_defaults(run=_provenance)


def _list(options: argparse.Namespace) -> None:
    from .package import store

    rows = []
    for name, folder in store.installed().items():
        facts = store.info(name)
        try:
            summary = package.load(folder).manifest.summary
        except UNetSegmentError as error:
            summary = str(error)
        rows.append((name, "ships" if facts.ships else size_text(facts.size), summary))
    _print_table(
        ("MODEL", "SIZE", "WHAT"), rows, "No model is installed; 'unetsegment models search' lists what there is."
    )


def _search(options: argparse.Namespace) -> None:
    from .package import store

    here = store.installed()
    rows = []
    for entry in sorted(_catalog(options).entries.values(), key=lambda entry: entry.name):
        if entry.matches(options.words) and (not options.commercial or entry.allows("commercial")):
            size = size_text(entry.size) if entry.size else ""
            what = f"{'+'.join(entry.modality)} · {entry.task} · {entry.licence}"
            mark = "*" if entry.name in here else "-" if entry.cannot_run else ""
            rows.append((mark, entry.name, entry.version, size, what))
    _print_table(("", "MODEL", "VERSION", "SIZE", "WHAT"), rows, "No model of the catalogs has these words.")
    for mark, words in (
        ("*", "on this computer"),
        ("-", "cannot be run here; 'unetsegment models info MODEL' says why"),
    ):
        if any(row[0] == mark for row in rows):
            print(f"{mark} {words}")


def _get(options: argparse.Namespace) -> None:
    from .package import store

    catalog = _catalog(options)
    entries = [catalog.entry(name) for name in options.name]
    for entry in entries:
        with _Bar() as bar:
            outcome = store.get(entry, progress=bar, forget=options.forget)
        _report(outcome)


def _import(options: argparse.Namespace) -> None:
    from .package import store

    with _Bar() as bar:
        outcome = store.import_(options.path, options.name, progress=bar)
    _report(outcome)


def _info(options: argparse.Namespace) -> None:
    from .package import store

    catalog = _catalog(options)
    here = options.name in store.installed()
    if options.name in catalog.entries:
        rows = _catalog_rows(catalog.entries[options.name])
    elif here:
        rows = []
    else:
        catalog.entry(options.name)
    if here:
        rows = _installed_rows(options.name) + [row for row in rows if row[0] in ("task", "dice", "seconds", "remark")]
    _print_facts(rows)


def _verify(options: argparse.Namespace) -> None:
    from .package import store

    failed = 0
    names = options.name or list(store.installed())
    for name in names:
        try:
            count = store.verify(name)
            print(f"{name}: sound" + (f" ({count} files)" if count else ""))
        except UNetSegmentError as error:
            if len(names) == 1:
                raise
            failed += 1
            print(f"unetsegment: {error}", file=sys.stderr)
    if failed:
        raise PackageError(f"{failed} of {len(names)} models failed the check.")


def _remove(options: argparse.Namespace) -> None:
    from .package import store

    if bool(options.name) == options.all:
        raise PackageError("Name the models to remove, or give --all.")
    if options.all:
        print(f"all models removed, {size_text(store.remove_all())} freed")
    for name in options.name:
        print(f"{name} removed, {size_text(store.remove(name))} freed")


def _provenance(options: argparse.Namespace) -> None:
    facts = io.read_provenance(options.file)
    rows = []
    for key, text in facts.items():
        try:
            value = json.loads(text) if text.startswith(("{", "[")) else text
        except ValueError:
            value = text
        if isinstance(value, dict):
            value = ", ".join(f"{name} {_brief(item)}" for name, item in value.items())
        elif isinstance(value, list):
            value = " ".join(
                str(item.get("message", item) if isinstance(item, dict) else f"{item};") for item in value
            ).rstrip(";")
        rows.append((key.replace("_", " "), value))
    _print_facts(rows)


def _catalogs(options: argparse.Namespace) -> None:
    from .package import addresses

    remarks: list[str] = []
    if options.remove:
        if not options.address:
            raise PackageError("Say which address to remove; 'unetsegment models catalogs' lists them.")
        addresses.remove(options.address)
    elif options.address:
        remarks = addresses.add(options.address)[1]
    else:
        remarks = addresses.refresh()
    for remark in remarks:
        print(f"unetsegment: {remark}", file=sys.stderr)
    for address in addresses.addresses():
        print(address)


def _catalog(options: argparse.Namespace) -> Catalog:
    from .package import catalog

    found = catalog.load(options.catalog)
    for remark in found.remarks:
        print(f"unetsegment: {remark}", file=sys.stderr)
    return found


def _catalog_rows(entry: Entry) -> list[tuple[str, Any]]:
    raw, uses = entry.raw, {True: "yes", False: "no", None: "not known"}
    licence = raw["licence"]
    dice = raw.get("dice", {})
    measured = [f"{dice['mean']:.3f} mean"] if "mean" in dice else []
    measured += [f"{one['dice']:.3f} {one['label']}" for one in dice.get("labels", [])]
    seconds = raw.get("seconds", {})
    took = [f"{seconds[where]:g} s on the {where.upper()}" for where in ("cpu", "gpu") if where in seconds]
    hashes = " and ".join(name.upper().replace("SHA", "SHA-") for name in entry.hashes)
    return [
        ("model", f"{entry.name} {entry.version}"),
        ("title", entry.title),
        ("task", entry.task),
        ("kind", entry.kind),
        ("modality", ", ".join(entry.modality)),
        ("channels", ", ".join(entry.channels)),
        ("labels", ", ".join(entry.labels)),
        ("licence", " · ".join(filter(None, (licence["name"], licence.get("url"), licence.get("remark"))))),
        ("clinical use", uses[entry.allows("clinical")]),
        ("commercial use", uses[entry.allows("commercial")]),
        ("dice", f"{', '.join(measured)} ({dice['source']})" if measured else ""),
        ("seconds", f"{', '.join(took)} ({seconds['on']})" if took else ""),
        ("size", size_text(entry.size) if entry.size else ""),
        ("download", "ships with UNetSegment" if entry.bundled else entry.url),
        ("hash", "" if entry.bundled else f"{hashes} published" if hashes else "none published: trusted on first use"),
        ("catalog", entry.catalog),
        ("cannot be run", entry.cannot_run),
        ("remark", raw.get("remark", "")),
        ("homepage", raw.get("homepage", "")),
        ("cite", "; ".join(raw.get("citation", []))),
    ]


def _installed_rows(name: str) -> list[tuple[str, Any]]:
    from .package import store

    facts = store.info(name)
    record = facts.record
    loaded = package.load(facts.folder)
    manifest = loaded.manifest
    raw = manifest.raw
    return [
        ("model", f"{name} {manifest.version}"),
        ("title", manifest.title),
        ("what", manifest.summary),
        ("channels", ", ".join(f"{channel.name} ({channel.modality})" for channel in manifest.channels)),
        ("labels", ", ".join(f"{label.value} {label.name}" for label in manifest.segments)),
        ("licence", manifest.licence),
        ("intended use", raw.get("intended_use", "")),
        ("limits", raw.get("limits", "")),
        ("hash", loaded.content_hash),
        ("size", size_text(facts.size)),
        ("folder", facts.folder),
        ("origin", "ships with UNetSegment" if facts.ships else record.get("source", "copied there by hand")),
        ("installed", record.get("time", "")),
        ("cite", "; ".join(raw.get("citation", []))),
    ]


class _Bar:
    """One line of progress on a terminal, nothing elsewhere."""

    def __init__(self) -> None:
        self.shown = sys.stderr.isatty()
        self.width = 0

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self.width:
            print("\r" + " " * self.width + "\r", end="", file=sys.stderr, flush=True)

    def __call__(self, progress: Progress) -> None:
        if not self.shown:
            return
        share = f"{100 * progress.done // progress.total:3d} % " if progress.total else ""
        line = f"{share}{progress.message}"[: shutil.get_terminal_size().columns - 1]
        print("\r" + line.ljust(self.width), end="", file=sys.stderr, flush=True)
        self.width = len(line)


def _report(outcome: Outcome) -> None:
    by_name = outcome.name in package.installed()
    model = outcome.name if by_name else package.cache_folder() / "models" / outcome.name
    print(f"{outcome.name} {outcome.version} is ready: unetsegment segment IMAGE -m {model} -o OUT")
    for remark in outcome.remarks:
        print(remark)


def _print_table(heads: Sequence[str], rows: Sequence[Sequence[str]], empty: str) -> None:
    if not rows:
        print(empty)
        return
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
    room = shutil.get_terminal_size((160, 24)).columns - sum(widths[:-1]) - 2 * (len(widths) - 1)
    for row in (heads, *rows):
        cells = [text.ljust(width) for text, width in zip(row[:-1], widths[:-1], strict=True)]
        last = row[-1]
        if sys.stdout.isatty() and room >= 20:
            last = textwrap.shorten(last, room, placeholder="...")
        print("  ".join([*cells, last]).rstrip())


def _print_facts(rows: Sequence[tuple[str, Any]]) -> None:
    shown = [(key, str(value)) for key, value in rows if value not in ("", None)]
    width = max((len(key) for key, _ in shown), default=0)
    room = max(shutil.get_terminal_size((120, 24)).columns - width - 2, 40)
    for key, text in shown:
        lines = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""]
        print(f"{key:{width}}  {lines[0]}")
        for line in lines[1:]:
            print(f"{'':{width}}  {line}")


def _brief(value: Any) -> str:
    return "x".join(map(str, value)) or "none" if isinstance(value, list) else str(value)

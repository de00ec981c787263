"""Put a package where others can fetch it: a zip, its SHA-256 and a catalog, in a folder for any static web server."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from UNetSegmentLib import package
from UNetSegmentLib.errors import PackageError
from UNetSegmentLib.package import Package, arrival, catalog, hashes, schema, thumbnail

from .safely import replace_text

LOCAL = "http://localhost:8000"
_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Published:
    """What was written: the zip, its SHA-256, the catalog, and the entry in it."""

    zipped: Path
    sha256: str
    catalog: Path
    entry: dict[str, Any]


def publish(
    model: str | os.PathLike[str],
    folder: Path,
    url: str = LOCAL,
    catalog_file: Path | None = None,
    replace: bool = False,
) -> Published:
    """Write ``model`` as a zip into ``folder``, its SHA-256 beside it, and its entry into the catalog.

    The zip's bytes depend on the package alone. Entries of other models stay as they are; another version of this
    model loses its entry, as a catalog has one per name, and keeps its zip.

    Args:
        model: Package folder, or name of an installed model.
        folder: What the web server serves.
        url: Address of that folder.
        catalog_file: Catalog to write or extend; by default ``folder/catalog.json``.
        replace: Also where this version was published before.

    Raises:
        PackageError: The model is damaged, the catalog cannot be read or extended, or the version is there already.
    """
    loaded = package.load(model)
    loaded.verify()
    if not url.lower().startswith(("http://", "https://")):
        raise PackageError(f"'{url}' is not the address of a web server; give one that begins with https:// to --url.")
    where = catalog_file or folder / "catalog.json"
    name, version = loaded.manifest.name, loaded.manifest.version
    file = f"{name}-{version}.zip"
    raw = entry(loaded, f"{url.rstrip('/')}/{file}")
    _check(raw)
    whole = _existing(where)
    before = next((m for m in whole["models"] if isinstance(m, dict) and m.get("name") == name), None)
    if before and before.get("version") == version and not replace:
        raise PackageError(
            f"The catalog '{where}' has '{name}' {version} already; raise the version, or say --replace."
        )
    folder.mkdir(parents=True, exist_ok=True)
    target, part = folder / file, folder / (file + ".part")
    try:
        sha256, size = write_zip(loaded.root, part)
        if target.exists() and not replace and hashes.sha256(target) != sha256:
            raise PackageError(f"'{target}' is there and is another file; raise the version, or say --replace.")
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    replace_text(folder / (file + ".sha256"), f"{sha256}  {file}\n")
    raw |= {"size": size, "download": raw["download"] | {"sha256": sha256}}
    whole["models"] = [m for m in whole["models"] if m is not before] + [raw]
    replace_text(where, json.dumps(whole, indent=2, ensure_ascii=False) + "\n")
    return Published(target, sha256, where, raw)


def entry(loaded: Package, address: str) -> dict[str, Any]:
    """The catalog's entry of a package: what its manifest knows, in the catalog's words."""
    manifest = loaded.manifest
    known = manifest.raw
    licence = known["licence"]
    names = {label.value: label.name for label in manifest.labels}
    dice = [m for m in manifest.metrics if m["label"] > 0 and "dice" in m and m["label"] in names]
    told = {
        "name": manifest.name,
        "version": manifest.version,
        "title": _line(manifest.title),
        "kind": "unetsegment",
        "task": _line(manifest.description or manifest.title),
        "anatomy": [_line(part) for part in known.get("anatomy", [])],
        "modality": list(dict.fromkeys(channel.get("modality", "OT") for channel in known["channels"])),
        "channels": [_line(channel.get("title") or channel["name"]) for channel in known["channels"]],
        "labels": [_line(label.name) for label in manifest.segments],
        "size": None,
        "licence": {
            "name": _line(licence["name"]),
            **({"url": licence["url"]} if licence.get("url") else {}),
            "clinical_use": licence.get("clinical_use"),
            "commercial_use": licence.get("commercial_use"),
        },
        "citation": [_line(part) for part in known.get("citation", [])],
        "download": {"url": address, "sha256": None},
        **thumbnail.as_entry(loaded.root),
    }
    if limits := known.get("limits"):
        told["remark"] = _line(" ".join(limits) if isinstance(limits, list) else str(limits))
    if dice:
        split = {f"{m['cases']} cases of {m['split']}" for m in dice if "cases" in m and "split" in m}
        told["dice"] = {
            "labels": [{"label": _line(names[m["label"]]), "dice": round(m["dice"], 5)} for m in dice],
            "source": f"its manifest: {split.pop()}" if len(split) == 1 else "its manifest",
        }
    return told


def write_zip(root: Path, target: Path) -> tuple[str, int]:
    """Zip a model's folder without images, hidden files and links; the same content gives the same bytes everywhere.

    Nothing is compressed: weights hardly shrink, and zlib's versions differ.

    Returns:
        SHA-256 and size of the zip.
    """
    paths = {path.relative_to(root).as_posix(): path for path in root.rglob("*")}
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as zipped:
        for inside, path in sorted(paths.items()):
            if path.is_symlink() or not path.is_file() or arrival.leave_out(inside):
                continue
            about = zipfile.ZipInfo(inside, _DATE)
            about.create_system, about.external_attr = 3, 0o100644 << 16
            zipped.writestr(about, path.read_bytes())
    return hashes.sha256(target), target.stat().st_size


def _check(raw: dict[str, Any]) -> None:
    """Raise unless the module's own reader takes the entry."""
    with tempfile.TemporaryDirectory() as folder:
        alone = Path(folder) / "catalog.json"
        alone.write_text(json.dumps({"catalog_version": "1.0", "title": "new", "models": [raw]}), "utf-8")
        for problem in catalog.read(alone)[1]:
            raise PackageError(problem.replace(" of the catalog 'new' was refused", " cannot be put into a catalog"))


def _existing(where: Path) -> dict[str, Any]:
    """The catalog as it is, its entries untouched; a new one where there is none."""
    if not where.exists():
        return {"catalog_version": "1.0", "title": "Models trained with UNetSegment", "models": []}
    catalog.read(where)
    return schema.load_json(where)


def _line(text: str) -> str:
    """``text`` in one line of at most 1000 characters."""
    line = " ".join(text.split())
    return line if len(line) <= 1000 else line[:997] + "..."

"""A model on disk: its manifest, its files, and the proof that they are what the manifest says."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from .. import __version__
from ..errors import PackageError
from . import schema
from .architecture import UNETS
from .manifest import MANIFEST_PATH, WEIGHTS, Manifest
from .pair import PAIR

NETWORKS = (
    "AttentionUnet", "BasicUNet", "DynUNet", "HighResNet", "MedNeXt", "SegResNet", "SegResNetDS", "SwinUNETR",
    "UNETR", "UNet", "VNet", PAIR, *UNETS,
)  # fmt: skip
"""Networks a package may name: MONAI's, a :mod:`pair` of them, and nnU-Net's, described in :mod:`architecture`."""


@dataclass(frozen=True)
class Package:
    """A loaded model package.

    Args:
        root: Its folder.
        manifest: Its validated manifest.
    """

    root: Path
    manifest: Manifest

    def has(self, role: str) -> bool:
        """Whether the package carries a file for ``role``.

        Roles are ``torch``, ``safetensors``, ``onnx`` (with ``.1``, ``.2`` ... for further folds) and ``reference``.
        """
        return role in self.manifest.files

    def role(self, kind: str, fold: int) -> str | None:
        """The role of the ``kind`` of weights (``torch``, ``safetensors``, ``onnx``) of a fold; None: there is none."""
        role = kind if fold == 0 else f"{kind}.{fold}"
        return role if self.has(role) else None

    @property
    def folds(self) -> int:
        """Number of networks whose answers are averaged."""
        return len(self.manifest.folds)

    def path(self, role: str) -> Path:
        """The file for ``role``.

        Raises:
            PackageError: The package has none.
        """
        if not self.has(role):
            raise PackageError(f"Model '{self.manifest.name}' carries no {role} file.")
        return self.root / self.manifest.files[role].path

    def verify(self) -> None:
        """Compare every file with the size and SHA-256 in the manifest.

        Raises:
            PackageError: A file differs; the model must be fetched again.
        """
        for role in self.manifest.files:
            self.verified_bytes(role)

    def verified_bytes(self, role: str) -> bytes:
        """The content of the file for ``role``, read once and proven by size and SHA-256.

        What is verified is what is used: a file cannot change between the check and the reading.
        """
        file = self.manifest.files[role]
        path = self.path(role)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise PackageError(
                f"Model '{self.manifest.name}': {file.path} cannot be read ({error.strerror}); install the model again."
            ) from None
        if len(content) != file.size or hashlib.sha256(content).hexdigest() != file.sha256:
            raise PackageError(
                f"Model '{self.manifest.name}' is damaged: the checksum of {file.path} is wrong; install it again."
            )
        return content

    @property
    def content_hash(self) -> str:
        """SHA-256 of manifest and listed files' hashes: two packages with the same hash are the same model."""
        return hashlib.sha256((self.root / MANIFEST_PATH).read_bytes()).hexdigest()

    @property
    def compiled_folder(self) -> Path:
        """Where in the cache a backend may keep what it made of the network; it goes with the model."""
        return cache_folder() / "compiled" / self.content_hash[:32]


def load(source: str | os.PathLike[str]) -> Package:
    """Open a model by folder, zip, or name of an installed one: a package, a MONAI bundle, or an nnU-Net v2 folder.

    Text is a path where it is absolute or has a separator, as ``./name`` has, and otherwise the name of an installed model: what
    happens to lie in the current folder, which in Slicer is any, is never taken for it. The manifest is validated and every listed file must be there; their content is checked when it is read. A model of
    another kind is converted once, in the cache folder; what was given is left alone.

    Raises:
        PackageError: There is no such model, or it is incomplete, not valid, too new, or names an unknown network.
        OutputError: A zip or converted model finds no room in the cache folder.
    """
    if isinstance(source, str) and not _is_path(source):
        known = installed()
        if source not in known:
            names = ", ".join(sorted(known)) or "none"
            raise PackageError(
                f"There is no model '{source}' among those installed ({names}); a folder or zip is given by its path, "
                f"such as {os.path.join(os.curdir, source)}."
            )
        folder = known[source]
    else:
        folder = Path(source)
        if folder.suffix.lower() == ".zip" and folder.is_file():
            return _from_zip(folder)
        if not folder.is_dir():
            raise PackageError(
                f"There is no model at '{folder}'; give a model's folder or zip, or an installed model's name."
            )
    folder = _converted(folder)
    path = folder / MANIFEST_PATH
    try:
        manifest = _manifest(schema.read_text(path))
    except OSError:
        raise PackageError(
            f"'{folder}' is not a model package: there is no {MANIFEST_PATH} that can be read, nor what a MONAI bundle "
            "(configs/metadata.json, configs/inference.json) or a model of nnU-Net (plans.json, dataset.json) has; choose "
            "the folder that holds them."
        ) from None
    except ValueError as error:
        raise PackageError(f"The model in '{folder}' cannot be read: {MANIFEST_PATH} {error}.") from None
    except PackageError as error:
        raise PackageError(str(error).replace("The model's manifest", f"The manifest of '{folder}'")) from None
    _check(folder, manifest)
    return Package(folder.resolve(), manifest)


def _is_path(text: str) -> bool:
    separators = [each for each in (os.sep, os.altsep) if each]
    return text in (os.curdir, os.pardir) or any(each in text for each in separators) or bool(Path(text).drive)


def from_shell(model: str) -> str | Path:
    """What MODEL means on a command line: the folder or file of that name here, where there is one; else a name for :func:`load`."""
    return Path(model) if Path(model).exists() else model


@lru_cache(maxsize=16)
def _manifest(text: str) -> Manifest:
    """A manifest from its file's content: checked once, while the panel asks for its model at every turn."""
    return Manifest.from_dict(schema.parse_json(text))


def _from_zip(path: Path) -> Package:
    """The model in a zip, which is unpacked once into the cache; what a converted model was made from does not stay."""
    from . import archive, arrival, hashes

    try:
        unpacked = cache_folder() / "converted" / f"zip-{hashes.sha256(path)}"
    except OSError as error:
        raise PackageError(f"'{path}' cannot be read ({error.strerror or error}).") from None
    note = unpacked.with_suffix(".txt")
    if note.is_file():
        made = unpacked.with_name(note.read_text("utf-8").strip())
        if (made / MANIFEST_PATH).is_file():
            return load(made)
    if not unpacked.is_dir():
        try:
            unpacked.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise archive.write_error(error, unpacked.parent) from None
        archive.unpack(path, unpacked)
    try:
        _, found = arrival.find(unpacked, path.name)
    except PackageError:
        shutil.rmtree(unpacked, ignore_errors=True)
        raise
    if not found.root.is_relative_to(unpacked.resolve()):
        note.write_text(found.root.name, "utf-8")
        shutil.rmtree(unpacked, ignore_errors=True)
    return found


def _converted(folder: Path) -> Path:
    """The folder itself, or the package made from it where it holds a model of another kind."""
    if (folder / MANIFEST_PATH).is_file():
        return folder
    from . import bundle, nnunet

    if bundle.is_bundle(folder):
        return bundle.convert(folder, cache_folder() / "converted")
    model = nnunet.find(folder)
    return folder if model is None else nnunet.convert(model, cache_folder() / "converted")


def _check(folder: Path, manifest: Manifest) -> None:
    if manifest.network not in NETWORKS:
        raise PackageError(
            f"Model '{manifest.name}' uses the network '{manifest.network}', which is not one of {', '.join(NETWORKS)}."
        )
    for role, file in manifest.files.items():
        path = folder / file.path
        if not path.resolve().is_relative_to(folder.resolve()):
            raise PackageError(f"Model '{manifest.name}' names the file '{file.path}' outside its own folder.")
        if not path.is_file():
            raise PackageError(
                f"Model '{manifest.name}' is incomplete: {file.path} ({role}) is missing; install it again."
            )
    if not set(WEIGHTS) & set(manifest.files):
        raise PackageError(f"Model '{manifest.name}' carries no weights.")
    numbers = {kind: list(manifest.weights(kind)) for kind in WEIGHTS}
    if (
        any(found != list(range(len(found))) for found in numbers.values())
        or len({len(found) for found in numbers.values() if found}) != 1
    ):
        raise PackageError(f"Model '{manifest.name}' does not carry the same folds of each kind of weights.")
    needed = str(manifest.raw.get("requires", {}).get("unetsegment", "0"))
    if _version(needed) > _version(__version__):
        raise PackageError(
            f"Model '{manifest.name}' needs UNetSegment {needed} or newer, this is {__version__}; update UNetSegment."
        )


def _version(text: str) -> tuple[int, ...]:
    digits = [part for part in text.lstrip(">=v ").split(".")[:3]]
    return tuple(int(part) if part.isdigit() else 0 for part in digits)


def cache_folder() -> Path:
    """Where downloaded and imported models live for this user; ``UNETSEGMENT_CACHE`` overrides it."""
    if chosen := os.environ.get("UNETSEGMENT_CACHE"):
        return Path(chosen)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "UNetSegment"


def resource_folders(name: str) -> list[Path]:
    """Existing ``Resources/<name>`` folders: beside the library (as Slicer installs it) and at the repository's top."""
    library = Path(__file__).resolve().parents[1]
    places = [library.parent / "Resources" / name, library.parents[1] / "Resources" / name]
    return [place for place in places if place.is_dir()]


def installed(recorded: bool = False) -> dict[str, Path]:
    """Names and folders of the models on this computer, of every kind: those that ship, then the user's (which win).

    ``recorded``: also those that were installed, and are so damaged that nothing tells that they are models.
    """
    found: dict[str, Path] = {}
    for place in (*resource_folders("Models"), cache_folder() / "models"):
        if place.is_dir():
            found.update({folder.name: folder for folder in sorted(place.iterdir()) if _is_model(folder)})
    if recorded:
        for record in sorted((cache_folder() / "records").glob("*.json")):
            folder = cache_folder() / "models" / record.stem
            if folder.is_dir():
                found[record.stem] = folder
    return found


def _is_model(folder: Path) -> bool:
    if (folder / MANIFEST_PATH).is_file():
        return True
    from . import bundle

    return bundle.is_bundle(folder) or any((*folder.glob("plans.json"), *folder.glob("*__*__*/plans.json")))

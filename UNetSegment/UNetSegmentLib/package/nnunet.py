"""nnU-Net v2 trained-model folders: recognised, and converted once into a package of our own kind in the cache.

The folder holds plans.json, dataset.json and ``fold_*/checkpoint_final.pth``. It is read and never changed; nothing in it
is executed (see :mod:`pickled`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import OutputError, PackageError
from . import nnunet_plans, schema
from .architecture import UNetArchitecture, check_shapes
from .hashes import NOTES, noted_sha256, sha256
from .manifest import MANIFEST_PATH, Manifest
from .pickled import Checkpoint, Tensor
from .tensors import write_tensors

CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")
"""Weights of a fold, the first that is there."""
JSON_LIMIT = 64 << 20
_TRAINED_ON = "dataset_fingerprint.json"
"""What nnU-Net wrote down of the training images; older or exported folders lack it."""
_REVISION = b"unetsegment-nnunet-2"
"""Changes when the same folder is to be converted anew."""
_UNUSED = re.compile(r"^decoder\.encoder\.|\.all_modules\.|\.num_batches_tracked$")
"""Weights that nnU-Net's files hold twice, or that only training needs."""
_WRAPPED = re.compile(r"^(module\.|_orig_mod\.)+")


@dataclass(frozen=True)
class Folder:
    """An nnU-Net trained-model folder: its place, and the checkpoint of each fold that is averaged."""

    root: Path
    checkpoints: tuple[Path, ...]
    folds: tuple[str, ...]


def find(root: Path) -> Folder | None:
    """The trained model in ``root``, or in its one sub-folder ``Trainer__Plans__configuration``; None: there is none.

    Of several folds all are taken; ``fold_all`` only where there is no other, as nnU-Net does.

    Raises:
        PackageError: There are several models, or one without weights.
    """
    if not (root / "plans.json").is_file():
        inner = sorted(path.parent for path in root.glob("*__*__*/plans.json"))
        if len(inner) > 1:
            names = ", ".join(f"'{path.name}'" for path in inner)
            raise PackageError(f"'{root}' holds several nnU-Net models; give one of its folders {names}.")
        if not inner:
            return None
        root = inner[0]
    if not (root / "dataset.json").is_file():
        return None
    found: dict[str, Path] = {}
    for folder in root.glob("fold_*"):
        name = folder.name.removeprefix("fold_")
        path = next((folder / file for file in CHECKPOINTS if (folder / file).is_file()), None)
        if path is not None and re.fullmatch(r"all|\d{1,3}", name):
            found[name] = path
    folds = sorted((name for name in found if name != "all"), key=int) or list(found)
    if not folds:
        raise PackageError(
            f"The nnU-Net model in '{root}' has no weights: there is no fold_*/{' or '.join(CHECKPOINTS)}."
        )
    if len(folds) > 99:
        raise PackageError(f"The nnU-Net model in '{root}' has more than 99 folds.")
    return Folder(root, tuple(found[name] for name in folds), tuple(folds))


def convert(folder: Folder, cache: Path) -> Path:
    """The folder's package below ``cache``: made now, or found from before by the content's hash.

    Raises:
        PackageError: It cannot be read, or needs what cannot be done as nnU-Net would do it.
        OutputError: The cache cannot be written to.
    """
    digest = _digest(folder, cache / NOTES)
    target = cache / digest
    if (target / MANIFEST_PATH).is_file():
        return target
    with _new_folder(target) as made:
        _write(folder, made, digest)
    return target


def _write(folder: Folder, made: Path, digest: str) -> None:
    """Write manifest and weights."""
    plans, dataset = (_json(folder.root / name) for name in ("plans.json", "dataset.json"))
    files: dict[str, Any] = {}
    first: dict[str, Any] = {}
    how: nnunet_plans.Configuration | None = None
    for fold, path in enumerate(folder.checkpoints):
        with Checkpoint(path, f"{path.parent.name}/{path.name}") as checkpoint:
            about = _about(checkpoint)
            weights = about["network_weights"]
            if how is None:
                batch_norm = any(key.endswith(".running_mean") for key in weights)
                how, first = nnunet_plans.read(plans, dataset, about["configuration"], batch_norm), about
            elif about["configuration"] != first["configuration"]:
                raise PackageError(
                    f"The nnU-Net model's folds are of different configurations, '{first['configuration']}' and "
                    f"'{about['configuration']}'."
                )
            role = "safetensors" if fold == 0 else f"safetensors.{fold}"
            name = f"models/fold_{folder.folds[fold]}.safetensors"
            arrays = _arrays(checkpoint, weights, how.architecture, about["trainer_name"])
            files[role] = _store(made, name, arrays)
    assert how is not None
    if (folder.root / _TRAINED_ON).is_file():
        with suppress(PackageError):  # it only makes the warnings before a run better
            how.entries["fingerprint"] |= nnunet_plans.trained_on(_json(folder.root / _TRAINED_ON), plans)
    manifest = _manifest(folder, plans, dataset, first, how, digest) | {"files": files}
    Manifest.from_dict(manifest)
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    (made / MANIFEST_PATH).parent.mkdir()
    (made / MANIFEST_PATH).write_text(text, "utf-8")


def _about(checkpoint: Checkpoint) -> dict[str, Any]:
    """The entries of a checkpoint that are needed."""
    content = checkpoint.content
    try:
        weights, configuration = content["network_weights"], content["init_args"]["configuration"]
        trainer, axes = content["trainer_name"], content.get("inference_allowed_mirroring_axes")
    except (TypeError, KeyError, AttributeError):
        raise PackageError(f"'{checkpoint.name}' is not a checkpoint of nnU-Net v2.") from None
    fits = isinstance(weights, dict) and all(isinstance(key, str) for key in weights)
    fits = fits and isinstance(configuration, str) and isinstance(trainer, str)
    axes = () if axes is None else axes
    fits = fits and isinstance(axes, list | tuple) and all(type(axis) is int and 0 <= axis < 3 for axis in axes)
    if not fits:
        raise PackageError(f"'{checkpoint.name}' is not a checkpoint of nnU-Net v2.")
    weights = {_WRAPPED.sub("", key): value for key, value in weights.items()}
    return {"network_weights": weights, "configuration": configuration, "trainer_name": trainer, "axes": tuple(axes)}


def _arrays(
    checkpoint: Checkpoint, weights: dict[str, Any], architecture: UNetArchitecture, trainer: str
) -> dict[str, np.ndarray]:
    """The network's weights, float32, each once; all there, of the right shapes, and finite."""
    expected = architecture.shapes()
    other = re.compile(r"^decoder\.seg_layers\.\d+\.")
    kept = {}
    for key, value in weights.items():
        if _UNUSED.search(key) or (other.match(key) and not key.startswith(f"{architecture.head}.")):
            continue  # heads of deep supervision but the last
        if not isinstance(value, Tensor):
            raise PackageError(f"'{checkpoint.name}' is refused: its weight '{key[:80]}' is no tensor.")
        kept[key] = value
    check_shapes(
        f"'{checkpoint.name}' of trainer '{trainer[:60]}' is refused: its weights",
        expected,
        {k: v.shape for k, v in kept.items()},
    )
    arrays = {}
    for key in expected:
        array = checkpoint.array(kept[key])
        if array.dtype.kind != "f":
            raise PackageError(f"'{checkpoint.name}' is refused: its weight '{key}' is of type {array.dtype}.")
        array = array.astype(np.float32, copy=False)
        if not np.isfinite(array).all():
            raise PackageError(f"'{checkpoint.name}' is refused: its weight '{key}' is not finite.")
        arrays[key] = array
    return arrays


def _store(made: Path, name: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Write a fold's weights; returns the entry for the manifest."""
    path = made / name
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as sink:
        write_tensors(sink, arrays)
    return {"path": name, "sha256": sha256(path), "size": path.stat().st_size}


def _manifest(
    folder: Folder,
    plans: dict[str, Any],
    dataset: dict[str, Any],
    about: dict[str, Any],
    how: nnunet_plans.Configuration,
    digest: str,
) -> dict[str, Any]:
    """The manifest, all but its files."""
    entries = how.entries
    if any(axis >= len(how.mirrored) for axis in about["axes"]):
        raise PackageError("The nnU-Net model mirrors along an axis that its patches do not have.")
    entries["inference"]["mirror_axes"] = sorted({how.mirrored[axis] for axis in about["axes"]})
    configuration = about["configuration"]
    dataset_name = str(plans.get("dataset_name") or dataset.get("name") or "model")
    title = str(dataset.get("name") or re.sub(r"^Dataset\d+_", "", dataset_name))
    slug = re.sub(r"[^a-z0-9._-]+", "-", f"{dataset_name}-{configuration}".lower()).strip("-._")[:64] or "nnunet-model"
    reference = dataset.get("reference")
    folds = f"{len(folder.folds)} folds" if len(folder.folds) > 1 else f"fold {folder.folds[0]}"
    manifest = {
        "manifest_version": "1.1",
        "name": slug,
        "title": f"{title} ({configuration})"[:120],
        "version": f"0.0.0+{digest[:12]}",
        "description": f"nnU-Net v2 model of {dataset_name}, configuration {configuration}, {folds}, "
        f"trainer {about['trainer_name']}. {dataset.get('description') or ''}".strip()[:4000],
        "licence": {"name": str(dataset.get("licence") or dataset.get("license") or "unknown")},
        "intended_use": "Not stated by the model's folder.",
        "training_data": {"name": dataset_name},
        **entries,
    }
    if isinstance(reference, str) and reference:
        manifest["training_data"]["source"] = reference
    if type(dataset.get("numTraining")) is int and dataset["numTraining"] >= 0:
        manifest["training_data"]["cases"] = dataset["numTraining"]
    if steps := _postprocessing(folder, {label["value"] for label in entries["labels"]}):
        manifest["postprocessing"] = steps
    return manifest


def _postprocessing_file(folder: Folder) -> Path | None:
    """Where nnU-Net's model selection wrote its post-processing for these folds."""
    selected = f"crossval_results_folds_{'_'.join(folder.folds)}"
    places = [folder.root / "postprocessing.json", folder.root / selected / "postprocessing.json"]
    return next((path for path in places if path.is_file()), None)


def _postprocessing(folder: Folder, values: set[int]) -> list[dict[str, Any]]:
    """nnU-Net's steps as ours: names and labels from the JSON; the pickle beside it is never opened."""
    path = _postprocessing_file(folder)
    if path is None:
        return []
    steps = []
    try:
        if path.stat().st_size > JSON_LIMIT:
            raise ValueError
        # its measured values hold NaN, which strict JSON does not know
        table = json.loads(path.read_text("utf-8"), parse_constant=lambda _: None)
        for name, options in zip(table["postprocessing_fns"], table["postprocessing_kwargs"], strict=True):
            if name != "remove_all_but_largest_component_from_segmentation" or options.get("background_label", 0) != 0:
                raise PackageError(f"The nnU-Net model's post-processing '{str(name)[:80]}' is unknown.")
            labels = sorted(set(_flat(options["labels_or_regions"])) & values - {0})
            if labels:
                steps.append({"method": "keep_largest_component", "labels": labels, "connectivity": "corners"})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError):
        raise PackageError(f"'{path.name}' of the nnU-Net model cannot be read.") from None
    return steps


def _flat(entry: Any) -> Iterator[int]:
    """Labels in a label, a region, or a list of them."""
    if isinstance(entry, list):
        for part in entry:
            yield from _flat(part)
    elif type(entry) is int:
        yield entry
    else:
        raise ValueError


def _json(path: Path) -> dict[str, Any]:
    try:
        table = schema.load_json(path, JSON_LIMIT)
    except OSError as error:
        raise PackageError(f"'{path}' cannot be read ({error.strerror}).") from None
    except ValueError as error:
        raise PackageError(f"The nnU-Net model's {path.name} cannot be read: it {error}.") from None
    if not isinstance(table, dict):
        raise PackageError(f"The nnU-Net model's {path.name} is no table.")
    return table


def _digest(folder: Folder, notes: Path) -> str:
    """SHA-256 of all that the package is made from."""
    digest = hashlib.sha256(_REVISION)
    paths = [folder.root / "plans.json", folder.root / "dataset.json", *folder.checkpoints]
    if (steps := _postprocessing_file(folder)) is not None:
        paths.append(steps)
    if (folder.root / _TRAINED_ON).is_file():
        paths.append(folder.root / _TRAINED_ON)
    try:
        for path in paths:
            digest.update(
                path.relative_to(folder.root).as_posix().encode() + b"\0" + bytes.fromhex(noted_sha256(path, notes))
            )
    except OSError as error:
        raise PackageError(f"'{error.filename}' cannot be read ({error.strerror}).") from None
    return digest.hexdigest()


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A folder beside ``target`` that is renamed to it when all is written; nothing is left behind otherwise."""
    part = target.with_name(f".{target.name[:16]}.{secrets.token_hex(4)}.part")
    try:
        part.mkdir(parents=True)
        yield part
        if target.exists():  # not whole: it would have been taken
            shutil.rmtree(target)
        try:
            os.rename(part, target)
        except OSError:
            if not (target / MANIFEST_PATH).is_file():  # another process was faster
                raise
    except OSError as error:
        raise OutputError(
            f"The converted model cannot be kept in '{target.parent}' ({error.strerror or error}); free space there, "
            "or choose another cache folder."
        ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)

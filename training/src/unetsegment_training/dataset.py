"""Folders of images and labels: Medical Segmentation Decathlon and nnU-Net raw layout, checked before training."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from UNetSegmentLib import io
from UNetSegmentLib.errors import InputError, UNetSegmentError
from UNetSegmentLib.volume import LabelMap, Volume

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")


class DatasetError(UNetSegmentError):
    """A training folder cannot be used as it is; the sentence names the case."""


@dataclass(frozen=True)
class Case:
    """One patient's images, a file per channel, and the expert's labels."""

    name: str
    images: tuple[Path, ...]
    label: Path

    def load(self) -> tuple[Volume, LabelMap]:
        """Read images (C, I, J, K) and labels (I, J, K).

        Raises:
            DatasetError: They are on different grids, or a file cannot be read.
        """
        try:
            image = Volume.stack([io.read_volume(path) for path in self.images])
            label = io.read_labelmap(self.label)
        except InputError as error:
            raise DatasetError(f"Case '{self.name}': {error}") from None
        if not image.grid.is_close(label.grid, tolerance=1e-2):
            raise DatasetError(
                f"Case '{self.name}': image and label differ in grid "
                f"(sizes {image.grid.shape} and {label.grid.shape}); resample the label or leave the case out."
            )
        return image, label


@dataclass(frozen=True)
class Dataset:
    """A training folder.

    Args:
        root: The folder.
        name: From ``dataset.json``.
        channels: Name per channel, in order.
        labels: Name per label value, background (0) included.
        cases: Sorted by name.
        raw: ``dataset.json`` as it is.
    """

    root: Path
    name: str
    channels: tuple[str, ...]
    labels: dict[int, str]
    cases: tuple[Case, ...]
    raw: dict[str, Any]


def read_dataset(folder: str | Path, skip_bad: bool = False) -> tuple[Dataset, list[str]]:
    """List and check a training folder (``dataset.json``, ``imagesTr``, ``labelsTr``).

    Args:
        folder: Single-channel images are ``NAME.nii.gz`` (Decathlon) or ``NAME_0000.nii.gz`` (nnU-Net).
        skip_bad: Leave faulty cases out instead of stopping at the first.

    Returns:
        The dataset of good cases, and a sentence for each case that was left out.

    Raises:
        DatasetError: The folder has no readable ``dataset.json``, no case, or (unless ``skip_bad``) a faulty case.
    """
    root = Path(folder)
    raw = _read_json(root)
    channels = tuple(str(v) for _, v in sorted((raw.get("channel_names") or raw.get("modality") or {}).items()))
    if not channels:
        raise DatasetError(f"'{root / 'dataset.json'}' names no channels ('channel_names' or 'modality').")
    labels = _labels(raw, root)
    cases, problems = _pair(root, len(channels))
    good = []
    for case in cases:
        try:
            values = np.unique(case.load()[1].array)
            if unknown := sorted(set(values.tolist()) - set(labels)):
                raise DatasetError(
                    f"Case '{case.name}': its label has the value {unknown[0]}, which dataset.json does not name."
                )
            good.append(case)
        except DatasetError as error:
            problems.append(str(error))
    if problems and not skip_bad:
        more = f" ({len(problems) - 1} more cases are faulty)" if len(problems) > 1 else ""
        raise DatasetError(f"{problems[0]}{more} Use --skip-bad to train without them.")
    if not good:
        raise DatasetError(f"'{root}' has no usable case in imagesTr and labelsTr.")
    return Dataset(root, str(raw.get("name", root.name)), channels, labels, tuple(good), raw), problems


def _read_json(root: Path) -> dict[str, Any]:
    path = root / "dataset.json"
    try:
        raw = json.loads(path.read_text("utf-8"))
    except OSError:
        raise DatasetError(f"'{root}' has no readable dataset.json; give a Decathlon or nnU-Net raw folder.") from None
    except ValueError as error:
        raise DatasetError(f"'{path}' is not JSON ({error}).") from None
    if not isinstance(raw, dict):
        raise DatasetError(f"'{path}' is not a JSON object.")
    return raw


def _labels(raw: dict[str, Any], root: Path) -> dict[int, str]:
    """Decathlon writes ``{"1": "Anterior"}``, nnU-Net ``{"Anterior": 1}``."""
    try:
        pairs = [(int(k), str(v)) if str(k).isdigit() else (int(v), str(k)) for k, v in raw["labels"].items()]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DatasetError(
            f"'{root / 'dataset.json'}' has no plain 'labels' table (value and name; regions are not supported)."
        ) from None
    return dict(sorted({0: "background", **dict(pairs)}.items()))


def _pair(root: Path, channels: int) -> tuple[list[Case], list[str]]:
    def stems(folder: Path) -> dict[str, Path]:
        files = sorted(folder.glob("*")) if folder.is_dir() else []
        ends = ((p, next((e for e in ENDINGS if p.name.endswith(e)), None)) for p in files)
        return {p.name.removesuffix(e): p for p, e in ends if e and not p.name.startswith(".")}

    images, labels = stems(root / "imagesTr"), stems(root / "labelsTr")
    numbered = {name: [images.get(f"{name}_{c:04d}") for c in range(channels)] for name in labels}
    cases, problems, used = [], [], set()
    for name, label in labels.items():
        parts = numbered[name] if any(numbered[name]) else [images.get(name)] * (channels == 1)
        if not parts or not all(parts):
            problems.append(f"Case '{name}': the label has no image in imagesTr (or not every channel of it).")
            continue
        used |= set(parts)
        cases.append(Case(name, tuple(p for p in parts if p), label))
    problems += [f"Case '{stem}': the image has no label in labelsTr." for stem, p in images.items() if p not in used]
    return cases, problems

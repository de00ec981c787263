"""Folders of images and labels, checked before training.

Three layouts: the Medical Segmentation Decathlon's and nnU-Net's raw one (``dataset.json``, ``imagesTr``, ``labelsTr``), and
what 3D Slicer saves: images with a ``.seg.nrrd`` beside them (:mod:`slicer_pairs`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from UNetSegmentLib import io
from UNetSegmentLib.errors import InputError, UNetSegmentError
from UNetSegmentLib.volume import Grid, LabelMap, Volume

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")
ORIENTATION = "RAS"
"""To which every image is turned before a network sees it."""


class DatasetError(UNetSegmentError):
    """A training folder cannot be used as it is; the sentence names the case."""


@dataclass(frozen=True)
class Case:
    """One patient's images, a file per channel, and the expert's labels.

    ``values`` is for ``.seg.nrrd`` files, whose numbers differ from file to file: the dataset's value of each segment
    name (as :func:`same_name` writes it). None where the file's own numbers count. ``renumber``, where it is not empty, turns
    the dataset's values into those of a model that training goes on from; what it does not name becomes 0.
    """

    name: str
    images: tuple[Path, ...]
    label: Path
    values: tuple[tuple[str, int], ...] | None = None
    renumber: tuple[tuple[int, int], ...] = ()

    def load(self) -> tuple[Volume, LabelMap]:
        """Read images (C, I, J, K) and labels (I, J, K).

        Raises:
            DatasetError: They are on different grids, or a file cannot be read.
        """
        try:
            image = Volume.stack([io.read_volume(path) for path in self.images])
            label = io.read_labelmap(self.label)
            if self.values is not None:
                label = _on_grid(_by_name(label, dict(self.values)), image.grid)
        except InputError as error:
            raise DatasetError(f"Case '{self.name}': {error}") from None
        if not image.grid.is_close(label.grid, tolerance=1e-2):
            advice = "resample the label"
            if self.values is not None:
                advice = "in Slicer's Segment Editor set the segmentation's geometry to the image and save it again"
            raise DatasetError(
                f"Case '{self.name}': image and label differ in grid ({_difference(image.grid, label.grid)}); {advice}, "
                "or leave the case out."
            )
        if self.renumber:
            table = np.zeros(65536, np.uint16)
            table[[old for old, _ in self.renumber]] = [new for _, new in self.renumber]
            label = LabelMap(table[label.array], label.grid, label.labels, label.metadata)
        return image, label


def _difference(image: Grid, label: Grid) -> str:
    """In which way two grids differ, in words."""
    if image.shape == label.shape:
        return f"the same size, but corners {float(np.abs(image.corners() - label.corners()).max()):.3g} mm apart"
    matrix = label.index_in(image)
    offset = matrix[:3, 3]
    beside = float(np.abs(offset - np.round(offset)).max())
    sizes = f"sizes {image.shape} and {label.shape}"
    if np.allclose(matrix[:3, :3], np.eye(3), atol=1e-2) and beside > 1e-2:
        return f"{sizes}, the label's voxels {beside:.2g} voxels beside those of the image"
    return sizes


def same_name(name: str) -> str:
    """A segment's name without the differences that people do not mean: case and spaces."""
    return " ".join(name.casefold().split())


def _by_name(label: LabelMap, values: dict[str, int]) -> LabelMap:
    """The map with each segment's voxels set to the dataset's value of that name.

    Raises:
        InputError: A segment that has voxels bears a name the dataset does not have.
    """
    table = np.zeros(65536, np.uint16)
    for segment in label.segments:
        if same_name(segment.name) in values:
            table[segment.value] = values[same_name(segment.name)]
        elif (label.array == segment.value).any():
            raise InputError(f"its segment '{segment.name}' is none of the dataset's labels.")
    return LabelMap(table[label.array], label.grid, label.labels, label.metadata)


def _on_grid(label: LabelMap, grid: Grid) -> LabelMap:
    """The map on the image's grid where its own is a part of that, as Slicer saves it when it crops to the segments.

    Otherwise it is returned as it is, for the caller to refuse.
    """
    matrix = label.grid.index_in(grid)
    offset = np.round(matrix[:3, 3]).astype(int)
    shift = np.eye(4)
    shift[:3, 3] = offset
    if label.grid.is_close(grid, tolerance=1e-2) or not np.allclose(matrix, shift, atol=1e-2):
        return label
    stop = offset + label.grid.shape
    if (offset < 0).any() or (stop > grid.shape).any():
        return label
    whole = np.zeros(grid.shape, label.array.dtype)
    whole[tuple(slice(a, b) for a, b in zip(offset, stop))] = label.array
    return LabelMap(whole, grid, label.labels, label.metadata)


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


Problem = tuple[str, str]
"""Name of the case ("" for the dataset as a whole), and the sentence about it."""


def list_cases(folder: str | Path) -> tuple[Dataset, list[Problem]]:
    """The cases of a folder as its names tell them; no image is opened.

    Args:
        folder: ``dataset.json``, ``imagesTr``, ``labelsTr`` (single-channel images are ``NAME.nii.gz``, as in the
            Decathlon, or ``NAME_0000.nii.gz``, as in nnU-Net), or a folder of pairs that 3D Slicer saved.

    Returns:
        The dataset of cases that have all their files, and what is wrong with the others.

    Raises:
        DatasetError: The folder holds none of the layouts.
    """
    from .slicer_pairs import list_pairs, looks_like_pairs

    root = Path(folder)
    if not root.is_dir():
        raise DatasetError(f"There is no folder '{root}'; check the path.")
    if looks_like_pairs(root):
        return list_pairs(root, _read_json(root) if (root / "dataset.json").exists() else {})
    raw = _read_json(root)
    named = raw.get("channel_names") or raw.get("modality") or {}
    if not isinstance(named, dict):
        raise DatasetError(f'\'{root / "dataset.json"}\' must name channels by number, as in {{"0": "MRI"}}.')
    channels = tuple(str(named[k]) for k in sorted(named, key=lambda k: (not str(k).isdigit(), str(k).zfill(9))))
    if not channels:
        raise DatasetError(f"'{root / 'dataset.json'}' names no channels ('channel_names' or 'modality').")
    labels = read_labels(raw, root)
    cases, problems = _pair(root, len(channels))
    problems += _listed_but_missing(raw, {case.name for case in cases} | {name for name, _ in problems})
    return Dataset(root, str(raw.get("name", root.name)), channels, labels, tuple(cases), raw), problems


def read_dataset(folder: str | Path, skip_bad: bool = False) -> tuple[Dataset, list[str]]:
    """List a training folder and open every case of it.

    Args:
        folder: As :func:`list_cases` takes it.
        skip_bad: Leave faulty cases out instead of stopping at the first.

    Returns:
        The dataset of good cases, and a sentence for each case that was left out.

    Raises:
        DatasetError: The folder is no dataset, has no case, or (unless ``skip_bad``) a faulty case.
    """
    dataset, found = list_cases(folder)
    problems = [text for _, text in found]
    good, labelled = [], False
    for case in dataset.cases:
        try:
            labelled = bool(check_values(case, case.load()[1], dataset.labels).any()) or labelled
            good.append(case)
        except DatasetError as error:
            problems.append(str(error))
    if problems and not skip_bad:
        more = f" ({len(problems) - 1} more cases are faulty)" if len(problems) > 1 else ""
        raise DatasetError(f"{problems[0]}{more} Use --skip-bad to train without them.")
    if not good:
        raise DatasetError(f"'{dataset.root}' has no usable case in imagesTr and labelsTr.")
    if not labelled:
        raise DatasetError(f"Nothing is labelled in any case of '{dataset.root}'; there is nothing to learn.")
    return replace(dataset, cases=tuple(good)), problems


def check_values(case: Case, label: LabelMap, labels: dict[int, str]) -> np.ndarray:
    """The label values of a case.

    Raises:
        DatasetError: One of them has no name.
    """
    values = np.unique(label.array)
    if unknown := sorted(set(values.tolist()) - set(labels)):
        raise DatasetError(
            f"Case '{case.name}': its label has the value {unknown[0]}, which dataset.json does not name."
        )
    return values


def _read_json(root: Path) -> dict[str, Any]:
    path = root / "dataset.json"
    try:
        raw = json.loads(path.read_text("utf-8"))
    except OSError:
        raise DatasetError(
            f"'{root}' has no readable dataset.json; give a Decathlon or nnU-Net raw folder, "
            "or one with images and .seg.nrrd files as 3D Slicer saves them."
        ) from None
    except ValueError as error:
        raise DatasetError(f"'{path}' is not JSON ({error}).") from None
    if not isinstance(raw, dict):
        raise DatasetError(f"'{path}' is not a JSON object.")
    return raw


def read_labels(raw: dict[str, Any], root: Path) -> dict[int, str]:
    """Name per label value, background included. Decathlon writes ``{"1": "Anterior"}``, nnU-Net ``{"Anterior": 1}``."""
    try:
        pairs = [(int(k), str(v)) if str(k).isdigit() else (int(v), str(k)) for k, v in raw["labels"].items()]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DatasetError(
            f"'{root / 'dataset.json'}' has no plain 'labels' table (value and name; regions are not supported)."
        ) from None
    labels = dict(sorted({0: "background", **dict(pairs)}.items()))
    names = [same_name(name) for name in labels.values()]
    twice = next((name for name in labels.values() if names.count(same_name(name)) > 1), None)
    if twice is not None or len(pairs) != len(dict(pairs)):
        what = f"the name '{twice}'" if twice is not None else "a value"
        raise DatasetError(
            f"'{root / 'dataset.json'}' gives {what} to two labels; labels need values and names of their own."
        )
    if wrong := [value for value in labels if not 0 <= value <= 65535]:
        raise DatasetError(f"'{root / 'dataset.json'}' has the label value {wrong[0]}; values are 0 to 65535.")
    if "ignore" in names:
        raise DatasetError(
            f"'{root / 'dataset.json'}' has nnU-Net's label 'ignore', which would be trained as a structure here; label these "
            "voxels, or rename it if that is what it is."
        )
    return labels


def stem_of(path: Path) -> str | None:
    """A file's name without its ending; None where it is no image file."""
    ending = next((e for e in ENDINGS if path.name.lower().endswith(e)), None)
    return path.name[: -len(ending)] if ending and not path.name.startswith(".") else None


def _files(folder: Path) -> tuple[dict[str, Path], list[Problem]]:
    found: dict[str, Path] = {}
    problems = []
    for path in sorted(folder.glob("*")) if folder.is_dir() else []:
        stem = stem_of(path)
        if stem in found:
            text = f"Case '{stem}': {folder.name} has it twice, '{found[stem].name}' and '{path.name}'; remove one."
            problems.append((stem, text))
        elif stem is not None:
            found[stem] = path
    return found, problems


def _pair(root: Path, channels: int) -> tuple[list[Case], list[Problem]]:
    (images, problems), (labels, more) = _files(root / "imagesTr"), _files(root / "labelsTr")
    problems += more
    numbered = {name: [images.get(f"{name}_{c:04d}") for c in range(channels)] for name in labels}
    cases, used = [], set()
    for name, label in labels.items():
        parts = numbered[name] if any(numbered[name]) else [images.get(name)] * (channels == 1)
        used |= set(parts)
        if not parts or not all(parts):
            text = f"Case '{name}': the label has no image in imagesTr (or not every channel of it)."
            problems.append((name, text))
            continue
        cases.append(Case(name, tuple(p for p in parts if p), label))
    problems += [
        (stem, f"Case '{stem}': the image has no label in labelsTr.") for stem, p in images.items() if p not in used
    ]
    return cases, problems


def _listed_but_missing(raw: dict[str, Any], known: set[str]) -> list[Problem]:
    """Cases that ``dataset.json`` lists under "training" (Decathlon) and of which there is no file."""
    entries = raw.get("training")
    listed = [e["label"] for e in entries if isinstance(e, dict) and "label" in e] if isinstance(entries, list) else []
    names = [stem_of(Path(str(path))) for path in listed]
    return [
        (name, f"Case '{name}': dataset.json lists it, but imagesTr and labelsTr have no file of it.")
        for name in names
        if name and name not in known
    ]

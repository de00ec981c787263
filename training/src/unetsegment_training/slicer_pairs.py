"""Folders as 3D Slicer saves them: an image, and a segmentation (``.seg.nrrd``) beside it, per case.

Slicer numbers segments anew in each file, so labels are told apart by their names. A folder may hold all cases, or one
folder per case; a segmentation belongs to the image of the same folder whose name its own begins with
(``case_07.nrrd`` and ``case_07-segmentation.seg.nrrd``), or to the only image there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from UNetSegmentLib import io
from UNetSegmentLib.errors import InputError

from .dataset import Case, Dataset, DatasetError, Problem, read_labels, same_name, stem_of

SEGMENTATION = ".seg.nrrd"


def looks_like_pairs(root: Path) -> bool:
    """Whether a folder holds segmentations of Slicer and is not laid out with ``imagesTr``."""
    return root.is_dir() and not (root / "imagesTr").exists() and next(root.rglob(f"*{SEGMENTATION}"), None) is not None


def list_pairs(root: Path, raw: dict[str, Any]) -> tuple[Dataset, list[Problem]]:
    """The cases of a folder of pairs; of the images only the names are read, of the segmentations the headers.

    Args:
        root: The folder.
        raw: ``dataset.json`` where there is one: its ``labels`` then say which names count, and as which value.

    Returns:
        The dataset, and what is wrong with cases that were left out. Without ``dataset.json`` the labels are the names
        in the files, in the order of the first case, later ones behind; the channel is called as the images are where
        all have one name (``T1.nrrd``), else "image".
    """
    cases: dict[str, tuple[Path, Path]] = {}
    problems: list[Problem] = []
    for folder in sorted({path.parent for path in root.rglob("*") if stem_of(path)}):
        found, wrong = _pairs_in(folder, root)
        problems += wrong
        for name, pair in found.items():
            if name in cases:
                problems.append((name, f"Case '{name}': the name stands for two pairs of files; rename one."))
            cases.setdefault(name, pair)
    names: dict[str, list[str]] = {}
    for name, (_, path) in sorted(cases.items()):
        try:
            names[name] = _segment_names(path)
        except InputError as error:
            problems.append((name, f"Case '{name}': {error}"))
    labels = read_labels(raw, root) if raw.get("labels") else _labels(names)
    values = tuple((same_name(text), value) for value, text in labels.items() if value)
    listed = tuple(Case(name, (cases[name][0],), cases[name][1], values) for name in names)
    stems = {stem_of(image) for image, _ in cases.values()}
    channels = raw.get("channel_names") or raw.get("modality") or {"0": stems.pop() if len(stems) == 1 else "image"}
    if len(channels) != 1:
        raise DatasetError(f"'{root / 'dataset.json'}' names {len(channels)} channels, but pairs have one image each.")
    return Dataset(
        root, str(raw.get("name", root.name)), (str(next(iter(channels.values()))),), labels, listed, raw
    ), problems


def _labels(names: dict[str, list[str]]) -> dict[int, str]:
    order: dict[str, str] = {}
    for found in names.values():
        for name in found:
            order.setdefault(same_name(name), " ".join(name.split()))
    return {0: "background", **{value: name for value, name in enumerate(order.values(), start=1)}}


def _segment_names(path: Path) -> list[str]:
    """Names of the segments.

    Raises:
        InputError: There is none, or a name stands for two of them.
    """
    found = [label.name for label in io.read_segments(path)]
    if not found:
        raise InputError(f"'{path.name}' names no segments; save it from 3D Slicer as a segmentation (.seg.nrrd).")
    same = [same_name(name) for name in found]
    if twice := next((name for name, key in zip(found, same) if same.count(key) > 1), None):
        raise InputError(f"'{path.name}' has two segments called '{twice}'; rename or merge one.")
    return found


def _pairs_in(folder: Path, root: Path) -> tuple[dict[str, tuple[Path, Path]], list[Problem]]:
    """Case name to (image, segmentation) for the files of one folder."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    segmentations = [p for p in files if p.name.lower().endswith(SEGMENTATION)]
    images = {stem: p for p in files if p not in segmentations and (stem := stem_of(p))}
    inside = folder.relative_to(root).as_posix().replace("/", "_") if folder != root else ""
    found: dict[str, tuple[Path, Path]] = {}
    problems: list[Problem] = []
    for path in segmentations:
        stem = path.name[: -len(SEGMENTATION)]
        partners = [s for s in images if stem == s or (stem.startswith(s) and not stem[len(s)].isalnum())]
        partner = max(partners, key=len) if partners else None
        if partner is None and len(images) == len(segmentations) == 1:
            partner = next(iter(images))
        alone = len(segmentations) == 1 and inside
        name = inside if alone else "_".join(filter(None, (inside, partner or stem)))
        if partner is None:
            text = f"Case '{name}': there is no image beside '{path.name}'; its name should begin with the image's."
            problems.append((name, text))
        elif name in found:
            problems.append((name, f"Case '{name}': '{images[partner].name}' has two segmentations; keep one."))
        else:
            found[name] = (images[partner], path)
    used = {image for image, _ in found.values()}
    for stem, image in images.items():
        if image not in used:
            name = inside if len(images) == 1 and inside else "_".join(filter(None, (inside, stem)))
            problems.append((name, f"Case '{name}': there is no segmentation (.seg.nrrd) beside '{image.name}'."))
    return found, problems

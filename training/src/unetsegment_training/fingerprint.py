"""What a dataset is made of: sizes, spacings, intensities, label volumes, and what is wrong with which case.

The numbers that plans are made from (sizes after cropping to what is not zero, spacings, intensities of the labelled
voxels) are those of nnU-Net's fingerprint (Isensee et al., Nature Methods 2021), so plans can be compared. Axes are
(i, j, k) of the image turned to RAS, as the network will see it; nnU-Net's own files list (k, j, i) of the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from UNetSegmentLib.volume import AXIS_CODES, LabelMap, Volume

from .dataset import ORIENTATION, Case, Dataset, DatasetError, Problem, check_values

POOLED = 10_000_000
"""Intensities pooled over the dataset, per channel; the cases share them equally, as in nnU-Net (which takes 1e8)."""
Triple = tuple[int, int, int]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Intensities(_Strict):
    """Statistics of voxel intensities, in the file's units."""

    mean: float
    std: float
    min: float
    p00_5: float
    median: float
    p99_5: float
    max: float


class LabelFacts(_Strict):
    """One label in one case: voxels, volume, and the faces of the image it touches ("L", "R", "P", "A", "I", "S")."""

    voxels: int
    volume_ml: float
    touches: str = ""


class CaseFacts(_Strict):
    """One case, in RAS: sizes in voxels, spacing in mm, intensities per channel, labels by value.

    ``foreground`` are the labelled voxels' intensities (None where nothing is labelled). ``content`` is a hash of the
    voxels and their size, alike for files that differ in name, compression or header only.
    """

    name: str
    orientation: str
    shape: Triple
    cropped_shape: Triple
    spacing: tuple[float, float, float]
    image: tuple[Intensities, ...]
    foreground: tuple[Intensities, ...] | None
    labels: dict[int, LabelFacts]
    content: str


class Finding(_Strict):
    """Something a person should know before training; ``case`` is "" for the dataset as a whole.

    An "error" keeps the case from being trained on; a "warning" deserves a look; a "note" is for information.
    """

    case: str
    kind: str
    severity: Literal["error", "warning", "note"]
    text: str


class Fingerprint(_Strict):
    """A dataset in numbers; ``foreground`` pools the labelled voxels of all cases, each case with the same weight."""

    version: Literal[1] = 1
    name: str
    channels: tuple[str, ...]
    labels: dict[int, str]
    cases: tuple[CaseFacts, ...]
    foreground: tuple[Intensities, ...] | None
    median_relative_size_after_cropping: float
    findings: tuple[Finding, ...]

    def of_case(self, name: str) -> list[Finding]:
        """What was found about one case."""
        return [finding for finding in self.findings if finding.case == name]

    @classmethod
    def load(cls, path: Path) -> Fingerprint:
        """Read ``fingerprint.json``.

        Raises:
            DatasetError: It cannot be read or is not one.
        """
        return read_model(cls, path, "a fingerprint; make it with 'unetsegment-train inspect'")


def read_model(kind: type[BaseModel], path: Path, what: str) -> object:
    """A JSON file as a checked ``kind``.

    Raises:
        DatasetError: One sentence: the file cannot be read, is not JSON, or its first wrong entry.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"'{path}' cannot be read ({error.strerror}).") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise DatasetError(f"'{path}' is not {what} ({where + ': ' if where else ''}{message}).") from None


@dataclass(frozen=True)
class Loaded:
    """What is kept of a case besides its facts, until all have been seen.

    Args:
        quantiles: Per channel evenly spaced quantiles of the labelled voxels; empty where there are none.
        thumbnail: The first channel shrunk to 16 x 16 x 16, standardised, flat; for finding copies.
    """

    quantiles: tuple[np.ndarray, ...]
    thumbnail: np.ndarray


def take(
    dataset: Dataset,
    problems: Iterable[Problem] = (),
    each: Callable[[Case, Volume, LabelMap], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Fingerprint:
    """Open every case once and describe the dataset.

    Args:
        dataset: From :func:`dataset.list_cases`, as are ``problems``.
        each: Called with every usable case (in RAS), for pictures.
        progress: Called with cases done and cases in all.

    Raises:
        DatasetError: No case can be used.
    """
    from .findings import look_through

    findings = [Finding(case=name, kind="files", severity="error", text=text) for name, text in problems]
    facts: list[CaseFacts] = []
    loaded: list[Loaded] = []
    share = max(POOLED // max(len(dataset.cases), 1), 1)
    for done, case in enumerate(dataset.cases, start=1):
        try:
            image, label = case.load()
            check_values(case, label, dataset.labels)
            image, turn = image.reoriented(ORIENTATION)
            label = LabelMap(turn.apply(label.array), image.grid, label.labels)
            facts.append(_describe(case, image, label, dataset))
            loaded.append(_keep(image, label, share))
            if each:
                each(case, image, label)
        except DatasetError as error:
            findings.append(Finding(case=case.name, kind="unusable", severity="error", text=str(error)))
        if progress:
            progress(done, len(dataset.cases))
    if not facts:
        first = f" The first problem: {findings[0].text}" if findings else ""
        raise DatasetError(f"'{dataset.root}' has no usable case.{first}")
    relative = [np.prod(f.cropped_shape) / np.prod(f.shape) for f in facts]
    return Fingerprint(
        name=dataset.name,
        channels=dataset.channels,
        labels=dataset.labels,
        cases=tuple(facts),
        foreground=_pool(facts, loaded, len(dataset.channels)),
        median_relative_size_after_cropping=float(np.median(relative)),
        findings=(*findings, *look_through(dataset, facts, [kept.thumbnail for kept in loaded])),
    )


def _describe(case: Case, image: Volume, label: LabelMap, dataset: Dataset) -> CaseFacts:
    counts = np.bincount(label.array.reshape(-1), minlength=max(dataset.labels) + 1)
    faces = _faces(label.array)
    labels = {
        value: LabelFacts(
            voxels=int(counts[value]),
            volume_ml=float(counts[value]) * image.grid.voxel_volume_ml,
            touches=faces.get(value, ""),
        )
        for value in dataset.labels
        if value
    }
    inside = label.array > 0
    digest = hashlib.sha256(repr(image.array.shape).encode())
    for channel in image.array:
        digest.update(np.ascontiguousarray(channel, np.float32).tobytes())
    return CaseFacts(
        name=case.name,
        orientation=_file_orientation(case),
        shape=image.grid.shape,
        cropped_shape=cropped_shape(image.array),
        spacing=image.grid.spacing,
        image=tuple(_intensities(channel) for channel in image.array),
        foreground=tuple(_intensities(channel[inside]) for channel in image.array) if inside.any() else None,
        labels=labels,
        content=digest.hexdigest(),
    )


def _file_orientation(case: Case) -> str:
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(case.images[0]))
    reader.ReadImageInformation()
    n = reader.GetDimension()
    axes = np.reshape(reader.GetDirection(), (n, n))
    if n < 3:
        return ""
    columns = np.diag([-1.0, -1.0, 1.0]) @ axes[:3, :3]  # LPS to RAS
    main = np.abs(columns).argmax(axis=0)
    return "".join(AXIS_CODES[a][int(columns[a, n] > 0)] for n, a in enumerate(main))


def cropped_shape(image: np.ndarray) -> Triple:
    """Size of the box around the voxels that are not zero in every channel (C, I, J, K); the whole where all are."""
    mask = (image != 0).any(axis=0)
    sides = []
    for axis in range(3):
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        sides.append(int(hit[-1] - hit[0] + 1) if len(hit) else mask.shape[axis])
    return tuple(sides)  # type: ignore[return-value]


def _faces(label: np.ndarray) -> dict[int, str]:
    """Per label value the outer faces of the image (I, J, K; RAS) that it reaches."""
    found: dict[int, str] = {}
    for axis in range(3):
        for side, index in ((0, 0), (1, -1)):
            for value in np.unique(label.take(index, axis=axis)).tolist():
                found[value] = found.get(value, "") + AXIS_CODES[axis][side]
    return found


def _intensities(values: np.ndarray) -> Intensities:
    values = values.astype(np.float64)
    low, middle, high = np.percentile(values, (0.5, 50, 99.5))
    return Intensities(
        mean=float(values.mean()), std=float(values.std()), min=float(values.min()), p00_5=float(low),
        median=float(middle), p99_5=float(high), max=float(values.max()),
    )  # fmt: skip


def _keep(image: Volume, label: LabelMap, share: int) -> Loaded:
    inside = label.array > 0
    count = min(share, int(inside.sum()))
    places = (np.arange(count) + 0.5) / max(count, 1)
    quantiles = tuple(
        np.quantile(c[inside], places).astype(np.float32) if count else np.zeros(0, np.float32) for c in image.array
    )
    picked = [np.linspace(0, n - 1, 16).round().astype(int) for n in image.grid.shape]
    small = image.array[0][np.ix_(*picked)].astype(np.float32).reshape(-1)
    return Loaded(quantiles, (small - small.mean()) / (small.std() + 1e-9) / np.sqrt(small.size))


def _pool(facts: list[CaseFacts], loaded: list[Loaded], channels: int) -> tuple[Intensities, ...] | None:
    """Mean and deviation follow exactly from the cases' moments, percentiles from their pooled quantiles."""
    rows = [(f.foreground, kept.quantiles) for f, kept in zip(facts, loaded) if f.foreground]
    if not rows:
        return None
    pooled = []
    for c in range(channels):
        each = [row[0][c] for row in rows]
        mean = float(np.mean([x.mean for x in each]))
        square = float(np.mean([x.std**2 + x.mean**2 for x in each]))
        values = np.concatenate([row[1][c] for row in rows])
        weights = np.concatenate([np.full(len(row[1][c]), 1 / len(row[1][c])) for row in rows])
        low, middle, high = _weighted_quantiles(values, weights, (0.005, 0.5, 0.995))
        pooled.append(
            Intensities(
                mean=mean, std=float(np.sqrt(max(square - mean**2, 0))), min=min(x.min for x in each), p00_5=low,
                median=middle, p99_5=high, max=max(x.max for x in each),
            )
        )  # fmt: skip
    return tuple(pooled)


def _weighted_quantiles(values: np.ndarray, weights: np.ndarray, at: tuple[float, ...]) -> list[float]:
    order = np.argsort(values)
    below = np.cumsum(weights[order]) - 0.5 * weights[order]
    return [float(x) for x in np.interp(np.asarray(at) * weights.sum(), below, values[order])]

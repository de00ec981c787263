"""The manifest: the one owner of what a model needs, answers, and may be used for."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import PackageError
from ..labels import Code, Label, Terminology
from . import schema

MANIFEST_PATH = "configs/manifest.json"
SUPPORTED_MAJOR = 1
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Normalization:
    """How a channel's intensities are brought to the range that the network saw in training.

    Args:
        method: ``zscore`` (mean and standard deviation of the whole image), ``clip_zscore`` (clip, then fixed
            ``mean`` and ``std``), ``minmax`` (the image's or ``clip``'s range to 0..1), ``none``.
        clip: Lowest and highest intensity kept.
        mean: Subtracted by ``clip_zscore``.
        std: Divided by in ``clip_zscore``.
    """

    method: str = "zscore"
    clip: tuple[float, float] | None = None
    mean: float = 0.0
    std: float = 1.0


@dataclass(frozen=True)
class Channel:
    """One input of the model: a name such as ``T1``, what to call it, its DICOM modality and normalisation."""

    name: str
    normalization: Normalization
    title: str = ""
    modality: str = "OT"


@dataclass(frozen=True)
class Inference:
    """Sliding window: patch size in voxels (i, j, k), overlap in 0..1, blending and the Gaussian's sigma / patch."""

    patch_size: tuple[int, int, int]
    overlap: float
    blending: str = "gaussian"
    sigma_scale: float = 0.125


@dataclass(frozen=True)
class File:
    """A file of the package: path below its root, SHA-256 of its content, size in bytes."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """A validated ``configs/manifest.json``. See ``manifest.schema.json`` beside this file for every entry."""

    name: str
    title: str
    version: str
    description: str
    channels: tuple[Channel, ...]
    orientation: str
    spacing: Triple
    inference: Inference
    network: str
    network_arguments: dict[str, Any]
    activation: str
    labels: tuple[Label, ...]
    files: dict[str, File]
    raw: dict[str, Any] = field(repr=False)

    @classmethod
    def from_dict(cls, raw: Any) -> Manifest:
        """Check and read a manifest.

        Raises:
            PackageError: It is of a newer major version, breaks the schema, or contradicts itself.
        """
        version = raw.get("manifest_version") if isinstance(raw, dict) else None
        major = version.split(".")[0] if isinstance(version, str) else ""
        if major.isdigit() and int(major) > SUPPORTED_MAJOR:
            raise PackageError(
                f"The model's manifest is of version {version}, newer than this program reads ({SUPPORTED_MAJOR}.x); "
                "update UNetSegment."
            )
        for problem in schema.problems(raw, _schema()):
            raise PackageError(f"The model's manifest is not valid: {problem}.")
        pre, inference = raw["preprocessing"], raw["inference"]
        manifest = cls(
            name=raw["name"],
            title=raw["title"],
            version=raw["version"],
            description=raw["description"],
            channels=tuple(_channel(entry) for entry in raw["channels"]),
            orientation=pre["orientation"],
            spacing=tuple(float(s) for s in pre["spacing"]),  # type: ignore[arg-type]
            inference=Inference(
                tuple(int(n) for n in inference["patch_size"]),  # type: ignore[arg-type]
                float(inference["overlap"]),
                inference.get("blending", "gaussian"),
                float(inference.get("sigma_scale", 0.125)),
            ),
            network=raw["network"]["name"],
            network_arguments=raw["network"]["arguments"],
            activation=raw["activation"],
            labels=tuple(_label(entry) for entry in raw["labels"]),
            files={role: File(f["path"], f["sha256"], int(f["size"])) for role, f in raw["files"].items()},
            raw=raw,
        )
        values = [label.value for label in manifest.labels]
        if len(set(values)) != len(values):
            raise PackageError(f"The manifest of model '{manifest.name}' gives two labels the same value.")
        names = [channel.name for channel in manifest.channels]
        if len(set(names)) != len(names):
            raise PackageError(f"The manifest of model '{manifest.name}' gives two channels the same name.")
        return manifest

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, as it was read."""
        return self.raw

    @property
    def segments(self) -> tuple[Label, ...]:
        """The labels that name a structure: all but the background."""
        return tuple(label for label in self.labels if not label.is_background)

    @property
    def postprocessing(self) -> list[dict[str, Any]]:
        """Steps after labelling, in order: ``{"method": ..., "labels": [...]}``."""
        return self.raw.get("postprocessing", [])

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Measured quality, an entry per label."""
        return self.raw.get("metrics", [])

    @property
    def licence(self) -> str:
        """Short name of the licence, e.g. ``CC-BY-SA-4.0``."""
        return self.raw["licence"]["name"]

    @property
    def summary(self) -> str:
        """One line for choosers: modality, number of structures, measured Dice, licence, and what it is not for."""
        count = len(self.segments)
        parts = [" + ".join(f"{c.modality} {c.name}" for c in self.channels)]
        parts.append(f"{count} structure{'s' if count != 1 else ''}")
        dice = [f"{m['dice']:.2f}" for m in self.metrics if "dice" in m and m["label"] > 0]
        if 0 < len(dice) <= 4:
            parts.append("Dice " + "/".join(dice))
        parts.append(self.licence)
        if not self.raw["licence"].get("clinical_use", False):
            parts.append("not for diagnosis")
        return " · ".join(parts)


@cache
def _schema() -> dict[str, Any]:
    return schema.load_json(Path(__file__).with_name("manifest.schema.json"))


def _channel(entry: dict[str, Any]) -> Channel:
    norm = entry["normalization"]
    clip = tuple(float(x) for x in norm["clip"]) if "clip" in norm else None
    if norm["method"] == "clip_zscore" and not {"clip", "mean", "std"} <= set(norm):
        raise PackageError(f"Channel '{entry['name']}' of the model lacks clip, mean or std for clip_zscore.")
    normalization = Normalization(norm["method"], clip, float(norm.get("mean", 0.0)), float(norm.get("std", 1.0)))  # type: ignore[arg-type]
    return Channel(entry["name"], normalization, entry.get("title", ""), entry.get("modality", "OT"))


def _label(entry: dict[str, Any]) -> Label:
    codes = entry.get("terminology")
    terminology = None
    if codes:
        modifier = codes.get("modifier")
        terminology = Terminology(
            Code(**codes["category"]), Code(**codes["type"]), Code(**modifier) if modifier else None
        )
    color = tuple(int(c) for c in entry.get("color", (128, 174, 128)))
    return Label(int(entry["value"]), entry["name"], color, terminology)  # type: ignore[arg-type]

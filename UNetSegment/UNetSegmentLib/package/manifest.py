"""The manifest: the one owner of what a model needs, answers, and may be used for."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import PackageError
from ..labels import Code, Label, Terminology
from . import schema
from .architecture import UNETS, UNetArchitecture
from .recipe import Channel, Inference, Preprocessing, read_channel, read_inference, read_preprocessing

MANIFEST_PATH = "configs/manifest.json"
WEIGHTS = ("onnx", "safetensors", "torch")
SUPPORTED_MAJOR = 1


@dataclass(frozen=True)
class File:
    """A file of the package: path below its root, SHA-256 of its content, size in bytes."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """A validated ``configs/manifest.json``. See ``manifest.schema.json`` beside this file for every entry.

    ``outputs`` holds the label value of each of the network's outputs. With ``sigmoid`` these are regions that may
    overlap; they are painted in ``paint_order``, the last one wins. ``dimensions`` is 2 for networks that see single
    slices across axis 0.
    """

    name: str
    title: str
    version: str
    description: str
    channels: tuple[Channel, ...]
    preprocessing: Preprocessing
    inference: Inference
    network: str
    network_arguments: dict[str, Any]
    dimensions: int
    activation: str
    labels: tuple[Label, ...]
    outputs: tuple[int, ...]
    paint_order: tuple[int, ...]
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
            raise PackageError(
                f"The model's manifest is not valid ({problem}); correct it, or install the model again."
            )
        labels = tuple(_label(entry) for entry in raw["labels"])
        regions = raw["activation"] == "sigmoid"
        outputs = tuple(raw.get("outputs", [x.value for x in labels if not (regions and x.is_background)]))
        manifest = cls(
            name=raw["name"],
            title=raw["title"],
            version=raw["version"],
            description=raw["description"],
            channels=tuple(read_channel(entry) for entry in raw["channels"]),
            preprocessing=read_preprocessing(raw["preprocessing"]),
            inference=read_inference(raw["inference"]),
            network=raw["network"]["name"],
            network_arguments=raw["network"]["arguments"],
            dimensions=int(raw["network"].get("dimensions", 3)),
            activation=raw["activation"],
            labels=labels,
            outputs=tuple(int(value) for value in outputs),
            paint_order=tuple(int(value) for value in raw.get("paint_order", outputs)),
            files={role: File(f["path"], f["sha256"], int(f["size"])) for role, f in raw["files"].items()},
            raw=raw,
        )
        manifest._check()
        return manifest

    def _check(self) -> None:
        """What the schema cannot say: entries that contradict each other."""
        values = [label.value for label in self.labels]
        names = [channel.name for channel in self.channels]
        regions, pre = self.activation == "sigmoid", self.preprocessing
        cubic = pre.resampling.image_order == 3
        for wrong, words in [
            (len(set(values)) != len(values), "gives two labels the same value"),
            (len(set(names)) != len(names), "gives two channels the same name"),
            (len(set(self.outputs)) != len(self.outputs), "gives two outputs the same label value"),
            (not set(self.outputs) <= set(values), "has an output that is none of its labels"),
            (regions and 0 in self.outputs, "has a region for the background"),
            (regions and sorted(self.paint_order) != sorted(self.outputs), "does not paint every region once"),
            (not regions and "paint_order" in self.raw, "has a paint order, which only regions have"),
            (not regions and len(self.outputs) < 2, "has fewer than two outputs"),
            (
                any(step.get("grid") == "network" for step in self.postprocessing)
                and pre.resampling.output != "labels",
                "finishes labels on the network's grid, but brings its outputs back, not labels",
            ),
            (cubic and pre.resampling.alignment != "edges", "resamples cubically, which needs edges to be aligned"),
            (self.dimensions == 2 and self.inference.patch_size[0] != 1, "has a 2D network but patches of many slices"),
            (self.dimensions == 2 and 0 in self.inference.mirror_axes, "mirrors a 2D network across its slices"),
        ]:
            if wrong:
                raise PackageError(f"The manifest of model '{self.name}' {words}.")
        _ = self.architecture  # raises where its arguments are not possible

    @property
    def architecture(self) -> UNetArchitecture | None:
        """The network's description where it is one of nnU-Net's, :data:`UNETS`.

        Raises:
            PackageError: Its arguments are not possible.
        """
        if self.network not in UNETS:
            return None
        sizes = len(self.channels), len(self.outputs)
        return UNetArchitecture.of(self.network, self.network_arguments, self.dimensions, *sizes)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, as it was read."""
        return self.raw

    @property
    def segments(self) -> tuple[Label, ...]:
        """The labels that name a structure: all but the background."""
        return tuple(label for label in self.labels if not label.is_background)

    def weights(self, kind: str) -> dict[int, File]:
        """The files with the ``kind`` of weights (one of :data:`WEIGHTS`) by fold, 0 being the first."""
        parts = {role: role.partition(".") for role in self.files}
        found = {int(number or 0): self.files[role] for role, (name, _, number) in parts.items() if name == kind}
        return dict(sorted(found.items()))

    @property
    def folds(self) -> tuple[str, ...]:
        """Names of the networks whose answers are averaged: ``3`` for a file ``fold_3``, as nnU-Net has them, else 0, 1 ..."""
        paths = [file.path for file in max((self.weights(kind) for kind in WEIGHTS), key=len).values()]
        found = [re.search(r"fold_(\w+)\.\w+$", path) for path in paths]
        names = tuple(match[1] for match in found if match)
        return names if len(set(names)) == len(paths) else tuple(str(number) for number in range(len(paths)))

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
        parts = [" + ".join(c.described(c.name) for c in self.channels)]
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

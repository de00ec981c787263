"""Value objects for what a model's own framework does around its network: read from the manifest, done by predict."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ..errors import PackageError

Pair = tuple[float, float]


@dataclass(frozen=True)
class Normalization:
    """How a channel's intensities are brought to the range that the network saw in training.

    Args:
        method: ``zscore`` (mean and standard deviation of the image), ``clip_zscore`` (clip, then fixed ``mean`` and
            ``std``), ``minmax`` (the image's or ``clip``'s range to 0..1), ``range`` (``window`` to ``output``, with
            ``clamp`` kept inside it), ``percentiles`` (as ``range``, ``window`` in percent of the image), ``none``.
        mask: Where statistics are taken and values change: ``all`` of the image, its ``nonzero`` voxels (MONAI), or
            nnU-Net's ``filled`` mask of voxels that are nonzero in any channel, holes filled.
        clip: Lowest and highest intensity kept.
        mean: Subtracted by ``clip_zscore``.
        std: Divided by in ``clip_zscore``.
        window: Intensities that ``range`` maps to ``output``.
        output: See ``window``.
        clamp: Whether values outside the window are clipped.
        then: Done to the result.
    """

    method: str = "zscore"
    mask: str = "all"
    clip: Pair | None = None
    mean: float = 0.0
    std: float = 1.0
    window: Pair | None = None
    output: Pair = (0.0, 1.0)
    clamp: bool = False
    then: Normalization | None = None


@dataclass(frozen=True)
class Channel:
    """One input of the model: a name such as ``T1``, what to call it, its DICOM modality and normalisation."""

    name: str
    normalization: Normalization
    title: str = ""
    modality: str = "OT"

    def described(self, name: str) -> str:
        """Modality and ``name``, its own or its title: ``MR T1``; just the name where it tells the modality: ``CT``, ``MRI``."""
        words = re.findall(r"[a-z0-9]+", name.lower())
        starts = {"PT": ("pt", "pet")}.get(self.modality, (self.modality.lower(),))
        told = self.modality == "OT" or any(word.startswith(starts) for word in words)
        return name if told else f"{self.modality} {name}"


@dataclass(frozen=True)
class Resampling:
    """How images are brought to the network's spacing, and its answer back.

    Args:
        alignment: What coincides on both grids: the centre of the ``first_voxel`` (MONAI) or the outer ``edges`` of
            the field of view (nnU-Net, scikit-image).
        image_order: Spline order for images: 0 nearest, 1 linear, 3 cubic. The answer is always interpolated linearly.
        output: What is interpolated on the way back: ``logits`` (nnU-Net) or ``probabilities`` (MONAI's ``Invertd``
            after ``Activations``); ``labels`` are taken from the nearest voxel (``Invertd`` after ``AsDiscrete``).
        separate_axis: Whether the axis of a strongly anisotropic image (one spacing more than 3 times another) is
            resampled by itself, nearest neighbour: ``auto`` as nnU-Net decides, ``always`` or ``never``.
    """

    alignment: str = "first_voxel"
    image_order: int = 1
    output: str = "logits"
    separate_axis: str = "never"


@dataclass(frozen=True)
class Preprocessing:
    """From an image as it is stored to the network's grid.

    Args:
        orientation: Axis codes of the oriented image, e.g. ``RAS``, or ``stored``: as the file has it.
        axes: Axis ``a`` of the network is axis ``axes[a]`` of the oriented image.
        spacing: In mm, in the network's axis order; None keeps the image's own.
        crop: To the box of voxels that are ``nonzero`` or ``positive`` in any channel, or ``none``.
        crop_on: Which image is cropped: the oriented ``image``, or the ``network_image`` that is resampled and normalised.
        normalize_first: Whether intensities are normalised before resampling (and after cropping).
        resampling: How.
    """

    orientation: str
    axes: tuple[int, int, int]
    spacing: tuple[float | None, float | None, float | None]
    crop: str = "none"
    normalize_first: bool = True
    resampling: Resampling = Resampling()
    crop_on: str = "image"


@dataclass(frozen=True)
class Inference:
    """The sliding window.

    Args:
        patch_size: Voxels along the network's axes (i, j, k).
        overlap: Fraction of a patch, 0..1.
        blending: ``gaussian`` or ``constant``.
        sigma_scale: Sigma of the Gaussian / patch size.
        convention: Whose placement and Gaussian: ``monai`` or ``nnunet``.
        mirror_axes: Axes along which mirrored copies may be averaged in.
        padding: What surrounds an image that is smaller than a patch: ``zero``, or its ``edge`` repeated.
    """

    patch_size: tuple[int, int, int]
    overlap: float
    blending: str = "gaussian"
    sigma_scale: float = 0.125
    convention: str = "monai"
    mirror_axes: tuple[int, ...] = ()
    padding: str = "zero"


def read_channel(entry: dict[str, Any]) -> Channel:
    """A channel from its manifest entry, which fits the schema.

    Raises:
        PackageError: Its normalisation lacks a number that its method needs.
    """
    name = entry["name"]
    return Channel(
        name, _normalization(entry["normalization"], name), entry.get("title", ""), entry.get("modality", "OT")
    )


def _normalization(norm: dict[str, Any], name: str) -> Normalization:
    method = norm["method"]
    needed = {"clip_zscore": ("clip", "mean", "std"), "range": ("window",), "percentiles": ("window",)}.get(method, ())
    if missing := [key for key in needed if key not in norm]:
        raise PackageError(f"Channel '{name}' of the model lacks {' and '.join(missing)} for {method}.")
    pairs = {key: tuple(map(float, norm[key])) for key in ("clip", "window", "output") if key in norm}
    for key, (low, high) in pairs.items():
        if not low < high:
            raise PackageError(f"Channel '{name}' of the model has an empty {key}: {low:g} to {high:g}.")
    numbers = {key: float(norm[key]) for key in ("mean", "std") if key in norm}
    then = _normalization(norm["then"], name) if "then" in norm else None
    return Normalization(method, norm.get("mask", "all"), clamp=norm.get("clamp", False), then=then, **pairs, **numbers)  # type: ignore[arg-type]


def read_preprocessing(raw: dict[str, Any]) -> Preprocessing:
    """The manifest's ``preprocessing``, which fits the schema."""
    how = raw.get("resampling", {})
    return Preprocessing(
        raw["orientation"],
        tuple(int(a) for a in raw.get("axes", (0, 1, 2))),  # type: ignore[arg-type]
        tuple(None if s is None else float(s) for s in raw["spacing"]),  # type: ignore[arg-type]
        raw.get("crop", "none"),
        raw.get("normalize", "before_resampling") == "before_resampling",
        Resampling(
            how.get("alignment", "first_voxel"),
            int(how.get("image_order", 1)),
            how.get("output", "logits"),
            how.get("separate_axis", "never"),
        ),
        raw.get("crop_on", "image"),
    )


def read_inference(raw: dict[str, Any]) -> Inference:
    """The manifest's ``inference``, which fits the schema."""
    return Inference(
        tuple(int(n) for n in raw["patch_size"]),  # type: ignore[arg-type]
        float(raw["overlap"]),
        raw.get("blending", "gaussian"),
        float(raw.get("sigma_scale", 0.125)),
        raw.get("convention", "monai"),
        tuple(sorted({int(a) for a in raw.get("mirror_axes", ())})),
        raw.get("padding", "zero"),
    )

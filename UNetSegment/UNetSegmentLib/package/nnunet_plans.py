"""From nnU-Net v2's plans.json and dataset.json to what our manifest says of a model; no weights are looked at here.

Facts are those of nnunetv2 2.x (Isensee et al., Nature Methods 2021). Its arrays are (z, y, x) where ours are (i, j, k), so
axis ``a`` of its network, after ``transpose_forward``, is our axis ``2 - transpose_forward[a]``.
"""

from __future__ import annotations

import colorsys
import math
import re
import statistics
from dataclasses import dataclass
from typing import Any

from ..errors import PackageError
from .architecture import UNetArchitecture
from .nnunet_network import read_network

READERS = {"SimpleITKIO": "stored", "NibabelIO": "stored", "NibabelIOWithReorient": "RAS"}
"""nnU-Net's image readers, and the orientation in which each hands out an image."""
_MODALITIES = (
    ("CT", r"(^|[^a-z])(cb|ce)?cta?($|[^a-z])"),
    ("PT", r"(^|[^a-z])(pet|suv)"),
    ("US", r"ultraso|(^|[^a-z])us($|[^a-z])"),
    ("MR", r"(^|[^a-z])(mr|t1|t2|flair|dwi|adc|pd($|[^a-z]))"),
)
_NO_RESAMPLING = ("no_resampling_hack", "no_resampling_data_or_seg_to_shape")
_LINEAR = ("resample_torch_fornnunet", "resample_torch_simple")


@dataclass(frozen=True)
class Configuration:
    """One configuration of a plan, resolved: the network and everything around it.

    Args:
        entries: ``channels``, ``preprocessing``, ``inference``, ``network``, ``labels`` ... of our manifest.
        architecture: The network.
        mirrored: Axis of the manifest's patch for each axis of nnU-Net's.
    """

    entries: dict[str, Any]
    architecture: UNetArchitecture
    mirrored: tuple[int, ...]


def read(plans: dict[str, Any], dataset: dict[str, Any], name: str, batch_norm: bool = False) -> Configuration:
    """The configuration ``name`` of a plan.

    Args:
        plans: plans.json.
        dataset: dataset.json.
        name: E.g. ``3d_fullres``.
        batch_norm: Whether the weights show batch normalisation, which nnUNetTrainerBN puts into any plan.

    Raises:
        PackageError: Something is missing, or cannot be done as nnU-Net would do it.
    """
    try:
        return _read(plans, dataset, name, batch_norm)
    except KeyError as error:
        raise PackageError(f"The nnU-Net model's plans or dataset.json lack the entry {error}.") from None
    except (TypeError, ValueError, IndexError, AttributeError, OverflowError):
        raise PackageError("The nnU-Net model's plans.json or dataset.json is not what nnU-Net v2 writes.") from None


def _read(plans: dict[str, Any], dataset: dict[str, Any], name: str, batch_norm: bool) -> Configuration:
    how = resolved(plans["configurations"], name)
    if how.get("previous_stage"):
        raise PackageError(
            f"The nnU-Net configuration '{name}' is the second stage of a cascade, which needs another model's answer; "
            "use the configuration 3d_fullres or 3d_lowres."
        )
    if how.get("preprocessor_name", "DefaultPreprocessor") != "DefaultPreprocessor":
        raise PackageError(f"The nnU-Net model uses the preprocessor '{how['preprocessor_name']}', which is unknown.")
    if plans.get("label_manager", "LabelManager") != "LabelManager":
        raise PackageError(f"The nnU-Net model uses the label manager '{plans['label_manager']}', which is unknown.")
    reader = plans["image_reader_writer"]
    if reader not in READERS:
        raise PackageError(
            f"The nnU-Net model reads its images with '{reader}', not as a volume with a place in space "
            f"({', '.join(READERS)}); it cannot be run here."
        )
    forward = [int(axis) for axis in plans["transpose_forward"]]
    if sorted(forward) != [0, 1, 2]:
        raise PackageError("The nnU-Net model's transpose_forward is no order of three axes.")
    patch = [int(n) for n in how["patch_size"]]
    flat = len(patch) == 2
    if len(patch) not in (2, 3) or not all(1 <= n <= 1024 for n in patch):
        raise PackageError("The nnU-Net model's patch_size is not two or three numbers of 1 to 1024.")
    channels = _channels(plans, dataset, how)
    labels = _labels(dataset)
    architecture, network = read_network(how, len(patch), len(channels), len(labels["outputs"]), batch_norm)
    if any(size % divisor for size, divisor in zip(patch, architecture.divisor, strict=True)):
        raise PackageError("The nnU-Net model's patch_size cannot be halved as often as its network does.")
    spacing = [_positive(s) for s in how["spacing"]]
    if len(spacing) != len(patch):
        raise PackageError("The nnU-Net model's spacing and patch_size have different numbers of axes.")
    resampling, kept = _resampling(how)
    spacing = [None] * 3 if kept else [None] * flat + spacing
    entries = {
        "channels": channels,
        "preprocessing": {
            "orientation": READERS[reader],
            "axes": [2 - axis for axis in forward],
            "spacing": spacing,
            "crop": "nonzero",
            "normalize": "before_resampling",
            "resampling": resampling,
        },
        "inference": {
            "patch_size": [1] * flat + patch,
            "overlap": 0.5,
            "blending": "gaussian",
            "sigma_scale": 0.125,
            "convention": "nnunet",
        },
        "network": network,
        **labels,
        "fingerprint": _fingerprint(plans),
    }
    return Configuration(entries, architecture, (1, 2) if flat else (0, 1, 2))


def resolved(configurations: dict[str, Any], name: str) -> dict[str, Any]:
    """A configuration with what it inherits.

    Raises:
        PackageError: There is none of that name, or it inherits from itself.
    """
    chain: list[dict[str, Any]] = []
    seen: list[str] = []
    wanted: Any = name
    while wanted is not None:
        if wanted not in configurations or not isinstance(configurations[wanted], dict):
            raise PackageError(f"The nnU-Net model's plans have no configuration '{wanted}'.")
        if wanted in seen:
            raise PackageError(f"The nnU-Net configuration '{name}' inherits from itself.")
        seen.append(wanted)
        chain.append(configurations[wanted])
        wanted = chain[-1].get("inherits_from")
    merged: dict[str, Any] = {}
    for entry in reversed(chain):
        merged |= entry
    return merged


def channel_names(dataset: dict[str, Any]) -> list[str]:
    """Names of the channels in their order; a name that comes twice gets a number."""
    table = dataset["modality"] if "modality" in dataset else dataset["channel_names"]
    names = [str(table[key]).strip() for key in sorted(table, key=int)]
    if not 1 <= len(names) <= 64:
        raise PackageError("The nnU-Net model's dataset.json names no channels, or more than 64.")
    return [
        f"{name or 'channel'} {index + 1}" if not name or names.count(name) > 1 else name
        for index, name in enumerate(names)
    ]


def modality(name: str) -> str:
    """DICOM's code for the modality that a channel's name tells, ``OT`` where it tells none."""
    return next((code for code, words in _MODALITIES if re.search(words, name.lower())), "OT")


def _channels(plans: dict[str, Any], dataset: dict[str, Any], how: dict[str, Any]) -> list[dict[str, Any]]:
    names = channel_names(dataset)
    schemes, masks = how["normalization_schemes"], how["use_mask_for_norm"]
    if len(schemes) != len(names) or len(masks) != len(names):
        raise PackageError("The nnU-Net model's plans and dataset.json differ in their number of channels.")
    channels = []
    for index, (name, scheme, masked) in enumerate(zip(names, schemes, masks, strict=True)):
        if scheme == "ZScoreNormalization":
            norm: dict[str, Any] = {"method": "zscore", "mask": "filled" if masked else "all"}
        elif scheme == "CTNormalization":
            seen = _intensities(plans)[str(index)]
            clip = [_finite(seen["percentile_00_5"]), _finite(seen["percentile_99_5"])]
            norm = {"method": "clip_zscore", "clip": clip, "mean": _finite(seen["mean"])}
            norm["std"] = max(_finite(seen["std"]), 1e-8)
        elif scheme == "RescaleTo01Normalization":
            norm = {"method": "minmax"}
        elif scheme == "RGBTo01Normalization":
            norm = {"method": "range", "window": [0.0, 255.0], "output": [0.0, 1.0]}
        elif scheme == "NoNormalization":
            norm = {"method": "none"}
        else:
            raise PackageError(f"The nnU-Net model normalises '{name}' by '{scheme}', which is unknown.")
        kind = "CT" if scheme == "CTNormalization" else modality(name)
        channels.append({"name": name, "title": name, "modality": kind, "normalization": norm})
    return channels


def _intensities(plans: dict[str, Any]) -> dict[str, Any]:
    key = "foreground_intensity_properties_per_channel"
    return plans[key] if key in plans else plans["foreground_intensity_properties_by_modality"]


def _labels(dataset: dict[str, Any]) -> dict[str, Any]:
    """``labels``, ``outputs``, ``activation`` and, with regions, ``paint_order``."""
    table = {name: value for name, value in dataset["labels"].items() if name != "ignore"}
    members = {name: _values(value) for name, value in table.items()}
    if members.get("background") != [0]:
        raise PackageError("The nnU-Net model's dataset.json does not give the background the label 0.")
    names = {0: "background"}
    if any(isinstance(value, list) and len(value) > 1 for value in table.values()):
        regions = [name for name, values in members.items() if set(values) != {0}]
        order = [int(value) for value in dataset["regions_class_order"]]
        if len(order) != len(regions):
            raise PackageError("The nnU-Net model's regions_class_order has not as many entries as there are regions.")
        if len(set(order)) != len(order) or not all(0 < value < 1 << 16 for value in order):
            raise PackageError("The nnU-Net model paints two regions with the same label, or one with no label.")
        names |= dict(zip(order, regions, strict=True))
        extra: dict[str, Any] = {"activation": "sigmoid", "outputs": order, "paint_order": order}
    else:
        values = sorted({value for entry in members.values() for value in entry})
        if values != list(range(len(values))) or not 2 <= len(values) <= 4096:
            raise PackageError("The nnU-Net model's labels are not the numbers 0, 1, 2 ... without a gap.")
        if len(members) != len(values):
            raise PackageError("The nnU-Net model gives two names to one label.")
        names |= {entry[0]: name for name, entry in members.items()}
        extra = {"activation": "softmax", "outputs": values}
    labels = [
        {"value": value, "name": str(names[value]) or f"label {value}", "color": color(index)}
        for index, value in enumerate(sorted(names))
    ]
    return {"labels": labels, **extra}


def _values(entry: Any) -> list[int]:
    values = entry if isinstance(entry, list) else [entry]
    if not values or not all(type(value) is int and 0 <= value < 1 << 16 for value in values):
        raise PackageError("The nnU-Net model's dataset.json has a label that is no whole number of 0 to 65535.")
    return values


def color(index: int) -> list[int]:
    """Red, green, blue (0..255) of the ``index``-th label; neighbours differ, 0 is black.

    Hues follow the golden angle, which spreads any number of them evenly.
    """
    if index == 0:
        return [0, 0, 0]
    hue = (index - 1) * 0.6180339887 % 1
    saturation, value = (0.55, 0.75, 0.9)[(index - 1) // 12 % 3], (0.9, 0.75, 1.0)[(index - 1) // 36 % 3]
    return [round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value)]


def _resampling(how: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """Our ``resampling`` entry, and whether images keep the spacing they have."""
    image, answer = (_resampler(how, part) for part in ("data", "probabilities"))
    if None in (image, answer):
        if image != answer:
            raise PackageError("The nnU-Net model resamples only one of image and answer, which is unknown.")
        return {"alignment": "edges", "image_order": 1, "output": "logits", "separate_axis": "never"}, True
    if answer[0] != 1:  # type: ignore[index]
        raise PackageError(
            f"The nnU-Net model resamples its answer with order {answer[0]}; only order 1 can be done here."  # type: ignore[index]
        )
    if image[1] != answer[1]:  # type: ignore[index]
        raise PackageError("The nnU-Net model resamples thick slices in different ways in image and answer.")
    order, separate = image  # type: ignore[misc]
    return {"alignment": "edges", "image_order": order, "output": "logits", "separate_axis": separate}, False


def _resampler(how: dict[str, Any], part: str) -> tuple[int, str] | None:
    """Spline order and rule for a separate axis of the image's or the answer's resampling; None: it is left alone."""
    name = how[f"resampling_fn_{part}"]
    options = how.get(f"resampling_fn_{part}_kwargs") or {}
    if name in _NO_RESAMPLING:
        return None
    linear = name in _LINEAR
    if not linear and name != "resample_data_or_seg_to_shape":
        raise PackageError(f"The nnU-Net model resamples by '{name}', which is unknown.")
    ignored = {"num_threads", "device", "memefficient_seg_resampling"} if linear else set()
    wanted = {"is_seg": False, "separate_z_anisotropy_threshold": 3, "order_z": 0, "mode": "linear"}
    wanted["aniso_axis_mode"] = "nearest-exact"
    order = 1
    # the defaults are those of each function's signature
    separate = None if name == "resample_torch_fornnunet" else False
    for key, value in options.items():
        if key == "order" and not linear and value in (0, 1, 3):
            order = int(value)
        elif key == "force_separate_z" and value in (None, True, False):
            separate = value
        elif key not in ignored and not (key in wanted and value == wanted[key]):
            raise PackageError(f"The nnU-Net model resamples by '{name}' with {key} = {value!r}, which is unknown.")
    if not linear and "order" not in options:
        order = 3
    return order, {None: "auto", True: "always", False: "never"}[separate]


def _fingerprint(plans: dict[str, Any]) -> dict[str, Any]:
    """Median spacing (mm) and size in the network's axes, and the foreground's intensities, where the plans tell them."""
    found: dict[str, Any] = {}
    for key, entry in (
        ("spacing", "original_median_spacing_after_transp"),
        ("size", "original_median_shape_after_transp"),
    ):
        values = plans.get(entry)
        if isinstance(values, list) and len(values) == 3 and all(isinstance(n, int | float) and n > 0 for n in values):
            found[key] = {"median": [float(n) for n in values]}
    names = {"mean": "mean", "std": "std", "p00_5": "percentile_00_5", "p50": "median", "p99_5": "percentile_99_5"}
    table = plans.get("foreground_intensity_properties_per_channel", {})
    rows = [{ours: row[its] for ours, its in names.items() if its in row} for _, row in sorted(table.items())]
    if rows:
        found["intensity"] = rows
    return found


def trained_on(table: dict[str, Any], plans: dict[str, Any]) -> dict[str, Any]:
    """From nnU-Net's dataset_fingerprint.json: the range of the training images' spacings, and of their sizes (both mm).

    Sizes are those after cropping to what is not zero; where that cut off much, the images' own sizes are not known and
    left out. Axes are the network's. Whatever is odd is left out, too.
    """
    spacings, shapes = table.get("spacings"), table.get("shapes_after_crop")
    rows = list(zip(spacings, shapes, strict=False)) if isinstance(spacings, list) and isinstance(shapes, list) else []
    order = [int(axis) for axis in plans["transpose_forward"]]
    triples: dict[str, list[list[float]]] = {"spacing": [], "size_mm": []}
    for row in rows:
        if not all(isinstance(part, list) and len(part) == 3 for part in row):
            return {}
        if not all(type(n) in (int, float) and 1e-3 < n < 1e6 for part in row for n in part):
            return {}
        spacing, shape = ([float(part[axis]) for axis in order] for part in row)
        triples["spacing"].append(spacing)
        triples["size_mm"].append([s * n for s, n in zip(spacing, shape, strict=True)])
    kept = table.get("median_relative_size_after_cropping", 0)
    if not isinstance(kept, int | float) or kept < 0.9:
        del triples["size_mm"]
    ways: dict[str, Any] = {"min": min, "median": statistics.median, "max": max}
    return {
        name: {way: [round(f(column), 4) for column in zip(*rows, strict=True)] for way, f in ways.items()}
        for name, rows in triples.items()
        if rows
    }


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise PackageError("The nnU-Net model's plans hold an intensity that is no finite number.")
    return number


def _positive(value: Any) -> float:
    if not 1e-6 < (number := _finite(value)) < 1e6:
        raise PackageError("The nnU-Net model's plans hold a spacing that no image has.")
    return number

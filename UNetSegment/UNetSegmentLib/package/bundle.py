"""A MONAI bundle as a model of ours: its configuration is read as data, its weights are kept as they are.

What a bundle's ``inference`` configuration does around its network is written as our manifest where that can say it; what
cannot be said, or needs code to be run, is refused with the entry that is in the way. The model lies in the cache, under
the hash of its content; the bundle is left alone.
"""

from __future__ import annotations

import colorsys
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import PackageError
from . import bundle_config, converted
from .bundle_answer import Answer, read_answer, read_inferer
from .bundle_config import Config, Node, shown
from .bundle_recipe import read_recipe
from .bundle_transforms import read_streams
from .bundle_weights import weights_of
from .converted import Content, plain_name

METADATA = "configs/metadata.json"
NETWORKS = {
    "UNet": (None, None),
    "BasicUNet": (1, 2),
    "AttentionUnet": (None, None),
    "SegResNet": (1, 2),
    "SegResNetDS": (1, 2),
    "DynUNet": (None, None),
    "VNet": (1, 1),
    "UNETR": (None, None),
    "SwinUNETR": (None, None),
    "MedNeXt": (1, 2),
    "HighResNet": (1, 1),
}
"""Networks of ``monai.networks.nets`` whose arguments are plain data, and their default in and out channels."""
_ALIASES = {"Unet": "UNet", "BasicUnet": "BasicUNet", "Basicunet": "BasicUNet", "DynUnet": "DynUNet"} | {
    "Dynunet": "DynUNet",
    "AttentionUNet": "AttentionUnet",
}
_RENAMED = {("UNet", "dimensions"): "spatial_dims", ("BasicUNet", "dimensions"): "spatial_dims"} | {
    ("UNETR", "pos_embed"): "proj_type"
}
_DROPPED = {("SwinUNETR", "img_size")}
"""Arguments that MONAI had once, which no longer change its networks."""
_MODALITIES = {
    "MR": "MR",
    "MRI": "MR",
    "CT": "CT",
    "PT": "PT",
    "PET": "PT",
    "US": "US",
    "XR": "XR",
    "CR": "XR",
    "DX": "XR",
}
_LICENCES = {
    "Apache License Version 2.0": "Apache-2.0",
    "Attribution-NonCommercial-ShareAlike 4.0": "CC-BY-NC-SA-4.0",
    "Attribution-NonCommercial 4.0": "CC-BY-NC-4.0",
    "Attribution-ShareAlike 4.0": "CC-BY-SA-4.0",
    "Attribution 4.0 International": "CC-BY-4.0",
    "MIT License": "MIT",
    "NVIDIA OneWay Noncommercial": "NVIDIA OneWay Noncommercial",
    "BSD 3-Clause": "BSD-3-Clause",
}
_FREE = ("Apache-2.0", "MIT", "BSD-3-Clause", "CC-BY-4.0", "CC-BY-SA-4.0")
_LARGEST_NUMBER = 8192
"""In a network's arguments: nobody's network has more features or voxels on a side, and memory is asked for by them."""


@dataclass(frozen=True)
class _Network:
    name: str
    arguments: dict[str, Any]
    dimensions: int
    inputs: int
    outputs: int


def is_bundle(folder: Path) -> bool:
    """Whether the folder has the two files that make a MONAI bundle."""
    return (folder / METADATA).is_file() and any(
        (folder / "configs" / f"inference.{ending}").is_file() for ending in ("json", "yaml", "yml")
    )


def convert(folder: Path, cache: Path) -> Path:
    """The bundle as a package of our own kind in the folder ``cache``, written where it is not there yet.

    Raises:
        PackageError: See :func:`read`.
        OutputError: The cache cannot be written.
    """
    return converted.convert(read(folder), cache)


def read(folder: Path) -> Content:
    """The bundle's manifest in our words, without its files, and where these are.

    Raises:
        PackageError: It cannot be read, or needs what only running its code could give.
    """
    metadata = bundle_config.load_table(folder, folder.name, METADATA)
    title = _text(metadata.get("name"), 120) or _text(metadata.get("task"), 120) or folder.name
    config = bundle_config.load(folder, title, "inference")
    if config is None:
        raise PackageError(f"Bundle '{title}' has no configs/inference.json.")
    for entry in ("network_def", "preprocessing", "inferer", "postprocessing"):
        if entry not in config:
            raise PackageError(f"Bundle '{title}' cannot be used: {config.file} has no entry '{entry}'.")
    network = _network(config.get("network_def"))
    manifest = {
        "manifest_version": "1.1",
        "name": plain_name(title),
        "title": title,
        "version": _version(metadata.get("version")),
        "description": _text(metadata.get("description"), 4000),
        **_recipe(config, network, metadata),
        "network": {"name": network.name, "arguments": network.arguments, "dimensions": network.dimensions},
        "licence": _licence(folder),
        "intended_use": _text(metadata.get("intended_use"), 4000),
        "citation": [_text(line, 2000) for line in _list(metadata.get("references")) if _text(line, 2000)],
        "training_data": {"source": _text(metadata.get("data_source"), 2000)},
    }
    return Content(manifest, weights_of(folder, config))


def _recipe(config: Config, network: _Network, metadata: dict[str, Any]) -> dict[str, Any]:
    preprocessing = config.get("preprocessing")
    recipe = read_recipe(read_streams(preprocessing), _image_key(config), network.inputs, preprocessing)
    pre = recipe["preprocessing"]
    inference = read_inferer(config.get("inferer"), network.dimensions)
    if (across := inference.pop("slice_axis", None)) is not None:
        order = [across, *(axis for axis in range(3) if axis != across)]
        pre["axes"] = [pre["axes"][axis] for axis in order]
        pre["spacing"] = [pre["spacing"][axis] for axis in order]
    moved = pre["orientation"] != "stored" or "crop" in pre or any(s is not None for s in pre["spacing"])
    answer = read_answer(config.get("postprocessing"), moved, "crop" in pre)
    nearest = pre["resampling"]["image_order"] == 0  # Invertd interpolates as the spacing did
    pre["resampling"]["output"] = "labels" if nearest and moved else answer.output
    described = _table(_table(metadata.get("network_data_format")).get("inputs"))
    image = _table(described.get("image") or next(iter(described.values()), None))
    names = _names(image.get("channel_def"), network.inputs, "image" if network.inputs == 1 else "image {}")
    modality = _MODALITIES.get(_text(image.get("modality"), 40).upper(), "OT")
    channels = [
        {"name": name, "modality": modality, "normalization": how}
        for name, how in zip(_distinct(names), recipe["normalizations"], strict=True)
    ]
    limits = " ".join(dict.fromkeys(answer.remarks))
    found = {"channels": channels, "preprocessing": pre, "inference": inference, "activation": answer.activation}
    return {**found, **_labels(config, network, answer, metadata), **({"limits": limits} if limits else {})}


def _labels(config: Config, network: _Network, answer: Answer, metadata: dict[str, Any]) -> dict[str, Any]:
    """The manifest's ``labels``, ``outputs``, ``paint_order`` and ``postprocessing``."""
    regions = answer.activation == "sigmoid"
    described = _table(_table(metadata.get("network_data_format")).get("outputs"))
    output = _table(described.get("pred") or next(iter(described.values()), None))
    names = _names(output.get("channel_def") or output.get("label_def"), network.outputs, "label {}")
    values = answer.values or [n + regions for n in range(network.outputs)]
    if len(values) != network.outputs:
        raise config.refusal(
            "postprocessing", f"labels are made of {len(values)} of the network's {network.outputs} outputs"
        )
    if not regions and network.outputs < 2:
        raise config.refusal("postprocessing", "the largest of a single output is always the same")
    labels = {value: name for value, name in zip(values, names, strict=True)}
    labels = {0: "background"} | {value: labels[value] for value in sorted(labels)}
    found: dict[str, Any] = {
        "labels": [{"value": value, "name": name, "color": _color(value)} for value, name in labels.items()],
        "outputs": values,
    }
    if regions:
        found["paint_order"] = answer.paint_order or values
    steps = []
    for chosen, one_by_one, early in answer.components:
        kept = [value for value in chosen or values if value]
        if not set(kept) <= set(values):
            raise config.refusal(
                "postprocessing", f"largest components of {shown(chosen)} are kept, which are no labels"
            )
        steps += [
            {
                "method": "keep_largest_component",
                "labels": group,
                "connectivity": "corners",
                "grid": "network" if early else "image",
            }
            for group in ([[value] for value in kept] if one_by_one else [kept])
        ]
    return {**found, **({"postprocessing": steps} if steps else {})}


def _network(node: Node) -> _Network:
    component = node.component()
    name = component.name("monai.networks.nets")
    name = _ALIASES.get(name or "", name)
    if name not in NETWORKS:
        if "." in component.target and not component.target.startswith("monai."):
            raise node.refusal(f"the network {shown(component.target)} is code of the bundle's own, which is not run")
        raise node.refusal(f"the network {shown(component.target)} is not one of MONAI's that are known here")
    arguments: dict[str, Any] = {}
    for key, argument in component.arguments.items():
        if (name, key) not in _DROPPED:
            arguments[_RENAMED.get((name, key), key)] = _bounded(argument.data(), argument)
    dimensions = arguments.get("spatial_dims", 3)
    inputs = arguments.get("in_channels", NETWORKS[name][0])
    outputs = arguments.get("out_channels", NETWORKS[name][1])
    for key, value, most in (
        ("spatial_dims", dimensions, 3),
        ("in_channels", inputs, 64),
        ("out_channels", outputs, 4096),
    ):
        least = 2 if key == "spatial_dims" else 1
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise node.refusal(f"{key} = {shown(value)} is not a number of {least} to {most}")
    return _Network(name, arguments, dimensions, inputs, outputs)


def _bounded(value: Any, node: Node) -> Any:
    """Arguments of a network: nothing in them may ask for memory without end."""
    if isinstance(value, int | float) and abs(value) > _LARGEST_NUMBER:
        raise node.refusal(f"{shown(value)} is larger than any network's {_LARGEST_NUMBER}")
    parts = value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
    if len(parts) > 64:
        raise node.refusal(f"it has {len(parts)} parts, more than any network's 64")
    for part in parts:
        _bounded(part, node)
    return value


def _image_key(config: Config) -> str:
    """The key that the network is given: MONAI's evaluator takes ``image``."""
    if "image_key" in config and isinstance(key := config.get("image_key").data(), str):
        return key
    return "image"


def _names(definition: Any, count: int, pattern: str) -> list[str]:
    """Names of channels or labels 0 .. ``count - 1`` from metadata's ``{"0": "background", ...}``."""
    known = _table(definition)
    return [_text(known.get(str(n)), 200) or pattern.format(n + 1) for n in range(count)]


def _distinct(names: list[str]) -> list[str]:
    return [name if names.count(name) == 1 else f"{name} {n + 1}" for n, name in enumerate(names)]


def _licence(folder: Path) -> dict[str, Any]:
    try:
        with (folder / "LICENSE").open(encoding="utf-8", errors="replace") as file:
            text = " ".join(file.read(20_000).split())
    except OSError:
        return {"name": "not stated"}
    name = next((short for words, short in _LICENCES.items() if words.lower() in text.lower()), "see its file LICENSE")
    data = (folder / "docs" / "data_license.txt").is_file()
    found: dict[str, Any] = {"name": f"{name} (its training data: see docs/data_license.txt)" if data else name}
    return found | ({"commercial_use": False} if name not in _FREE else {})


def _version(raw: Any) -> str:
    match = re.match(r"\d{1,6}\.\d{1,6}\.\d{1,6}", _text(raw, 40))
    return match[0] if match else "0.0.0"


def _color(value: int) -> list[int]:
    """Colours that differ between neighbouring values: steps of the golden ratio around the circle of hues."""
    hue = (value * 0.61803398875) % 1
    return [round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.55, 0.9)]


def _text(value: Any, most: int) -> str:
    """One line of readable text, or nothing."""
    if not isinstance(value, str):
        return ""
    return " ".join("".join(c if c.isprintable() else " " for c in value[: 2 * most]).split())[:most]


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []

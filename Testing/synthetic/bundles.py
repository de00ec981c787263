"""Small MONAI bundles in the forms that published ones have, for tests; none is taken from anywhere."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from UNetSegmentLib import package

METADATA: dict[str, Any] = {
    "version": "1.2.3",
    "monai_version": "1.4.0",
    "pytorch_version": "2.4.0",
    "numpy_version": "1.24.4",
    "name": "Pebble CT",
    "task": "Segmentation of pebbles",
    "description": "Finds pebbles.",
    "authors": "Nobody",
    "copyright": "Nobody",
    "data_source": "made up",
    "intended_use": "Tests only.",
    "references": ["A. Nobody, On pebbles, 2026."],
    "network_data_format": {
        "inputs": {"image": {"type": "image", "modality": "CT", "num_channels": 1, "channel_def": {"0": "image"}}},
        "outputs": {"pred": {"type": "image", "channel_def": {"0": "background", "1": "pebble", "2": "sand"}}},
    },
}
INFERENCE: dict[str, Any] = {
    "imports": ["$import glob"],
    "bundle_root": ".",
    "image_key": "image",
    "patch": [32, 32, 16],
    "datalist": "$list(sorted(glob.glob(@bundle_root + '/*.nii.gz')))",
    "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
    "network_def": {
        "_target_": "UNet",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 3,
        "channels": [4, 8],
        "strides": [2],
    },
    "network": "$@network_def.to(@device)",
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "@image_key"},
            {"_target_": "EnsureChannelFirstd", "keys": "@image_key"},
            {"_target_": "Orientationd", "keys": "@image_key", "axcodes": "RAS"},
            {"_target_": "Spacingd", "keys": "@image_key", "pixdim": [1.5, 1.5, 2.0], "mode": "bilinear"},
            {
                "_target_": "ScaleIntensityRanged",
                "keys": "@image_key",
                "a_min": -100,
                "a_max": 200,
                "b_min": 0.0,
                "b_max": 1.0,
                "clip": True,
            },
            {"_target_": "EnsureTyped", "keys": "@image_key"},
        ],
    },
    "inferer": {
        "_target_": "SlidingWindowInferer",
        "roi_size": "@patch",
        "sw_batch_size": 4,
        "overlap": 0.5,
    },
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "Activationsd", "keys": "pred", "softmax": True},
            {
                "_target_": "Invertd",
                "keys": "pred",
                "transform": "@preprocessing",
                "orig_keys": "@image_key",
                "nearest_interp": False,
                "to_tensor": True,
            },
            {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
            {"_target_": "SaveImaged", "keys": "pred", "output_dir": "$@bundle_root + '/eval'"},
        ],
    },
    "checkpointloader": {
        "_target_": "CheckpointLoader",
        "load_path": "$@bundle_root + '/models/model.pt'",
        "load_dict": {"model": "@network"},
    },
    "run": ["$@evaluator.run()"],
}


TRANSFORMS, LAST = "preprocessing__transforms", "postprocessing__transforms"


def t(name: str, **arguments: Any) -> dict[str, Any]:
    """A transform in a list, of the image where no other keys are given."""
    return {"_target_": name, "keys": "image", **arguments}


SOFTMAX, SIGMOID = t("Activationsd", keys="pred", softmax=True), t("Activationsd", keys="pred", sigmoid=True)
INVERT = INFERENCE["postprocessing"]["transforms"][1]
NEAREST = INVERT | {"nearest_interp": True}
ARGMAX, HALF = t("AsDiscreted", keys="pred", argmax=True), t("AsDiscreted", keys="pred", threshold=0.5)
SPACING = t("Spacingd", pixdim=[1, 1, 2])


def inference(**changes: Any) -> dict[str, Any]:
    """A configuration of the usual form; ``a__b__0=value`` puts ``value`` at ``a::b::0``, None takes the entry out."""
    config = copy.deepcopy(INFERENCE)
    for path, value in changes.items():
        *parents, last = path.split("__")
        place: Any = config
        for part in parents:
            place = place[int(part)] if isinstance(place, list) else place[part]
        if value is None and isinstance(place, dict):
            del place[last]
        else:
            place[int(last) if isinstance(place, list) else last] = value
    return config


def pre(*transforms: dict[str, Any]) -> dict[str, Any]:
    """A configuration with these transforms after loading."""
    return inference(**{TRANSFORMS: [*INFERENCE["preprocessing"]["transforms"][:2], *transforms]})


def write(
    folder: Path, config: Any = None, metadata: Any = None, weights: bytes | None = b"weights", ending: str = "json"
) -> Path:
    """Write a bundle; ``config`` and ``metadata`` may be text as well."""
    (folder / "configs").mkdir(parents=True, exist_ok=True)
    for name, content, usual in ((f"inference.{ending}", config, INFERENCE), ("metadata.json", metadata, METADATA)):
        content = usual if content is None else content
        text = content if isinstance(content, str) else json.dumps(content, indent=1)
        (folder / "configs" / name).write_text(text, "utf-8")
    (folder / "LICENSE").write_text("Apache License\nVersion 2.0, January 2004\n", "utf-8")
    if weights is not None:
        (folder / "models").mkdir(exist_ok=True)
        (folder / "models" / "model.pt").write_bytes(weights)
    return folder


def read(folder: Path, config: Any = None, **changes: Any) -> package.Manifest:
    """The manifest of a bundle with these changes of the usual configuration, or with another one."""
    return package.load(write(folder, config if config is not None else inference(**changes))).manifest

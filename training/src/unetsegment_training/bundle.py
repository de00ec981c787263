"""The MONAI side of a package: metadata.json, inference.json, documents, all written from the manifest."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

from UNetSegmentLib.package.architecture import UNETS
from UNetSegmentLib.package.pair import PAIR, parts

from .dataset import DatasetError


def write(root: Path, raw: dict[str, Any]) -> None:
    """Write every text file of a package: configs, LICENSE, model card and data licence."""
    for folder in ("configs", "docs"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    configs = {"manifest": raw, "metadata": bundle_metadata(raw)}
    try:
        configs["inference"] = inference(raw)
    except DatasetError:
        if not raw.get("ancestors"):
            raise
        # training went on from a model of another kind: it runs in the module, not in stock MONAI
    for name, content in configs.items():
        (root / "configs" / f"{name}.json").write_text(
            json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8"
        )
    (root / "docs" / "README.md").write_text(model_card(raw), "utf-8")
    licence = raw["licence"]
    text = f"{raw['title']} {raw['version']}\n\nLicence: {licence['name']}\n{licence.get('url', '')}\n"
    (root / "LICENSE").write_text(text, "utf-8")
    data = raw.get("training_data", {})
    source = f"Training data: {data.get('name', '')}\n{data.get('source', '')}\n{data.get('description', '')}\n"
    (root / "docs" / "data_license.txt").write_text(source + text, "utf-8")


def bundle_metadata(raw: dict[str, Any]) -> dict[str, Any]:
    """``metadata.json`` as MONAI's bundle specification asks for it."""
    patch = raw["inference"]["patch_size"]
    image = {"type": "image", "dtype": "float32", "value_range": [], "is_patch_data": True, "spatial_shape": patch}
    channels = {str(i): channel["name"] for i, channel in enumerate(raw["channels"])}
    labels = {str(i): label["name"] for i, label in enumerate(raw["labels"])}
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json",
        "version": raw["version"],
        "changelog": {raw["version"]: "packed by unetsegment-train"},
        "monai_version": metadata.version("monai"),
        "pytorch_version": metadata.version("torch").split("+")[0],
        "numpy_version": metadata.version("numpy"),
        "required_packages_version": {"nibabel": "5.2.0"},
        "name": raw["title"],
        "task": "segmentation",
        "description": raw["description"],
        "authors": "UNetSegment contributors",
        "copyright": "UNetSegment contributors",
        "data_source": raw.get("training_data", {}).get("source", ""),
        "intended_use": raw["intended_use"],
        "references": raw.get("citation", []),
        "network_data_format": {
            "inputs": {
                "image": image
                | {
                    "format": "magnitude",
                    "modality": raw["channels"][0].get("modality", "OT"),
                    "num_channels": len(channels),
                    "channel_def": channels,
                }
            },
            "outputs": {"pred": image | {"format": "segmentation", "num_channels": len(labels), "channel_def": labels}},
        },
    }


def inference(raw: dict[str, Any]) -> dict[str, Any]:
    """``inference.json`` for ``python -m monai.bundle run``, doing step by step what the predictor does."""
    window = raw["inference"]
    how = raw["preprocessing"]
    if (
        raw["network"]["name"] in UNETS
        or how["orientation"] == "stored"
        or set(how) & {"crop", "normalize", "resampling"}
    ):
        raise DatasetError("A MONAI bundle is written for MONAI's networks and plain preprocessing only.")
    axes = list(raw["preprocessing"].get("axes", (0, 1, 2)))
    flat = raw["network"].get("dimensions", 3) == 2
    if not flat and axes != [0, 1, 2]:
        raise DatasetError("A MONAI bundle is written for the network's axes in their own order only.")
    scale = _normalization([channel["normalization"] for channel in raw["channels"]])
    files = [file["path"] for role, file in raw.get("files", {}).items() if role.partition(".")[0] == "torch"]
    weights = files or ["models/model.pt"]
    names = ["network", *(f"network_{n}" for n in range(1, len(weights)))]
    networks: dict[str, Any] = {}
    for name in names:
        networks |= _network(name, raw["network"]) | {name: f"$@{name}_def.to(@device)"}
    several = len(names) > 1
    return {
        "imports": ["$import glob"],
        "bundle_root": ".",
        "dataset_dir": "/path/to/images",
        "output_dir": "$@bundle_root + '/eval'",
        "datalist": "$sorted(glob.glob(@dataset_dir + '/*.nii.gz'))",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        **networks,
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
                {"_target_": "Orientationd", "keys": "image", "axcodes": raw["preprocessing"]["orientation"]},
                *scale,
                {
                    "_target_": "Spacingd",
                    "keys": "image",
                    "pixdim": [raw["preprocessing"]["spacing"][axes.index(a)] or -1 for a in range(3)],
                    "mode": "bilinear",
                },
                {"_target_": "EnsureTyped", "keys": "image", "dtype": "$torch.float32"},
            ],
        },
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': i} for i in @datalist]",
            "transform": "@preprocessing",
        },
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": 1,
            "shuffle": False,
            "num_workers": 0,
        },
        "inferer": {
            **({"_target_": "SliceInferer", "spatial_dim": axes[0]} if flat else {"_target_": "SlidingWindowInferer"}),
            "roi_size": window["patch_size"][flat:],
            "sw_batch_size": 1,
            "overlap": window["overlap"],
            "mode": window.get("blending", "gaussian"),
            "sigma_scale": window.get("sigma_scale", 0.125),
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                *_mean(len(names)),
                {
                    "_target_": "Invertd",
                    "keys": "pred",
                    "transform": "@preprocessing",
                    "orig_keys": "image",
                    "nearest_interp": False,
                    "to_tensor": True,
                },
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
                *_value_mapping(raw),
                {
                    "_target_": "SaveImaged",
                    "keys": "pred",
                    "meta_keys": "pred_meta_dict",
                    "output_dir": "@output_dir",
                    "resample": False,
                },
            ],
        },
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": f"$@bundle_root + '/{path}'",
                "load_dict": {"model": f"@{name}"},
            }
            for name, path in zip(names, weights, strict=True)
        ],
        "evaluator": {
            "_target_": "EnsembleEvaluator" if several else "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            **({"networks": [f"@{name}" for name in names]} if several else {"network": "@network"}),
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
            "amp": False,
        },
        "initialize": [],
        "run": ["$@evaluator.run()"],
    }


def _network(name: str, network: dict[str, Any]) -> dict[str, Any]:
    """The definition of a network, by the name ``NAME_def``."""
    arguments = network["arguments"]
    if network["name"] != PAIR:
        return {f"{name}_def": {"_target_": network["name"], **arguments}}
    first, second = ({"_target_": "BasicUNet", **part} for part in parts(arguments))
    skip = f"monai.networks.layers.SkipConnection(torch.nn.Sequential(@{name}_first, torch.nn.Softmax(1)))"
    whole = f"$torch.nn.Sequential({skip}, @{name}_second)"
    return {f"{name}_first": first, f"{name}_second": second, f"{name}_def": whole}


def _mean(members: int) -> list[dict[str, Any]]:
    """The mean of the members' logits; MONAI's ``EnsembleEvaluator`` calls them ``pred_0``, ``pred_1`` ..."""
    keys = [f"pred_{n}" for n in range(members)]
    return [{"_target_": "MeanEnsembled", "keys": keys, "output_key": "pred"}] if members > 1 else []


def _normalization(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """MONAI's transforms for one kind of normalisation; its transforms know channels only as a whole."""
    first = rules[0]
    if any(rule != first for rule in rules[1:]):
        raise DatasetError("A MONAI bundle is written for channels of one normalisation only.")
    method, mask = first["method"], first.get("mask", "all")
    if method == "none":
        return []
    if method == "zscore" and mask in ("all", "nonzero"):
        rule = {"_target_": "NormalizeIntensityd", "keys": "image", "channel_wise": True}
        return [rule | ({"nonzero": True} if mask == "nonzero" else {})]
    rule = {"_target_": "ScaleIntensityRanged", "keys": "image"}
    if method == "clip_zscore":
        (low, high), mean, std = first["clip"], first["mean"], first["std"]
        ends = {"b_min": (low - mean) / std, "b_max": (high - mean) / std}
        return [rule | {"a_min": low, "a_max": high, **ends, "clip": True}]
    if method == "range" and not first.get("clamp"):
        low, high = first["window"]
        return [rule | {"a_min": low, "a_max": high, "b_min": 0.0, "b_max": 1.0}]
    if method == "minmax" and "clip" not in first:
        return [{"_target_": "ScaleIntensityd", "keys": "image", "channel_wise": True}]
    raise DatasetError(f"A MONAI bundle cannot be written for the normalisation {method}.")


def _value_mapping(raw: dict[str, Any]) -> list[dict[str, Any]]:
    """Class indices to label values, and largest components, where the manifest asks for them."""
    steps: list[dict[str, Any]] = []
    values = [label["value"] for label in raw["labels"]]
    if values != list(range(len(values))):
        steps.append(
            {
                "_target_": "MapLabelValued",
                "keys": "pred",
                "orig_labels": list(range(len(values))),
                "target_labels": values,
            }
        )
    for step in raw.get("postprocessing", []):
        steps.append(
            {
                "_target_": "KeepLargestConnectedComponentd",
                "keys": "pred",
                "applied_labels": step["labels"],
                "independent": False,
                "connectivity": 3 if step.get("connectivity") == "corners" else 1,
            }
        )
    return steps


def model_card(raw: dict[str, Any]) -> str:
    """``docs/README.md``: what the model is for, what it was trained on, how well it does, where it ends."""
    names = {label["value"]: label["name"] for label in raw["labels"]}
    data = raw.get("training_data", {})
    rows = [
        f"| {names.get(m['label'], m['label'])} | {m.get('dice', float('nan')):.4f} | {_interval(m)} | {m.get('iou', 0):.4f} "
        f"| {m.get('hd95_mm', float('nan')):.2f} | {m.get('surface_dice', 0):.4f} | {m.get('cases', '')} | {m.get('split', '')} |"
        for m in raw.get("metrics", [])
    ]
    lines = [
        f"# {raw['title']} {raw['version']}",
        "",
        raw["description"],
        "",
        "## Intended use",
        "",
        raw["intended_use"],
        "",
        "## Limits",
        "",
        raw.get("limits", ""),
        "",
        "## Measured",
        "",
        "| structure | Dice | 95 % interval of the mean | IoU | HD95 (mm) | surface Dice at 1 mm | cases | on |",
        "|---|---|---|---|---|---|---|---|",
        *rows,
        "",
        *_remarks(raw, names),
        "## Training data",
        "",
        f"{data.get('name', '')}, {data.get('cases', '')} cases. {data.get('description', '')} {data.get('source', '')}",
        "",
        *_origin(raw.get("ancestors", [])),
        "## Licence and citation",
        "",
        f"{raw['licence']['name']} {raw['licence'].get('url', '')}",
        "",
        *(f"- {entry}" for entry in raw.get("citation", [])),
    ]
    return "\n".join(lines) + "\n"


def _origin(ancestors: list[dict[str, Any]]) -> list[str]:
    """The models that training went on from, with their licences."""
    if not ancestors:
        return []
    lines = []
    for entry in ancestors:
        data = entry.get("training_data", {})
        trained = f", trained on {data['name']} ({data.get('cases', '?')} cases)" if "name" in data else ""
        licence = entry["licence"]["name"]
        lines.append(f"- {entry['name']} {entry['version']}, {licence}{trained}; manifest SHA-256 {entry['sha256']}")
    return ["## Origin", "", "Training went on from:", "", *lines, ""]


def _remarks(raw: dict[str, Any], names: dict[int, str]) -> list[str]:
    """What the figures do not say by themselves: an estimate, an ensemble, and steps after labelling."""
    told = []
    if any("trained on all its cases" in metric.get("split", "") for metric in raw.get("metrics", [])):
        told += [
            "The figures are those of a cross-validation with the same settings: each case was answered by a network that had "
            "not seen it. The packed network was trained on all its cases, so it was not measured itself.",
            "",
        ]
    if (members := sum(role.partition(".")[0] == "torch" for role in raw.get("files", {}))) > 1:
        told += [f"The model is the mean of {members} networks: it needs {members} times the time of one."]
        if any("one network per case" in metric.get("split", "") for metric in raw.get("metrics", [])):
            told[-1] += (
                " The figures are those of the single networks, each on the cases it was not trained on; "
                "together they have seen all cases, so their mean was not measured."
            )
        told.append("")
    for step in raw.get("postprocessing", []):
        what = " and ".join(names[value] for value in step["labels"])
        told += [f"Of {what} the largest connected component is kept. {step.get('reason', '')}".rstrip(), ""]
    return told


def _interval(metric: dict[str, Any]) -> str:
    return "{:.4f} to {:.4f}".format(*metric["dice_ci95"]) if "dice_ci95" in metric else ""

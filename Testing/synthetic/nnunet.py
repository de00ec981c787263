"""Trained-model folders as nnU-Net v2 writes them, made on the spot.

Tests, the peers' scripts and the benchmarks take them from here; nnU-Net's own Python imports this file, too, so that only
numpy is needed until weights are wanted.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Table = dict[str, Any]
FULL = "3d_fullres"
PLAIN, RESIDUAL = "PlainConvUNet", "ResidualEncoderUNet"
INTENSITIES = {"mean": 10.0, "std": 20.0, "median": 9.0, "percentile_00_5": -50.0, "percentile_99_5": 90.0}


def architecture(
    features: Sequence[int],
    kernels: Sequence[Sequence[int]],
    strides: Sequence[Sequence[int]],
    encoder: Sequence[int],
    decoder: Sequence[int],
    network: str = PLAIN,
) -> Table:
    """One of nnU-Net's two networks in 2D or 3D: channels, kernels, strides and convolutions (or blocks) of each stage."""
    dimensions = len(kernels[0])
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{network}",
        "arch_kwargs": {
            "n_stages": len(features),
            "features_per_stage": list(features),
            "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
            "kernel_sizes": [list(size) for size in kernels],
            "strides": [list(step) for step in strides],
            "n_conv_per_stage" if network == PLAIN else "n_blocks_per_stage": list(encoder),
            "n_conv_per_stage_decoder": list(decoder),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def resampling(by_torch: bool = False) -> Table:
    """How images, labels and answers change grids: nnU-Net's usual function, or the one that its torch planners name."""
    entries: Table = {}
    for part, order in (("data", 3), ("seg", 1), ("probabilities", 1)):
        options: Table = {"is_seg": part == "seg"}
        if by_torch:
            options |= {"force_separate_z": False, "memefficient_seg_resampling": False}
        else:
            options |= {"order": order, "order_z": 0, "force_separate_z": None}
        entries[f"resampling_fn_{part}"] = "resample_torch_fornnunet" if by_torch else "resample_data_or_seg_to_shape"
        entries[f"resampling_fn_{part}_kwargs"] = options
    return entries


def configuration(
    patch: Sequence[int],
    spacing: Sequence[float],
    network: Table,
    schemes: Sequence[str] = ("CTNormalization",),
    masked: bool = False,
    by_torch: bool = False,
) -> Table:
    """One entry of ``configurations``; axes are nnU-Net's, slices first, after its transposition."""
    return {
        "data_identifier": "nnUNetPlans_test",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(patch),
        "median_image_size_in_voxels": [2.0 * size for size in patch],
        "spacing": list(spacing),
        "normalization_schemes": list(schemes),
        "use_mask_for_norm": [masked] * len(schemes),
        **resampling(by_torch),
        "architecture": network,
        "batch_dice": False,
    }


def old_form(of: Table, base: int, largest: int) -> Table:
    """A configuration as nnU-Net wrote it before 2.4: stages get ``base`` channels, twice as many each, up to ``largest``."""
    network = of["architecture"]
    arguments = network["arch_kwargs"]
    rest = {key: value for key, value in of.items() if key != "architecture"}
    return rest | {
        "UNet_class_name": network["network_class_name"].rpartition(".")[2],
        "UNet_base_num_features": base,
        "unet_max_num_features": largest,
        "n_conv_per_stage_encoder": arguments.get("n_conv_per_stage") or arguments["n_blocks_per_stage"],
        "n_conv_per_stage_decoder": arguments["n_conv_per_stage_decoder"],
        "num_pool_per_axis": [sum(step > 1 for step in axis) for axis in zip(*arguments["strides"])],
        "pool_op_kernel_sizes": arguments["strides"],
        "conv_kernel_sizes": arguments["kernel_sizes"],
    }


def plans(
    configurations: Table,
    intensities: Table = INTENSITIES,
    channels: int = 1,
    transpose: Sequence[int] = (0, 1, 2),
    reader: str = "SimpleITKIO",
    name: str = "Dataset001_Test",
) -> Table:
    """plans.json; ``intensities`` are those of every channel's foreground."""
    first = next(of for of in configurations.values() if "spacing" in of)
    spacing = [first["spacing"][0], *first["spacing"]][-3:]
    return {
        "dataset_name": name,
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": spacing,
        "original_median_shape_after_transp": [40, 40, 40],
        "image_reader_writer": reader,
        "transpose_forward": list(transpose),
        "transpose_backward": [int(axis) for axis in np.argsort(transpose)],
        "configurations": configurations,
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(n): dict(intensities) for n in range(channels)},
    }


def dataset(labels: Table, channels: dict[str, str] | None = None, order: Sequence[int] | None = None) -> Table:
    """dataset.json; ``order`` is that of regions."""
    table = {"channel_names": channels or {"0": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
    return table | ({"regions_class_order": list(order)} if order else {})


def checkpoint(weights: Table, **changes: Any) -> Table:
    """What a trainer saves, with the objects that pickles of real ones hold; ``changes`` replace entries, ... removes one."""
    import torch

    content = {
        "network_weights": weights,
        "optimizer_state": {},
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.5)], "dice_per_class_or_region": [[np.float32(0.5)]]},
        "_best_ema": np.float64(0.5),
        "current_epoch": 1000,
        "init_args": {"plans": {}, "configuration": FULL, "fold": 0, "device": torch.device("cpu")},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    } | changes
    return {key: value for key, value in content.items() if value is not ...}


def write_tables(folder: Path, plans: Table | str, dataset: Table | str) -> None:
    """Write plans.json and dataset.json into a folder; either may be text."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in (("plans.json", plans), ("dataset.json", dataset)):
        text = table if isinstance(table, str) else json.dumps(table, indent=1)
        (folder / name).write_text(text, "utf-8")


# A small model: two stages, thick slices, axes exchanged, two structures in CT.

ARCHITECTURE = architecture([2, 3], [[3, 3, 3]] * 2, [[1, 1, 1], [2, 2, 2]], [1, 1], [1])
PLANS = plans({FULL: configuration([8, 16, 16], [3.0, 1.0, 0.5], ARCHITECTURE)}, transpose=[1, 0, 2])
DATASET = dataset({"background": 0, "a": 1, "b": 2})


def changed(table: Table, **entries: Any) -> Table:
    """A copy with entries at ``a__b__c`` paths set, or removed where the value is ``...``."""
    table = copy.deepcopy(table)
    for path, value in entries.items():
        *parts, last = path.split("__")
        place = table
        for part in parts:
            place = place[part]
        if value is ...:
            del place[last]
        else:
            place[last] = value
    return table


def configured(**entries: Any) -> Table:
    """The small model's plans with these entries of its configuration changed."""
    return changed(PLANS, **{f"configurations__{FULL}__{key}": value for key, value in entries.items()})


def network(**arguments: Any) -> Table:
    """The small model's architecture with these arguments changed."""
    return changed(ARCHITECTURE, **{f"arch_kwargs__{key}": value for key, value in arguments.items()})


def weights() -> Table:
    """The small model's state dict in nnU-Net's form, with its doubles and its other heads."""
    import torch
    from UNetSegmentLib.package import nnunet_plans

    rng = np.random.default_rng(0)
    shapes = nnunet_plans.read(PLANS, DATASET, FULL).architecture.shapes()
    state = {key: torch.from_numpy(rng.normal(size=shape).astype(np.float32)) for key, shape in shapes.items()}
    for key, value in list(state.items()):
        if key.startswith("encoder."):
            state[f"decoder.{key}"] = value
        if ".conv." in key:
            state[key.replace(".conv.", ".all_modules.0.")] = value
    return state


def write(
    folder: Path,
    plans: Table | str = PLANS,
    folds: Iterable[str] = ("all",),
    name: str = "checkpoint_final.pth",
    **changes: Any,
) -> Path:
    """Write the small model; ``changes`` are those of its checkpoints."""
    import torch

    write_tables(folder, plans, DATASET)
    content = checkpoint(weights(), **{"inference_allowed_mirroring_axes": (0, 2)} | changes)
    for fold in folds:
        (folder / f"fold_{fold}").mkdir(exist_ok=True)
        torch.save(content, folder / f"fold_{fold}" / name)
    return folder

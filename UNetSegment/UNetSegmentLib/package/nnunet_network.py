"""From the network in nnU-Net v2's plans.json to its description; class names are matched by their text, never imported."""

from __future__ import annotations

from typing import Any

from ..errors import PackageError
from .architecture import UNETS, UNetArchitecture


def read_network(
    how: dict[str, Any], dimensions: int, channels: int, outputs: int, batch_norm: bool
) -> tuple[UNetArchitecture, dict[str, Any]]:
    """The network, and its manifest entry.

    Args:
        how: A configuration of the plans, resolved.
        dimensions: 2 or 3.
        channels: Of the input.
        outputs: Of the last layer.
        batch_norm: Whether the weights show batch normalisation, whatever the plans say.

    Raises:
        PackageError: It is none of :data:`UNETS`, or has parts that those lack. Plans that are not nnU-Net's raise
            KeyError, TypeError or ValueError.
    """
    name, given = _architecture(how, dimensions)
    stages = given["n_stages"]
    if type(stages) is not int or not 2 <= stages <= 16:
        raise PackageError("The nnU-Net model's network does not have 2 to 16 stages.")
    if _last(given["conv_op"]) != f"Conv{dimensions}d":
        raise PackageError(f"The nnU-Net model's network uses '{given['conv_op']}' for {dimensions}D patches.")
    norm, norm_options = _last(given.get("norm_op")), given.get("norm_op_kwargs") or {}
    kinds = {None: "none", f"InstanceNorm{dimensions}d": "instance", f"BatchNorm{dimensions}d": "batch"}
    if norm not in kinds or norm_options.get("track_running_stats", norm == f"BatchNorm{dimensions}d") is not (
        norm == f"BatchNorm{dimensions}d"
    ):
        raise PackageError(f"The nnU-Net model's network uses the norm '{given['norm_op']}', which is unknown.")
    nonlin, nonlin_options = _last(given.get("nonlin")), given.get("nonlin_kwargs") or {}
    slopes = {None: 1.0, "ReLU": 0.0, "LeakyReLU": nonlin_options.get("negative_slope", 0.01)}
    if nonlin not in slopes:
        raise PackageError(f"The nnU-Net model's network uses the activation '{given['nonlin']}', which is unknown.")
    if _last(given.get("block")) not in (None, "BasicBlockD") or given.get("bottleneck_channels") is not None:
        raise PackageError("The nnU-Net model's network has bottleneck blocks, which are unknown.")
    kind = "batch" if batch_norm else kinds[norm]
    blocks = "n_conv_per_stage" if name == "PlainConvUNet" else "n_blocks_per_stage"
    arguments = {
        "features_per_stage": _list(given["features_per_stage"], stages),
        "kernel_sizes": [_list(size, dimensions) for size in _list(given["kernel_sizes"], stages)],
        "strides": [_list(step, dimensions) for step in _list(given["strides"], stages)],
        blocks: _list(given[blocks], stages),
        "n_conv_per_stage_decoder": _list(given["n_conv_per_stage_decoder"], stages - 1),
        "conv_bias": given.get("conv_bias", False),
        "norm": kind,
        "norm_eps": 1e-5 if batch_norm else norm_options.get("eps", 1e-5),
        "norm_affine": batch_norm or norm_options.get("affine", kind == "batch"),
        "negative_slope": slopes[nonlin],
    }
    if name == "PlainConvUNet":
        arguments["nonlin_first"] = given.get("nonlin_first", False)
    elif given.get("stem_channels") is not None:
        arguments["stem_channels"] = given["stem_channels"]
    made = UNetArchitecture.of(name, arguments, dimensions, channels, outputs)
    return made, {"name": name, "arguments": arguments, "dimensions": dimensions}


def _architecture(how: dict[str, Any], dimensions: int) -> tuple[str, dict[str, Any]]:
    """Class and arguments of the network; plans of nnU-Net before 2.4 hold its parts in entries of their own."""
    if "architecture" in how:
        name, given = _last(how["architecture"]["network_class_name"]), how["architecture"]["arch_kwargs"]
    else:
        name, stages = how["UNet_class_name"], len(how["n_conv_per_stage_encoder"])
        base, most = int(how["UNet_base_num_features"]), int(how["unet_max_num_features"])
        given = {
            "n_stages": stages,
            "features_per_stage": [min(base << stage, most) for stage in range(min(stages, 16))],
            "conv_op": f"Conv{dimensions}d",
            "kernel_sizes": how["conv_kernel_sizes"],
            "strides": how["pool_op_kernel_sizes"],
            "n_conv_per_stage_decoder": how["n_conv_per_stage_decoder"],
            "conv_bias": True,
            "norm_op": f"InstanceNorm{dimensions}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": "LeakyReLU",
        }
        given["n_conv_per_stage" if name == "PlainConvUNet" else "n_blocks_per_stage"] = how["n_conv_per_stage_encoder"]
    if name not in UNETS:
        raise PackageError(f"The nnU-Net model's network is '{name}', which is none of {', '.join(UNETS)}.")
    return name, given


def _last(name: Any) -> str | None:
    """The last part of a dotted name, which is matched by its text alone."""
    return None if name is None else str(name).rpartition(".")[2]


def _list(value: Any, count: int) -> list[Any]:
    """nnU-Net writes one number where all are the same."""
    return [value] * count if isinstance(value, int) else list(value)

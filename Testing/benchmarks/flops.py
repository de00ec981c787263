"""Floating point operations of a U-Net, counted from its layers: two per multiply-add of every convolution."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

Sizes = Sequence[Sequence[int]]


def unet(
    patch: Sequence[int],
    channels: int,
    classes: int,
    features: Sequence[int],
    strides: Sizes,
    kernels: Sizes,
    encoder_convolutions: Sequence[int],
    decoder_convolutions: Sequence[int],
) -> float:
    """Of one forward pass over a patch: plain convolutions, transposed ones up (kernel = stride), a 1x1x1 head.

    MONAI's ``DynUNet`` without residual blocks and nnU-Net's ``PlainConvUNet`` are both built so. Normalisation and
    activation are left out: they are below 1 % of it.
    """
    total, before, size = 0.0, channels, list(patch)
    voxels = []
    for stage, width in enumerate(features):
        size = [-(-n // s) for n, s in zip(size, strides[stage], strict=True)]
        voxels.append(prod(size))
        for number in range(encoder_convolutions[stage]):
            total += voxels[-1] * prod(kernels[stage]) * (before if number == 0 else width) * width
        before = width
    for stage in reversed(range(len(features) - 1)):
        width = features[stage]
        total += voxels[stage] * before * width  # each output voxel of the transposed convolution has one source
        for number in range(decoder_convolutions[stage]):
            total += voxels[stage] * prod(kernels[stage]) * (2 * width if number == 0 else width) * width
        before = width
    return 2.0 * (total + voxels[0] * before * classes)


def of_plans(configuration: dict[str, Any], channels: int, classes: int) -> float:
    """Of a patch of an nnU-Net configuration (``plans.json``, ``architecture`` in it)."""
    made = configuration["architecture"]["arch_kwargs"]
    decoder = list(made["n_conv_per_stage_decoder"])[::-1]  # from the deepest stage upwards in the plans
    return unet(
        configuration["patch_size"],
        channels,
        classes,
        made["features_per_stage"],
        made["strides"],
        made["kernel_sizes"],
        made["n_conv_per_stage"],
        decoder,
    )


def of_dynunet(arguments: dict[str, Any], patch: Sequence[int]) -> float:
    """Of a patch of MONAI's DynUNet, from its arguments in a manifest."""

    def triple(value: int | Sequence[int]) -> list[int]:
        return [value] * 3 if isinstance(value, int) else list(value)

    features = arguments["filters"]
    sizes = [[triple(entry) for entry in arguments[name]] for name in ("strides", "kernel_size")]
    twice = [2] * len(features)
    return unet(patch, arguments["in_channels"], arguments["out_channels"], features, *sizes, twice, twice[1:])

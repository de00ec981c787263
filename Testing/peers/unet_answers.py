"""Weights, an input and the answer of networks of dynamic_network_architectures: run where that package is installed.

    cd Testing && python -m peers.unet_answers OUT

Each ``OUT/NAME.npz`` holds the state dict under ``w:KEY``, ``input``, ``output``, and ``facts``: JSON with ``name``,
``dimensions``, ``outputs`` and the ``arguments`` as nnU-Net's plans have them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dynamic_network_architectures.architectures import unet
from torch import nn

PLAIN: dict[str, Any] = {"n_conv_per_stage": [2, 2, 1], "n_conv_per_stage_decoder": [1, 2]}
RESIDUAL: dict[str, Any] = {"n_blocks_per_stage": [1, 2, 2], "n_conv_per_stage_decoder": [1, 1]}
SOLID = {"kernel_sizes": [[3, 3, 3]] * 3, "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]]}
THIN = {"kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]], "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]]}
FLAT = {"kernel_sizes": [[3, 3], [5, 3], [3, 3]], "strides": [[1, 1], [2, 1], [2, 2]]}
CASES = {
    "plain_solid": ("PlainConvUNet", 3, {**PLAIN, **SOLID}),
    "plain_thin": ("PlainConvUNet", 3, {**PLAIN, **THIN}),
    "plain_flat": ("PlainConvUNet", 2, {**PLAIN, **FLAT}),
    "plain_batch": ("PlainConvUNet", 3, {**PLAIN, **SOLID, "norm_op": "BatchNorm"}),
    "plain_first": ("PlainConvUNet", 3, {**PLAIN, **SOLID, "nonlin_first": True, "conv_bias": False}),
    "plain_dropout": ("PlainConvUNet", 3, {**PLAIN, **SOLID, "dropout_op": "Dropout"}),
    "plain_relu": ("PlainConvUNet", 2, {**PLAIN, **FLAT, "nonlin": "torch.nn.ReLU"}),
    "residual_solid": ("ResidualEncoderUNet", 3, {**RESIDUAL, **SOLID}),
    "residual_thin": ("ResidualEncoderUNet", 3, {**RESIDUAL, **THIN, "stem_channels": 6}),
    "residual_flat": ("ResidualEncoderUNet", 2, {**RESIDUAL, **FLAT, "features_per_stage": [8, 8, 16]}),
    "residual_batch": ("ResidualEncoderUNet", 3, {**RESIDUAL, **SOLID, "norm_op": "BatchNorm"}),
}


def answer(name: str, dimensions: int, given: dict[str, Any]) -> dict[str, Any]:
    """What goes into a file."""
    base = {"n_stages": 3, "features_per_stage": [8, 16, 24], "conv_bias": True, "norm_op": "InstanceNorm"}
    options = {**base, "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True}, **given}
    layers: dict[str, Any] = {"conv_op": f"torch.nn.modules.conv.Conv{dimensions}d"}
    layers["norm_op"] = f"torch.nn.{options['norm_op']}{dimensions}d"
    layers["nonlin"] = options["nonlin"]
    if "dropout_op" in options:
        layers["dropout_op"] = f"torch.nn.Dropout{dimensions}d"
        options["dropout_op_kwargs"] = {"p": 0.3}
    options |= {**layers, "norm_op_kwargs": {"eps": 1e-4, "affine": True}}
    classes = {key: getattr(nn, value.rpartition(".")[2]) for key, value in layers.items()}
    network = getattr(unet, name)(input_channels=2, num_classes=4, **{**options, **classes})
    network.apply(network.initialize)
    with torch.no_grad():
        for key, value in [*network.named_parameters(), *network.named_buffers()]:
            if "norm" in key and value.ndim == 1:
                value.uniform_(0.5, 1.5)
            elif key.endswith("bias"):
                value.normal_(0, 0.2)
    network.eval()
    image = torch.randn(1, 2, *[16, 24, 32][-dimensions:])
    with torch.inference_mode():
        output = network(image)
    facts = {"name": name, "dimensions": dimensions, "outputs": 4, "arguments": options}
    arrays = {f"w:{key}": value.numpy() for key, value in network.state_dict().items()}
    return {**arrays, "input": image.numpy(), "output": output.numpy(), "facts": np.array(json.dumps(facts))}


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for case, (name, dimensions, given) in CASES.items():
        np.savez(Path(sys.argv[1]) / f"{case}.npz", **answer(name, dimensions, given))

"""The network and its loss: MONAI's DynUNet (nnU-Net's plain U-Net) with deep supervision, Dice + cross-entropy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.losses import DiceCELoss
from monai.networks.nets import DynUNet


def dynunet_arguments(channels: int, classes: int, filters: Sequence[int]) -> dict[str, Any]:
    """DynUNet's arguments for a 3D U-Net with kernels of 3 that halves the image ``len(filters) - 1`` times."""
    steps = len(filters) - 1
    return {
        "spatial_dims": 3,
        "in_channels": channels,
        "out_channels": classes,
        "kernel_size": [3] * (steps + 1),
        "strides": [1] + [2] * steps,
        "upsample_kernel_size": [2] * steps,
        "filters": list(filters),
        "norm_name": "INSTANCE",
        "res_block": False,
        "trans_bias": True,
    }


def build(arguments: dict[str, Any], deep_supervision: bool = False) -> DynUNet:
    """The network; in training mode with deep supervision it answers (N, heads, K, *patch), else (N, K, *patch)."""
    heads = max(len(arguments["filters"]) - 2, 1)
    return DynUNet(**arguments, deep_supervision=deep_supervision, deep_supr_num=heads)


def inference_state(state: dict[str, torch.Tensor], arguments: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Of a training network's weights, those that the network without deep-supervision heads has."""
    wanted = build(arguments).state_dict()
    return {key: state[key] for key in wanted}


class DeepSupervisionLoss(torch.nn.Module):
    """Soft Dice (without background, over the batch) + cross-entropy on every head, weights 1, 1/2, 1/4, ... summing to 1."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = DiceCELoss(
            include_background=False, to_onehot_y=True, softmax=True, batch=True, smooth_nr=1e-5, smooth_dr=1e-5
        )

    def forward(self, heads: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Loss of logits (N, heads, K, *patch) against class indices (N, *patch); a scalar."""
        weights = torch.tensor([0.5**i for i in range(heads.shape[1])])
        target = classes[:, None]
        losses = [self.loss(heads[:, i].float(), target) for i in range(heads.shape[1])]
        return sum(w * loss for w, loss in zip((weights / weights.sum()).tolist(), losses, strict=True))  # type: ignore[return-value]

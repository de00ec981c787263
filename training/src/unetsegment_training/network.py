"""Networks by name: what each is called in a manifest, with which arguments, and how it is made ready for training.

All are MONAI's and on the module's allow-list, so what was trained runs after packing. torch is imported when one is built.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from UNetSegmentLib.package.pair import PAIR

from .dataset import DatasetError

if TYPE_CHECKING:
    import torch
    from UNetSegmentLib.package import Manifest

    from .config import FitConfig


@dataclass(frozen=True)
class Kind:
    """A network that can be chosen.

    Args:
        monai: What a manifest calls it: its class in ``monai.networks.nets``, or the pair's name.
        words: What it is and where it comes from.
        stages: How many numbers ``filters`` must have; 0: three or more; -1: only the first is used.
        multiple: What patch sizes must be multiples of where strides are not free; 0: ``2 ** (stages - 1)``.
        norms: Which of the setting's normalisations it has; empty: its own.
    """

    monai: str
    words: str
    stages: int = 0
    multiple: int = 0
    norms: tuple[str, ...] = ("instance", "batch")


KINDS = {
    "dynunet": Kind(
        "DynUNet", "nnU-Net's plain U-Net (Isensee et al. 2021), with deep supervision and free strides and kernels"
    ),
    "residual": Kind("DynUNet", "the same with residual blocks (He et al. 2016) in the encoder"),
    "unet2015": Kind(
        "BasicUNet",
        "the U-Net of Ronneberger et al. 2015, padded, so that the answer is as large as the patch; the last "
        "up-convolution keeps its features instead of halving them. The paper has filters 64 to 1024 and `norm = none`",
        5, 16, ("instance", "batch", "none"),
    ),
    "unet2015-valid": Kind(
        "BasicUNet",
        "the same without padding, as published: 572 voxels in, 388 out; whole images by overlapping tiles with mirrored "
        "borders. Packed, it runs padded with the same weights",
        5, 0, ("batch", "none"),
    ),
    "unet3d": Kind("BasicUNet", "3D U-Net (Çiçek et al. 2016; leaky rectifiers, five levels), padded", 5, 16,
                   ("instance", "batch", "none")),
    "wnet": Kind(
        PAIR,
        "two such U-Nets in a row, a W: the second sees the image and the first one's probabilities and corrects them "
        "(auto-context, Tu and Bai 2010; twice the time). With `deep_supervision` the first one's answer is trained too",
        5, 16, ("instance", "batch", "none"),
    ),
    "vnet": Kind("VNet", "V-Net (Milletari et al. 2016); its own widths, 16 to 256", -1, 16, ()),
    "attention-unet": Kind("AttentionUnet", "U-Net with attention gates (Oktay et al. 2018)", norms=()),
    "swin-unetr": Kind("SwinUNETR", "Swin UNETR (Hatamizadeh et al. 2022); filters start at a multiple of 12", -1, 32, ()),
    "segresnet": Kind("SegResNet", "residual encoder and small decoder (Myronenko 2018); filters double from the first"),
    "mednext": Kind("MedNeXt", "MedNeXt (Roy et al. 2023), kernels of 3; filters double from the first", -1, 16, ()),
}  # fmt: skip
PACKAGE = "package"
"""As the name of a network: that of the model that the run starts from."""
NAMES = (*KINDS, PACKAGE)
OF_PACKAGE = ("filters", "strides", "kernels", "spacing", "slice_axis", "normalization", "norm", "dropout", "init")
"""Settings that such a model decides."""


def check_patch(config: FitConfig) -> None:
    """Check that network, filters, strides, norm and patch go together.

    Raises:
        DatasetError: They do not; the sentence says what would.
    """
    if config.network == PACKAGE:
        changed = (key for key in OF_PACKAGE if getattr(config, key) != type(config).model_fields[key].default)
        if key := next(changed, None):
            raise DatasetError(f"The model that the run starts from decides {key}; leave that setting out.")
        return
    kind, name, count = KINDS[config.network], config.network, len(config.filters)
    if (kind.stages > 0 and count != kind.stages) or (kind.stages == 0 and count < 3):
        wanted = str(kind.stages) if kind.stages else "three or more"
        raise DatasetError(f"The network {name} needs {wanted} numbers in filters; {list(config.filters)} has {count}.")
    if kind.norms and config.norm not in kind.norms:
        raise DatasetError(f"The network {name} has no norm '{config.norm}'; choose {' or '.join(kind.norms)}.")
    for key in ("strides", "kernels"):
        rows = getattr(config, key)
        if rows is not None and kind.monai != "DynUNet":
            raise DatasetError(f"The network {name} has its own {key}; leave that setting out.")
        if rows is not None and (len(rows) != count or any(len(row) != config.dimensions for row in rows)):
            raise DatasetError(f"{key} must have {count} rows, one per stage, of {config.dimensions} numbers.")
    if name == "unet2015-valid":
        if wrong := [n for n in config.patch if valid_size(n) is None]:
            good = next(n for n in range(max(wrong[0], 188), wrong[0] + 400) if valid_size(n) is not None)
            raise DatasetError(
                f"A patch of {wrong[0]} does not go through four poolings without padding; {good} does and answers "
                f"{valid_size(good)}."
            )
        return
    if name == "swin-unetr" and config.filters[0] % 12:
        raise DatasetError(
            f"The network swin-unetr needs filters that start at a multiple of 12, not {config.filters[0]}."
        )
    if name == "vnet" and config.dimensions == 2 and config.dropout:
        raise DatasetError("MONAI's V-Net drops whole images in 2D; set dropout = 0 or take another network.")
    for axis, size in enumerate(config.patch):
        step = kind.multiple or _steps(config, axis)
        if size % step:
            raise DatasetError(
                f"The patch {tuple(config.patch)} must be a multiple of {step} on each axis for "
                f"{name if kind.multiple else f'{count} stages'}."
            )
    lowest = [size // (kind.multiple or _steps(config, axis)) for axis, size in enumerate(config.patch)]
    if math.prod(lowest) == 1 and (name == "swin-unetr" or (kind.norms and config.norm == "instance")):
        raise DatasetError(
            f"The patch {tuple(config.patch)} leaves one voxel in the lowest stage, which cannot be normalised; "
            "make it larger along one axis at least."
        )


def _steps(config: FitConfig, axis: int) -> int:
    if config.strides is not None:
        return math.prod(row[axis] for row in config.strides)
    return 2 ** (len(config.filters) - 1)


def valid_size(size: int) -> int | None:
    """Voxels out for voxels in of the unpadded U-Net on one axis; None where it does not go through.

    Ronneberger et al. 2015: two convolutions of 3 take 4 voxels at each of five levels down and four up.
    """
    for _ in range(4):
        size -= 4
        if size <= 0 or size % 2:
            return None
        size //= 2
    size -= 4
    for _ in range(4):
        size = 2 * size - 4
    return size if size > 0 else None


def manifest_entry(config: FitConfig, channels: int, classes: int) -> dict[str, Any]:
    """The manifest's ``network``: MONAI's class, its arguments, and 2 or 3 dimensions.

    Raises:
        DatasetError: The network cannot have that many channels.
    """
    name, filters, dropout = config.network, list(config.filters), config.dropout
    if name == PACKAGE:
        raise DatasetError("The network 'package' is that of a model to start from; name it with fit --from.")
    norm = None if config.norm == "none" else config.norm.upper()
    sizes = {"spatial_dims": config.dimensions, "in_channels": channels, "out_channels": classes}
    if name in ("dynunet", "residual"):
        arguments = dynunet_arguments(channels, classes, filters, config.dimensions, config.strides, config.kernels)
        arguments |= {"norm_name": norm, "res_block": name == "residual"} | ({"dropout": dropout} if dropout else {})
    elif name in ("unet2015", "unet2015-valid"):
        arguments = sizes | {"features": [*filters, filters[0]], "act": "RELU", "norm": norm, "dropout": dropout}
    elif name in ("unet3d", "wnet"):
        arguments = sizes | {"features": [*filters, filters[0]], "norm": norm, "dropout": dropout}
    elif name == "vnet":
        if 16 % channels:
            raise DatasetError(f"V-Net takes 1, 2, 4, 8 or 16 channels; the dataset has {channels}.")
        arguments = sizes | {"dropout_prob_down": dropout, "dropout_prob_up": [dropout, dropout]}
    elif name == "attention-unet":
        arguments = sizes | {"channels": filters, "strides": [2] * (len(filters) - 1), "dropout": dropout}
    elif name == "swin-unetr":
        arguments = sizes | {"feature_size": filters[0], "drop_rate": dropout}
    elif name == "segresnet":
        blocks = [1, *[2] * (len(filters) - 2), 4]
        arguments = sizes | {"init_filters": filters[0], "norm": norm, "blocks_down": blocks}
        arguments |= {"blocks_up": [1] * (len(filters) - 1)} | ({"dropout_prob": dropout} if dropout else {})
    else:
        arguments = sizes | {"init_filters": filters[0], "kernel_size": 3, "use_residual_connection": True}
    entry: dict[str, Any] = {"name": KINDS[name].monai, "arguments": arguments}
    return entry | ({"dimensions": 2} if config.dimensions == 2 else {})


def dynunet_arguments(
    channels: int,
    classes: int,
    filters: Sequence[int],
    dimensions: int = 3,
    strides: Sequence[Sequence[int]] | None = None,
    kernels: Sequence[Sequence[int]] | None = None,
) -> dict[str, Any]:
    """DynUNet's arguments; without strides and kernels, kernels of 3 that halve the image ``len(filters) - 1`` times."""
    steps = len(filters) - 1
    down = [list(row) for row in strides] if strides else [1] + [2] * steps
    return {
        "spatial_dims": dimensions,
        "in_channels": channels,
        "out_channels": classes,
        "kernel_size": [list(row) for row in kernels] if kernels else [3] * (steps + 1),
        "strides": down,
        "upsample_kernel_size": down[1:],
        "filters": list(filters),
        "norm_name": "INSTANCE",
        "res_block": False,
        "trans_bias": True,
    }


def build(arguments: dict[str, Any], deep_supervision: bool = False) -> torch.nn.Module:
    """A DynUNet; in training mode with deep supervision it answers (N, heads, K, *patch), else (N, K, *patch)."""
    from monai.networks.nets import DynUNet

    heads = max(len(arguments["filters"]) - 2, 1)
    return DynUNet(**arguments, deep_supervision=deep_supervision, deep_supr_num=heads)


def build_for_training(manifest: Manifest, config: FitConfig) -> torch.nn.Module:
    """The manifest's network with first weights, deep supervision, checkpoints and without padding as the settings ask."""
    from UNetSegmentLib.predict.backends.torch_backend import build_network

    if manifest.network == "DynUNet" and config.deep_supervision:
        network = build(manifest.network_arguments, deep_supervision=True)
    else:
        network = build_network(manifest)
    if manifest.network == PAIR and config.deep_supervision:
        network.forward = partial(_both, network)
    _initialise(network, config.init)
    if config.network == "unet2015-valid":
        unpad(network)
    if config.checkpointing:
        _checkpoint(network)
    return network


def inference_state(state: dict[str, torch.Tensor], manifest: Manifest) -> dict[str, torch.Tensor]:
    """Of a training network's weights, those that the packed network has."""
    from UNetSegmentLib.predict.backends.torch_backend import build_network

    return {key: state[key] for key in build_network(manifest).state_dict()}


def unpad(network: torch.nn.Module) -> None:
    """Make a BasicUNet the U-Net of 2015: convolutions without padding, skipped features cropped to the centre."""
    import torch
    from monai.networks.nets.basic_unet import UpCat

    for module in network.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Conv3d)):
            module.padding = (0,) * len(module.kernel_size)
        if isinstance(module, UpCat):
            module.forward = partial(_join, module)


def _both(pair: Any, x: torch.Tensor) -> torch.Tensor:
    """In training the answers of both U-Nets, the last first: (N, 2, K, *patch); otherwise the pair's own."""
    import torch

    if not pair.training:
        return torch.nn.Sequential.forward(pair, x)
    first, softmax = pair[0].submodule
    early = first(x)
    return torch.stack([pair[1](torch.cat([x, softmax(early)], 1)), early], 1)


def _join(block: Any, x: torch.Tensor, skipped: torch.Tensor) -> torch.Tensor:
    """What ``UpCat`` does, with the skipped features cropped instead of the others padded."""
    import torch

    x = block.upsample(x)
    return block.convs(torch.cat([centre(skipped, x.shape[2:]), x], 1))


def centre(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """The middle of (..., *axes), of ``size`` on the last ``len(size)`` axes."""
    cuts = [slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(x.shape[-len(size) :], size, strict=True)]
    return x[(..., *cuts)]


def _initialise(network: torch.nn.Module, how: str) -> None:
    """First weights by He et al. 2015 or Glorot and Bengio 2010; biases zero."""
    import torch

    if how == "default":
        return
    for module in network.modules():
        if isinstance(module, torch.nn.modules.conv._ConvNd):
            if how == "he":
                torch.nn.init.kaiming_normal_(module.weight, a=0.01)
            else:
                torch.nn.init.xavier_normal_(module.weight)
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)


_BLOCKS = (
    "TwoConv", "UnetBasicBlock", "UnetResBlock", "UnetUpBlock", "ResBlock", "ConvBlock", "MedNeXtBlock",
    "DownTransition", "UpTransition", "BasicLayer",
)  # fmt: skip
"""MONAI's blocks between which features are kept when the rest is computed again."""


def _checkpoint(network: torch.nn.Module) -> None:
    from torch.utils.checkpoint import checkpoint

    done: set[int] = set()  # DynUNet names its blocks twice

    def outer(module: torch.nn.Module) -> None:
        for child in module.children():
            if id(child) in done:
                continue
            done.add(id(child))
            if type(child).__name__ in _BLOCKS:
                child.forward = partial(checkpoint, child.forward, use_reentrant=False)
            else:
                outer(child)

    outer(network)

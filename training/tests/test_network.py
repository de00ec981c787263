"""Every network by name: right shapes in 2D and 3D, trains, and is what the module builds after packing."""

import numpy as np
import pytest
import torch
from unetsegment_training.config import FitConfig
from unetsegment_training.dataset import DatasetError
from unetsegment_training.infer import overlap_tile
from unetsegment_training.network import (
    KINDS,
    build_for_training,
    centre,
    inference_state,
    manifest_entry,
    valid_size,
)  # fmt: skip
from UNetSegmentLib.package import NETWORKS
from UNetSegmentLib.predict.backends.torch_backend import build_network

SIZES = {"filters": (4, 4, 8), "patch": 16}
OWN = {
    "unet2015": {"filters": (4, 4, 4, 8, 8)},
    "unet2015-valid": {"filters": (2,) * 5, "patch": 188, "norm": "batch"},
    "unet3d": {"filters": (4, 4, 4, 8, 8)},
    "wnet": {"filters": (4, 4, 4, 4, 8)},
    "swin-unetr": {"filters": (12, 12, 12), "patch": 32},
    "segresnet": {"filters": (8, 8, 8)},
}


class Draft:
    """As much of a manifest as building a network needs."""

    name, architecture = "draft", None

    def __init__(self, config, channels=1, classes=3):
        entry = manifest_entry(config, channels, classes)
        self.network, self.network_arguments = entry["name"], entry["arguments"]


def config_of(name, dimensions, **more):
    own = {**SIZES, **OWN.get(name, {}), **more}
    size = own.pop("patch")
    patch = (2 * size if dimensions == 2 or name in ("swin-unetr", "unet2015", "unet3d", "wnet") else size,)
    patch = (188, 188) if name == "unet2015-valid" else (*patch, *[size] * (dimensions - 1))
    return FitConfig(network=name, dimensions=dimensions, patch=patch, **own)


@pytest.mark.parametrize(
    ("name", "dimensions"),
    [
        pytest.param(name, axes, marks=pytest.mark.slow) if (name, axes) == ("swin-unetr", 3) else (name, axes)
        for axes in (2, 3)
        for name in KINDS
        if name != "unet2015-valid"
    ],
)
def test_each_network_trains_and_its_weights_fit_the_packed_one(name, dimensions):
    config = config_of(name, dimensions)
    manifest = Draft(config)
    assert manifest.network in NETWORKS
    torch.manual_seed(0)
    network = build_for_training(manifest, config)
    x = torch.randn(2, 1, *config.patch)
    answer = network(x)
    deep = answer.ndim == dimensions + 3
    assert (answer[:, 0] if deep else answer).shape == (2, 3, *config.patch)
    assert deep == (name in ("dynunet", "residual", "wnet"))
    answer.square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)
    packed = build_network(manifest)
    packed.load_state_dict(inference_state(network.state_dict(), manifest))
    with torch.no_grad():
        torch.testing.assert_close(packed.eval()(x), network.eval()(x))


def test_the_sizes_of_2015():
    assert valid_size(572) == 388 and valid_size(570) is None and valid_size(187) is None
    assert all(valid_size(n) == n - 184 for n in range(188, 700, 16))


def test_without_padding_the_answer_is_smaller_and_agrees_with_the_padded_twin_inside():
    config = config_of("unet2015-valid", 2)
    manifest = Draft(config)
    torch.manual_seed(0)
    network = build_for_training(manifest, config).eval()
    packed = build_network(manifest).eval()
    packed.load_state_dict(inference_state(network.state_dict(), manifest))
    image = torch.randn(1, 1, 400, 400)
    with torch.no_grad():
        assert network(image[..., :188, :188]).shape == (1, 3, 4, 4)
        # the padded grid of poolings starts 2 voxels before that of the unpadded network, or 14 after
        inner, whole = network(image[..., 14 : 14 + 204, 14 : 14 + 204]), packed(image[..., :384, :384])
    torch.testing.assert_close(inner, whole[..., 14 + 92 : 14 + 92 + 20, 14 + 92 : 14 + 92 + 20], atol=1e-5, rtol=1e-4)


def test_overlapping_tiles_see_the_image_and_its_mirror():
    image = np.random.default_rng(0).normal(size=(1, 1, 23, 31)).astype(np.float32)

    def mean_of_25(patches):
        spread = torch.nn.functional.avg_pool2d(torch.from_numpy(patches[:, :, 0]), 5, 1)
        return spread.numpy()[:, :, None]

    answer = overlap_tile(image, mean_of_25, (1, 14, 14), (1, 10, 10))
    mirrored = np.pad(image, [(0, 0), (0, 0), (2, 2), (2, 2)], "reflect")
    np.testing.assert_allclose(answer, mean_of_25(mirrored[None])[0], atol=1e-6)
    small = overlap_tile(image[..., :7, :8], mean_of_25, (1, 14, 14), (1, 10, 10))
    assert small.shape == (1, 1, 7, 8)


@pytest.mark.parametrize("name", ["dynunet", "unet2015", "attention-unet", "segresnet", "wnet"])
def test_checkpointing_changes_no_gradient(name):
    gradients = []
    for checkpointing in (False, True):
        config = config_of(name, 2, checkpointing=checkpointing)
        torch.manual_seed(0)
        network = build_for_training(Draft(config), config)
        x = torch.randn(2, 1, *config.patch, generator=torch.Generator().manual_seed(1))
        network(x).square().sum().backward()
        gradients.append([p.grad for p in network.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_first_weights():
    for how, wanted in (("he", (2 / (1 + 1e-4) / (16 * 9)) ** 0.5), ("xavier", (2 / (9 * (16 + 16))) ** 0.5)):
        config = config_of("unet2015", 2, filters=(16,) * 5, init=how)
        weight = build_for_training(Draft(config), config).conv_0.conv_1.conv.weight
        assert float(weight.std()) == pytest.approx(wanted, rel=0.1)


def test_strides_and_kernels_of_a_plan():
    rows = ((1, 1, 1), (1, 2, 2), (2, 2, 2))
    config = FitConfig(filters=(4, 8, 8), patch=(6, 16, 16), strides=rows, kernels=((1, 3, 3), (3, 3, 3), (3, 3, 3)))
    network = build_for_training(Draft(config), config).eval()
    assert network(torch.randn(1, 1, 6, 16, 16)).shape == (1, 3, 6, 16, 16)
    with pytest.raises(DatasetError, match="multiple of 2"):
        config.changed(patch=(5, 16, 16))


def test_dropout_and_what_networks_cannot():
    config = config_of("dynunet", 3, dropout=0.5)
    network = build_for_training(Draft(config), config)
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        assert not torch.equal(network(x), network(x)) and torch.equal(network.eval()(x), network.eval()(x))
    with pytest.raises(DatasetError, match="1, 2, 4, 8 or 16 channels"):
        Draft(config_of("vnet", 3), channels=3)
    assert centre(torch.arange(6)[None], (2,)).tolist() == [[2, 3]]

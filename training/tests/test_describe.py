"""Networks described: the published U-Net's numbers, receptive fields against gradients, pictures of every network."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch
from unetsegment_training import cli
from unetsegment_training.dataset import DatasetError
from unetsegment_training.describe import describe, save
from unetsegment_training.layers import trace
from unetsegment_training.network import KINDS
from unetsegment_training.plan_file import Configuration, Normalization, Plan
from unetsegment_training.unet2015 import UNet2015


def test_the_paper_s_numbers_come_out():
    told = describe("unet2015")
    assert told.size == (572, 572) and told.answer.size_out == (388, 388) and told.answer.channels_out == 2
    sizes = [[x.size_out[0] for x in s.layers if x.kind != "concatenation"] for s in told.stages]
    assert sizes == [
        [570, 568], [284, 282, 280], [140, 138, 136], [68, 66, 64], [32, 30, 28],
        [56, 54, 52], [104, 102, 100], [200, 198, 196], [392, 390, 388, 388],
    ]  # fmt: skip
    bottleneck = next(s for s in told.stages if s.side == "bottleneck")
    assert (bottleneck.last.channels_out, bottleneck.last.size_out) == (1024, (28, 28))
    assert told.margin == (92, 92) and "388 x 388" in told.notes[-1] and "mirrored" in told.notes[-1]
    assert (
        sum(x.kind == "convolution" for x in told.layers) + sum(x.kind.startswith("transposed") for x in told.layers)
        == 23
    )


def test_parameters_and_operations_by_hand():
    told = describe("unet2015")
    widths = [1, 64, 128, 256, 512, 1024]
    expected = sum(9 * a * b + b + 9 * b * b + b for a, b in zip(widths, widths[1:]))  # down
    expected += sum(4 * 2 * a * a + a + 9 * 2 * a * a + a + 9 * a * a + a for a in widths[1:-1])  # up
    assert told.parameters == expected + 64 * 2 + 2 == 31_030_658
    first = told.layers[0]
    assert first.flops == 2 * 9 * 1 * 64 * 570 * 570
    assert first.formula() == "floor((572 + 2·0 - 3) / 1) + 1 = 570"
    up = next(x for x in told.layers if x.kind == "transposed convolution")
    assert up.formula() == "(28 - 1)·2 - 2·0 + 2 = 56" and up.flops == 2 * 4 * 1024 * 512 * 28 * 28


def by_gradient(network, size):
    """Largest extent, along the last axis, of what an output in the middle third depends on."""
    for p in network.parameters():
        torch.nn.init.constant_(p, 0.01) if p.ndim > 1 else torch.nn.init.zeros_(p)
    image = torch.ones((1, 1, *size), dtype=torch.float64, requires_grad=True)
    answer = network.double()(image)
    n, best = answer.shape[-1], 0
    for x in range(n // 3, -(-2 * n // 3)):
        (gradient,) = torch.autograd.grad(answer[0, 0, answer.shape[2] // 2, x], image, retain_graph=True)
        hit = torch.nonzero(gradient[0, 0].abs().sum(0))
        best = max(best, int(hit[-1] - hit[0]) + 1)
    return best


@pytest.mark.parametrize("levels", [2, 3])
def test_receptive_field_equals_the_gradient_s(levels):
    network = UNet2015(features=(2,) * levels)
    network.pool = torch.nn.AvgPool2d(2)  # every voxel counts, not only the largest
    expected = by_gradient(network, (156, 156))
    assert trace(UNet2015(features=(2,) * levels), 1, (156, 156))[-1].receptive_field == (expected, expected)


def test_receptive_field_of_plain_layers():
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3, padding=1), torch.nn.Conv2d(2, 2, 3, stride=2, padding=1),
        torch.nn.Conv2d(2, 2, (1, 3), dilation=(1, 2), padding=(0, 2)),
    )  # fmt: skip
    layers = trace(network, 1, (32, 40))
    assert [x.receptive_field for x in layers] == [(3, 3), (5, 5), (5, 13)]
    assert [x.size_out for x in layers] == [(32, 40), (16, 20), (16, 20)] and layers[-1].step == (2, 2)
    assert layers[-1].formula(1) == "floor((20 + 2·2 - 2·(3 - 1) - 1) / 1) + 1 = 20"


@pytest.mark.parametrize("name", KINDS)
def test_every_network_is_counted_and_drawn(name, tmp_path):
    told = describe(name)
    if name != "unet2015":  # described as published
        from unetsegment_training.config import FitConfig
        from unetsegment_training.describe import _usual
        from unetsegment_training.network import manifest_entry
        from UNetSegmentLib.predict.backends.torch_backend import monai_network

        entry = manifest_entry(FitConfig(network=name, **_usual(name, None)), 1, 2)
        network = monai_network(entry["name"], entry["arguments"])
        used = sum(p.numel() for p in network.parameters())
        assert told.parameters == pytest.approx(used, rel=2e-3)
    parts = 2 if name == "wnet" else 1
    assert [s.part for s in told.stages if s.side == "bottleneck"] == list(range(1, parts + 1))
    assert len({s.name for s in told.stages}) == len(told.stages)
    svg, png, numbers = save(told, tmp_path)
    assert ET.parse(svg).getroot().tag.endswith("svg") and png.read_bytes().startswith(b"\x89PNG")
    assert json.loads(numbers.read_text())["parameters"] == told.parameters


def test_unet_sizes_in_3d():
    told = describe("unet2015", (188, 188, 188))
    assert told.answer.size_out == (4, 4, 4) and told.layers[0].kernel == (3, 3, 3)


def test_describing_a_plan_and_a_package(tmp_path, capsys):
    full = Configuration(
        name="3d_fullres", axes=("i", "j", "k"), spacing=(1, 1, 1), median_shape=(35, 50, 36), patch=(40, 56, 40), batch=8,
        filters=(32, 64, 128, 256), kernels=((3, 3, 3),) * 4, strides=((1, 1, 1), *((2, 2, 2),) * 3),
    )  # fmt: skip
    flat = full.model_copy(
        update={
            "name": "2d", "axes": ("i", "j"), "spacing": (1, 1), "median_shape": (35, 50), "patch": (40, 56),
            "kernels": ((3, 3),) * 4, "strides": ((1, 1), *((2, 2),) * 3),
        }
    )  # fmt: skip
    plan = Plan(
        dataset="x", channels=("MRI",), labels={0: "background", 1: "a", 2: "b"}, cases=9, memory_gb=8, device="cuda",
        normalization=(Normalization(channel="MRI", method="zscore"),), configurations={"3d_fullres": full, "2d": flat},
    )  # fmt: skip
    (tmp_path / "plan.json").write_text(plan.model_dump_json())
    told = describe(str(tmp_path / "plan.json"))
    assert told.size == (40, 56, 40) and told.answer.channels_out == 3
    assert [s.last.size_out for s in told.stages if s.side != "decoder"] == [
        (40, 56, 40),
        (20, 28, 20),
        (10, 14, 10),
        (5, 7, 5),
    ]
    assert describe(str(tmp_path / "plan.json"), configuration="2d").size == (40, 56)
    bundled = Path(__file__).resolve().parents[2] / "Resources/Models/hippocampus-mr-t1"
    if bundled.is_dir():
        assert cli.main(["describe", str(bundled), "--layers", "--out", str(tmp_path)]) == 0
        assert "receptive field" in capsys.readouterr().out.lower()


@pytest.mark.parametrize(
    ("target", "size", "words"),
    [
        ("unet2016", None, "no network, plan or model 'unet2016'; networks are unet2015"),
        ("unet2015", (100, 100), "cannot take an image of 100 x 100"),
        ("dynunet", (100, 100, 100), "multiple of 32"),
    ],
)
def test_what_cannot_be_described(target, size, words):
    with pytest.raises(DatasetError, match=words):
        describe(target, size)


def test_a_patch_that_is_none(capsys):
    assert cli.main(["describe", "unet2015", "--patch", "a,b"]) == 1
    assert "'a,b' is no image size" in capsys.readouterr().err

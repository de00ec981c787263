"""Two U-Nets in a row: trained together, packed, and the same network in the module, as ONNX and in stock MONAI."""

import json

import numpy as np
import pytest
import torch
from unetsegment_training.cli import main
from unetsegment_training.config import FitConfig
from unetsegment_training.dataset import read_dataset
from unetsegment_training.losses import make
from unetsegment_training.network import build_for_training, manifest_entry
from UNetSegmentLib import io, package
from UNetSegmentLib.errors import PackageError
from UNetSegmentLib.package import Manifest
from UNetSegmentLib.predict import Predictor
from UNetSegmentLib.predict.backends import Place
from UNetSegmentLib.predict.backends.torch_backend import build_network, load_network

SIZES = {"filters": (4, 4, 4, 4, 4), "patch": (16, 16, 32)}
CARD = {"name": "pair", "title": "Pair", "version": "1.0.0", "description": "Balls.", "intended_use": "Tests."}


class Draft:
    """As much of a manifest as building a network needs."""

    name, architecture = "draft", None

    def __init__(self, config):
        entry = manifest_entry(config, 1, 3)
        self.network, self.network_arguments = entry["name"], entry["arguments"]


def test_the_second_sees_the_image_and_the_first_one_s_probabilities():
    config = FitConfig(network="wnet", deep_supervision=False, **SIZES)
    pair = build_for_training(Draft(config), config).eval()
    first, second = pair[0].submodule[0], pair[1]
    x = torch.randn(1, 1, *config.patch)
    with torch.no_grad():
        expected = second(torch.cat([x, first(x).softmax(1)], 1))
        torch.testing.assert_close(pair(x), expected)


def test_both_answers_are_trained_the_last_one_twice_as_much():
    config = FitConfig(network="wnet", loss="ce", **SIZES)
    pair = build_for_training(Draft(config), config)
    x, y = torch.randn(2, 1, *config.patch), torch.randint(0, 3, (2, *config.patch))
    both = pair(x)
    loss = torch.nn.functional.cross_entropy
    torch.testing.assert_close(make(config)(both, y), (2 * loss(both[:, 0], y) + loss(both[:, 1], y)) / 3)


def test_arguments_that_it_lacks_are_told():
    draft = Draft(FitConfig(network="wnet", **SIZES))
    draft.network_arguments = {"spatial_dims": 3, "in_channels": 1}
    with pytest.raises(PackageError, match="WNet refuses its arguments"):
        build_network(draft)


def test_from_training_to_every_backend_and_stock_monai(balls, tmp_path, capsys):
    from monai.bundle import ConfigParser

    run, model, card = tmp_path / "run", tmp_path / "model", tmp_path / "card.json"
    card.write_text(json.dumps(CARD))
    line = ["fit", str(balls), str(run), "--network", "wnet", "--filters", "4,4,4,4,4", "--patch", "16,16,32"]
    line += ["--epochs", "1", "--batch", "2", "--set", "steps_per_epoch=2", "--device", "cpu", "--fold", "-1"]
    assert main(line) == 0
    assert main(["pack", str(balls), str(run), str(model), "--card", str(card)]) == 0
    loaded = package.load(model)
    loaded.verify()
    assert loaded.manifest.network == "WNet" and Manifest.from_dict(loaded.manifest.raw) == loaded.manifest

    patch = np.random.default_rng(0).normal(size=(1, 1, *loaded.manifest.inference.patch_size)).astype(np.float32)
    answers = [Place(name, "cpu").open(loaded, "fp32").run(patch, lambda: None) for name in ("torch", "openvino")]
    np.testing.assert_allclose(*answers, atol=1e-4, rtol=1e-4)
    image = io.read_volume(read_dataset(balls)[0].cases[0].images[0])
    labels = [Predictor(loaded, device="cpu", backend=name).predict(image).labels for name in ("torch", "openvino")]
    assert np.mean(labels[0].array == labels[1].array) > 0.999

    stock = ConfigParser(json.loads((model / "configs" / "inference.json").read_text()))
    stock["device"] = "cpu"
    network = stock.get_parsed_content("network").eval()
    network.load_state_dict(torch.load(model / "models" / "model.pt", weights_only=True))
    with torch.no_grad():
        torch.testing.assert_close(network(torch.from_numpy(patch)), load_network(loaded)(torch.from_numpy(patch)))

    assert main(["describe", str(model)]) == 0
    assert "bottleneck of U 2" in capsys.readouterr().out

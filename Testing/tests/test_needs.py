"""What a model needs on a device, and what is said about it: plain Python, nothing is installed."""

import re
import sys
from pathlib import Path

import pytest
from synthetic import packages
from UNetSegmentLib.errors import BackendError
from UNetSegmentLib.package import Manifest
from UNetSegmentLib.panel import needs
from UNetSegmentLib.predict.backends.installed import State, state

ROOT = Path(__file__).parents[2]
FILE = {"path": "models/weights", "sha256": "0" * 64, "size": 1}
PLAIN = {
    "name": "PlainConvUNet",
    "arguments": {
        **{"features_per_stage": [4, 8], "kernel_sizes": [[3, 3, 3]] * 2, "strides": [[1, 1, 1], [2, 2, 2]]},
        **{"n_conv_per_stage": [1, 1], "n_conv_per_stage_decoder": [1], "conv_bias": True},
    },
}
SWIN = {"name": "SwinUNETR", "arguments": {"in_channels": 1, "out_channels": 3}}
WHOLE = {name: State("9999.0") for name in needs.LIBRARIES}


def manifest(*roles, network=None, **changes):
    network = {"network": network} if network else {}
    return Manifest.from_dict(packages.manifest(files=dict.fromkeys(roles, FILE), **network, **changes))


def wanted(model, device, *there, **states):
    installed = {name: WHOLE[name] for name in there} | states
    return [need.library.name for need in needs.needs(model, device, lambda name: installed.get(name, State()))]


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_the_small_set_is_enough_where_openvino_gets_the_network(device):
    assert wanted(manifest("onnx"), device) == ["openvino"]
    assert wanted(manifest("onnx", "torch"), device) == ["openvino"]
    assert wanted(manifest("safetensors", network=PLAIN), device) == ["openvino"]
    assert wanted(manifest("onnx", "torch"), device, "openvino") == []


def test_where_openvino_is_enough_nobody_looks_for_pytorch():
    """Its list of files is long: to read it takes a frame of the window."""
    looked: list[str] = []
    assert needs.needs(manifest("onnx", "torch"), "auto", lambda name: looked.append(name) or WHOLE[name]) == []
    assert set(looked) == {"openvino"}


def test_what_runs_with_the_pytorch_that_is_there_asks_for_nothing():
    assert wanted(manifest("onnx", "torch"), "auto", "torch", "monai") == []
    assert wanted(manifest("onnx", "torch"), "auto", "torch") == ["openvino"]
    assert wanted(manifest("onnx"), "auto", "torch", "monai") == ["openvino"]


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda"])
def test_a_model_that_only_torch_can_read_asks_for_it_on_every_device(device):
    assert wanted(manifest("torch"), device, "openvino") == ["torch", "monai"]
    assert wanted(manifest("torch", network=SWIN), device, "openvino", "torch") == ["monai", "einops"]
    assert wanted(manifest("torch", network=SWIN), device, "torch", "monai", "einops") == []


def test_networks_of_nnunet_do_without_monai_on_a_gpu():
    assert wanted(manifest("safetensors", network=PLAIN), "cuda", "openvino") == ["torch"]
    assert wanted(manifest("safetensors", network=PLAIN), "cuda", "torch") == []


def test_a_gpu_is_of_no_use_to_a_model_with_onnx_alone():
    with pytest.raises(BackendError, match="Synthetic.*for OpenVINO only.*choose the CPU"):
        wanted(manifest("onnx"), "cuda")


def test_scipy_is_asked_for_where_images_are_prepared_as_nnunet_does():
    before = {"orientation": "RAS", "spacing": [1.0, 1.0, 1.0], "resampling": {"image_order": 3, "alignment": "edges"}}
    model = manifest("onnx", preprocessing=before)
    assert wanted(model, "cpu") == ["openvino", "scipy"]
    assert wanted(model, "cpu", "scipy", "openvino") == []


def test_damaged_and_outdated_ones_are_asked_for_again():
    damaged, old = State("2026.1", "3 of its files are missing"), State("2023.3.0")
    assert wanted(manifest("onnx"), "cpu", openvino=damaged) == ["openvino"]
    assert wanted(manifest("onnx"), "cpu", openvino=old) == ["openvino"]
    assert wanted(manifest("onnx"), "cpu", openvino=State("2024.6.0")) == ["openvino"]  # without openvino.passes
    assert wanted(manifest("onnx"), "cpu", openvino=State("2025.0.0")) == []
    assert wanted(manifest("onnx"), "cpu", openvino=State("", "its installation was stopped halfway")) == ["openvino"]


def asked(model, device="auto", gpu=False, **states):
    given = needs.needs(model, device, lambda name: states.get(name, State()))
    return needs.hint(given), needs.question(given, model.title, device, gpu)


def test_the_dialog_says_what_how_large_and_why():
    hint, question = asked(manifest("onnx"))
    assert hint == "The first run installs OpenVINO (about 60 MB), after asking."
    assert "'Synthetic' needs" in question and "OpenVINO (about 60 MB): runs networks on the processor" in question
    assert "NVIDIA" not in question
    assert "NVIDIA" in asked(manifest("onnx"), gpu=True)[1]
    assert "NVIDIA GPU instead" not in asked(manifest("onnx"), "cpu", gpu=True)[1]

    hint, question = asked(manifest("torch", network=SWIN))
    assert "PyTorch, MONAI and einops" in hint
    assert "this model's network runs with it only" in question and "extension PyTorch" in question
    question = asked(manifest("torch"), "cuda")[1]
    assert "runs networks on NVIDIA GPUs" in question and "No NVIDIA GPU was found here" in question
    assert "No NVIDIA GPU" not in asked(manifest("torch"), "cuda", gpu=True)[1]


def test_the_dialog_says_what_is_wrong_with_what_is_there():
    hint, question = asked(manifest("onnx"), openvino=State("2026.1", "3 of its files are missing"))
    assert "OpenVINO is damaged (3 of its files are missing)" in hint and "again, after asking" in hint
    assert "damaged (3 of its files are missing) and is replaced" in question
    assert "version 2023.3.0 is there, which is too old" in asked(manifest("onnx"), openvino=State("2023.3.0"))[1]


def test_the_lowest_versions_are_those_of_the_python_package():
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    floors = dict(re.findall(r'"([\w-]+)>=([\d.]+)"', text[: text.index("[project.scripts]")]))
    for library in needs.LIBRARIES.values():
        if library.floor:
            assert floors[library.name] == library.floor


def test_a_broken_record_is_told_from_one_that_a_distributor_left_out(tmp_path):
    notes = tmp_path / "thing-1.0.dist-info"
    notes.mkdir()
    (notes / "METADATA").write_text("Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n")
    assert state("thing", [str(tmp_path)]).fault == "its installation was stopped halfway"
    (notes / "INSTALLER").write_text("debian\n")
    assert state("thing", [str(tmp_path)]) == State("1.0")
    (notes / "METADATA").unlink()
    assert state("thing", [str(tmp_path)]).fault


def test_a_folder_of_that_name_elsewhere_is_no_installation(tmp_path):
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "__init__.py").touch()
    there = state("openvino", [str(tmp_path), str(tmp_path / "not there")])
    assert not there.remains and there.fault == ""


def test_leftovers_are_told_from_packages_with_similar_names(tmp_path):
    for name in ("~penvino", "~-envino", "~~~~vino-2024.4.dist-info", "~orch", "~penvino-telemetry", "penvino"):
        (tmp_path / name).mkdir()
    found = sorted(path.name for path in state("openvino", [str(tmp_path)]).remains)
    assert found == ["~-envino", "~penvino", "~~~~vino-2024.4.dist-info"]


def test_looking_imports_nothing():
    before = set(sys.modules)
    for name in needs.LIBRARIES:
        state(name)
    needs.has_nvidia_gpu()
    assert not {name.split(".")[0] for name in set(sys.modules) - before} & set(needs.LIBRARIES)

"""Model packages made on the spot: small networks, real files, true checksums."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

LABELS = [
    {"value": 0, "name": "background", "color": [0, 0, 0]},
    {"value": 3, "name": "Dim structure", "color": [216, 101, 79]},
    {"value": 300, "name": "Bright structure", "color": [80, 160, 220]},
]
DYNUNET = {
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 3,
    "kernel_size": [3, 3, 3],
    "strides": [1, 2, 2],
    "upsample_kernel_size": [2, 2],
    "filters": [4, 8, 8],
    "norm_name": "INSTANCE",
    "trans_bias": True,
}


def manifest(**changes: Any) -> dict[str, Any]:
    """A valid manifest; ``changes`` replace its top-level entries."""
    return {
        "manifest_version": "1.0",
        "name": "synthetic",
        "title": "Synthetic",
        "version": "1.0.0",
        "description": "Made by the tests.",
        "channels": [{"name": "T1", "title": "T1 MRI", "modality": "MR", "normalization": {"method": "none"}}],
        "preprocessing": {"orientation": "RAS", "spacing": [1.0, 1.0, 1.0]},
        "inference": {"patch_size": [16, 24, 16], "overlap": 0.5, "blending": "gaussian", "sigma_scale": 0.125},
        "network": {"name": "DynUNet", "arguments": DYNUNET},
        "activation": "softmax",
        "labels": LABELS,
        "licence": {"name": "CC0-1.0"},
        "intended_use": "Tests.",
        "files": {},
    } | changes


def write(root: Path, raw: dict[str, Any], files: dict[str, tuple[str, bytes]]) -> Path:
    """Write a package: ``files`` maps a role to its path in the package and its content."""
    for role, (path, content) in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
        entry = {"path": path, "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        raw = raw | {"files": raw["files"] | {role: entry}}
    (root / "configs").mkdir(parents=True, exist_ok=True)
    (root / "configs" / "manifest.json").write_text(json.dumps(raw), "utf-8")
    return root


def linear_onnx(weight: np.ndarray, bias: np.ndarray) -> bytes:
    """An ONNX network of one convolution: ``weight`` (K, C, ...) with two or three spatial axes, ``bias`` (K,)."""
    from onnx import TensorProto, helper, numpy_helper

    node = helper.make_node(
        "Conv", ["image", "weight", "bias"], ["logits"], pads=[n // 2 for n in weight.shape[2:]] * 2
    )
    space = list("ijk"[: weight.ndim - 2])
    graph = helper.make_graph(
        [node],
        "linear",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", weight.shape[1], *space])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(weight), *space])],
        [numpy_helper.from_array(np.float32(weight), "weight"), numpy_helper.from_array(np.float32(bias), "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def linear_package(root: Path, folds: list[tuple[np.ndarray, np.ndarray]], **changes: Any) -> Path:
    """A package of one-convolution networks: (weight, bias) of each fold; see :func:`linear_onnx`."""
    raw = manifest(**changes)
    files = {}
    for fold, (weight, bias) in enumerate(folds):
        role = f"onnx.{fold}" if fold else "onnx"
        files[role] = (f"models/fold_{fold}.onnx", linear_onnx(weight, bias))
    return write(root, raw, files)


def threshold_package(root: Path, channels: int = 1, **changes: Any) -> Path:
    """A package whose network labels a voxel by the sum s of its channels: 0 below 1, 3 below 2, 300 from 2 on.

    Its classes have the logits 0, 2 (s - 1) and 4 s - 6, so that linear interpolation of logits has a right answer.
    """
    weight = np.zeros((3, channels, 1, 1, 1), np.float32)
    weight[1], weight[2] = 2, 4
    raw = manifest(**changes)
    if channels > 1:
        one = raw["channels"][0]
        raw["channels"] = [one | {"name": name} for name in ("T1", "T2", "FLAIR")[:channels]]
    return write(root, raw, {"onnx": ("models/model.onnx", linear_onnx(weight, np.float32([0, -2, -6])))})


def dynunet_package(root: Path, seed: int = 0, **changes: Any) -> Path:
    """A package with a small DynUNet of random weights, as ``model.pt`` and ``model.onnx``; needs torch and MONAI."""
    import io

    import torch
    from monai.networks.nets import DynUNet

    torch.manual_seed(seed)
    raw = manifest(**changes)
    network = DynUNet(**raw["network"]["arguments"]).eval()
    weights, onnx = io.BytesIO(), root / "model.onnx"
    torch.save(network.state_dict(), weights)
    root.mkdir(parents=True, exist_ok=True)
    patch = torch.zeros(1, len(raw["channels"]), *raw["inference"]["patch_size"])
    torch.onnx.export(network, (patch,), str(onnx), dynamo=False, opset_version=17, input_names=["image"])
    files = {"torch": ("models/model.pt", weights.getvalue()), "onnx": ("models/model.onnx", onnx.read_bytes())}
    onnx.unlink()
    return write(root, raw, files)


def random_linear(outputs: int, channels: int = 1, seed: int = 0, size: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Weight (outputs, channels, size, size, size) and bias (outputs,) of a random convolution."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((outputs, channels, size, size, size)) / size**1.5, rng.standard_normal(outputs) * 0.3


def labels_for(count: int, regions: bool = False) -> list[dict[str, Any]]:
    """Labels of ``count`` classes, or the background and ``count`` regions."""
    return [{"value": 0, "name": "background"}] + [
        {"value": n if count < 9 else 3 * n, "name": f"Structure {n}"} for n in range(1, count + regions)
    ]

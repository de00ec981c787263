"""A package around a network of two layers: cheap to run, with as many classes as are wanted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from synthetic import packages


def narrow_package(
    root: Path,
    classes: int,
    slices_first: bool = True,
    patch: int = 128,
    spacing: float = 1.5,
    overlap: float = 0.5,
    features: int = 8,
    kernel: int = 3,
) -> Path:
    """A convolution to few features, a rectifier, and a 1x1x1 convolution to ``classes`` logits, as ONNX.

    ``slices_first``: the network's first axis is the image's last, as in nnU-Net's folders; else they are in RAS order.
    """
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    first = random.standard_normal((features, 1, kernel, kernel, kernel)).astype(np.float32) / 5
    head = random.standard_normal((classes, features, 1, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "first"], ["wide"], pads=[kernel // 2] * 6),
        helper.make_node("LeakyRelu", ["wide"], ["features"], alpha=0.01),
        helper.make_node("Conv", ["features", "head"], ["logits"]),
    ]
    shapes = {"image": ["n", 1, "i", "j", "k"], "logits": ["n", classes, "i", "j", "k"]}
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    weights = [numpy_helper.from_array(first, "first"), numpy_helper.from_array(head, "head")]
    graph = helper.make_graph(nodes, "narrow", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    raw = packages.manifest(
        channels=[{"name": "CT", "modality": "CT", "normalization": {"method": "zscore"}}],
        preprocessing={"orientation": "RAS", "spacing": [spacing] * 3} | ({"axes": [2, 1, 0]} if slices_first else {}),
        inference={"patch_size": [patch] * 3, "overlap": overlap, "blending": "gaussian", "sigma_scale": 0.125},
        labels=[
            {"value": v, "name": f"structure {v}" if v else "background", "color": [v, v, v]} for v in range(classes)
        ],
    )
    return packages.write(root, raw, {"onnx": ("models/model.onnx", model.SerializeToString())})

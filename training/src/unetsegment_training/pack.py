"""Turn a finished run into a model package: a MONAI bundle with UNetSegment's manifest."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from UNetSegmentLib import package
from UNetSegmentLib.package import Manifest, Package
from UNetSegmentLib.predict import Predictor
from UNetSegmentLib.predict.backends.torch_backend import build_network
from UNetSegmentLib.predict.tiles import Tiling

from . import bundle
from .config import FitConfig
from .dataset import Dataset, DatasetError
from .fit import averaged_weights
from .patches import prepare
from .terminology import add_codes


def pack(
    run: Path,
    dataset: Dataset,
    output: Path,
    card: dict[str, Any],
    reference_case: str | None = None,
    summary: list[dict[str, Any]] | None = None,
    snapshot: bool = False,
    terminology: Path | None = None,
) -> Package:
    """Write a package for the run's averaged weights, in half precision, and prove it on its reference patch.

    Args:
        run: A run folder with ``weights.pt``.
        dataset: The one it was trained on.
        output: Package folder; replaced as a whole at the end, untouched on an error.
        card: Entries that replace the draft manifest's: name, title, version, description, labels, licence, ...
        reference_case: Case for the reference patch; by default the first validation case.
        summary: Of :func:`evaluate.evaluate`, for the manifest's metrics.
        snapshot: Take the weights after the last finished epoch of a run that has not ended.
        terminology: Table for the codes of labels whose card gives none; by default Slicer's.

    Raises:
        DatasetError: The run has not finished, or the case is unknown.
        PackageError: The card does not make a valid manifest.
        BackendError: A backend does not reproduce the reference patch.
    """
    if not (run / "config.json").exists() or not (snapshot or (run / "weights.pt").exists()):
        raise DatasetError(f"'{run}' has no weights.pt; finish the run with 'unetsegment-train fit' first.")
    config = FitConfig.load(run / "config.json")
    split = json.loads((run / "split.json").read_text("utf-8"))
    raw = json.loads((run / "manifest.json").read_text("utf-8")) | copy.deepcopy(card)
    if summary:
        raw["metrics"] = [_metric(entry, config.fold) for entry in summary]
    manifest = Manifest.from_dict(raw | {"files": {}})
    add_codes(raw["labels"], terminology)

    if snapshot:
        state, _ = averaged_weights(run, manifest)
    else:
        state = torch.load(run / "weights.pt", map_location="cpu", weights_only=True)
    shared = {value.data_ptr(): value.half() for value in state.values()}  # DynUNet names its modules twice
    half = {key: shared[value.data_ptr()] for key, value in state.items()}
    network = build_network(manifest).eval()
    network.load_state_dict(half)  # in float32, but rounded as the files are: every copy is the same network

    name = reference_case or (split[config.fold]["val"] if config.fold >= 0 else [dataset.cases[0].name])[0]
    case = next((c for c in dataset.cases if c.name == name), None)
    if case is None:
        raise DatasetError(f"The dataset has no case '{name}' for the reference patch.")
    patch = _reference_patch(prepare(case, manifest).image, manifest)
    flat = manifest.dimensions == 2
    with torch.inference_mode():
        seen = torch.from_numpy(patch.astype(np.float32))[None]
        classes = network(seen[:, :, 0] if flat else seen)[0].argmax(0).numpy()
    classes = classes[None] if flat else classes
    values = np.array([label.value for label in manifest.labels])

    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".pack-") as folder:
        root = Path(folder) / output.name
        files = {
            "torch": ("models/model.pt", _saved(half)),
            "onnx": ("models/model.onnx", _onnx(network, manifest)),
            "reference": ("models/reference.npz", _arrays(input=patch, labels=values[classes].astype(np.uint16))),
        }
        raw["files"] = {}
        for role, (path, content) in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
            raw["files"][role] = {"path": path, "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        raw["reference"] = {"input": "input", "labels": "labels"}
        bundle.write(root, raw)
        loaded = package.load(root)
        for backend in ("openvino", "torch"):
            Predictor(loaded, device="cpu", backend=backend)
        if output.exists():
            shutil.rmtree(output)
        shutil.move(root, output)
    return package.load(output)


def _metric(entry: dict[str, Any], fold: int) -> dict[str, Any]:
    keys = ("label", "dice", "iou", "hd95_mm", "surface_dice", "cases", "dice_ci95")
    return {key: entry[key] for key in keys if entry.get(key) is not None} | {"split": f"fold {fold} validation"}


def _reference_patch(image: np.ndarray, manifest: Manifest) -> np.ndarray:
    """The middle of a prepared image, one patch in size, in half precision: (C, *patch)."""
    tiling = Tiling.cover(image.shape[1:], manifest.inference.patch_size, 0.5)
    padded = tiling.pad(image)
    cuts = [slice((n - p) // 2, (n - p) // 2 + p) for n, p in zip(tiling.padded, tiling.patch, strict=True)]
    return padded[(slice(None), *cuts)].astype(np.float16)


def _saved(state: dict[str, torch.Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _arrays(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _onnx(network: torch.nn.Module, manifest: Manifest) -> bytes:
    """The network as ONNX: weights stored in float16 and cast to float32, so the file is small and the sums exact."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    patch_size = manifest.inference.patch_size[manifest.dimensions == 2 :]
    example = torch.zeros(1, len(manifest.channels), *patch_size)
    buffer = io.BytesIO()
    axes = {"image": {0: "batch"}, "logits": {0: "batch"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's remarks on shapes that never change here
        torch.onnx.export(
            network, (example,), buffer, dynamo=False, opset_version=17, input_names=["image"],
            output_names=["logits"], dynamic_axes=axes,
        )  # fmt: skip
    model = onnx.load_model_from_string(buffer.getvalue())
    casts = []
    for weight in model.graph.initializer:
        if weight.data_type == TensorProto.FLOAT and np.prod(weight.dims) > 64:
            name = weight.name
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), f"{name}.half"))
            casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return model.SerializeToString()

"""Turn finished runs into a model package: a MONAI bundle with UNetSegment's manifest."""

from __future__ import annotations

import copy
import hashlib
import io
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from UNetSegmentLib import package
from UNetSegmentLib.errors import PackageError
from UNetSegmentLib.package import Manifest, Package
from UNetSegmentLib.predict import Predictor
from UNetSegmentLib.predict.backends.torch_backend import build_network
from UNetSegmentLib.predict.tiles import Tiling

from . import bundle
from .config import FitConfig
from .dataset import Dataset, DatasetError
from .fit import averaged_weights
from .patches import prepare
from .run_folder import stored
from .terminology import add_codes

_SHARED = ("channels", "preprocessing", "inference", "network", "activation", "labels", "outputs")
"""What the members of an ensemble have in common: one preparation of the image serves all of them."""


def pack(
    runs: Sequence[Path],
    dataset: Dataset,
    output: Path,
    card: dict[str, Any],
    reference_case: str | None = None,
    summary: list[dict[str, Any]] | None = None,
    measured_on: str = "",
    draft: dict[str, Any] | None = None,
    snapshot: bool = False,
    terminology: Path | None = None,
) -> Package:
    """Write a package for the averaged weights of runs, in half precision, and prove it on its reference patch.

    Several runs become one model: the mean of their logits, as nnU-Net averages its folds.

    Args:
        runs: Run folders with ``weights.pt``.
        dataset: The one they were trained on.
        output: Package folder; replaced as a whole at the end, untouched on an error.
        card: Entries that replace the draft manifest's: name, title, version, description, labels, licence, ...
        reference_case: Case for the reference patch; by default the first validation case of the first run.
        summary: Of :func:`evaluate.evaluate`, for the manifest's metrics.
        measured_on: What the summary was measured on, in words.
        draft: Manifest that the card completes; by default that of the first run.
        snapshot: Take the weights after the last finished epoch of runs that have not ended.
        terminology: Table for the codes of labels whose card gives none; by default Slicer's.

    Raises:
        DatasetError: A run has not finished, the runs are not of one kind, or the case is unknown.
        PackageError: The card does not make a valid manifest.
        BackendError: A backend does not reproduce the reference patch.
    """
    raw = copy.deepcopy((draft or one_kind(runs)) | card)
    if summary:
        raw["metrics"] = [_metric(entry, measured_on) for entry in summary]
    manifest = Manifest.from_dict(raw | {"files": {}})
    blank = {"name": manifest.name == "draft", "version": manifest.version == "0.0.0"}
    if lacking := [key for key, is_blank in (blank | {"intended_use": not raw["intended_use"]}).items() if is_blank]:
        raise PackageError(f"The card does not say the model's {' and '.join(lacking)}; write it into the card.")
    add_codes(raw["labels"], terminology)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".pack-") as folder:
        root = Path(folder) / output.name
        write_files(root, raw, runs, dataset, reference_case, snapshot)
        bundle.write(root, raw)
        loaded = package.load(root)
        for backend in ("openvino", "torch"):
            Predictor(loaded, device="cpu", backend=backend)
        if output.exists():
            shutil.rmtree(output)
        shutil.move(root, output)
    return package.load(output)


def write_files(
    root: Path,
    raw: dict[str, Any],
    runs: Sequence[Path],
    dataset: Dataset,
    reference_case: str | None = None,
    snapshot: bool = False,
) -> None:
    """Write the weights of a package, its networks as ONNX and its reference patch; enter them in the manifest ``raw``."""
    manifest = Manifest.from_dict(raw | {"files": {}})
    members = [_half(run, manifest, snapshot) for run in runs]
    name = reference_case or _validates(runs[0], dataset)[0]
    case = next((c for c in dataset.cases if c.name == name), None)
    if case is None:
        raise DatasetError(f"The dataset has no case '{name}' for the reference patch.")
    patch = _reference_patch(prepare(case, manifest).image, manifest)
    values = np.array([label.value for label in manifest.labels])
    classes = _classes([network for network, _ in members], patch, manifest.dimensions == 2)
    contents = {}
    for n, ((network, state), name) in enumerate(zip(members, _names(runs), strict=True)):
        role = f".{n}" if n else ""
        contents[f"torch{role}"] = f"models/{name if n else 'model'}.pt", _saved(state)  # MONAI asks for model.pt
        contents[f"onnx{role}"] = f"models/{name}.onnx", _onnx(network, manifest)
    contents["reference"] = "models/reference.npz", _arrays(input=patch, labels=values[classes].astype(np.uint16))
    raw["files"] = {}
    for role, (path, content) in contents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
        raw["files"][role] = {"path": path, "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    raw["reference"] = {"input": "input", "labels": "labels"}


def one_kind(runs: Sequence[Path]) -> dict[str, Any]:
    """The draft manifest of the first run; every run sees images, and answers, as that one does.

    Raises:
        DatasetError: A folder holds no run, or a run differs in preprocessing, patch, network or labels.
    """
    drafts = []
    for run in runs:
        if not (run / "config.json").exists() or not (run / "manifest.json").exists():
            raise DatasetError(f"'{run}' is not a run folder; make it with 'unetsegment-train fit'.")
        drafts.append(stored(run / "manifest.json"))
    for run, draft in zip(runs, drafts, strict=True):
        if wrong := next((key for key in _SHARED if draft.get(key) != drafts[0].get(key)), None):
            raise DatasetError(f"'{run}' and '{runs[0]}' differ in {wrong}; one model is packed from runs of one kind.")
    return drafts[0]


def _half(run: Path, manifest: Manifest, snapshot: bool) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """A run's network, and its weights in half precision."""
    if not snapshot and not (run / "weights.pt").exists():
        raise DatasetError(f"'{run}' has no weights.pt; finish the run with 'unetsegment-train fit' first.")
    if snapshot:
        state, _ = averaged_weights(run, manifest)
    else:
        state = torch.load(run / "weights.pt", map_location="cpu", weights_only=True)
    shared = {value.data_ptr(): value.half() for value in state.values()}  # DynUNet names its modules twice
    half = {key: shared[value.data_ptr()] for key, value in state.items()}
    network = build_network(manifest).eval()
    network.load_state_dict(half)  # in float32, but rounded as the files are: every copy is the same network
    return network, half


def _names(runs: Sequence[Path]) -> list[str]:
    """What the runs' files are called: after their folds, which the manifest then tells, where these differ."""
    folds = [FitConfig.load(run / "config.json").fold for run in runs]
    if len(runs) > 1 and len(set(folds)) == len(runs) and min(folds) >= 0:
        return [f"fold_{fold}" for fold in folds]
    return [f"model_{n}" if n else "model" for n in range(len(runs))]


def _validates(run: Path, dataset: Dataset) -> list[str]:
    """The cases that validated a run; all of them where it has no such cases."""
    fold = FitConfig.load(run / "config.json").fold
    split = stored(run / "split.json")
    return split[fold]["val"] if fold >= 0 else [case.name for case in dataset.cases]


@torch.inference_mode()
def _classes(networks: Sequence[torch.nn.Module], patch: np.ndarray, flat: bool) -> np.ndarray:
    """Class indices (*patch) that the mean of the networks' logits gives a patch (C, *patch)."""
    seen = torch.from_numpy(patch.astype(np.float32))[None]
    seen = seen[:, :, 0] if flat else seen
    classes = torch.stack([network(seen)[0] for network in networks]).mean(0).argmax(0).numpy()
    return classes[None] if flat else classes


def _metric(entry: dict[str, Any], measured_on: str) -> dict[str, Any]:
    keys = ("label", "dice", "iou", "hd95_mm", "surface_dice", "cases", "dice_ci95")
    return {key: entry[key] for key in keys if entry.get(key) is not None} | {"split": measured_on}


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

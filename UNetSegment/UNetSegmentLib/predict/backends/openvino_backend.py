"""OpenVINO on the processor or an Intel GPU: from ONNX, or with nnU-Net's networks, neither torch nor MONAI is needed."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import BackendError, PackageError
from ...package import Package
from ...package.architecture import check_shapes
from ...package.tensors import read_tensors
from ..head import Head
from . import quiet

_TICK_MS = 40
_PLUGINS = {"cpu": "CPU", "intel-gpu": "GPU"}
_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


class OpenVinoBackend:
    """The package's network compiled for this machine; compiled forms are kept in the cache folder.

    Raises:
        PackageError: The network's file is damaged or does not fit the manifest.
    """

    name = "openvino"

    def __init__(
        self,
        package: Package,
        device: str,
        precision: str,
        fold: int,
        patch: Sequence[int],
        features: bool = False,
        threads: int | None = None,
    ) -> None:
        ov = quiet.openvino()

        core, manifest = _core(), package.manifest
        self._flat = manifest.dimensions == 2
        shape = list(patch[1:] if self._flat else patch)
        model = _read(core, package, fold, shape, precision == "fp32")
        if len(model.inputs) != 1 or model.outputs[0].partial_shape[1].to_string() != str(len(manifest.outputs)):
            raise PackageError(
                f"Model '{manifest.name}': its network does not answer {len(manifest.outputs)} outputs for one input."
            )
        self.head = None
        if features:
            model, self.head = _without_head(model)
        options = {"INFERENCE_PRECISION_HINT": _HINTS[precision], "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            options["INFERENCE_NUM_THREADS"] = str(threads)
        # a folder of its own: OpenVINO 2025.4 takes ONNX networks that differ in weights alone for one and the same
        folder = package.compiled_folder / f"fold-{fold}"
        if _can_write(folder):
            options["CACHE_DIR"] = str(folder)
        self._request = core.compile_model(model, _PLUGINS[device], options).create_infer_request()
        self.device, self.precision = device, precision
        self.versions = {"openvino": ov.__version__}

    def run(self, patches: np.ndarray, tick: Callable[[], None]) -> np.ndarray:
        """See :class:`Backend`; the processor works in the background while ``tick`` is served."""
        answers = [self._run(patch, tick) for patch in patches] if len(patches) == 1 else []
        return answers[0] if answers else np.concatenate([self._run(patch, tick).copy() for patch in patches])

    def _run(self, patch: np.ndarray, tick: Callable[[], None]) -> np.ndarray:
        patch = patch[:, 0] if self._flat else patch
        self._request.start_async({0: np.ascontiguousarray(patch[None])}, share_inputs=True)
        try:
            while not self._request.wait_for(_TICK_MS):
                tick()
        except BaseException:
            self._request.cancel()
            with contextlib.suppress(RuntimeError):  # by which OpenVINO says that it was cancelled
                self._request.wait()
            raise
        tick()
        answer = self._request.get_output_tensor(0).data
        return answer[:, :, None] if self._flat else answer


@functools.cache
def _core() -> Any:
    """OpenVINO, one for the whole process: its plugin sets the stack for signals of the thread that loads it, and takes that
    stack away when the last user goes, in whatever thread. The next signal would end the process."""
    ov = quiet.openvino()

    return ov.Core()


def require(device: str) -> str:
    """The device, which is there.

    Raises:
        BackendError: OpenVINO does not see it.
    """
    found = _core().available_devices
    if not any(name.split(".")[0] == _PLUGINS[device] for name in found):
        raise BackendError("No Intel GPU that OpenVINO can use was found; choose the CPU.")
    return device


def native_precisions(device: str) -> tuple[str, ...]:
    """Reduced precisions that the device computes natively, so that they are faster than float32."""
    able = _core().get_property(_PLUGINS[device], "OPTIMIZATION_CAPABILITIES")
    if device == "intel-gpu":
        return ("fp16",) if "FP16" in able else ()
    return ("bf16",) if "BF16" in able else ()


def _read(core: Any, package: Package, fold: int, shape: list[int], exact: bool) -> Any:
    """The network as an OpenVINO model for one patch: from ONNX, built here, or converted by torch once and kept."""
    name, role = package.manifest.name, package.role("onnx", fold)
    size = [1, len(package.manifest.channels), *shape]
    architecture, weights = package.manifest.architecture, package.role("safetensors", fold)
    if role is None and architecture is not None and weights is not None:
        from .openvino_graph import build

        tensors = read_tensors(package.verified_bytes(weights), f"Model '{name}': its weights file")
        check_shapes(f"Model '{name}': its weights", architecture.shapes(), {k: v.shape for k, v in tensors.items()})
        return build(architecture, tensors, shape, exact)
    if role is None:
        kept = package.compiled_folder / f"converted-{fold}.xml"
        if not kept.is_file():
            from .torch_backend import convert

            convert(package, fold, kept)
        model = core.read_model(kept)
        model.reshape(size)
        return model
    try:
        model = core.read_model(package.verified_bytes(role))
        model.reshape(size)
    except RuntimeError as error:
        raise PackageError(
            f"Model '{name}': its ONNX file cannot be read ({str(error).strip().splitlines()[-1]})."
        ) from None
    return model


def _without_head(model: Any) -> tuple[Any, Head | None]:
    """The model up to its last 1x1x1 convolution, and that as a :class:`Head`; unchanged where it has no such end."""
    ov = quiet.openvino()
    from openvino import opset8 as ops
    from openvino.passes import ConstantFolding, Manager

    passes = Manager()
    passes.register_pass(ConstantFolding())  # weights may be written as casts and reshapes of constants
    passes.run_passes(model)
    node, bias = model.outputs[0].get_node().input_value(0).get_node(), None
    if node.get_type_name() == "Add":
        sides = [node.input_value(n).get_node() for n in (0, 1)]
        constants = [side for side in sides if side.get_type_name() == "Constant"]
        if len(constants) != 1:
            return model, None
        bias = constants[0].data.reshape(-1)
        node = next(side for side in sides if side is not constants[0])
    if node.get_type_name() != "Convolution" or node.input_value(1).get_node().get_type_name() != "Constant":
        return model, None
    kernel = np.array(node.input_value(1).get_node().data, np.float32)
    outputs, width = kernel.shape[:2]
    if any(n != 1 for n in kernel.shape[2:]) or outputs <= width or (bias is not None and bias.size != outputs):
        return model, None
    bias = np.zeros(outputs, np.float32) if bias is None else np.array(bias, np.float32)
    body = ov.Model([ops.result(node.input_value(0))], model.get_parameters(), "features")
    return body, Head(kernel.reshape(outputs, width), bias)


def _can_write(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)

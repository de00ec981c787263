"""OpenVINO on the processor, fed by the package's ONNX copy: neither torch nor MONAI is needed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...errors import PackageError
from ...package import Package

_TICK_MS = 40


class OpenVinoBackend:
    """The package's network compiled for this processor, in float32.

    Raises:
        PackageError: The ONNX file is damaged or does not fit the manifest.
    """

    name = "openvino"
    device = "cpu"
    precision = "fp32"

    def __init__(self, package: Package, threads: int | None = None) -> None:
        import openvino as ov

        core = ov.Core()
        manifest = package.manifest
        try:
            model = core.read_model(package.verified_bytes("onnx"))
            model.reshape([1, len(manifest.channels), *manifest.inference.patch_size])
        except RuntimeError as error:
            raise PackageError(
                f"Model '{manifest.name}': its ONNX file cannot be read ({str(error).strip().splitlines()[-1]})."
            ) from None
        if len(model.inputs) != 1 or model.outputs[0].partial_shape[1].to_string() != str(len(manifest.labels)):
            raise PackageError(
                f"Model '{manifest.name}': its ONNX network does not answer {len(manifest.labels)} labels."
            )
        options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            options["INFERENCE_NUM_THREADS"] = str(threads)
        self._request = core.compile_model(model, "CPU", options).create_infer_request()
        self.versions = {"openvino": ov.__version__}

    def run(self, patches: np.ndarray, tick: Callable[[], None]) -> np.ndarray:
        """See :class:`Backend`; the processor works in the background while ``tick`` is served."""
        answers = []
        for patch in patches:
            self._request.start_async({0: np.ascontiguousarray(patch[None])}, share_inputs=True)
            try:
                while not self._request.wait_for(_TICK_MS):
                    tick()
            except BaseException:
                self._request.cancel()
                self._request.wait()
                raise
            tick()
            answers.append(self._request.get_output_tensor(0).data.copy())
        return np.concatenate(answers)

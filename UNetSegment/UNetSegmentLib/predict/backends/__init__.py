"""Ways to run a network, behind one small interface, and the choice between them."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from typing import Protocol

import numpy as np

from ...errors import BackendError
from ...package import Package

DEVICES = ("auto", "cpu", "cuda", "mps")
BACKENDS = ("auto", "openvino", "torch")


class Backend(Protocol):
    """A network that is ready to run."""

    name: str
    device: str
    precision: str

    def run(self, patches: np.ndarray, tick: Callable[[], None]) -> np.ndarray:
        """Logits (N, K, *patch) float32 of patches (N, C, *patch) float32.

        ``tick`` is called some twenty times a second meanwhile, where the backend can, and at least once; what it
        raises ends the work.
        """
        ...


def is_installed(distribution: str) -> bool:
    """Whether a package is installed, told by its metadata: nothing is imported, half-removed ones do not count."""
    try:
        return bool(metadata.version(distribution))
    except metadata.PackageNotFoundError:
        return False


def create(package: Package, device: str = "auto", backend: str = "auto", threads: int | None = None) -> Backend:
    """Make a package's network ready to run.

    ``auto`` takes torch where it finds a CUDA device, else OpenVINO on the processor, else torch on the processor.

    Raises:
        BackendError: Neither library is installed, or not the device or library that was asked for.
        PackageError: The package's weights are missing, damaged or not allowed.
    """
    if device not in DEVICES or backend not in BACKENDS:
        raise BackendError(
            f"Device '{device}' with backend '{backend}' is not known; "
            f"use a device of {', '.join(DEVICES)} and a backend of {', '.join(BACKENDS)}."
        )
    torch_here = is_installed("torch") and is_installed("monai")
    openvino_here = is_installed("openvino")
    has_torch = package.has("safetensors") or package.has("torch")
    if backend == "auto":
        backend = "openvino" if package.has("onnx") and openvino_here else "torch"
        if device in ("cuda", "mps") or (device == "auto" and has_torch and torch_here and _cuda()):
            backend = "torch"
    if backend == "openvino":
        if not openvino_here:
            raise BackendError("OpenVINO is not installed; install it with: pip install openvino")
        if device in ("cuda", "mps"):
            raise BackendError(f"OpenVINO does not run on '{device}'; choose the torch backend or the CPU.")
        from .openvino_backend import OpenVinoBackend

        return OpenVinoBackend(package, threads)
    if not torch_here:
        raise BackendError(
            "No library to run networks is installed; for the CPU: pip install openvino, "
            "for an NVIDIA GPU: pip install torch monai"
        )
    from .torch_backend import TorchBackend

    return TorchBackend(package, device, threads)


def _cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())

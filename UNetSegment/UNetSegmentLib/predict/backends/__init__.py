"""Ways to run a network, behind one small interface, and the choice between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ...errors import BackendError
from ...package import UNETS, Manifest, Package
from .installed import is_installed

if TYPE_CHECKING:
    import numpy as np

    from ..head import Head

DEVICES = ("auto", "cpu", "cuda", "mps", "intel-gpu")
BACKENDS = ("auto", "openvino", "torch")


class Backend(Protocol):
    """A network that is ready to run.

    ``head`` is set where the network stops before its last 1x1x1 convolution; its answers are features then.
    """

    name: str
    device: str
    precision: str
    versions: dict[str, str]
    head: Head | None

    def run(self, patches: np.ndarray, tick: Callable[[], None]) -> Any:
        """Answers (N, F, *patch) float32 to patches (N, C, *patch) float32: NumPy, or torch on its device.

        They may be written to and are valid until the next run. ``tick`` is called some twenty times a second
        meanwhile, where the backend can, and at least once; what it raises ends the work.
        """
        ...


@dataclass(frozen=True)
class Place:
    """Where a network is to run: ``backend`` (``openvino`` or ``torch``) on ``device``, with ``threads``."""

    backend: str
    device: str
    threads: int | None = None

    @property
    def precisions(self) -> tuple[str, ...]:
        """What may run here, fastest first; the last one is always float32."""
        if self.device == "cuda":
            return "fp16", "fp32"
        if self.backend == "openvino":
            from .openvino_backend import native_precisions

            return *native_precisions(self.device), "fp32"
        return ("fp32",)

    def open(
        self,
        package: Package,
        precision: str,
        fold: int = 0,
        patch: Sequence[int] | None = None,
        features: bool = False,
    ) -> Backend:
        """The package's network, ready to run.

        Args:
            package: The model.
            precision: One of :attr:`precisions`.
            fold: Which of the package's weights.
            patch: Patch size; the manifest's by default.
            features: Stop before the head where that makes answers smaller.

        Raises:
            PackageError: The weights are missing, damaged or not allowed.
        """
        patch = tuple(patch or package.manifest.inference.patch_size)
        if self.backend == "openvino":
            from .openvino_backend import OpenVinoBackend

            return OpenVinoBackend(package, self.device, precision, fold, patch, features, self.threads)
        from .torch_backend import TorchBackend

        return TorchBackend(package, self.device, precision, fold, features, self.threads)


def choose(package: Package, device: str = "auto", backend: str = "auto", threads: int | None = None) -> Place:
    """Where a package runs best on this computer.

    ``auto`` takes torch where it finds a CUDA device, else OpenVINO on the processor, else torch on the processor.

    Raises:
        BackendError: Neither library is installed, or not the device or library that was asked for.
    """
    if device not in DEVICES or backend not in BACKENDS:
        raise BackendError(
            f"Device '{device}' with backend '{backend}' is not known; "
            f"use a device of {', '.join(DEVICES)} and a backend of {', '.join(BACKENDS)}."
        )
    torch_here, openvino_here = _torch_can(package), is_installed("openvino")
    if backend == "auto":
        backend = "openvino" if openvino_here and _openvino_can(package, torch_here) else "torch"
        if device in ("cuda", "mps") or (device == "auto" and torch_here and _cuda()):
            backend = "torch"
    if backend == "openvino":
        if not openvino_here:
            raise BackendError("OpenVINO is not installed; install it with: pip install openvino")
        if device in ("cuda", "mps"):
            raise BackendError(f"OpenVINO does not run on '{device}'; choose the torch backend or the CPU.")
        from .openvino_backend import require

        return Place(backend, require("cpu" if device == "auto" else device), threads)
    if device == "intel-gpu":
        raise BackendError("An Intel GPU is used through OpenVINO; install it with: pip install openvino")
    if not torch_here:
        raise BackendError(_missing(package))
    from .torch_backend import require as require_torch

    return Place(backend, require_torch(device), threads)


def runs_on_openvino_alone(manifest: Manifest) -> bool:
    """Whether OpenVINO gets a model's network without torch: from its ONNX file, or built from its weights."""
    return "onnx" in manifest.files or (manifest.network in UNETS and "safetensors" in manifest.files)


def torch_needs(manifest: Manifest) -> tuple[str, ...]:
    """The distributions that run a model's network with torch; nothing where it has no weights that torch reads."""
    if not {"safetensors", "torch"} & manifest.files.keys():
        return ()
    if manifest.network in UNETS:
        return ("torch",)
    extra = ("einops",) if manifest.network in ("SwinUNETR", "UNETR") else ()
    return ("torch", "monai", *extra)  # MONAI asks for einops only when such a network runs


def _openvino_can(package: Package, torch_here: bool) -> bool:
    """Whether OpenVINO gets this network: from the package, built from its weights, converted before, or by torch now."""
    return runs_on_openvino_alone(package.manifest) or torch_here


def _torch_can(package: Package) -> bool:
    needs = torch_needs(package.manifest)
    return bool(needs) and all(is_installed(name) for name in needs)


def _missing(package: Package) -> str:
    needs = " ".join(torch_needs(package.manifest))
    if not needs:
        return f"Model '{package.manifest.name}' has an ONNX network only, which OpenVINO runs: pip install openvino"
    if runs_on_openvino_alone(package.manifest):
        return (
            "No library to run networks is installed; for the CPU: pip install openvino, "
            f"for an NVIDIA GPU: pip install {needs}"
        )
    return f"Model '{package.manifest.name}' needs torch to run or to be converted: pip install {needs}"


def _cuda() -> bool:
    try:
        import torch
    except (ImportError, OSError):  # there, but it does not load, e.g. for want of a system library
        return False
    return bool(torch.cuda.is_available())

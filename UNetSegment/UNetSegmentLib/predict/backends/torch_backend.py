"""PyTorch on an NVIDIA GPU, the processor, or a proven Apple GPU; networks come from MONAI by an allow-list."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from ...errors import BackendError, PackageError
from ...package import NETWORKS, Manifest, Package


class TorchBackend:
    """The package's network in torch: fp16 autocast on CUDA, float32 elsewhere.

    Raises:
        BackendError: The device is not there or failed its proof.
        PackageError: The weights are damaged, hold code, or do not fit the network.
    """

    name = "torch"

    def __init__(self, package: Package, device: str = "auto", threads: int | None = None) -> None:
        import torch

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        _require(device)
        if threads:
            torch.set_num_threads(threads)
        self.device, self.precision = device, "fp16" if device == "cuda" else "fp32"
        network = build_network(package.manifest)
        state = read_weights(package)
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            raise PackageError(
                f"Model '{package.manifest.name}': its weights do not fit its network "
                f"({str(error).strip().splitlines()[-1].strip()})."
            ) from None
        self._network = network.float().eval().to(device)
        self.versions = {"torch": torch.__version__}

    def run(self, patches: np.ndarray, tick: Callable[[], None]) -> np.ndarray:
        """See :class:`Backend`; ``tick`` is served between patches."""
        import torch

        tick()
        with torch.inference_mode(), torch.autocast(self.device, torch.float16, enabled=self.precision == "fp16"):
            logits = self._network(torch.from_numpy(np.ascontiguousarray(patches)).to(self.device))
        if isinstance(logits, list | tuple):
            logits = logits[0]
        return logits.float().cpu().numpy()


def build_network(manifest: Manifest) -> Any:
    """The manifest's network with fresh weights, from MONAI.

    Raises:
        PackageError: The network is unknown or its arguments do not fit it.
    """
    from monai.networks import nets

    if manifest.network not in NETWORKS:
        raise PackageError(f"Model '{manifest.name}' uses the unknown network '{manifest.network}'.")
    try:
        return getattr(nets, manifest.network)(**manifest.network_arguments)
    except (TypeError, ValueError, AssertionError, NotImplementedError, KeyError, IndexError) as error:
        raise PackageError(f"Model '{manifest.name}': {manifest.network} refuses its arguments ({error}).") from None


def read_weights(package: Package) -> dict[str, Any]:
    """The state dict of a package, read without running code from it.

    Raises:
        PackageError: The file is damaged, or holds anything but tensors.
    """
    import torch

    name = package.manifest.name
    if package.has("safetensors"):
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            return load(package.verified_bytes("safetensors"))
        except SafetensorError as error:
            raise PackageError(f"Model '{name}': its safetensors file cannot be read ({error}).") from None
    content = package.verified_bytes("torch")
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise PackageError(
            f"Model '{name}' is refused: its weights file holds code or objects instead of plain tensors."
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise PackageError(f"Model '{name}': its weights file cannot be read ({error}).") from None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise PackageError(f"Model '{name}' is refused: its weights file is not a plain table of tensors.")
    return state


def _require(device: str) -> None:
    """Raise unless ``device`` is here; an Apple GPU must first give the processor's answer to a 3D convolution."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise BackendError("No NVIDIA GPU that torch can use was found; choose the CPU.")
    if device != "mps":
        return
    try:
        convolution, patch = torch.nn.Conv3d(2, 3, 3), torch.randn(1, 2, 6, 7, 8)
        with torch.inference_mode():
            expected = convolution(patch)
            proven = torch.allclose(convolution.to("mps")(patch.to("mps")).cpu(), expected, atol=1e-4)
    except (RuntimeError, NotImplementedError, AssertionError):
        proven = False
    if not proven:
        raise BackendError("The Apple GPU does not compute 3D convolutions rightly with this torch; choose the CPU.")

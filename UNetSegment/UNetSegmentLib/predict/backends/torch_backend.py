"""PyTorch on an NVIDIA GPU, the processor, or a proven Apple GPU; networks are built by an allow-list."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import BackendError, PackageError
from ...package import NETWORKS, Manifest, Package
from ...package.pair import PAIR, parts
from ...package.tensors import read_tensors
from ..head import Head
from . import quiet


class TorchBackend:
    """The package's network in torch: fp16 autocast with channels last on CUDA, float32 elsewhere.

    Answers stay on the GPU, where they are summed.

    Raises:
        PackageError: The weights are damaged, hold code, or do not fit the network.
    """

    name = "torch"

    def __init__(
        self,
        package: Package,
        device: str,
        precision: str,
        fold: int = 0,
        features: bool = False,
        threads: int | None = None,
    ) -> None:
        import torch

        if threads:
            torch.set_num_threads(threads)
        self.device, self.precision = device, precision
        self._stays = device == "cuda"  # answers are summed where they are
        self._flat = package.manifest.dimensions == 2
        network = load_network(package, fold)
        self.head = _take_head(network, package.manifest) if features else None
        last = torch.channels_last if self._flat else torch.channels_last_3d
        self._format = last if device == "cuda" else torch.contiguous_format
        self._network = network.to(device, memory_format=self._format)
        if device == "cuda":
            torch.backends.cudnn.benchmark = True  # patches have one size: the fastest algorithm is looked for once
        self.versions = {"torch": torch.__version__}

    def run(self, patches: np.ndarray, tick: Callable[[], None]) -> Any:
        """See :class:`Backend`; ``tick`` is served between patches."""
        import torch

        tick()
        if self._flat:
            patches = patches[:, :, 0]
        with torch.inference_mode(), torch.autocast(self.device, torch.float16, enabled=self.precision == "fp16"):
            images = torch.from_numpy(np.ascontiguousarray(patches)).to(self.device, memory_format=self._format)
            answer = self._network(images)
        if isinstance(answer, list | tuple):
            answer = answer[0]
        if self._flat:
            answer = answer[:, :, None]
        return answer.float().clone() if self._stays else answer.float().cpu().numpy()


def load_network(package: Package, fold: int = 0) -> Any:
    """A package's network with its weights, float32, in evaluation mode, on the processor.

    Raises:
        PackageError: The weights are damaged, hold code, are not finite, or do not fit the network.
    """
    state = read_weights(package, fold)
    for key, value in state.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise PackageError(f"Model '{package.manifest.name}' is refused: its weight '{key}' is not finite.")
    _check_shapes(package.manifest, state)
    network = build_network(package.manifest)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise PackageError(
            f"Model '{package.manifest.name}': its weights do not fit its network "
            f"({str(error).strip().splitlines()[-1].strip()})."
        ) from None
    return network.float().eval()


def _check_shapes(manifest: Manifest, state: dict[str, Any]) -> None:
    """Refuse weights of other shapes before the network takes memory: its arguments could ask for any amount of it."""
    import torch

    try:
        with torch.device("meta"):  # shapes without numbers
            wanted = {key: tuple(value.shape) for key, value in build_network(manifest).state_dict().items()}
    except PackageError:  # SwinUNETR computes while it is built; what is really wrong comes up when it is
        return
    for key, shape in wanted.items():
        found = tuple(state[key].shape) if key in state else "missing"
        if found != shape:
            raise PackageError(
                f"Model '{manifest.name}': its weights do not fit its network ('{key}' is {found} instead of {shape})."
            )


def build_network(manifest: Manifest) -> Any:
    """The manifest's network with fresh weights.

    Raises:
        PackageError: The network is unknown or its arguments do not fit it.
    """
    if manifest.network not in NETWORKS:
        raise PackageError(f"Model '{manifest.name}' uses the unknown network '{manifest.network}'.")
    if (architecture := manifest.architecture) is not None:
        from .unets import build

        return build(architecture)
    from monai.networks import nets

    if manifest.network != PAIR and not hasattr(nets, manifest.network):
        raise PackageError(
            f"Model '{manifest.name}' needs the network {manifest.network}, which this MONAI does not have; update MONAI."
        )
    wrong = (TypeError, ValueError, AttributeError, AssertionError, NotImplementedError, LookupError, RuntimeError)
    try:
        return monai_network(manifest.network, manifest.network_arguments)
    except wrong as error:
        raise PackageError(f"Model '{manifest.name}': {manifest.network} refuses its arguments ({error}).") from None


def monai_network(name: str, arguments: dict[str, Any]) -> Any:
    """A class of ``monai.networks.nets`` with its arguments, or the :mod:`~UNetSegmentLib.package.pair` of two of them."""
    from monai.networks import layers, nets

    if name != PAIR:
        return getattr(nets, name)(**arguments)
    from torch import nn

    first, second = (nets.BasicUNet(**part) for part in parts(arguments))
    return nn.Sequential(layers.SkipConnection(nn.Sequential(first, nn.Softmax(1))), second)


def read_weights(package: Package, fold: int = 0) -> dict[str, Any]:
    """The state dict of a package's fold, read without running code from it.

    Raises:
        PackageError: The file is damaged, or holds anything but tensors.
    """
    import torch

    name = package.manifest.name
    if (role := package.role("safetensors", fold)) is not None:
        tensors = read_tensors(package.verified_bytes(role), f"Model '{name}': its safetensors file cannot be read: it")
        return {key: torch.from_numpy(array.copy()) for key, array in tensors.items()}  # torch wants to write to them
    content = package.verified_bytes(package.role("torch", fold) or "torch")
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise PackageError(
            f"Model '{name}' is refused: its weights file holds code or objects instead of plain tensors."
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise PackageError(f"Model '{name}': its weights file cannot be read ({error}).") from None
    for key in ("state_dict", "model", "network", "net"):  # checkpoints of trainers hold the weights and more
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise PackageError(f"Model '{name}' is refused: its weights file is not a plain table of tensors.")
    return state


def convert(package: Package, fold: int, target: Path) -> None:
    """Write a package's network for OpenVINO, ``target`` (.xml) with its weights beside it, both or none.

    Raises:
        PackageError: See :func:`load_network`.
        BackendError: OpenVINO cannot take the network.
    """
    ov = quiet.openvino()
    import torch

    manifest = package.manifest
    patch = manifest.inference.patch_size[manifest.dimensions == 2 :]
    network = load_network(package, fold)
    try:
        with torch.inference_mode():
            model = ov.convert_model(network, example_input=torch.zeros(1, len(manifest.channels), *patch))
    except Exception as error:  # its frontend raises many kinds
        text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BackendError(
            f"Model '{manifest.name}' cannot be converted for OpenVINO ({text}); choose the torch backend."
        ) from None
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.stem}.{os.getpid()}.part.xml")
    ov.save_model(model, partial, compress_to_fp16=False)
    os.replace(partial.with_suffix(".bin"), target.with_suffix(".bin"))
    os.replace(partial, target)


def _take_head(network: Any, manifest: Manifest) -> Head | None:
    """Cut off the network's last 1x1x1 convolution where that makes its answer smaller; None where it has no such end.

    Which layer is last is seen by running a small patch: its answer is the network's answer.
    """
    import torch

    outputs = len(manifest.outputs)
    convolutions = (torch.nn.Conv3d, torch.nn.Conv2d)
    seen: dict[str, Any] = {}
    hooks = []
    for name, module in network.named_modules():
        fits = isinstance(module, convolutions) and module.out_channels == outputs > module.in_channels
        if fits and all(n == 1 for n in module.kernel_size):
            hooks.append(module.register_forward_hook(lambda _m, _i, out, name=name: seen.__setitem__(name, out)))
    if not hooks:
        return None
    patch = manifest.inference.patch_size[manifest.dimensions == 2 :]
    with torch.inference_mode():
        answer = network(torch.zeros(1, len(manifest.channels), *patch))
    for hook in hooks:
        hook.remove()
    answer = answer[0] if isinstance(answer, list | tuple) else answer
    last = next((name for name, out in seen.items() if out is answer), None)
    if last is None:
        return None
    module = network.get_submodule(last)
    weight = module.weight.detach().float().reshape(outputs, -1).numpy().copy()
    bias = np.zeros(outputs, np.float32) if module.bias is None else module.bias.detach().float().numpy().copy()
    parent, _, child = last.rpartition(".")
    setattr(network.get_submodule(parent), child, torch.nn.Identity())
    return Head(weight, bias)


def require(device: str) -> str:
    """The device, which is here; an Apple GPU must first give the processor's answer to a 3D convolution.

    Raises:
        BackendError: It is not here, or failed its proof.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise BackendError("No NVIDIA GPU that torch can use was found; choose the CPU.")
    if device != "mps":
        return device
    try:
        convolution, patch = torch.nn.Conv3d(2, 3, 3), torch.randn(1, 2, 6, 7, 8)
        with torch.inference_mode():
            expected = convolution(patch)
            proven = torch.allclose(convolution.to("mps")(patch.to("mps")).cpu(), expected, atol=1e-4)
    except (RuntimeError, NotImplementedError, AssertionError):
        proven = False
    if not proven:
        raise BackendError("The Apple GPU does not compute 3D convolutions rightly with this torch; choose the CPU.")
    return device

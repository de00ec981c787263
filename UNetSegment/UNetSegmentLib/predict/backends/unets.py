"""nnU-Net's networks in torch, from their description; torch is imported when one is built.

The layers bear the names of ``dynamic_network_architectures``, so that its weights load as they are.
"""

from __future__ import annotations

from typing import Any

from ...package import UNetArchitecture
from ...package.architecture import Convolution


def build(architecture: UNetArchitecture) -> Any:
    """The network with fresh weights, a ``torch.nn.Module``: (N, C, *size) to logits (N, K, *size)."""
    from torch import nn

    class UNet(nn.Module):
        """Layers under their dotted names; :meth:`UNetArchitecture.walk` says in which order they are used."""

        def __init__(self) -> None:
            super().__init__()
            architecture.walk(_Maker(self, architecture), None)

        def forward(self, x: Any) -> Any:
            return architecture.walk(_Runner(self, architecture), x)

    return UNet()


class _Maker:
    """A builder that puts layers into a module."""

    def __init__(self, module: Any, of: UNetArchitecture) -> None:
        from torch import nn

        self.module, self.of, self.nn = module, of, nn

    def convolve(self, key: str, x: Any, layer: Convolution) -> None:
        make = getattr(self.nn, f"Conv{self.of.dimensions}d")
        padding = tuple(n // 2 for n in layer.kernel)
        self._put(key, make(layer.inputs, layer.outputs, layer.kernel, layer.stride, padding, bias=layer.bias))

    def upsample(self, key: str, x: Any, layer: Convolution) -> None:
        make = getattr(self.nn, f"ConvTranspose{self.of.dimensions}d")
        self._put(key, make(layer.inputs, layer.outputs, layer.kernel, layer.stride, bias=layer.bias))

    def normalize(self, key: str, x: Any, features: int) -> None:
        kind = "InstanceNorm" if self.of.norm == "instance" else "BatchNorm"
        make = getattr(self.nn, f"{kind}{self.of.dimensions}d")
        self._put(key, make(features, eps=self.of.eps, affine=self.of.affine))

    def activate(self, x: Any) -> None: ...

    def average(self, x: Any, stride: tuple[int, ...]) -> None: ...

    def add(self, x: Any, y: Any) -> None: ...

    def concatenate(self, x: Any, y: Any) -> None: ...

    def _put(self, key: str, layer: Any) -> None:
        *path, name = key.split(".")
        parent = self.module
        for part in path:
            if part not in parent._modules:
                parent.add_module(part, self.nn.Module())
            parent = parent._modules[part]
        parent.add_module(name, layer)


class _Runner:
    """A builder that runs a module's layers on tensors."""

    def __init__(self, module: Any, of: UNetArchitecture) -> None:
        import torch

        self.module, self.of, self.torch = module, of, torch

    def convolve(self, key: str, x: Any, layer: Convolution) -> Any:
        return self.module.get_submodule(key)(x)

    upsample = convolve

    def normalize(self, key: str, x: Any, features: int) -> Any:
        return self.module.get_submodule(key)(x)

    def activate(self, x: Any) -> Any:
        return self.torch.nn.functional.leaky_relu_(x, self.of.slope)

    def average(self, x: Any, stride: tuple[int, ...]) -> Any:
        pool = getattr(self.torch.nn.functional, f"avg_pool{self.of.dimensions}d")
        return pool(x, stride, stride)

    def add(self, x: Any, y: Any) -> Any:
        return x + y

    def concatenate(self, x: Any, y: Any) -> Any:
        return self.torch.cat((x, y), 1)

"""nnU-Net's networks as OpenVINO models, built from their description and weights: no torch is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...package import UNetArchitecture
from ...package.architecture import Convolution
from . import quiet


def build(
    architecture: UNetArchitecture, weights: Mapping[str, np.ndarray], size: Sequence[int], exact: bool = True
) -> Any:
    """An ``ov.Model``: (1, C, *size) float32 to logits (1, K, *size); it ends with the 1x1x1 convolution and its bias.

    Args:
        architecture: The network.
        weights: Of every name in :meth:`UNetArchitecture.shapes`, float32.
        size: Of the patch, as many axes as the network has dimensions.
        exact: Whether instance norms are computed to float32's precision; 6 % slower than OpenVINO's own MVN, which
            adds up all voxels one after another and so errs by 1e-4 after some layers. Only for float32: in reduced
            precision MVN is the better one, as its sums stay in float32.
    """
    ov = quiet.openvino()
    from openvino import opset8 as ops

    image = ops.parameter([1, architecture.channels, *size], np.float32, name="image")
    logits = architecture.walk(_Graph(architecture, weights, exact), image)
    return ov.Model([ops.result(logits, name="logits")], [image], architecture.name)


class _Graph:
    """A builder whose intermediate results are nodes of OpenVINO."""

    def __init__(self, of: UNetArchitecture, weights: Mapping[str, np.ndarray], exact: bool) -> None:
        from openvino import opset8

        self.of, self.weights, self.exact, self.ops = of, weights, exact, opset8
        self.axes = np.arange(2, 2 + of.dimensions, dtype=np.int64)

    def convolve(self, key: str, x: Any, layer: Convolution) -> Any:
        padding, ones = [n // 2 for n in layer.kernel], [1] * self.of.dimensions
        kernel = self._constant(self.weights[f"{key}.weight"])
        return self._biased(key, self.ops.convolution(x, kernel, list(layer.stride), padding, padding, ones), layer)

    def upsample(self, key: str, x: Any, layer: Convolution) -> Any:
        kernel = self._constant(self.weights[f"{key}.weight"])
        zeros, ones = [0] * self.of.dimensions, [1] * self.of.dimensions
        grown = self.ops.convolution_backprop_data(
            x, kernel, list(layer.stride), pads_begin=zeros, pads_end=zeros, dilations=ones
        )
        return self._biased(key, grown, layer)

    def normalize(self, key: str, x: Any, features: int) -> Any:
        scale = self._per_channel(f"{key}.weight", features, 1.0)
        shift = self._per_channel(f"{key}.bias", features, 0.0)
        if self.of.norm == "batch":
            scale = scale / np.sqrt(self.weights[f"{key}.running_var"] + np.float32(self.of.eps))
            shift = shift - self.weights[f"{key}.running_mean"] * scale
        elif self.exact:
            x = self.ops.subtract(x, self._mean(x))
            eps = self._constant(np.array([self.of.eps], np.float32))
            deviation = self.ops.sqrt(self.ops.add(self._mean(self.ops.multiply(x, x)), eps))
            x = self.ops.multiply(x, self.ops.divide(self._spread(scale), deviation))
            return self.ops.add(x, self._spread(shift))
        else:
            x = self.ops.mvn(x, self.axes, True, self.of.eps, "inside_sqrt")
        return self.ops.add(self.ops.multiply(x, self._spread(scale)), self._spread(shift))

    def _mean(self, x: Any) -> Any:
        """The mean over space, in two steps that OpenVINO does not merge into one, or into MVN: sums of sums."""
        size = x.get_output_shape(0)
        for axes in (self.axes[1:], self.axes[:1]):
            count = np.prod([size[axis] for axis in axes])
            x = self.ops.multiply(self.ops.reduce_sum(x, axes, True), self._constant(np.array([1 / count], np.float32)))
        return x

    def activate(self, x: Any) -> Any:
        return self.ops.prelu(x, self._constant(np.array([self.of.slope], np.float32)))

    def average(self, x: Any, stride: tuple[int, ...]) -> Any:
        zeros = [0] * self.of.dimensions
        return self.ops.avg_pool(x, list(stride), zeros, zeros, list(stride), True, "floor")

    def add(self, x: Any, y: Any) -> Any:
        return self.ops.add(x, y)

    def concatenate(self, x: Any, y: Any) -> Any:
        return self.ops.concat([x, y], 1)

    def _biased(self, key: str, x: Any, layer: Convolution) -> Any:
        return self.ops.add(x, self._spread(self.weights[f"{key}.bias"])) if layer.bias else x

    def _per_channel(self, key: str, features: int, value: float) -> np.ndarray:
        return self.weights[key] if self.of.affine else np.full(features, value, np.float32)

    def _spread(self, values: np.ndarray) -> Any:
        """Values (C,) as a constant that fits (N, C, ...)."""
        return self._constant(values.reshape(1, -1, *[1] * self.of.dimensions))

    def _constant(self, values: np.ndarray) -> Any:
        return self.ops.constant(np.ascontiguousarray(values, np.float32))

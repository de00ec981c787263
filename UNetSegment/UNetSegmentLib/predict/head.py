"""The network's last layer, where it is done after stitching."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from . import passes

ALONE = 1 << 18
"""Multiplications of a matrix product up to which OpenBLAS, which NumPy brings, wakes no threads of its own: they would wait
for work in a loop, and for each other's products."""


@dataclass(frozen=True)
class Head:
    """A 1x1x1 convolution that is done after stitching: answers are features (F), outputs are ``weight @ f + bias``.

    A weighted mean commutes with it, so the result is the same but for rounding, and the sums are smaller where there
    are more outputs than features.
    """

    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, features: Any) -> Any:
        """Outputs (K, ...) of features (F, I, J, K), NumPy or torch, in the same order of axes in memory."""
        weight, bias = passes.like(features, self.weight), passes.like(features, self.bias)
        if not isinstance(features, np.ndarray):
            return (weight @ features.reshape(len(features), -1) + bias[:, None]).reshape(
                len(bias), *features.shape[1:]
            )
        result = passes.empty((len(bias), *features.shape[1:]), np.float32, features)
        order = (0, *(1 + axis for axis in passes.order(features)))
        inside, outside = (array.transpose(order).reshape(len(array), -1) for array in (features, result))
        step = max(ALONE // weight.size, 1)
        whole = inside.shape[1] // step * step
        stacked = (array[:, :whole].reshape(len(array), -1, step).transpose(1, 0, 2) for array in (inside, outside))
        np.matmul(weight, next(stacked), out=next(stacked))
        np.matmul(weight, inside[:, whole:], out=outside[:, whole:])
        outside += bias[:, None]
        return result

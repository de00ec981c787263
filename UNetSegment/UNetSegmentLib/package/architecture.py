"""The two networks of nnU-Net v2, described once: builders of any library walk this description.

PlainConvUNet and ResidualEncoderUNet (Isensee et al., Nature Methods 2021 and MICCAI 2024) with the weight names of the
``dynamic_network_architectures`` package, each weight once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

from ..errors import PackageError

UNETS = ("PlainConvUNet", "ResidualEncoderUNet")
"""Networks that :class:`UNetArchitecture` describes."""
NORMS = ("instance", "batch", "none")
_LIMITS = {"features_per_stage": 8192, "kernel_sizes": 31, "strides": 16, "repeats": 64, "channels": 4096}
_STAGES = 16
WEIGHT_LIMIT = 4_000_000_000
"""Most weights of a network, in numbers."""


@dataclass(frozen=True)
class Convolution:
    """A convolution, padded so that size / stride is kept, or a transposed one whose kernel is its stride."""

    inputs: int
    outputs: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    bias: bool


class Builder(Protocol):
    """What a library must offer for :meth:`UNetArchitecture.walk`; ``x`` is whatever it calls an intermediate result.

    ``key`` is the name of the layer: its weights are ``<key>.weight`` and ``<key>.bias``, of batch normalisation also
    ``<key>.running_mean`` and ``<key>.running_var``.
    """

    def convolve(self, key: str, x: Any, layer: Convolution) -> Any: ...

    def upsample(self, key: str, x: Any, layer: Convolution) -> Any: ...

    def normalize(self, key: str, x: Any, features: int) -> Any: ...

    def activate(self, x: Any) -> Any: ...

    def average(self, x: Any, stride: tuple[int, ...]) -> Any: ...

    def add(self, x: Any, y: Any) -> Any: ...

    def concatenate(self, x: Any, y: Any) -> Any: ...


@dataclass(frozen=True)
class UNetArchitecture:
    """A U-Net: an encoder of stages, each a stack of convolutions or residual blocks, and a decoder with skips.

    Args:
        name: One of :data:`UNETS`.
        dimensions: 2 or 3.
        channels: Of the input.
        outputs: Of the last layer.
        features: Per stage.
        kernels: Per stage, ``dimensions`` odd sizes.
        strides: Per stage, of its first convolution; all 1 in the first stage.
        repeats: Convolutions or blocks per stage of the encoder.
        decoder: Convolutions per stage of the decoder, from the coarsest.
        bias: Whether convolutions have a bias.
        norm: One of :data:`NORMS`.
        eps: Added to the variance by the norm.
        affine: Whether the norm has weights.
        slope: Of the leaky rectifier for negative values.
        activate_first: Whether the rectifier comes before the norm.
        stem: Features of the residual encoder's first convolution.
    """

    name: str
    dimensions: int
    channels: int
    outputs: int
    features: tuple[int, ...]
    kernels: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    repeats: tuple[int, ...]
    decoder: tuple[int, ...]
    bias: bool
    norm: str
    eps: float
    affine: bool
    slope: float
    activate_first: bool
    stem: int

    @classmethod
    def of(cls, name: str, arguments: dict[str, Any], dimensions: int, channels: int, outputs: int) -> UNetArchitecture:
        """From a manifest's network entry.

        Raises:
            PackageError: An argument is missing, unknown, or not possible.
        """
        plain = name == "PlainConvUNet"
        repeats = "n_conv_per_stage" if plain else "n_blocks_per_stage"
        known = {"features_per_stage", "kernel_sizes", "strides", repeats, "n_conv_per_stage_decoder"}
        optional = {"conv_bias", "norm", "norm_eps", "norm_affine", "negative_slope"}
        optional.add("nonlin_first" if plain else "stem_channels")
        for wrong, words in [(known - set(arguments), "lacks"), (set(arguments) - known - optional, "does not know")]:
            if wrong:
                raise PackageError(f"The network {name} {words} the argument '{min(wrong)}'.")
        stages = arguments["features_per_stage"]
        count = len(stages) if isinstance(stages, list) else 0
        if not 2 <= count <= _STAGES:
            raise PackageError(f"The network {name} needs 2 to {_STAGES} stages; its features_per_stage has {count}.")
        features = _numbers(name, "features_per_stage", stages, count, _LIMITS["features_per_stage"])
        norm = arguments.get("norm", "instance")
        if norm not in NORMS:
            raise PackageError(f"The network {name} has the norm {norm!r}, which is not one of {', '.join(NORMS)}.")
        made = cls(
            name,
            dimensions,
            channels,
            outputs,
            features,
            _sizes(name, "kernel_sizes", arguments["kernel_sizes"], count, dimensions),
            _sizes(name, "strides", arguments["strides"], count, dimensions),
            _numbers(name, repeats, arguments[repeats], count, _LIMITS["repeats"]),
            _numbers(name, "n_conv_per_stage_decoder", arguments["n_conv_per_stage_decoder"], count - 1, 64),
            _flag(name, "conv_bias", arguments.get("conv_bias", False)),
            norm,
            _real(name, "norm_eps", arguments.get("norm_eps", 1e-5)),
            _flag(name, "norm_affine", arguments.get("norm_affine", True)),
            _real(name, "negative_slope", arguments.get("negative_slope", 0.01)),
            _flag(name, "nonlin_first", arguments.get("nonlin_first", False)),
            _numbers(name, "stem_channels", [arguments.get("stem_channels") or features[0]], 1, 8192)[0],
        )
        if any(size % 2 == 0 for kernel in made.kernels for size in kernel):
            raise PackageError(f"The network {name} has a kernel of even size, which cannot keep an image's size.")
        if any(step != 1 for step in made.strides[0]):
            raise PackageError(
                f"The network {name} shrinks the image in its first stage, so its answer would be smaller."
            )
        if sum(prod(shape) for shape in made.shapes().values()) > WEIGHT_LIMIT:
            raise PackageError(f"The network {name} has more than {WEIGHT_LIMIT:,} weights.")
        return made

    @property
    def divisor(self) -> tuple[int, ...]:
        """What patch sizes must be multiples of, per axis."""
        return tuple(prod(stride[axis] for stride in self.strides) for axis in range(self.dimensions))

    @property
    def head(self) -> str:
        """Name of the last layer."""
        return f"decoder.seg_layers.{len(self.features) - 2}"

    def walk(self, build: Builder, x: Any) -> Any:
        """Let ``build`` carry out the network on ``x``, layer by layer; returns its answer."""
        skips = []
        width, ones = self.channels, (1,) * self.dimensions
        if self.name == "ResidualEncoderUNet":
            stem = Convolution(width, self.stem, self.kernels[0], ones, self.bias)
            x, width = self._unit(build, "encoder.stem.convs.0", x, stem), self.stem
        for stage, features in enumerate(self.features):
            for index in range(self.repeats[stage]):
                stride = ones if index else self.strides[stage]
                layer = Convolution(width, features, self.kernels[stage], stride, self.bias)
                if self.name == "PlainConvUNet":
                    x = self._unit(build, f"encoder.stages.{stage}.0.convs.{index}", x, layer)
                else:
                    x = self._residual(build, f"encoder.stages.{stage}.blocks.{index}", x, layer)
                width = features
            skips.append(x)
        for step, stage in enumerate(reversed(range(len(self.features) - 1))):
            features, stride = self.features[stage], self.strides[stage + 1]
            up = Convolution(width, features, stride, stride, self.bias)
            x = build.concatenate(build.upsample(f"decoder.transpconvs.{step}", x, up), skips[stage])
            width = 2 * features
            for index in range(self.decoder[step]):
                layer = Convolution(width, features, self.kernels[stage], ones, self.bias)
                x, width = self._unit(build, f"decoder.stages.{step}.convs.{index}", x, layer), features
        return build.convolve(self.head, x, Convolution(width, self.outputs, ones, ones, True))

    def _unit(self, build: Builder, key: str, x: Any, layer: Convolution, active: bool = True) -> Any:
        x = build.convolve(f"{key}.conv", x, layer)
        if active and self.activate_first:
            x = build.activate(x)
        if self.norm != "none":
            x = build.normalize(f"{key}.norm", x, layer.outputs)
        return build.activate(x) if active and not self.activate_first else x

    def _residual(self, build: Builder, key: str, x: Any, layer: Convolution) -> Any:
        """Two convolutions beside a shortcut, which is averaged and projected where the sizes differ (ResNet-D)."""
        ones = (1,) * self.dimensions
        second = Convolution(layer.outputs, layer.outputs, layer.kernel, ones, layer.bias)
        y = self._unit(build, f"{key}.conv1", x, layer)
        y = self._unit(build, f"{key}.conv2", y, second, active=False)
        strided = layer.stride != ones
        if strided:
            x = build.average(x, layer.stride)
        if layer.inputs != layer.outputs:
            projection = Convolution(layer.inputs, layer.outputs, ones, ones, False)
            x = self._unit(build, f"{key}.skip.{int(strided)}", x, projection, active=False)
        return build.activate(build.add(y, x))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every weight."""
        count = _Shapes(self)
        self.walk(count, None)
        return count.found


class _Shapes:
    """A builder that computes nothing and notes the weights."""

    def __init__(self, of: UNetArchitecture) -> None:
        self.of, self.found = of, dict[str, tuple[int, ...]]()

    def convolve(self, key: str, x: Any, layer: Convolution) -> None:
        self.found[f"{key}.weight"] = (layer.outputs, layer.inputs, *layer.kernel)
        if layer.bias:
            self.found[f"{key}.bias"] = (layer.outputs,)

    def upsample(self, key: str, x: Any, layer: Convolution) -> None:
        self.convolve(key, x, layer)
        self.found[f"{key}.weight"] = (layer.inputs, layer.outputs, *layer.kernel)

    def normalize(self, key: str, x: Any, features: int) -> None:
        names = ["weight", "bias"] if self.of.affine else []
        names += ["running_mean", "running_var"] if self.of.norm == "batch" else []
        self.found.update({f"{key}.{name}": (features,) for name in names})

    def activate(self, x: Any) -> None: ...

    def average(self, x: Any, stride: tuple[int, ...]) -> None: ...

    def add(self, x: Any, y: Any) -> None: ...

    def concatenate(self, x: Any, y: Any) -> None: ...


def _numbers(name: str, key: str, value: Any, count: int, most: int) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) != count:
        raise PackageError(f"The network {name} needs {count} numbers in {key}.")
    if not all(type(n) is int and 1 <= n <= most for n in value):
        raise PackageError(f"The network {name} needs whole numbers of 1 to {most} in {key}.")
    return tuple(value)


def _sizes(name: str, key: str, value: Any, count: int, dimensions: int) -> tuple[tuple[int, ...], ...]:
    if not isinstance(value, list) or len(value) != count:
        raise PackageError(f"The network {name} needs {count} entries in {key}.")
    return tuple(_numbers(name, key, entry, dimensions, _LIMITS[key]) for entry in value)


def _flag(name: str, key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise PackageError(f"The network {name} needs true or false for {key}.")
    return value


def _real(name: str, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise PackageError(f"The network {name} needs a number of 0 to 1 for {key}.")
    return float(value)


def check_shapes(what: str, expected: dict[str, tuple[int, ...]], found: dict[str, Sequence[int]]) -> None:
    """That ``found`` holds the expected weights, and no others.

    Raises:
        PackageError: It does not; the sentence names the first weight that is wrong.
    """
    for key, shape in expected.items():
        if key not in found:
            raise PackageError(f"{what} do not fit the network: '{key}' is missing.")
        if tuple(found[key]) != shape:
            raise PackageError(
                f"{what} do not fit the network: '{key}' has the shape {_by(found[key])} instead of {_by(shape)}."
            )
    for key in found:
        if key not in expected:
            raise PackageError(f"{what} do not fit the network: it has no place for '{str(key)[:80]}'.")


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "a single number"

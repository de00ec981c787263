"""What the layers of a network do to the size of an image: traced on a network without values.

The network runs once on PyTorch's "meta" device, where tensors have sizes and no contents: any size, no memory, no time.
Every operation passes by a :class:`~torch.utils._python_dispatch.TorchDispatchMode`, so the trace follows what the network
really does (skip connections, cropping, padding) and not how its classes are called.

Output sizes along an axis, for n voxels in, kernel k, stride s, padding p, dilation d (Dumoulin and Visin 2016):
convolution and pooling floor((n + 2p - d(k - 1) - 1) / s) + 1; transposed convolution (n - 1)s - 2p + d(k - 1) + q + 1,
with output padding q.

Receptive field: voxels of the image that one output voxel can depend on through convolutions, pooling and interpolation.
For each position along each axis the first and last such voxel is followed through the layers, on an image large
enough that its border plays no part; the largest span counts. (Normalisation over the image is left out.)
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

Sizes = tuple[int, ...]


@dataclass
class Layer:
    """One step of the network.

    Args:
        name: Of the module it belongs to, with dots.
        kind: "convolution", "transposed convolution", "pooling", "interpolation", "concatenation", "addition", "linear".
        size_in: Voxels per axis.
        size_out: Voxels per axis.
        channels_out: Feature maps out.
        kernel: Per axis; empty where there is none, as ``stride`` and ``padding``.
        parts: Channels of a concatenation's parts.
        parameters: Its own, and those of the normalisation that follows.
        normalised: Whether normalisation follows.
        flops: Floating-point operations for one patch; a multiplication and an addition are two.
        receptive_field: Voxels of the image per axis; empty where it is not known (attention).
        step: Distance in the image between neighbouring output voxels per axis: the product of strides so far.
    """

    name: str
    kind: str
    size_in: Sizes
    size_out: Sizes
    channels_out: int
    kernel: Sizes = ()
    stride: Sizes = ()
    padding: Sizes = ()
    dilation: Sizes = ()
    output_padding: Sizes = ()
    parts: Sizes = ()
    parameters: int = 0
    normalised: bool = False
    flops: int = 0
    receptive_field: Sizes = ()
    step: Sizes = ()

    @property
    def values(self) -> int:
        """Numbers in its output."""
        return self.channels_out * prod(self.size_out)

    def formula(self, axis: int = 0) -> str:
        """The output size along an axis, with its numbers put in; empty for what does not change it by a formula."""
        if not self.kernel:
            return ""
        n, k, s, p, d = (x[axis] for x in (self.size_in, self.kernel, self.stride, self.padding, self.dilation))
        reach = f"{k}" if d == 1 else f"{d}·({k} - 1) - 1"
        if self.kind == "transposed convolution":
            extra = f" + {self.output_padding[axis]}" if self.output_padding[axis] else ""
            reach = f"{k}" if d == 1 else f"{d}·({k} - 1) + 1"
            return f"({n} - 1)·{s} - 2·{p} + {reach}{extra} = {self.size_out[axis]}"
        return f"floor(({n} + 2·{p} - {reach}) / {s}) + 1 = {self.size_out[axis]}"


Spans = tuple[np.ndarray, ...]
"""Per axis (2, n): the first and last voxel of the image on which each of n positions depends."""


@dataclass
class _Tracer(TorchDispatchMode):
    dimensions: int
    names: dict[int, str]
    layers: list[Layer] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.known: dict[int, Spans] = {}
        self.kept: list[Any] = []  # an id may be used again once its tensor is gone
        self.counted: set[int] = set()
        self.modules: list[str] = []

    def tell(self, tensor: torch.Tensor, known: Spans) -> None:
        self.known[id(tensor)] = known
        self.kept.append(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        flat, _ = tree_flatten((args, kwargs or {}))
        tensors = [x for x in flat if isinstance(x, torch.Tensor)]
        sources = [self.known[id(x)] for x in tensors if id(x) in self.known]
        own = [x for x in tensors if id(x) in self.names and id(x) not in self.counted]
        self.counted |= {id(x) for x in own}
        parameters = sum(x.numel() for x in own)
        if not sources:  # on its way to a layer (a weight that is repeated or reshaped)
            if parameters and self.layers:
                self.layers[-1].parameters += parameters
            return out
        name = func.overloadpacket.__name__
        result = out[0] if isinstance(out, (tuple, list)) else out
        spans = _join(sources, tuple(result.shape[2:])) if isinstance(result, torch.Tensor) else sources[0]
        made = self._layer(name, args, tensors, result, parameters)
        if made is not None:
            if made.kind not in ("linear", "concatenation", "addition"):
                spans = _through(made, sources[0])
            made.receptive_field, made.step = _widest(spans), _steps(spans)
            self.layers.append(made)
        elif parameters and self.layers:
            self.layers[-1].parameters += parameters
        if "norm" in name and self.layers:
            self.layers[-1].normalised = True
        if name == "slice":
            spans = _cut(spans, sources[0], args)
        elif name == "constant_pad_nd":
            spans = _pad(sources[0], args[1], self.dimensions)
        for x in tree_flatten(out)[0]:
            if isinstance(x, torch.Tensor):
                self.tell(x, spans)
        return out

    def _layer(self, name: str, args: Any, tensors: list[torch.Tensor], result: Any, parameters: int) -> Layer | None:
        module = self.modules[-1] if self.modules else ""
        if name in ("mm", "addmm", "bmm"):
            a, b = tensors[-2:]
            if not parameters and name != "bmm":
                return None
            layer = Layer(module, "linear", (), (), b.shape[-1], parameters=parameters)
            layer.flops = 2 * prod(a.shape) * b.shape[-1]
            return layer
        x = tensors[0]
        if not isinstance(result, torch.Tensor) or result.ndim != self.dimensions + 2 or x.ndim != result.ndim:
            return None
        n = self.dimensions
        layer = Layer(module, "", tuple(x.shape[2:]), tuple(result.shape[2:]), result.shape[1])
        layer.parameters = parameters
        if name == "convolution":
            weight, _, stride, padding, dilation, transposed, extra, groups = args[1:9]
            layer.kind = "transposed convolution" if transposed else "convolution"
            layer.kernel = tuple(weight.shape[2:])
            layer.stride, layer.padding, layer.dilation = (_each(v, n) for v in (stride, padding, dilation))
            layer.output_padding = _each(extra, n)
            # per input voxel for the transposed form, per output voxel for the other
            layer.flops = 2 * weight.numel() * prod(layer.size_in if transposed else layer.size_out)
        elif "pool" in name and "adaptive" not in name:
            layer.kind, layer.kernel = "pooling", _each(args[1], n)
            layer.stride = _each(args[2] if len(args) > 2 and args[2] else args[1], n)
            layer.padding = _each(args[3] if len(args) > 3 else 0, n)
            layer.dilation = _each(args[4] if len(args) > 4 and "max" in name else 1, n)
        elif name.startswith("upsample"):
            layer.kind = "interpolation"
        elif name == "cat" and (args[1] if len(args) > 1 else 0) == 1:
            layer.kind, layer.parts = "concatenation", tuple(t.shape[1] for t in tensors)
        elif name in ("add", "add_") and len(tensors) == 2 and tensors[0].shape == tensors[1].shape:
            layer.kind = "addition"
        else:
            return None
        return layer


def _each(value: Any, count: int) -> Sizes:
    row = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return row * count if len(row) == 1 else row


def _join(sources: Sequence[Spans], size: Sizes) -> Spans:
    """Where paths meet: of those that have the result's positions, the outermost voxels.

    What has a single position (a global average) is broadcast and left out, like normalisation.
    """
    fitting = [s for s in sources if tuple(x.shape[1] for x in s) == size] or list(sources[:1])
    return tuple(
        np.stack([np.min([x[0] for x in column], axis=0), np.max([x[1] for x in column], axis=0)])
        for column in zip(*fitting, strict=True)
    )


def _through(layer: Layer, spans: Spans) -> Spans:
    """After a layer: each output position takes the span of all input positions it sees."""
    found = []
    for axis, span in enumerate(spans):
        n, m = layer.size_in[axis], layer.size_out[axis]
        out = np.arange(m)
        if layer.kind == "interpolation":
            at = (out + 0.5) * n / m - 0.5
            first, last = np.floor(at), np.ceil(at)
        else:
            k, s, p, d = (x[axis] for x in (layer.kernel, layer.stride, layer.padding, layer.dilation))
            if layer.kind == "transposed convolution":
                first, last = np.ceil((out + p - (k - 1) * d) / s), np.floor((out + p) / s)
            else:
                first, last = out * s - p, out * s - p + (k - 1) * d
        first, last = (np.clip(x, 0, n - 1).astype(int) for x in (first, last))
        found.append(np.stack([span[0][first], span[1][last]]))
    return tuple(found)


def _widest(spans: Spans) -> Sizes:
    """Largest span among positions of the middle third, away from the border."""
    middle = [x[:, x.shape[1] // 3 : -(-2 * x.shape[1] // 3)] for x in spans]
    return tuple(int((x[1] - x[0]).max()) + 1 for x in middle)


def _steps(spans: Spans) -> Sizes:
    """By how much the middle of the span moves from one position to the next, on average and away from the border."""
    middle = [(x[:, x.shape[1] // 3 : -(-2 * x.shape[1] // 3)]).sum(axis=0) / 2 for x in spans]
    return tuple(max(round((x[-1] - x[0]) / max(len(x) - 1, 1)), 1) for x in middle)


def _cut(spans: Spans, source: Spans, args: Any) -> Spans:
    axis = (args[1] if len(args) > 1 else 0) - 2
    if not 0 <= axis < len(source):
        return spans
    start = args[2] if len(args) > 2 else None
    stop = args[3] if len(args) > 3 else None
    return tuple(x[:, start:stop] if a == axis else x for a, x in enumerate(source))


def _pad(source: Spans, amounts: Sequence[int], dimensions: int) -> Spans:
    """``amounts`` as torch has them: before and after, from the last axis on."""
    rows = list(zip(amounts[::2], amounts[1::2], strict=True))[:dimensions]
    rows = [*rows, *[(0, 0)] * (dimensions - len(rows))][::-1]
    return tuple(np.pad(x, ((0, 0), row), mode="edge") for x, row in zip(source, rows, strict=True))


def trace(network: torch.nn.Module, channels: int, size: Sequence[int]) -> list[Layer]:
    """The layers of a network in the order they run, for one image (1, channels, *size).

    Args:
        network: Best made on "meta" (``with torch.device("meta")``) if it is large.
        channels: Of the image.
        size: Of the image in voxels, 2 or 3 axes; one that the network can take.
    """
    try:
        on_meta = next(network.parameters()).device.type == "meta"
        light = network if on_meta else copy.deepcopy(network).to("meta")
        layers = _run(light, channels, size)
    except (RuntimeError, NotImplementedError):
        if on_meta:
            raise
        layers = _run(network, channels, size)  # it looks at values, as attention in shifted windows does
        return _without_field(layers, size)
    if any(layer.kind == "linear" for layer in layers):
        return _without_field(layers, size)
    strides = [row.stride for row in layers if row.stride and row.kind != "transposed convolution"]
    steps = [prod(row[axis] for row in strides) for axis in range(len(size))]
    reach = [2 * x for x in _reach(layers, len(size))]
    large = [n + -(-3 * r // s) * s for n, r, s in zip(size, reach, steps, strict=True)]
    for layer, same in zip(layers, _run(light, channels, large), strict=True):
        layer.receptive_field, layer.step = same.receptive_field, same.step
    return layers


def _without_field(layers: list[Layer], size: Sequence[int]) -> list[Layer]:
    """Attention between far voxels leaves no field to speak of; distances follow from the sizes.

    Additions are left out, as transformers add arrays whose channels come last.
    """
    kept: list[Layer] = []
    for layer in layers:
        if layer.kind == "addition" and kept:
            kept[-1].parameters += layer.parameters
        else:
            kept.append(layer)
    for layer in kept:
        layer.receptive_field = ()
        layer.step = tuple(max(round(n / m), 1) for n, m in zip(size, layer.size_out)) if layer.size_out else ()
    return kept


def _reach(layers: Sequence[Layer], axes: int) -> list[int]:
    """Voxels by which the largest receptive field is surely exceeded."""
    total, step = [1] * axes, [1] * axes
    for layer in layers:
        for axis in range(axes):
            if layer.kernel and layer.kind != "transposed convolution":
                total[axis] += (layer.kernel[axis] - 1) * layer.dilation[axis] * step[axis]
                step[axis] *= layer.stride[axis]
            elif layer.size_in and layer.size_out[axis] > layer.size_in[axis]:
                total[axis] += step[axis]
                step[axis] = max(step[axis] * layer.size_in[axis] // layer.size_out[axis], 1)
    return total


def _run(network: torch.nn.Module, channels: int, size: Sequence[int]) -> list[Layer]:
    network.eval()
    names = {id(p): name for name, p in network.named_parameters()}
    tracer = _Tracer(len(size), names)
    handles = []
    for name, module in network.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: tracer.modules.append(name)))
        handles.append(module.register_forward_hook(lambda *_: tracer.modules.pop() and None))
    image = torch.zeros((1, channels, *size), device=next(network.parameters()).device)
    tracer.tell(image, tuple(np.stack([np.arange(n), np.arange(n)]) for n in size))
    try:
        with torch.no_grad(), tracer:
            network(image)
    finally:
        for handle in handles:
            handle.remove()
    return tracer.layers

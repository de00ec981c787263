"""What makes a step of training fast on a processor: memory that is kept between steps, and channels last.

Arrays of feature maps are large. The C library gives such ones back to the system at once, and the system clears every
page anew when the next is asked for. oneDNN computes convolutions with channels last, in bfloat16 above all; with channels
first it turns each array around twice.
"""

from __future__ import annotations

import ctypes
import sys
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
"""By the number of a tensor's axes."""
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Of glibc's ``mallopt``."""


def keep_memory() -> None:
    """Let this process keep memory that it freed, for its next use; where the C library is glibc, else nothing is done."""
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "gnu_get_libc_version"):
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def channels_last(network: torch.nn.Module) -> bool:
    """Make a network ready for input with channels last; False where its layers would only turn it around again.

    Weights stay as they are: turning them costs little, and files keep their usual order.
    """
    norms = [module for module in network.modules() if "Norm" in type(module).__name__]
    if any(isinstance(module, (torch.nn.GroupNorm, torch.nn.LayerNorm)) for module in norms):
        return False
    for module in norms:
        if isinstance(module, (torch.nn.InstanceNorm2d, torch.nn.InstanceNorm3d)) and not module.track_running_stats:
            module.forward = partial(_normalise, module)
    return True


def _normalise(module: Any, x: torch.Tensor) -> torch.Tensor:
    if x.is_contiguous(memory_format=FORMATS[x.ndim]) and x.shape[1] > 1:
        return InstanceNorm.apply(x, module.weight, module.bias, module.eps)
    return F.instance_norm(x, weight=module.weight, bias=module.bias, eps=module.eps)


class InstanceNorm(torch.autograd.Function):
    """Instance norm of (N, C, *axes) with channels last, without turning it around.

    PyTorch's own copies such an input to channels first and back, in both passes. Its batch norm knows the layout, and of one
    image alone it is instance norm.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
    ) -> torch.Tensor:
        """See :class:`torch.nn.InstanceNorm3d` for the arguments."""
        y = torch.empty_like(x, memory_format=FORMATS[x.ndim])
        saved = []
        for one, out in zip(x.split(1), y.split(1), strict=True):
            normed, *moments = torch.native_batch_norm(one, weight, bias, None, None, True, 0.0, eps)
            out.copy_(normed)
            saved += moments
        ctx.save_for_backward(x, weight, torch.stack(saved))
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Of input, weight and bias."""
        x, weight, saved = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=FORMATS[x.ndim])
        result = torch.empty_like(x, memory_format=FORMATS[x.ndim])
        affine = ctx.needs_input_grad[1]
        scales, shifts = [], []
        for g, one, out, moments in zip(gradient.split(1), x.split(1), result.split(1), saved.split(2), strict=True):
            wanted = [True, affine, affine]
            for_input, scale, shift = torch.ops.aten.native_batch_norm_backward(
                g, one, weight, None, None, *moments, True, ctx.eps, wanted
            )
            out.copy_(for_input)
            scales.append(scale)
            shifts.append(shift)
        sums = (torch.stack(scales).sum(0), torch.stack(shifts).sum(0)) if affine else (None, None)
        return result, *sums, None

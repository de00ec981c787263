"""What this machine can do at most: large matrix products, in the better of PyTorch and OpenVINO."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.serve import cpu_seconds, serve


def best(run: Callable[[], Any], operations: float, seconds: float = 2.0) -> dict[str, float]:
    """Highest GFLOP/s, and highest GFLOP per processor second, of repeated runs."""
    run()
    walls, cpus, until = [], [], time.perf_counter() + seconds
    while time.perf_counter() < until or len(walls) < 3:
        cpu, began = cpu_seconds(), time.perf_counter()
        run()
        walls.append(time.perf_counter() - began)
        cpus.append(cpu_seconds() - cpu)
    return {"gflops": operations / min(walls) / 1e9, "per_cpu_second": operations / max(min(cpus), 1e-9) / 1e9}


def ceiling(
    threads: int,
    size: int = 2048,
    device: str = "cpu",
    seconds: float = 2.0,
    precisions: Sequence[str] = ("fp32", "bf16", "fp16"),
) -> dict[str, Any]:
    """``{precision: {library: figures}}`` of a size x size matrix product."""
    import torch

    torch.set_num_threads(threads)
    found: dict[str, Any] = {}
    if device == "cuda":
        size = 8192
    for name, kind in {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}.items():
        if name not in precisions or (name == "fp16" and device == "cpu"):
            continue
        a, b = (torch.randn(size, size).to(device, kind) for _ in range(2))

        def product(a: Any = a, b: Any = b) -> None:
            torch.mm(a, b)
            if device == "cuda":
                torch.cuda.synchronize()

        found.setdefault(name, {})["torch"] = best(product, 2.0 * size**3, seconds)
    for name, hint in {"fp32": "f32", "bf16": "bf16"}.items():
        if device == "cpu" and name in precisions:
            found[name]["openvino"] = best(_openvino_product(size, hint, threads), 2.0 * size**3, seconds)
    return found


def _openvino_product(size: int, hint: str, threads: int) -> Callable[[], Any]:
    """A matrix product compiled by OpenVINO, with a constant right side as a layer's weights are."""
    import openvino as ov
    from openvino import opset13 as ops

    left = ops.parameter([size, size], np.float32)
    right = ops.constant(np.random.default_rng(0).standard_normal((size, size)).astype(np.float32))
    model = ov.Model([ops.matmul(left, right, False, False)], [left])
    options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    request = ov.Core().compile_model(model, "CPU", options).create_infer_request()
    request.set_input_tensor(ov.Tensor(np.random.default_rng(1).standard_normal((size, size)).astype(np.float32)))
    return request.infer


if __name__ == "__main__":
    serve({"ceiling": ceiling})

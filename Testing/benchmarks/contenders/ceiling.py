"""What this machine can do at most: large matrix products, in the better of PyTorch and OpenVINO."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.serve import cpu_seconds, serve


def best(run: Callable[[], Any], operations: float, seconds: float) -> dict[str, float]:
    """Highest GFLOP/s, and highest GFLOP per processor second, of repeated runs.

    Runs are timed in groups of some 0.3 processor seconds: those of other threads are brought up to date only now and
    then, which matters where other work shares the processor.
    """
    run()
    group = max(round(3e10 / operations), 1)
    walls, cpus, until = [], [], time.perf_counter() + seconds
    while time.perf_counter() < until or len(walls) < 2:
        cpu, began = cpu_seconds(), time.perf_counter()
        for _ in range(group):
            run()
        walls.append((time.perf_counter() - began) / group)
        cpus.append((cpu_seconds() - cpu) / group)
    return {"gflops": operations / min(walls) / 1e9, "per_cpu_second": operations / max(min(cpus), 1e-9) / 1e9}


def ceiling(
    threads: int, device: str = "cpu", seconds: float = 0.6, precisions: Sequence[str] = ("fp32", "bf16", "fp16")
) -> dict[str, dict[str, float]]:
    """``{precision: figures}``: the highest of both libraries and of square products of several sizes."""
    import torch

    torch.set_num_threads(threads)
    found: dict[str, list[dict[str, float]]] = {}
    for precision in precisions:
        if precision == "fp16" and device == "cpu":
            continue
        for size in (8192,) if device == "cuda" else (512, 1536):
            runs = [_torch_product(size, precision, device)]
            if device == "cpu":
                runs.append(_openvino_product(size, precision, threads))
            found.setdefault(precision, []).extend(best(run, 2.0 * size**3, seconds) for run in runs)
    keys = ("gflops", "per_cpu_second")
    return {name: {key: max(one[key] for one in several) for key in keys} for name, several in found.items()}


def _torch_product(size: int, precision: str, device: str) -> Callable[[], Any]:
    import torch

    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    a, b = (torch.randn(size, size).to(device, kind) for _ in range(2))

    def product() -> None:
        torch.mm(a, b)
        if device == "cuda":
            torch.cuda.synchronize()

    return product


def _openvino_product(size: int, precision: str, threads: int) -> Callable[[], Any]:
    """A matrix product compiled by OpenVINO, with a constant right side as a layer's weights are."""
    import openvino as ov
    from openvino import opset13 as ops

    left = ops.parameter([size, size], np.float32)
    right = ops.constant(np.random.default_rng(0).standard_normal((size, size)).astype(np.float32))
    model = ov.Model([ops.matmul(left, right, False, False)], [left])
    hint = {"fp32": "f32"}.get(precision, precision)
    options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    request = ov.Core().compile_model(model, "CPU", options).create_infer_request()
    request.set_input_tensor(ov.Tensor(np.random.default_rng(1).standard_normal((size, size)).astype(np.float32)))
    return request.infer


if __name__ == "__main__":
    serve({"ceiling": ceiling})

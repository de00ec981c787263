"""The network stage alone: one patch through a backend of ours, in turns with the matrix product it is held against."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks.contenders.ceiling import ceiling
from benchmarks.serve import cpu_seconds, serve


def make(folder: str, arguments: dict[str, Any], patch: int) -> str:
    """A package around MONAI's DynUNet with random weights, as ``model.pt`` and ONNX."""
    from pathlib import Path

    from synthetic.packages import dynunet_package

    inference = {"patch_size": [patch] * 3, "overlap": 0.5, "blending": "gaussian", "sigma_scale": 0.125}
    network = {"name": "DynUNet", "arguments": arguments}
    return str(dynunet_package(Path(folder), network=network, inference=inference))


def measure(package: str, backend: str, precision: str, threads: int, runs: int = 3) -> dict[str, Any]:
    """Wall and processor seconds of a patch (least of the runs), and the ceiling measured before and after."""
    from UNetSegmentLib.package import load
    from UNetSegmentLib.predict.backends import Place

    opened = load(package)
    network = Place(backend, "cpu", threads).open(opened, precision)
    patch = np.random.default_rng(0).standard_normal((1, 1, *opened.manifest.inference.patch_size), np.float32)
    network.run(patch, lambda: None)
    walls, cpus = [], []
    peaks = [ceiling(threads, precisions=(precision,), seconds=0.3)[precision]]
    for _ in range(runs):
        cpu, began = cpu_seconds(), time.perf_counter()
        network.run(patch, lambda: None)
        walls.append(time.perf_counter() - began)
        cpus.append(cpu_seconds() - cpu)
    peaks.append(ceiling(threads, precisions=(precision,), seconds=0.3)[precision])
    highest = {key: max(peak[key] for peak in peaks) for key in ("gflops", "per_cpu_second")}
    return {"wall": min(walls), "cpu": min(cpus), "ceiling": highest}


if __name__ == "__main__":
    serve({"make": make, "measure": measure})

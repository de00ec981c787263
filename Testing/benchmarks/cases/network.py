"""The network stage alone, full width, against the machine's matrix-product ceiling in the same precision."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from .. import flops
from ..options import Options
from ..report import Target
from ..session import ContenderError, Session
from ..table import number

PATCH = 96
FEATURES = [32, 64, 128, 256, 320, 320]
ARGUMENTS = {
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 3,
    "kernel_size": [3] * 6,
    "strides": [1, 2, 2, 2, 2, 2],
    "upsample_kernel_size": [2] * 5,
    "filters": FEATURES,
    "norm_name": "INSTANCE",
    "res_block": False,
    "trans_bias": True,
}


def run(options: Options, folder: Path) -> dict[str, Any]:
    """OpenVINO in float32 and bfloat16, and PyTorch, each beside the ceiling measured before and after its runs."""
    operations = flops.of_dynunet(ARGUMENTS, [PATCH] * 3)
    rows, targets, notes = [], [], []
    for backend, precision in (("openvino", "fp32"), ("openvino", "bf16"), ("torch", "fp32")):
        name = f"{backend} {precision}"
        module = "benchmarks.contenders.network"
        with Session(name, module, sys.executable, options.threads, folder) as session:
            package = folder / "package"
            if not (package / "configs" / "manifest.json").exists():
                session.call("make", folder=str(package), arguments=ARGUMENTS, patch=PATCH)
            try:
                choice = {"backend": backend, "precision": precision, "threads": options.threads}
                found = session.call("measure", package=str(package), **choice).result
            except ContenderError as error:
                notes.append(f"{name} did not run: {str(error).splitlines()[0]}")
                continue
        rates = {"wall": operations / found["wall"] / 1e9, "cpu": operations / found["cpu"] / 1e9}
        peak = found["ceiling"]
        parts = rates["wall"] / peak["gflops"], rates["cpu"] / peak["per_cpu_second"]
        cells = [found["cpu"], rates["cpu"], peak["per_cpu_second"], found["wall"], rates["wall"], peak["gflops"]]
        cells = [number(value) for value in cells]
        cells.insert(3, f"{100 * parts[1]:.0f} %")
        rows.append([name, *cells, f"{100 * parts[0]:.0f} %"])
        if backend == "openvino":
            what = f"network stage, OpenVINO {precision}, of the matrix-product ceiling (per CPU second)"
            targets.append(Target.at_least(what, parts[1], 0.7, "of it"))
    head = [
        "backend",
        "CPU s per patch",
        "GFLOP per CPU s",
        "ceiling",
        "of it",
        "wall s",
        "GFLOP/s",
        "ceiling",
        "of it",
    ]
    return {
        "title": "the network stage alone (32-64-128-256-320-320, float32 and bfloat16)",
        "scale": f"one patch of {PATCH}^3 voxels, {operations / 1e9:.0f} GFLOP, full width",
        "table": {"head": head, "rows": rows},
        "flop_per_patch": operations,
        "notes": [
            "Least of three runs, the ceiling measured before and after. Figures per CPU second hold also where other work "
            "shares the processor, those by wall only where nothing does.",
            *notes,
        ],
        "targets": targets,
    }

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
    """OpenVINO in float32 and bfloat16, and PyTorch, each beside the ceiling measured between its runs."""
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
        rate = operations / found["wall"] / 1e9
        part = rate / found["ceiling"]
        figures = [number(found[key]) for key in ("cpu", "wall")]
        rows.append([name, *figures, number(rate), number(found["ceiling"]), f"{100 * part:.0f} %"])
        if backend == "openvino":
            what = f"network stage, OpenVINO {precision}, of the matrix-product ceiling"
            targets.append(Target.at_least(what, part, 0.7, "of it"))
    head = ["backend", "CPU s per patch", "wall s", "GFLOP/s", "ceiling GFLOP/s", "of it"]
    return {
        "title": "the network stage alone (32-64-128-256-320-320, float32 and bfloat16)",
        "scale": f"one patch of {PATCH}^3 voxels, {operations / 1e9:.0f} GFLOP, full width",
        "table": {"head": head, "rows": rows},
        "flop_per_patch": operations,
        "notes": notes,
        "targets": targets,
    }

"""Peak memory with 118 classes when the number of slices doubles: ours against itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from .. import inputs
from ..options import Options
from ..race import ours
from ..report import Target
from ..session import Session
from ..synthetic_model import narrow_package
from ..table import MIB, number

CLASSES, PLANE, SLICES, SPACING = 118, 512, (150, 300), 1.5


def run(options: Options, folder: Path) -> dict[str, Any]:
    """The same narrow network on a volume and on one twice as deep, each in a fresh process, in both orders of axes."""
    voxels = PLANE * PLANE * (SLICES[1] - SLICES[0])
    allowed, naive = 5 * voxels, 4 * CLASSES * voxels
    rows, targets, figures = [], [], {}
    for order in ("slices first", "RAS"):
        package = narrow_package(folder / order.replace(" ", "-"), CLASSES, order == "slices first")
        extra = [_measure(package, order, slices, options, folder, rows) for slices in SLICES]
        figures[order] = extra
        what = f"memory grown when depth doubles, axes {order}, beside label map and input"
        why = "Slabs run along the network's first axis; slices along another one widen the plane of every slab."
        targets.append(Target.at_most(what, (extra[1] - extra[0]) / allowed, 1.0, "of their growth"))
        targets[-1]["why"] = why if order == "RAS" else ""
    head = ["axes of the network", "slices", "CPU s", "wall s", "memory over the resident input MiB"]
    return {
        "title": f"{CLASSES} classes, depth doubled",
        "scale": f"synthetic {PLANE}x{PLANE}x{SLICES[0]} and x{SLICES[1]} at {SPACING} mm, a network of two layers",
        "table": {"head": head, "rows": rows},
        "figures": {"extra": figures, "allowed": allowed},
        "notes": [
            f"Label map (1 byte a voxel) and the image that the network sees (float32) grow by {allowed / MIB:.0f} MiB "
            f"together; float32 logits of the whole volume would grow by {naive / MIB:.0f} MiB. *Slices first* is the order "
            "of nnU-Net's folders, *RAS* that of MONAI's bundles."
        ],
        "targets": targets,
    }


def _measure(package: Path, order: str, slices: int, options: Options, folder: Path, rows: list[list[str]]) -> int:
    """Bytes over the resident input at the peak of a cold prediction; adds its row."""
    contender = ours("parity", package, options, mode="parity", mirror=False)
    image = inputs.save(f"slices-{slices}", scan(slices), np.diag([SPACING, SPACING, SPACING, 1.0]), folder)
    with Session(f"{order} {slices}", contender.module, sys.executable, options.threads, folder) as session:
        session.call("load", **contender.load)
        answer = session.call("predict", **image.arguments("affine"), out=str(folder / f"{slices}.npy"))
    stage = answer.stages["predict"]
    rows.append([order, str(slices), number(stage.cpu), number(stage.wall), number(stage.extra / MIB)])
    image.path.unlink()
    return stage.extra


def scan(slices: int, size: int = PLANE) -> np.ndarray:
    """A CT-like volume (1, size, size, slices) int16: a body of soft tissue in air, with noise."""
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    body = (axis[:, None] ** 2 / 0.7 + axis[None] ** 2 / 0.4) < 1
    plane = np.where(body, 40, -1000).astype(np.int16)
    volume = np.repeat(plane[..., None], slices, axis=2)
    random = np.random.default_rng(0)
    for k in range(slices):
        volume[..., k] += random.integers(-60, 60, plane.shape, np.int16)
    return volume[None]

"""A real trained nnU-Net folder: ours beside the real nnU-Net, and beside predictions that it stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from .. import flops, inputs
from ..compare import agreement, pooled
from ..options import Options
from ..race import Run, nnunet, ours, race
from ..report import Target, agreements, limit, ratio

TITLE = "nnU-Net v2 folder, hippocampus MRI (32-64-128-256, patch 40x56x40, 1 patch per image)"


def run(options: Options, folder: Path) -> dict[str, Any]:
    """Without and with mirroring over the images whose predictions are stored."""
    model = options.data("models", "nnunet_hippocampus")
    stored = {name: model / f"predictions_{name}" for name in ("plain", "mirrored")}
    paths = sorted(options.data("data", "hippocampus", "imagesTr").glob("*.nii.gz"))
    images = [inputs.image(path, folder) for path in paths if (stored["plain"] / path.name).exists()]
    contenders = [
        ours("parity", model, options, mode="parity", mirror=False),
        nnunet("in memory", model, options, mirror=False),
        ours("fast", model, options, mode="fast", mirror=False),
        nnunet("files", model, options, mirror=False, files=True),
        ours("parity, mirrored", model, options, mode="parity", mirror=True),
        nnunet("in memory, mirrored", model, options, mirror=True),
        ours("auto", model, options, mode="auto"),
    ]
    runs = race(contenders, images, options, folder)
    by_name = {one.contender.name: one for one in runs}
    rows = [one.row() for one in runs]
    pairs = [
        ("ours, parity", "nnU-Net, in memory"),
        ("ours, fast", "nnU-Net, in memory"),
        ("ours, auto", "nnU-Net, in memory"),
        ("ours, parity, mirrored", "nnU-Net, in memory, mirrored"),
    ]
    found = agreements(pairs, by_name)
    for name, kind in (("ours, parity", "plain"), ("ours, parity, mirrored", "mirrored")):
        if by_name[name].error is None:
            found.append({"a": name, "b": f"stored predictions, {kind}", **_against(by_name[name], stored[kind])})
    plans = json.loads((model / "plans.json").read_text("utf-8"))
    operations = flops.of_plans(plans["configurations"]["3d_fullres"], 1, 3)
    same = ("ours, parity", "nnU-Net, in memory")
    return {
        "title": TITLE,
        "scale": f"{len(images)} images, one patch each; full width",
        "rows": rows,
        "agreement": found,
        "flop_per_patch": operations,
        "targets": [
            Target.speed(rows, *same, options.device) | {"why": limit(rows, same[1], operations)},
            Target.equal("labels equal, parity", found, *same, 0.9999),
            Target.times("fixed overhead of a small case, warm (wall)", ratio(rows, *same, "rest_wall"), 10.0),
            Target.times(
                "the same against nnU-Net from file to file",
                ratio(rows, same[0], "nnU-Net, files", "rest_wall"),
                10.0,
            ),
        ],
    }


def _against(run: Run, folder: Path) -> dict[str, Any]:
    pairs = [(np.load(path), inputs.labels(folder / f"{name}.nii.gz")) for name, path in run.results.items()]
    return pooled([agreement(mine, theirs) for mine, theirs in pairs])

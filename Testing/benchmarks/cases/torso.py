"""nnU-Net's full-size architecture on a torso CT with 2, 20 and 118 classes: ours beside the real nnU-Net."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import flops, torso
from ..options import Options
from ..race import nnunet, ours, race
from ..report import Target, agreements, ratio


def run(options: Options, folder: Path) -> dict[str, Any]:
    """One image, no mirroring; the number of classes is in the folder's name, which is the case's."""
    classes = int(folder.name.split("-")[-1])
    options.nnunet()
    image, labels = torso.volumes(options, folder)
    model = torso.model(options, classes, image, labels)
    plans = torso.configuration(model)
    contenders = [
        ours("parity", model, options, mode="parity", mirror=False),
        nnunet("in memory", model, options, mirror=False),
        ours("fast", model, options, mode="fast"),
        ours("auto", model, options, mode="auto"),
    ]
    runs = race(contenders, [image], options, folder)
    rows = [one.row() for one in runs]
    peer = "nnU-Net, in memory"
    pairs = [(f"ours, {mode}", peer) for mode in ("parity", "fast", "auto")]
    found = agreements(pairs, {one.contender.name: one for one in runs})
    features = "-".join(str(n) for n in plans["architecture"]["arch_kwargs"]["features_per_stage"])
    shape = "x".join(str(2 * n) for n in labels.shape)
    return {
        "title": f"PlainConvUNet of 6 stages at 1.5 mm, {classes} classes, on a torso CT",
        "scale": (
            f"channels {features} ({options.width:g} of the full width), patch {options.patch}^3, CT of "
            f"{'x'.join(map(str, labels.shape))} voxels of 3 mm ({shape} at 1.5 mm)"
        ),
        "rows": rows,
        "agreement": found,
        "flop_per_patch": flops.of_plans(plans, 1, classes),
        "targets": [
            Target.times("CPU time of a prediction, parity fp32", ratio(rows, pairs[0][0], peer, "warm_cpu"), 2.5),
            Target.equal("labels equal, parity", found, *pairs[0], 0.9999),
            Target.times(
                "CPU time of a prediction, fast (aimed at with AMX)", ratio(rows, pairs[1][0], peer, "warm_cpu"), 10.0
            ),
            Target.dice("labels of fast", found, *pairs[1], 0.995),
        ],
        "notes": [
            "Weights: random (He), with the last 1x1x1 layer fitted to the CT's label map, so that the answer has organs and borders; "
            "a network that was not trained answers less decidedly than a trained one, so more voxels lie near a tie.",
        ],
    }

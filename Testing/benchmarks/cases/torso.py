"""nnU-Net's full-size architecture on a torso CT with 2, 20 and 118 classes: ours beside the real nnU-Net."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import flops, torso
from ..options import Options
from ..race import nnunet, ours, race
from ..report import Target, agreements, limit


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
        nnunet("float32 sums", model, options, mirror=False, exact=True),
        ours("fast", model, options, first_use=False, mode="fast"),
        ours("auto", model, options, first_use=False, mode="auto"),
    ]
    runs = race(contenders, [image], options, folder)
    rows = [one.row() for one in runs]
    peer, exact = "nnU-Net, in memory", "nnU-Net, float32 sums"
    pairs = [(f"ours, {mode}", peer) for mode in ("parity", "fast", "auto")]
    pairs += [("ours, parity", exact), (peer, exact)]
    found = agreements(pairs, {one.contender.name: one for one in runs})
    operations = flops.of_plans(plans, 1, classes)
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
        "flop_per_patch": operations,
        "targets": [
            Target.speed(rows, *pairs[0], options.device) | {"why": limit(rows, peer, operations)},
            Target.equal("labels equal, parity", found, *pairs[0], 0.9999) | {"why": _rounding(found, peer, exact)},
            Target.equal("labels equal, parity, to nnU-Net with float32 sums", found, *pairs[3], 0.9999),
            Target.speed(rows, *pairs[1], options.device, 10.0, "fast (aimed at with AMX)"),
            Target.dice("labels of fast", found, *pairs[1], 0.995),
        ],
        "notes": [
            "Weights: random (He), with the last 1x1x1 layer fitted to the CT's label map, so that the answer has organs and "
            "borders; a network that was not trained answers less decidedly than a trained one, so more voxels lie near a "
            "tie. nnU-Net sums patches and keeps logits in float16; *float32 sums* is nnU-Net with float32 in their place, "
            "to tell its rounding from a difference of method.",
        ],
    }


def _rounding(found: list[dict[str, Any]], peer: str, exact: str) -> str:
    """How many of the differences are the peer's own rounding."""
    different = {(one["a"], one["b"]): one["different"] for one in found}
    own, ours_ = different.get((peer, exact)), different.get(("ours, parity", exact))
    if own is None or ours_ is None:
        return ""
    return f"nnU-Net itself differs from nnU-Net with float32 sums in {own} voxels, ours in {ours_}."

"""The model that ships, beside stock MONAI running the same bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from UNetSegmentLib import package

from .. import flops, inputs
from ..options import Options
from ..race import Contender, ours, race
from ..report import Target, agreements, ratio

TITLE = "the shipped hippocampus model (DynUNet 16-32-64-128, patch 40x56x40)"


def run(options: Options, folder: Path) -> dict[str, Any]:
    """All modes of ours, and MONAI's own transforms, sliding window and ``Invertd``."""
    model = package.load("hippocampus-mr-t1")
    images = inputs.hippocampus(options, folder)
    load = {"package": str(model.root), "device": options.device, "threads": options.threads}
    contenders = [
        ours("parity", model.root, options, mode="parity"),
        Contender("MONAI, stock bundle", "benchmarks.contenders.monai_bundle", load),
        ours("fast", model.root, options, mode="fast"),
        ours("auto", model.root, options, mode="auto"),
    ]
    runs = race(contenders, images, options, folder)
    by_name = {one.contender.name: one for one in runs}
    rows = [one.row() for one in runs]
    found = agreements([(f"ours, {mode}", "MONAI, stock bundle") for mode in ("parity", "fast", "auto")], by_name)
    same = ("ours, parity", "MONAI, stock bundle")
    return {
        "title": TITLE,
        "scale": f"{len(images)} images of some 36x50x35 voxels, mostly one patch each",
        "rows": rows,
        "agreement": found,
        "flop_per_patch": flops.of_dynunet(
            model.manifest.raw["network"]["arguments"], model.manifest.inference.patch_size
        ),
        "targets": [
            Target.equal("labels equal to stock MONAI, parity", found, *same, 0.9999),
            Target.times(
                "fixed overhead of a small case, warm (wall), against MONAI", ratio(rows, *same, "rest_wall"), 10
            ),
        ],
    }

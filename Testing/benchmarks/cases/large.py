"""A large volume: 512x512 slices at 1.5 mm, 20 classes, the torso network; one cold prediction of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .. import flops, inputs, torso
from ..options import Options
from ..race import nnunet, ours, race
from ..report import Target, agreements

PLANE, CLASSES, SPACING = 512, 20, 1.5


def run(options: Options, folder: Path) -> dict[str, Any]:
    """The torso CT, repeated side by side until the plane and the slices are full."""
    options.nnunet()
    source, labels = torso.volumes(options, folder)
    model = torso.model(options, CLASSES, source, labels)
    array = np.load(source.path)[0].astype(np.int16)
    shape = (PLANE, PLANE, options.slices)
    tiled = np.pad(array, [(0, max(n - m, 0)) for n, m in zip(shape, array.shape)], "symmetric")
    affine = np.diag([SPACING, SPACING, SPACING, 1.0])
    image = inputs.save("large", np.ascontiguousarray(tiled[tuple(slice(n) for n in shape)])[None], affine, folder)
    contenders = [
        ours("parity", model, options, first_use=False, mode="parity", mirror=False),
        nnunet("in memory", model, options, mirror=False),
        ours("fast", model, options, first_use=False, mode="fast"),
    ]
    runs = race(contenders, [image], options, folder, repeats=0)
    rows = [one.row() for one in runs]
    peer = "nnU-Net, in memory"
    pairs = [("ours, parity", peer), ("ours, fast", peer)]
    plans = torso.configuration(model)
    return {
        "title": f"a large volume, {CLASSES} classes",
        "scale": (
            f"{'x'.join(map(str, shape))} voxels of {SPACING} mm (the torso CT, mirrored until it fills them), {options.width:g} "
            f"of the full width, patch {options.patch}^3; cold runs only, so *warm* is the prediction of the cold run"
        ),
        "rows": rows,
        "agreement": agreements(pairs, {one.contender.name: one for one in runs}),
        "flop_per_patch": flops.of_plans(plans, 1, CLASSES),
        "targets": [Target.speed(rows, *pairs[0], options.device)],
    }

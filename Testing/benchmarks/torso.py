"""The torso CT and the nnU-Net folders made for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from . import inputs
from .options import Options
from .race import Image
from .session import Session


def volumes(options: Options, folder: Path) -> tuple[Image, np.ndarray]:
    """The CT (HU) and its label map, cropped to the place with most structures."""
    volume = inputs.image(options.data("data", "ct_torso", "ct_3mm.nii.gz"), folder)
    labels = inputs.labels(options.data("data", "ct_torso", "labels_3mm.nii.gz"))
    array = np.load(volume.path)
    start = [0, 0, 0]
    if options.crop:
        for axis in range(3):
            size = min(options.crop, labels.shape[axis])
            filled = (labels > 0).sum(axis=tuple(other for other in range(3) if other != axis))
            sums = np.convolve(filled, np.ones(size), "valid")
            start[axis] = int(sums.argmax())
        cut = tuple(slice(s, s + options.crop) for s in start)
        array, labels = array[(slice(None), *cut)], labels[cut]
    affine = np.array(volume.affine)
    affine[:3, 3] += affine[:3, :3] @ start
    return inputs.save("torso", np.ascontiguousarray(array), affine, folder), np.ascontiguousarray(labels)


def model(options: Options, classes: int, image: Image, labels: np.ndarray) -> Path:
    """The trained-model folder for a number of classes; made once per run for 2, 20 and 118 together."""
    made = options.scratch / f"torso-models-{options.width}-{options.patch}-{options.crop}"
    if not (made / str(classes) / "fold_0" / "checkpoint_final.pth").exists():
        made.mkdir(parents=True, exist_ok=True)
        np.save(made / "labels.npy", labels)
        maker = Session("maker", "benchmarks.contenders.make_nnunet", options.nnunet(), options.threads, made)
        with maker as session:
            session.call(
                "make",
                folder=str(made),
                image=str(image.path),
                labels=str(made / "labels.npy"),
                spacing=image.spacing,
                classes=[2, 20, 118],
                width=options.width,
                patch=options.patch,
                threads=options.threads,
            )
    return made / str(classes)


def configuration(folder: Path) -> dict[str, Any]:
    """The configuration in a trained-model folder's plans."""
    plans = json.loads((folder / "plans.json").read_text("utf-8"))
    return next(iter(plans["configurations"].values()))

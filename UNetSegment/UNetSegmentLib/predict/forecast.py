"""How long a run will take: its patches are counted beforehand, what each costs is known from earlier runs.

Pure functions; :mod:`speeds` keeps what was measured on this computer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from ..package import Manifest
from ..volume import Grid
from . import focus
from .ensemble import chosen_folds, flips
from .modes import Configuration
from .preprocess import layout
from .tiles import Tiling


@dataclass(frozen=True)
class Work:
    """What a run has to do.

    Args:
        networks: Runs of a network on a patch: patches x folds x mirrored copies.
        voxels: Voxels of the input.
    """

    networks: int
    voxels: int


@dataclass(frozen=True)
class Measured:
    """A run on this computer: its work, the seconds in the network, and those beside it (reading, resampling, labels)."""

    work: Work
    network: float
    beside: float


def work(
    grid: Grid, manifest: Manifest, chosen: Configuration, folds: str = "all", region: focus.Region | None = None
) -> Work:
    """What a model has to do on an image; where the model crops, as if there were nothing to cut off.

    Args:
        grid: Of the image.
        manifest: Of the model.
        chosen: Its configuration.
        folds: As for :class:`Predictor`.
        region: As for :meth:`Predictor.predict`.

    Raises:
        InputError: The region is not inside of the image.
        BackendError: The model has no such fold.
    """
    image, order = layout(grid, manifest).slices_first()
    tiling = Tiling.of(image.grid.shape, manifest.inference, chosen.overlap, order)
    box = focus.source_box(image, region, grid.shape) if region is not None else None
    patches = focus.count(tiling, focus.wanted(image, tiling, box, False))
    copies = len(chosen_folds(manifest.folds, folds)) * len(flips(chosen.mirror_axes))
    return Work(patches * copies, math.prod(grid.shape))


def seconds(
    ahead: Work, runs: Sequence[Measured], proof: float | None = None, others: Sequence[Measured] = ()
) -> float | None:
    """Seconds that the work ahead will take; None where nothing was measured that tells it.

    The network's part is the median cost of one of its runs, and what is beside it follows the image's size: both are taken from the
    runs nearest in size, as a patch by itself costs up to twice what it costs among many.

    Args:
        ahead: What is to be done.
        runs: Earlier runs of this model in this configuration.
        proof: Seconds of one network run on the reference patch, for a model without runs.
        others: Runs of other models, which tell what an image costs beside the network.
    """
    each = [(run.work.networks, run.network) for run in runs if run.work.networks]
    if not each and proof is None:
        return None
    network = ahead.networks * (_nearest(each, ahead.networks) if each else proof or 0.0)
    beside = [(run.work.voxels, run.beside) for run in runs or others if run.work.voxels]
    return network + (ahead.voxels * _nearest(beside, ahead.voxels) if beside else 0.0)


def _nearest(known: Sequence[tuple[int, float]], count: int) -> float:
    """Seconds for one of ``count``, from pairs of a count and the seconds that it took: the median of those nearest in size."""
    apart = [abs(math.log(many / max(count, 1))) for many, _ in known]
    return float(
        np.median([taken / many for (many, taken), away in zip(known, apart, strict=True) if away <= min(apart) + 0.1])
    )


def usual_grid(manifest: Manifest) -> Grid | None:
    """An image as large as the median of those that a model was trained on; None where its manifest does not tell."""
    fingerprint = manifest.raw.get("fingerprint", {})
    try:
        size, spacing = (np.asarray(fingerprint[name]["median"], float) for name in ("size", "spacing"))
        return Grid.from_spacing([round(n) for n in size], spacing)
    except (KeyError, TypeError, ValueError, InputError):
        return None

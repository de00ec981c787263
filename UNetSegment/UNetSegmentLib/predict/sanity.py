"""Do these images look like what the model was trained on? Warnings that a person reads before a run; they stop nothing.

Each rests on what the manifest says: modality, normalisation, spacing, patch, and the ``fingerprint`` of the training
images where it has one. How often they are right is measured: ``docs/sanity.md``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..package import Manifest
from ..package.recipe import Channel
from ..volume import Grid, Volume
from .appearance import Appearance
from .reports import ANYWAY, InputWarning
from .trained_on import TrainedOn, number

COARSER, FINER = 3.5, 5.0
"""A spacing is far off when it is this many times the greatest, or this part of the least, of the training images."""
LARGER, SMALLER = 4.0, 0.6
"""A field of view is too large when its volume is this many times the greatest of training (each axis counted where it is
longer), and too small when an axis is this part of the least of training or of the patch, whichever is shorter."""
WIDER, SHORTER = 1.5, 0.7
"""Where only the median of the training images is known, what is taken for their greatest and least, in parts of it."""
APART = 0.5
"""Channels are apart when less than this part of the first one's image lies inside of another's."""
NOISE = 0.3
"""Mean difference of neighbours, in units of the spread, above which there is no image left; 0.34 is white noise."""
MARGIN = 0.5
"""An intensity statistic may lie outside of the training images' range by this part of its width."""
_WIDTHS = {"zero": 0.2, "middle": 0.4, "roughness": 0.05, "least": 0.3, "most": 0.6, "low": 0.2, "high": 0.3}
"""The least width of a range, so that a few much-alike training images do not make every other image look strange."""


def check(volumes: Sequence[Volume], manifest: Manifest) -> list[InputWarning]:
    """What looks wrong about the inputs; takes some hundredths of a second, whatever their size.

    Args:
        volumes: As for :func:`gather`: one single-channel volume per channel of the manifest, in its order, or one with
            all channels. ``channels[0]`` of each is the name used in the messages. They are not changed.
        manifest: Of the model that would run.
    """
    with np.errstate(all="ignore"):  # what overflows tells nothing, and is left out
        return _check(volumes, manifest)


def _check(volumes: Sequence[Volume], manifest: Manifest) -> list[InputWarning]:
    known = TrainedOn(manifest)
    inputs = [_Input.of(*entry) for entry in zip(_channels(volumes), manifest.channels, strict=False)]
    found: list[InputWarning] = []
    for volume, names in _grids(inputs):
        found.extend(_geometry(volume, names, known))
    found.extend(_places(inputs))
    elsewhere = {warning.code for warning in found} & {"field_of_view_large", "field_of_view_small"}
    swapped = list(_swapped(inputs, known))
    found.extend(swapped)
    found.extend(_copies(inputs))
    for index, given in enumerate(inputs):
        if not swapped:
            found.extend(itertools.islice(_intensities(given, known, index, bool(elsewhere)), 1))
    return found


@dataclass(frozen=True, eq=False)
class _Input:
    """A channel of the manifest with what was given for it."""

    channel: Channel
    name: str
    volume: Volume
    looks: Appearance

    @classmethod
    def of(cls, given: tuple[Volume, int], channel: Channel) -> _Input:
        volume, index = given
        return cls(channel, volume.channels[index] or channel.name, volume, Appearance.of(volume.array[index]))

    def warn(self, code: str, message: str) -> InputWarning:
        return InputWarning(self.channel.name, code, f"Volume '{self.name}' {message}; {ANYWAY}.")


def _channels(volumes: Sequence[Volume]) -> Iterator[tuple[Volume, int]]:
    for volume in volumes:
        if volume.array.dtype.kind in "buif":
            yield from ((volume, index) for index in range(volume.array.shape[0]))


def _grids(inputs: Sequence[_Input]) -> Iterator[tuple[Volume, str]]:
    """Each different grid once, with the name of the first input on it."""
    seen: list[Volume] = []
    for given in inputs:
        if not any(given.volume is other or given.volume.grid.is_close(other.grid) for other in seen):
            seen.append(given.volume)
            yield given.volume, given.name


def _geometry(volume: Volume, name: str, known: TrainedOn) -> Iterator[InputWarning]:
    """Position in space, spacing, and field of view: at most one of the last two, as one follows from the other."""
    grid = volume.grid
    spacing = np.sort(grid.spacing)
    extent = np.sort(np.multiply(grid.shape, grid.spacing))
    usual = known.spacing.get("median")
    stored = known.manifest.preprocessing.orientation == "stored"
    if grid.is_unset and not known.unplaced and not (stored and usual is not None and np.allclose(usual, 1, atol=0.05)):
        yield InputWarning(
            "", "no_geometry",
            f"Volume '{name}' says neither where it lies nor how it is turned (spacing 1 mm, origin 0, axes as stored), "
            f"as files do that lost their header, so left and right or its size may be wrong; {ANYWAY}.",
        )  # fmt: skip
    high = known.spacing.get("max", usual)
    low = known.spacing.get("min", usual)
    if low is not None and high is not None:
        coarse, fine = float((spacing / high).max()), float((low / spacing).max())
        words = f"Volume '{name}' has a spacing of {_mm(spacing)} mm where the model was trained on {_mm(usual)} mm"
        if fine > FINER:
            yield InputWarning("", "spacing", f"{words}: its unit may be wrong (cm or m for mm?); {ANYWAY}.")
            return
        if coarse > COARSER:
            yield InputWarning(
                "", "spacing", f"{words}: too coarse for what it should find, or the unit is wrong; {ANYWAY}."
            )
            return
    most, least = (known.size.get(way, known.size.get("median")) for way in ("max", "min"))
    if most is not None:
        wider = 1.0 if "max" in known.size else WIDER
        if np.maximum(extent / most / wider, 1).prod() > LARGER:
            yield InputWarning(
                "", "field_of_view_large",
                f"Volume '{name}' shows {_mm(extent)} mm, far more than the {_mm(known.size.get('median', most))} mm "
                f"that the model was trained on, and structures may be found where there are none: crop it first "
                f"where you can; {ANYWAY}.",
            )  # fmt: skip
            return
    patch = known.patch(grid.spacing)
    if least is not None:
        patch = np.minimum(patch, least * (1.0 if "min" in known.size else SHORTER))
    if (extent < SMALLER * patch).any():
        yield InputWarning(
            "", "field_of_view_small",
            f"Volume '{name}' shows only {_mm(extent)} mm where the model looks at {_mm(known.patch(grid.spacing))} mm at "
            f"once, so it may miss what it needs around the structure; {ANYWAY}.",
        )  # fmt: skip


def _places(inputs: Sequence[_Input]) -> Iterator[InputWarning]:
    """Whether all channels show the place that the first one shows, on whose grid they are brought."""
    for given in inputs[1:]:
        first, grid = inputs[0], given.volume.grid
        if grid.is_close(first.volume.grid):
            continue
        if not grid.overlaps(first.volume.grid):  # what ``gather`` says of it when it is run
            message = (
                f"Volume '{given.name}' does not overlap with volume '{first.name}' in space; choose images of the same place, "
                "registered to each other."
            )
            yield InputWarning(given.channel.name, "refused", message)
            continue
        covered = _covered(first.volume.grid, grid)
        if covered < APART:
            yield given.warn(
                "apart",
                f"shows only {100 * covered:.0f} % of what volume '{first.name}' shows, so they are probably not registered to "
                "each other, or of different places",
            )


def _covered(grid: Grid, other: Grid) -> float:
    """The part of a grid that lies inside of another, 0..1, by a lattice of 12 x 12 x 12 points."""
    axes = np.meshgrid(*(np.linspace(0, n - 1, 12) for n in grid.shape), indexing="ij")
    matrix = grid.index_in(other)
    points = np.stack(axes, -1) @ matrix[:3, :3].T + matrix[:3, 3]
    return float(((points >= -0.5) & (points <= np.asarray(other.shape) - 0.5)).all(-1).mean())


def _mm(lengths: Any) -> str:
    return " x ".join(f"{length:.3g}" if length < 1000 else f"{length:.0f}" for length in lengths)


def _copies(inputs: Sequence[_Input]) -> Iterator[InputWarning]:
    for a, b in itertools.combinations(inputs, 2):
        if a.looks.is_copy_of(b.looks):
            yield InputWarning(
                b.channel.name, "same_image",
                f"Volume '{b.name}' for {b.channel.name} shows the same image as '{a.name}' for {a.channel.name}, so "
                f"one of them was probably chosen by mistake; {ANYWAY}.",
            )  # fmt: skip


def _intensities(given: _Input, known: TrainedOn, index: int, elsewhere: bool) -> Iterator[InputWarning]:
    """What looks wrong about a channel's intensities, the most telling first. ``elsewhere``: the field of view does not
    fit, so neither will the shares of its intensities."""
    looks = given.looks
    if not looks.is_finite:  # what ``gather`` says of it when it is run
        message = f"Volume '{given.name}' has voxels that are NaN or infinite; replace them by a number first."
        yield InputWarning(given.channel.name, "refused", message)
        return
    if looks.is_constant:
        value = f"{looks.values[0]:.4g}"
        yield given.warn("constant", f"has the value {value} everywhere, so there is nothing to find in it")
        return
    if looks.is_labels():
        yield given.warn(
            "labels", "looks like a label map, not like an image, so the result will mean nothing if it is one"
        )
        return
    yield from _modality(given, known, index)
    if looks.statistics().get("roughness", 0.0) > NOISE and min(given.volume.grid.shape) > 3:
        yield given.warn(
            "noise", "looks like noise: neighbouring voxels hardly resemble each other, so little can be found"
        )
    if not elsewhere:
        yield from _unusual(given, known, index)


def _modality(given: _Input, known: TrainedOn, index: int) -> Iterator[InputWarning]:
    looks, kind = given.looks, given.channel.modality
    if kind == "CT":
        yield from _hounsfield(given, known, index)
    elif kind in ("MR", "PT", "US") and (looks.is_ct() or looks.is_raised_ct()):
        air = "air at about -1000" if looks.is_ct() else "soft tissue at about 1050, stored without the offset of -1024"
        yield given.warn(
            f"ct_for_{kind.lower()}",
            f"looks like a CT ({air}) but the model expects {_NAMES[kind]} for '{given.channel.name}', so the result "
            "may mean nothing",
        )


_NAMES = {"MR": "an MR image", "PT": "a PET image", "US": "an ultrasound image"}


def _hounsfield(given: _Input, known: TrainedOn, index: int) -> Iterator[InputWarning]:
    """Whether a channel that should be a CT is one, in Hounsfield units."""
    looks, q = given.looks, given.looks.quantiles
    trained = known.cases(index).get("p00_5")
    has_air = not (trained and trained[1] >= 0)  # models of skull-stripped heads, or of such values, expect none
    if has_air and looks.is_raised_ct():
        yield given.warn(
            "ct_offset",
            "looks like a CT stored without its offset (soft tissue is near 1050 instead of near 40), so its values are "
            "probably 1024 too high and the result may mean nothing",
        )
        return
    if has_air and q[0] >= 0:
        if q[8] <= 255:
            yield given.warn(
                "ct_8bit",
                f"has values from {q[0]:.4g} to {q[8]:.4g}, not Hounsfield units (air is -1000), so it may be a picture "
                "made from a CT, or no CT, and the result may mean nothing",
            )
        else:
            yield given.warn(
                "not_ct",
                "has no negative values, so it is probably no CT in Hounsfield units (air is -1000), which the model "
                "expects, and the result may mean nothing",
            )
        return
    low, high = _clip(given.channel)
    if q[8] - q[0] < 200:
        yield given.warn(
            "ct_scale",
            f"has values from {q[0]:.4g} to {q[8]:.4g} only, too few for Hounsfield units, so it may have been "
            "normalised before and the result may mean nothing",
        )
    elif looks.share(-200, 300) < 0.01 or q[1] < -4000 or q[7] > 10000:
        yield given.warn(
            "ct_scale",
            f"has values from {q[1]:.4g} to {q[7]:.4g} and hardly any of soft tissue (about 40), so its rescaling to "
            "Hounsfield units may be wrong",
        )
    elif looks.share(850, 1100) > 0.1 and looks.share(-math.inf, -500) < 0.01:
        yield given.warn(
            "ct_inverted",
            "has no air (-1000) but much at about +1000, so its values may be inverted and the result may mean nothing",
        )
    elif q[7] == q[8] < min(1000, high - 1) and looks.share(q[8], math.inf) > 0.005 and q[0] > -900:
        yield given.warn(
            "ct_window",
            f"ends sharply at {q[8]:.4g}, as if only a window of the CT's values had been kept, so bright structures "
            "may be mistaken",
        )


def _clip(channel: Channel) -> tuple[float, float]:
    """The intensities that the model tells apart."""
    how = channel.normalization
    if how.clip is not None:
        return float(how.clip[0]), float(how.clip[1])
    if how.method == "range" and how.window is not None and how.clamp:
        return float(how.window[0]), float(how.window[1])
    return -math.inf, math.inf


_SAYS = {
    "least": ("its darkest voxels are", "unusually near to the average", "unusually dark"),
    "low": ("its dark voxels are", "unusually near to the average", "unusually dark"),
    "below": ("its darker half is", "unusually even", "unusually spread"),
    "above": ("its brighter half is", "unusually spread", "unusually even"),
    "high": ("its bright voxels are", "unusually bright", "unusually near to the average"),
    "most": ("its brightest voxels are", "unusually bright", "unusually near to the average"),
    "middle": ("its average is", "unusually far from zero", "unusually low"),
    "zero": ("its share of zeros is", "unusually large", "unusually small"),
    "roughness": ("it is", "unusually noisy or coarse", "unusually smooth"),
}
"""Statistic -> how a sentence begins, and goes on where it is too high and too low."""


def _unusual(given: _Input, known: TrainedOn, index: int) -> Iterator[InputWarning]:
    statistics = given.looks.statistics()
    if given.channel.modality == "CT":
        yield from _absolute(given, statistics, known.intensity(index), known.cases(index))
        return
    name, amount = _worst(statistics, known.cases(index), _ignored(given, known))
    if abs(amount) > MARGIN:
        start, above, below = _SAYS[name]
        yield given.warn(
            "intensity",
            f"does not look like the model's training images ({start} {above if amount > 0 else below}), so it may be "
            f"another contrast, processed, or damaged, and the result may be worse",
        )


def _ignored(given: _Input, known: TrainedOn) -> set[str]:
    """Statistics that tell nothing here: of an offset where the normalisation takes it away, of neighbours where their
    distance is another than in training."""
    how = given.channel.normalization
    found = set()
    if how.method in ("zscore", "minmax", "percentiles") and how.mask == "all" and how.clip is None:
        found.add("middle")
    spacing, usual = np.sort(given.volume.grid.spacing), known.spacing.get("median")
    if usual is not None and ((spacing > 2 * usual).any() or (spacing < 0.65 * usual).any()):
        found.add("roughness")
    return found


def _worst(statistics: dict[str, float], cases: dict[str, tuple[float, float]], ignored: set[str]) -> tuple[str, float]:
    """The statistic farthest outside of the training images' range, and how far, in widths of it; negative: below."""
    worst, amount = "", 0.0
    for name in _SAYS:
        if name not in statistics or name not in cases or name in ignored:
            continue
        low, high = cases[name]
        width = max(high - low, _WIDTHS.get(name, 0.1))
        value = statistics[name]
        off = (value - high) / width if value > high else min(value - low, 0.0) / width
        if abs(off) > abs(amount):
            worst, amount = name, off
    return worst, amount


def _absolute(
    given: _Input, statistics: dict[str, float], row: dict[str, Any], cases: dict[str, tuple[float, float]]
) -> Iterator[InputWarning]:
    """Intensities in units: against the range of whole training images, or against that of the labelled voxels."""
    low, high = number(row.get("p00_5")), number(row.get("p99_5"))
    spread = max((high or 0.0) - (low or 0.0), 1.0)
    if "p99_5" in cases and "p99_5" in statistics:
        least, most = cases["p99_5"]
        room = max(MARGIN * (most - least), 0.5 * spread, 300.0)
        if not least - room <= statistics["p99_5"] <= most + room:
            yield given.warn(
                "intensity",
                f"has bright values of {statistics['p99_5']:.4g} where the model's training images had {least:.4g} to "
                f"{most:.4g}, so its rescaling may be wrong, and the result may be worse",
            )
    elif low is not None and high is not None and given.looks.share(low, high) < 0.005:
        yield given.warn(
            "intensity",
            f"has hardly any voxel between {low:.4g} and {high:.4g}, where the model was trained to find its "
            "structures, so its rescaling may be wrong, and the result may be empty",
        )


def _swapped(inputs: Sequence[_Input], known: TrainedOn) -> Iterator[InputWarning]:
    """Pairs of channels that fit each other's fingerprint clearly better than their own."""

    def misfit(given: _Input, index: int) -> float:
        channel = known.manifest.channels[index]
        there = _Input(channel, given.name, given.volume, given.looks)
        if any(True for _ in _modality(there, known, index)):
            return 5.0
        return min(abs(_worst(given.looks.statistics(), known.cases(index), _ignored(there, known))[1]), 5.0)

    for (m, a), (n, b) in itertools.combinations(enumerate(inputs), 2):
        now = misfit(a, m) + misfit(b, n)
        if now > 2 * MARGIN and misfit(a, n) + misfit(b, m) < now / 3:
            yield InputWarning(
                "", "swapped",
                f"Volume '{a.name}' given for {a.channel.name} looks like {b.channel.name}, and '{b.name}' given for "
                f"{b.channel.name} like {a.channel.name}, so they may have been swapped; {ANYWAY}.",
            )  # fmt: skip

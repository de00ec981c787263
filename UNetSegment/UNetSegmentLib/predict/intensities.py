"""A channel's intensities as the network saw them in training: of a whole image, or part by part as it is cut into patches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..package import Normalization
from . import passes

Step = Callable[[np.ndarray], None]
"""Something done to voxels in place, to each without regard of the others."""


def normalized(image: np.ndarray, how: Normalization, inside: np.ndarray | None = None, threads: int = 1) -> np.ndarray:
    """A channel (I, J, K) float32 with its intensities normalised, in place; see :class:`Normalization` for the methods.

    ``inside`` is the mask of ``filled``, of the image's shape; without it, the mask is taken from this channel.
    """
    if how.then is not None:
        return normalized(normalized(image, replace(how, then=None), inside, threads), how.then, inside, threads)
    if how.method == "none":
        return image
    if how.mask == "all":
        return _normalized(image, how, threads)
    inside = image != 0 if inside is None or how.mask == "nonzero" else inside
    if inside.any():
        image[inside] = _normalized(image[inside], how, threads)
    return image


def _normalized(image: np.ndarray, how: Normalization, threads: int) -> np.ndarray:
    if (known := _known(how)) is not None:
        passes.each(known, image, threads)
        return image
    if how.clip is not None:
        passes.each(_clipping(*how.clip), image, threads)
    if how.method == "percentiles":
        step = _ranging(how, *(float(x) for x in np.percentile(image, how.window or (0.0, 1.0))))
    elif how.method == "minmax":
        shift, last = float(image.min()), float(image.max())
        step = _scaling(shift, max(last - shift, 1e-8))
    else:
        shift = float(image.mean(dtype=np.float64))
        step = _scaling(shift, (_squares(image.reshape(-1), shift, threads) / image.size) ** 0.5)
    passes.each(step, image, threads)
    return image


def voxelwise(values: np.ndarray, how: Normalization, threads: int) -> Step | None:
    """The normalisation of a channel (I, J, K) as it came, where it can be known without a copy of it; else None.

    The sums of short integers are exact: they do not depend on the order in which the voxels lie in memory.
    """
    if how.then is not None or how.mask != "all":
        return None
    if how.method != "zscore" or how.clip is not None:
        return _known(how)
    if values.dtype.kind not in "iu" or values.dtype.itemsize > 2:
        return None
    total, squares = _exact_sums(values, threads)
    variance = (values.size * squares - total * total) / values.size**2
    return _scaling(total / values.size, variance**0.5)


def _known(how: Normalization) -> Step | None:
    """A normalisation that needs to know nothing of the image; else None."""
    if how.method == "none":
        return lambda part: None
    if how.method == "range":
        step = _ranging(how, *(how.window or (0.0, 1.0)))
    elif how.method == "minmax" and how.clip is not None:
        step = _scaling(how.clip[0], max(how.clip[1] - how.clip[0], 1e-8))
    elif how.method == "clip_zscore":
        step = _scaling(how.mean, how.std)
    else:
        return None
    if how.clip is None:
        return step
    clip = _clipping(*how.clip)

    def both(part: np.ndarray) -> None:
        clip(part)
        step(part)

    return both


def _clipping(low: float, high: float) -> Step:
    bounds = np.float32(low), np.float32(high)
    return lambda part: np.clip(part, *bounds, out=part)  # type: ignore[return-value]


def _scaling(shift: float, scale: float) -> Step:
    middle, unit = np.float32(shift), np.float32(scale if scale > 0 else 1.0)

    def scaled(part: np.ndarray) -> None:
        part -= middle
        part /= unit

    return scaled


def _ranging(how: Normalization, low: float, high: float) -> Step:
    first, last = map(np.float32, how.output)
    begin, factor = np.float32(low), np.float32((how.output[1] - how.output[0]) / max(high - low, 1e-8))

    def ranged(part: np.ndarray) -> None:
        part -= begin
        part *= factor
        part += first
        if how.clamp:
            np.clip(part, first, last, out=part)

    return ranged


def _exact_sums(values: np.ndarray, threads: int) -> tuple[int, int]:
    """The sum of an array (I, J, K) of 8 or 16 bit integers, and the sum of its squares."""
    values = values[passes.forwards(values)].transpose(passes.order(values))
    found: list[tuple[int, int]] = []

    def work(cut: slice) -> None:
        for plane in values[cut]:
            for part in passes.blocks(slice(0, len(plane)), plane.shape[1], 2 * passes.BLOCK):
                block = plane[part].astype(np.int64).ravel()
                found.append((int(block.sum()), int(np.einsum("n,n->", block, block))))

    passes.share(work, len(values), threads if values.size >= passes.THREADED_FROM else 1)
    return sum(total for total, _ in found), sum(squares for _, squares in found)


def _squares(flat: np.ndarray, shift: float, threads: int) -> float:
    """Sum of the squares of ``flat - shift``: in parts, for numpy's own would make a copy of all in double precision.

    The parts are the same and are added in the same order, whatever the threads."""
    step = 1 << 20
    found = np.zeros(-(-flat.size // step))

    def work(cut: slice) -> None:
        for n in range(cut.start, cut.stop):
            part = np.subtract(flat[n * step : (n + 1) * step], shift, dtype=np.float64)
            found[n] = np.einsum("n,n->", part, part)  # a matrix product would wake every thread

    passes.share(work, len(found), threads)
    total = 0.0
    for part in found.tolist():  # Python's sum() rounds in its own way from version to version
        total += part
    return total

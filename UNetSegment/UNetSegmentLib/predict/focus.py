"""Which patches are worth computing: those that touch a region of interest, and those with something in them."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import InputError
from .preprocess import Box, NetworkImage, body
from .tiles import Tiling

Region = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""A box in the input's voxel indices: (first, stop) along i, j and k."""


def source_box(image: NetworkImage, region: Region, shape: tuple[int, int, int]) -> Box:
    """A region of the input's ``shape`` as a box of ``image.source``.

    Raises:
        InputError: The region is empty or outside of the image.
    """
    box = []
    for turned, flip, cut in zip(image.turn.axes, image.turn.flips, image.box, strict=True):
        first, stop = region[turned]
        if not 0 <= first < stop <= shape[turned]:
            raise InputError(
                f"The region of interest {first}..{stop} along {'ijk'[turned]} is not inside of the image, which has "
                f"{shape[turned]} voxels there."
            )
        if flip:
            first, stop = shape[turned] - stop, shape[turned] - first
        low, high = max(first - cut.start, 0), min(stop, cut.stop) - cut.start
        if low >= high:  # outside of what is left after cropping: nothing there
            low = high = 0
        box.append(slice(low, high))
    return tuple(box)  # type: ignore[return-value]


def wanted(
    image: NetworkImage, tiling: Tiling, region: Box | None, skip_background: bool
) -> Callable[[int, int, int], bool] | None:
    """A test of whether the patch that starts at (i, j, k) is to be computed; None where all are.

    With a region, every patch that any voxel of it depends on is computed: labels inside are those of a whole run.
    """
    if region is None and not skip_background:
        return None
    needed: list[tuple[int, int]] = []
    for axis, lerp in enumerate(image.lerps):
        cut = region[axis] if region is not None else slice(0, len(lerp.lower))
        first, last = lerp.needed(cut.start, cut.stop) if cut.stop > cut.start else (1, 0)
        needed.append((first + tiling.before[axis], last + tiling.before[axis]))
    mask = tiling.pad(body(image.array)[None])[0] if skip_background else None

    def test(*start: int) -> bool:
        stop = [a + n for a, n in zip(start, tiling.patch, strict=True)]
        if any(a > high or b <= low for a, b, (low, high) in zip(start, stop, needed, strict=True)):
            return False
        return mask is None or bool(mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))].any())

    return test


def count(tiling: Tiling, test: Callable[[int, int, int], bool] | None) -> int:
    """How many patches are computed where :func:`wanted` gave ``test``."""
    if test is None:
        return tiling.count
    return sum(test(i, *place) for i in tiling.starts[0] for place in tiling.in_plane())

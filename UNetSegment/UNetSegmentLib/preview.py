"""A picture of a result: three slices with the outlines over the image, and the surface in 3D.

The surface is drawn by casting parallel rays through the smoothed label map, so no graphics card or display is needed.
"""

from __future__ import annotations

import io as _io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import OutputError
from .volume import LabelMap, Volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, PAPER = "#e8edf2", "#10151c"
_SLICES = (("Axial", 2, 0, 1), ("Coronal", 1, 0, 2), ("Sagittal", 0, 1, 2))  # name, normal, across, up in RAS
_SIDES = (("L", "R"), ("P", "A"), ("I", "S"))


def draw(image: Volume, labels: LabelMap, path: str | os.PathLike[str], title: str = "") -> None:
    """Write a PNG.

    Args:
        image: Its first channel is shown; on the grid of ``labels``.
        labels: The segmentation.
        path: PNG to write, whole or not at all.
        title: Headline.

    Raises:
        OutputError: Matplotlib is not installed, or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise OutputError("The preview needs matplotlib; install it with: pip install matplotlib") from None

    picture, turn = image.reoriented("RAS")
    values = turn.apply(labels.array)
    spacing = np.asarray(picture.grid.spacing)
    shown = [label for label in labels.segments if np.any(labels.array == label.value)]
    figure = Figure(figsize=(12, 6.75), dpi=150, facecolor=PAPER)
    canvas = FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        2, 3, left=0.02, right=0.985, top=0.9, bottom=0.04, wspace=0.04, hspace=0.12, width_ratios=(1, 1, 1.45)
    )
    where = _centre(values)
    window = _window(picture.array[0], values)
    for (name, normal, across, up), cell in zip(_SLICES, (grid[0, 0], grid[0, 1], grid[1, 0]), strict=True):
        axes = figure.add_subplot(cell)
        cut = [slice(None)] * 3
        cut[normal] = where[normal]  # type: ignore[call-overload]
        _slice(axes, picture.array[0][tuple(cut)], values[tuple(cut)], spacing[[across, up]], window, shown)
        _decorate(axes, name, across, up, spacing, values.shape)
    axes = figure.add_subplot(grid[:, 2])
    colors = {label.value: np.array(label.color) / 255 for label in shown}
    axes.imshow(_surface(values, spacing, colors), origin="lower", interpolation="bilinear")
    axes.axis("off")
    _legend(figure.add_subplot(grid[1, 1]), labels, shown)
    figure.text(0.02, 0.945, title, color=INK, fontsize=17, weight="bold")
    figure.text(0.985, 0.95, f"UNetSegment · {image.channels[0]}", color=INK, alpha=0.6, fontsize=10, ha="right")
    buffer = _io.BytesIO()
    canvas.print_png(buffer)
    _write(path, buffer.getvalue())


def thumbnail(labels: LabelMap, path: str | os.PathLike[str], side: int = 128) -> None:
    """Write a small square PNG of the labels' surface, as models carry one (``docs/thumbnail.png``).

    Args:
        labels: The segmentation.
        path: PNG to write, whole or not at all.
        side: Its pixels along each side.

    Raises:
        OutputError: Matplotlib is not installed, or the file cannot be written.
    """
    try:
        from matplotlib.image import imsave
    except ImportError:
        raise OutputError("The thumbnail needs matplotlib; install it with: pip install matplotlib") from None
    turn = labels.grid.reorientation_to("RAS")
    values, spacing = turn.apply(labels.array), np.asarray(labels.grid.reoriented(turn).spacing)
    colors = {label.value: np.array(label.color) / 255 for label in labels.segments if (values == label.value).any()}
    picture = _surface(values, spacing, colors, 2 * side)  # twice as fine, for soft edges
    picture = picture.reshape(side, 2, side, 2, 3).mean(axis=(1, 3))
    buffer = _io.BytesIO()
    imsave(buffer, picture, format="png", origin="lower")
    _write(path, buffer.getvalue())


def _write(path: str | os.PathLike[str], content: bytes) -> None:
    target = Path(path)
    part = target.with_name(f".{target.name}.part")
    try:
        part.write_bytes(content)
        os.replace(part, target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutputError(
            f"The picture cannot be written to '{path}' ({error.strerror}); choose another place."
        ) from None


def _centre(values: np.ndarray) -> list[int]:
    """The slices to show: along each axis, the one with the most labelled voxels (the middle where there are none)."""
    mask = values > 0
    if not mask.any():
        return [n // 2 for n in values.shape]
    return [int(mask.sum(axis=tuple(a for a in range(3) if a != axis)).argmax()) for axis in range(3)]


def _window(image: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Grey levels from black to white: the range in and around the structures, without the extremes."""
    sample = image[:: max(image.shape[0] // 100, 1)].astype(np.float32)
    low, high = np.percentile(sample, (1, 99.5))
    if (values > 0).any():
        inside = image[values > 0].astype(np.float32)
        spread = 4 * float(inside.std()) + 1e-6
        low, high = max(low, float(inside.mean()) - 2 * spread), min(high, float(inside.mean()) + 2 * spread)
    return float(low), float(max(high, low + 1e-6))


def _slice(
    axes: Axes,
    image: np.ndarray,
    values: np.ndarray,
    spacing: np.ndarray,
    window: tuple[float, float],
    shown: Sequence[Any],
) -> None:
    """Grey image with filled and outlined labels; index axes (across, up), the patient's right on the left."""
    width, height = np.array(image.shape) * spacing
    extent = (0.0, float(width), 0.0, float(height))
    axes.imshow(
        image.T, cmap="gray", vmin=window[0], vmax=window[1], origin="lower", extent=extent, interpolation="bicubic"
    )
    x, y = ((np.arange(n) + 0.5) * s for n, s in zip(image.shape, spacing, strict=True))
    for label in shown:
        mask = (values == label.value).T.astype(float)
        if mask.any() and min(mask.shape) > 1:
            color = [c / 255 for c in label.color]
            axes.contourf(x, y, mask, levels=[0.5, 2], colors=[color], alpha=0.28)
            axes.contour(x, y, mask, levels=[0.5], colors=[color], linewidths=1.6)
    axes.set_xlim(extent[:2])
    axes.set_ylim(extent[2:])


def _decorate(axes: Axes, name: str, across: int, up: int, spacing: np.ndarray, shape: Sequence[int]) -> None:
    if across == 0:
        axes.invert_xaxis()  # radiological: the patient's right is on the viewer's left
    sides = _SIDES[across] if across else _SIDES[across][::-1]
    for text, x, y in (
        (sides[0], 0.02, 0.5), (sides[1], 0.98, 0.5), (_SIDES[up][0], 0.5, 0.03), (_SIDES[up][1], 0.5, 0.97)
    ):  # fmt: skip
        align = {"ha": "left" if x < 0.1 else "right" if x > 0.9 else "center"}
        align["va"] = "bottom" if y < 0.1 else "top" if y > 0.9 else "center"
        axes.text(
            x,
            y,
            text,
            transform=axes.transAxes,
            color="#ffd479",
            fontsize=9,
            weight="bold",
            path_effects=_halo(),
            **align,
        )
    axes.set_title(name, color=INK, fontsize=10, loc="left", pad=4)
    width = float(shape[across] * spacing[across])
    bar = next(b for b in (100, 50, 20, 10, 5, 2, 1, 0.5) if b <= width / 3 or b == 0.5)
    start = 0.05 * width if across else 0.95 * width
    end = start + bar if across else start - bar
    height = 0.06 * float(shape[up] * spacing[up])
    axes.plot([start, end], [height, height], color=INK, linewidth=2, solid_capstyle="butt")
    axes.text(
        (start + end) / 2,
        height * 1.25,
        f"{bar:g} mm",
        color=INK,
        fontsize=7,
        ha="center",
        va="bottom",
        path_effects=_halo(),
    )
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _halo() -> list[Any]:
    """A dark rim, so that text is read on bright tissue too."""
    from matplotlib import patheffects

    return [patheffects.withStroke(linewidth=2, foreground=PAPER)]


def _legend(axes: Axes, labels: LabelMap, shown: Sequence[Any]) -> None:
    axes.axis("off")
    volumes = labels.volumes_ml()
    most = sorted(shown, key=lambda label: -volumes[label.value])[:12]
    if not most:
        axes.text(0.04, 0.9, "nothing was found", color=INK, fontsize=12, va="top", transform=axes.transAxes)
    step = min(0.14, 0.9 / max(len(most) + 1, 1))
    for row, label in enumerate(most):
        y = 0.92 - row * step
        color = [c / 255 for c in label.color]
        axes.scatter([0.06], [y], s=90, color=[color], transform=axes.transAxes, clip_on=False)
        axes.text(0.13, y, label.name, color=INK, fontsize=11, va="center", transform=axes.transAxes)
        axes.text(
            0.98,
            y,
            f"{volumes[label.value]:.2f} ml",
            color=INK,
            fontsize=11,
            va="center",
            ha="right",
            transform=axes.transAxes,
        )
    if len(shown) > len(most):
        y = 0.92 - len(most) * step
        axes.text(
            0.13,
            y,
            f"and {len(shown) - len(most)} more",
            color=INK,
            alpha=0.6,
            fontsize=10,
            va="center",
            transform=axes.transAxes,
        )


def _surface(values: np.ndarray, spacing: np.ndarray, colors: dict[int, np.ndarray], size: int = 420) -> np.ndarray:
    """An RGB picture (size, size, 3) of the labels' surface, seen from the front, a little from the right and above."""
    import SimpleITK as sitk

    paper = np.array([0x10, 0x15, 0x1C]) / 255
    picture = np.broadcast_to(paper, (size, size, 3)).copy()
    occupied = np.argwhere(values > 0)
    if not len(occupied):
        return picture
    low, high = occupied.min(axis=0), occupied.max(axis=0) + 1
    box = np.pad(values[tuple(slice(a, b) for a, b in zip(low, high, strict=True))], 3)
    centre, radius = np.array(box.shape) * spacing / 2, 0.5 * np.linalg.norm((high - low) * spacing) * 1.02
    depth = int(size * 0.6)
    view = _view()
    # a grid of rays: columns right and up on the picture, and away from the viewer
    steps = 2 * radius / np.array([size, size, depth])
    rays = sitk.Image([size, size, depth], sitk.sitkFloat32)
    rays.SetSpacing(steps.tolist())
    rays.SetDirection(view.ravel().tolist())
    rays.SetOrigin((centre - view @ (steps * (np.array([size, size, depth]) - 1) / 2)).tolist())
    nearest, front = np.zeros((size, size), int), np.full((size, size), depth + 1.0)
    shade, gloss = np.zeros((size, size)), np.zeros((size, size))
    groups = [[value] for value in colors] if len(colors) <= 6 else [list(colors)]
    for group in groups:
        mask = sitk.GetImageFromArray(np.isin(box, group).astype(np.float32).T)
        mask.SetSpacing(spacing.tolist())
        mask = sitk.SmoothingRecursiveGaussian(mask, (0.8 * spacing).tolist())
        field = sitk.GetArrayFromImage(sitk.Resample(mask, rays, sitk.Transform(), sitk.sitkLinear, 0.0))
        inside = field > 0.5
        first, hit = inside.argmax(axis=0), inside.any(axis=0)
        rows, cols = np.nonzero(hit & (first < front))
        z = first[rows, cols]
        normal = np.stack([_slope(field, z, rows, cols, axis) for axis in (2, 1, 0)], axis=-1) / steps
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-9
        # the field falls outwards: the outward normal is -normal; light comes from the viewer's upper left
        light, half = np.array([-0.45, 0.6, -0.66]), np.array([-0.25, 0.33, -0.91])
        diffuse, shine = np.clip(-normal @ light, 0, 1), np.clip(-normal @ half, 0, 1) ** 40
        front[rows, cols] = z
        shade[rows, cols], gloss[rows, cols] = 0.3 + 0.75 * diffuse, 0.25 * shine
        nearest[rows, cols] = group[0] if len(group) == 1 else -1
    if len(groups) == 1 and len(colors) > 6:
        nearest = _colors_of_many(box, spacing, rays, front, nearest, depth)
    for value, color in colors.items():
        here = nearest == value
        picture[here] = np.clip(color * shade[here][:, None] + gloss[here][:, None], 0, 1)
    return picture


def _view() -> np.ndarray:
    """Columns: right and up on the picture and into it, as RAS directions."""
    azimuth, elevation = np.radians(35), np.radians(20)
    into = np.array([-np.sin(azimuth) * np.cos(elevation), -np.cos(azimuth) * np.cos(elevation), -np.sin(elevation)])
    right = np.cross(into, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(right, into), into], axis=1)


def _slope(field: np.ndarray, z: np.ndarray, rows: np.ndarray, cols: np.ndarray, axis: int) -> np.ndarray:
    """Central difference of a (z, row, col) field at points, along one axis, per index."""
    ahead, behind = [z, rows, cols], [z, rows, cols]
    ahead[axis] = np.minimum(ahead[axis] + 2, field.shape[axis] - 1)
    behind[axis] = np.maximum(behind[axis] - 2, 0)
    return (field[tuple(ahead)] - field[tuple(behind)]) / 4


def _colors_of_many(
    box: np.ndarray, spacing: np.ndarray, rays: Any, front: np.ndarray, nearest: np.ndarray, depth: int
) -> np.ndarray:
    """Which label lies at the surface points of a picture drawn for all labels at once."""
    rows, cols = np.nonzero(nearest == -1)
    direction = np.asarray(rays.GetDirection()).reshape(3, 3)
    for extra in (1, 3, 6):  # the smoothed surface lies a little outside the labels: look deeper until all are found
        z = np.minimum(front[rows, cols] + extra, depth - 1)
        points = np.asarray(rays.GetOrigin()) + (np.stack([cols, rows, z], -1) * rays.GetSpacing()) @ direction.T
        ijk = np.clip(np.round(points / spacing).astype(int), 0, np.array(box.shape) - 1)
        found = box[tuple(ijk.T)]
        here = nearest[rows, cols] <= 0
        nearest[rows[here], cols[here]] = found[here]
    return nearest

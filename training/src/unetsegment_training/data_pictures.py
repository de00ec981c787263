"""Pictures of a dataset: cases as slices with outlines, and what its numbers look like."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .plan import color_of, web_color_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from UNetSegmentLib.volume import LabelMap, Volume

    from .fingerprint import Fingerprint

INK, QUIET, PAPER = "#1c2733", "#8795a3", "#ffffff"
_VIEWS = ((2, 0, 1), (1, 0, 2), (0, 1, 2))  # normal, across, up in RAS: axial, coronal, sagittal
HEIGHT = 150
"""Pixels of a case's strip."""


def strip(image: Volume, label: LabelMap) -> bytes:
    """A JPEG of the axial, coronal and sagittal slice with most labelled voxels (the middle one where there are none).

    Args:
        image: In RAS; its first channel is shown, black to white from the 1st to the 99.5th percentile.
        label: On the same grid; labels are outlined.
    """
    from PIL import Image

    spacing = image.grid.spacing
    low, high = np.percentile(
        image.array[0][tuple(slice(None, None, max(n // 64, 1)) for n in image.grid.shape)], (1, 99.5)
    )
    tiles = []
    for normal, across, up in _VIEWS:
        others = tuple(a for a in range(3) if a != normal)
        counts = (label.array > 0).sum(axis=others)
        index = int(counts.argmax()) if counts.any() else label.array.shape[normal] // 2
        grey = image.array[0].take(index, axis=normal).astype(np.float32)
        marks = label.array.take(index, axis=normal)
        grey, marks = (x if across < up else x.T for x in (grey, marks))
        # rows from superior to inferior; columns from the patient's right (left of the picture) on, as in radiology
        grey, marks = grey.T[::-1], marks.T[::-1]
        if across == 0:
            grey, marks = grey[:, ::-1], marks[:, ::-1]
        width = max(round(HEIGHT * grey.shape[1] * spacing[across] / (grey.shape[0] * spacing[up])), 8)
        width = min(width, 3 * HEIGHT)
        shade = np.clip((grey - low) / max(float(high - low), 1e-9) * 255, 0, 255).astype(np.uint8)
        big = np.array(Image.fromarray(shade).resize((width, HEIGHT), Image.Resampling.BICUBIC).convert("RGB"))
        sharp = np.array(Image.fromarray(marks.astype(np.int32)).resize((width, HEIGHT), Image.Resampling.NEAREST))
        for value in np.unique(sharp[sharp > 0]):
            mask = np.pad(sharp == value, 1)
            inner = mask[2:, 1:-1] & mask[:-2, 1:-1] & mask[1:-1, 2:] & mask[1:-1, :-2]
            big[mask[1:-1, 1:-1] & ~inner] = color_of(int(value))
        tiles += [big, np.zeros((HEIGHT, 3, 3), np.uint8)]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(tiles[:-1], axis=1)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def embedded(content: bytes, kind: str) -> str:
    """Bytes as the source of an ``<img>`` inside the page."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def charts(fingerprint: Fingerprint) -> dict[str, str]:
    """SVG pictures of sizes, spacings, intensities and label volumes, by title."""
    made = {
        "Size in voxels": _histograms([f.shape for f in fingerprint.cases], "RAS axis {}", "voxels"),
        "Spacing": _histograms([f.spacing for f in fingerprint.cases], "RAS axis {}", "mm"),
        "Intensity per case": _intensities(fingerprint),
        "Label volumes": _volumes(fingerprint),
    }
    return {title: _svg(figure) for title, figure in made.items()}


def _figure(width: float, height: float, columns: int) -> tuple[Figure, Sequence[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor=PAPER, layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, columns, squeeze=True))
    for a in axes:
        a.spines[["top", "right"]].set_visible(False)
        a.spines[["left", "bottom"]].set_color(QUIET)
        a.tick_params(colors=QUIET, labelsize=8)
    return figure, list(axes)


def _histograms(rows: Sequence[Sequence[float]], title: str, unit: str) -> Figure:
    figure, axes = _figure(9, 2.1, 3)
    values = np.array(rows, float)
    names = ("i (left-right)", "j (posterior-anterior)", "k (inferior-superior)")
    for n, a in enumerate(axes):
        middle = float(np.median(values[:, n]))
        if np.ptp(values[:, n]) < 1e-6:
            a.bar([middle], [len(values)], width=max(abs(middle) * 0.1, 0.1), color="#4c9ed9")
            a.set_xlim(middle * 0.5, middle * 1.5)
        else:
            a.hist(values[:, n], bins=_bins(values[:, n]), color="#4c9ed9")
        a.axvline(middle, color=INK, linewidth=1, linestyle="--")
        a.set_title(f"{names[n]}, median {middle:.4g} {unit}", fontsize=9, color=INK, loc="left")
        a.set_ylabel("cases" if n == 0 else "", fontsize=8, color=QUIET)
    return figure


def _bins(values: np.ndarray) -> Any:
    """One bar per number for whole numbers that lie close together; up to 24 bars otherwise."""
    low, high = values.min(), values.max()
    if (values == np.round(values)).all() and high - low <= 48:
        return np.arange(low - 0.5, high + 1)
    return min(24, max(6, len(values) // 8))


def _intensities(fingerprint: Fingerprint) -> Figure:
    """Per case the range from the 0.5th to the 99.5th percentile and the median, cases in the order of their median."""
    figure, axes = _figure(9, 2.6, len(fingerprint.channels))
    odd = {f.case for f in fingerprint.findings if f.kind == "scale"}
    for c, (a, channel) in enumerate(zip(axes, fingerprint.channels, strict=True)):
        cases = sorted(fingerprint.cases, key=lambda f: f.image[c].median)
        for x, case in enumerate(cases):
            color = "#d6452c" if case.name in odd else "#4c9ed9"
            a.plot(
                [x, x],
                [case.image[c].p00_5, case.image[c].p99_5],
                color=color,
                linewidth=max(0.6, min(4, 240 / len(cases))),
            )
            a.plot([x], [case.image[c].median], marker="_", color=INK, markersize=3)
        spread = [case.image[c].p99_5 for case in cases if case.image[c].p99_5 > 0]
        if spread and max(spread) > 30 * float(np.median(spread)):
            if min(case.image[c].p00_5 for case in cases) > 0:
                a.set_yscale("log")
            else:
                a.set_yscale("symlog", linthresh=max(float(np.median(spread)) / 10, 1e-6))
        a.set_title(f"{channel}: 0.5th to 99.5th percentile, median", fontsize=9, color=INK, loc="left")
        a.set_xlabel("cases, by their median (red: wildly scaled)", fontsize=8, color=QUIET)
    return figure


def _volumes(fingerprint: Fingerprint) -> Figure:
    labels = {v: n for v, n in fingerprint.labels.items() if v}
    figure, axes = _figure(9, min(1.2 + 0.35 * len(labels), 12), 1)
    rng = np.random.default_rng(0)
    ticks = []
    for row, (value, name) in enumerate(labels.items()):
        volumes = np.array([f.labels[value].volume_ml for f in fingerprint.cases if f.labels[value].voxels])
        ticks.append(f"{name} ({len(volumes)} of {len(fingerprint.cases)})")
        axes[0].scatter(
            volumes,
            row + rng.uniform(-0.25, 0.25, len(volumes)),
            s=7,
            color=web_color_of(value),
            alpha=0.6,
            linewidths=0,
        )
        if len(volumes):
            axes[0].plot([np.median(volumes)] * 2, [row - 0.35, row + 0.35], color=INK, linewidth=1.4)
    axes[0].set_yticks(range(len(ticks)), ticks, color=INK, fontsize=9)
    axes[0].set_ylim(len(ticks) - 0.4, -0.6)
    axes[0].set_xlabel("ml per case; the line is the median", fontsize=8, color=QUIET)
    every = [f.labels[v].volume_ml for f in fingerprint.cases for v in labels if f.labels[v].voxels]
    if every and max(every) > 50 * float(np.median(every)):
        axes[0].set_xscale("log")
    return figure


def _svg(figure: Figure) -> str:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "svg.hashsalt": "unetsegment"}):
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]

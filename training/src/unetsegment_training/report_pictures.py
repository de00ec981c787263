"""What an evaluation looks like: cases as slices with both outlines, and its numbers as charts."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .plan import web_color_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from UNetSegmentLib.volume import LabelMap, Volume

INK, EXPERT = "#1c2733", "#ffffff"
HEIGHT = 240
"""Pixels of a case's strip."""
MARGIN = 10.0
"""Millimetres shown around the labels, at least."""


def overlay(image: Volume, expert: LabelMap, answer: LabelMap) -> str:
    """A case as a data address: up to three slices, cut around the labels, expert dashed white, answer in colours.

    Each slice is the one with most voxels on which the two differ, or with most labelled ones where they agree.

    Args:
        image: Its first channel is shown; any orientation.
        expert: On the same grid.
        answer: On the same grid.
    """
    picture, turn = image.reoriented("RAS")
    truth, mine = turn.apply(expert.array), turn.apply(answer.array)
    spacing = picture.grid.spacing
    any_label = (truth > 0) | (mine > 0)
    box = _box(any_label, spacing)
    grey, truth, mine = picture.array[0][box].astype(np.float32), truth[box], mine[box]
    low, high = np.percentile(grey, (0.5, 99.5))
    views = [(2, 0, 1), (1, 0, 2), (0, 1, 2)]  # normal, across, up in RAS: axial, coronal, sagittal
    views = [view for view in views if min(grey.shape[view[1]], grey.shape[view[2]]) > 1]
    widths = [grey.shape[across] * spacing[across] / (grey.shape[up] * spacing[up]) for _, across, up in views]
    widths = [float(np.clip(w, 0.3, 3)) for w in widths]
    figure, axes = _figure(HEIGHT / 100 * sum(widths), HEIGHT / 100, len(views), widths)
    figure.set_facecolor("black")
    figure.subplots_adjust(0, 0, 1, 1, 0.02, 0)
    for axis, (normal, across, up) in zip(axes, views, strict=True):
        others = tuple(a for a in range(3) if a != normal)
        differ = (truth != mine).sum(axis=others)
        index = int((differ if differ.any() else ((truth > 0) | (mine > 0)).sum(axis=others)).argmax())
        slices = [x.take(index, axis=normal) for x in (grey, truth, mine)]
        slices = [(x if across < up else x.T).T for x in slices]  # rows: up, columns: across
        aspect = spacing[up] / spacing[across]
        axis.imshow(slices[0], cmap="gray", vmin=low, vmax=high, origin="lower", aspect=aspect, interpolation="bicubic")
        for value in np.unique(truth[truth > 0]):
            _outline(axis, slices[1] == value, EXPERT, "dashed")
        for value in np.unique(mine[mine > 0]):
            _outline(axis, slices[2] == value, web_color_of(int(value)), "solid")
        if across == 0:
            axis.invert_xaxis()  # the patient's right is on the left
        axis.axis("off")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="jpeg", dpi=100, pil_kwargs={"quality": 82})
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def dice_chart(rows: Sequence[Mapping[str, Any]], summary: Sequence[Mapping[str, Any]]) -> str:
    """Dice of every case per label as dots, with mean and 95 % interval beside them."""
    figure, (axis,) = _figure(7.5, 0.9 + 0.62 * len(summary), 1)
    rng = np.random.default_rng(0)
    for place, entry in enumerate(summary):
        values = [row["dice"] for row in rows if row["label"] == entry["label"]]
        color = web_color_of(int(entry["label"]))
        axis.plot(values, place + rng.uniform(-0.16, 0.16, len(values)), "o", ms=4, color=color, alpha=0.6, mew=0)
        low, high = entry["dice_ci95"] or [entry["dice"]] * 2
        axis.errorbar(
            entry["dice"], place + 0.3, xerr=[[entry["dice"] - low], [high - entry["dice"]]], fmt="D", ms=5, capsize=4,
            color=INK,
        )  # fmt: skip
    axis.set_yticks(range(len(summary)), [f"{entry['name']}" for entry in summary])
    axis.set_ylim(len(summary) - 0.3, -0.5)  # the first structure on top
    axis.set_xlabel("Dice; diamonds: mean and its 95 % interval")
    _clean(axis)
    return _svg(figure)


def agreement_chart(rows: Sequence[Mapping[str, Any]], summary: Sequence[Mapping[str, Any]]) -> str:
    """Difference of volumes against their mean, with limits of agreement (Bland and Altman 1986), a panel per label."""
    shown = list(summary)[:6]
    figure, axes = _figure(3.6 * len(shown) if len(shown) > 1 else 5.0, 3.1, len(shown))
    for axis, entry in zip(axes, shown, strict=True):
        mine = [row for row in rows if row["label"] == entry["label"]]
        answer, expert = (np.array([row[key] for row in mine], float) for key in ("volume_ml", "expert_ml"))
        mean, step = (answer + expert) / 2, answer - expert
        axis.plot(mean, step, "o", ms=4, color=web_color_of(int(entry["label"])), alpha=0.7, mew=0)
        bias, spread = float(step.mean()), 1.96 * float(step.std(ddof=1)) if len(step) > 1 else 0.0
        for level, style in ((bias, "-"), (bias - spread, "--"), (bias + spread, "--")):
            axis.axhline(level, color=INK, lw=1, ls=style)
        axis.set_title(f"{entry['name']}: {bias:+.3g} ± {spread:.3g} ml", fontsize=8)
        axis.set_xlabel("mean of both volumes (ml)")
        _clean(axis)
    axes[0].set_ylabel("answer - expert (ml)")
    figure.tight_layout()
    return _svg(figure)


def learning_chart(run: Path) -> str | None:
    """Loss and validation Dice over the epochs of a run, from its CSV logs; or None where nothing was logged."""
    seen: dict[str, dict[int, float]] = {}
    for path in sorted(run.glob("log/*/metrics.csv"), key=lambda p: int(p.parent.name.rpartition("_")[2] or 0)):
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for key, text in row.items():
                    if text and (key == "loss" or key.startswith("dice")):
                        seen.setdefault(key, {})[int(row["epoch"]) + 1] = float(text)
    if "loss" not in seen:
        return None
    names = sorted(key for key in seen if key.startswith("dice/")) or [key for key in seen if key == "dice"]
    figure, axes = _figure(8.5, 3.0, 2 if names else 1)
    axes[0].plot(list(seen["loss"]), list(seen["loss"].values()), color=INK, lw=1.2)
    axes[0].set_title("training loss", fontsize=9)
    for place, name in enumerate(names, 1):
        values = seen[name]
        axes[1].plot(
            list(values), list(values.values()), "o-", ms=3, lw=1.2, color=web_color_of(place), label=name[5:] or "mean"
        )
    if names:
        axes[1].set_title("validation Dice", fontsize=9)
        axes[1].legend(frameon=False, fontsize=8, loc="lower right")
    for axis in axes:
        axis.set_xlabel("epoch")
        _clean(axis)
    figure.tight_layout()
    return _svg(figure)


def _box(mask: np.ndarray, spacing: Sequence[float]) -> tuple[slice, ...]:
    if not mask.any():
        return (slice(None),) * 3
    cuts = []
    for axis in range(3):
        there = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        margin = int(np.ceil(max(MARGIN, 0.25 * len(there) * spacing[axis]) / spacing[axis]))
        cuts.append(slice(max(int(there[0]) - margin, 0), int(there[-1]) + 1 + margin))
    return tuple(cuts)


def _outline(axis: Any, mask: np.ndarray, color: str, style: str) -> None:
    if mask.any() and not mask.all():
        axis.contour(mask.astype(float), [0.5], colors=[color], linewidths=1.1, linestyles=style)
    elif mask.all():
        axis.set_title("all labelled", fontsize=7)


def _figure(
    width: float, height: float, columns: int, ratios: Sequence[float] | None = None
) -> tuple[Figure, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(1, columns, width_ratios=ratios)
    return figure, [figure.add_subplot(grid[0, column]) for column in range(columns)]


def _clean(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)
    axis.tick_params(labelsize=8)
    axis.xaxis.label.set_size(9)
    axis.yaxis.label.set_size(9)


def _svg(figure: Figure) -> str:
    """The figure as a data address: in an image of its own, where its names meet no other figure's."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "unetsegment", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()

"""A network as the U that the teaching slides draw: a box per feature map, an arrow per operation."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from math import log2
from typing import TYPE_CHECKING, Any

from .layers import Layer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .describe import Description, Stage

INK, QUIET, PAPER = "#1c2733", "#6b7a88", "#ffffff"
MAP, COPY, IMAGE = "#bcd7ee", "#f4f6f8", "#e9dcc0"
ARROWS = {
    "convolution": ("#2f6fb3", "convolution {}, normalisation and activation"),
    "down": ("#c8402f", "down: {}"),
    "up": ("#2e8b57", "up: {}"),
    "copy": ("#8795a3", "copy{}"),
    "head": ("#0f8b8d", "convolution 1, to classes"),
}
TALL, LOW = 2.3, 0.42
"""Height of the largest and the smallest box."""
GAP = 0.75
"""Between boxes."""
MOST = 4
"""Convolutions of a stage that are drawn one by one; networks with more get one box for the stage."""


@dataclass
class Box:
    """A feature map on the page: lower left corner, width, height.

    ``copied`` is the part of the width that came over from the encoder; ``sized``: its size is written below it.
    """

    x: float
    y: float
    width: float
    height: float
    channels: int
    size: tuple[int, ...]
    copied: float = 0.0
    color: str = MAP
    how: str = ""
    sized: bool = False


def draw(told: Description) -> tuple[bytes, bytes]:
    """The picture as SVG and as PNG (1920 x 1080)."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    svg, png = io.BytesIO(), io.BytesIO()
    with rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "svg.hashsalt": "unetsegment"}):
        figure = Figure(figsize=(16, 9), facecolor=PAPER)
        axes = figure.add_axes((0.015, 0.03, 0.97, 0.87))
        _page(axes, told)
        _head(figure, told)
        FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None})
        figure.set_dpi(120)
        FigureCanvasAgg(figure).print_png(png)
    return svg.getvalue(), png.getvalue()


def _head(figure: Any, told: Description) -> None:
    figure.text(0.02, 0.955, _short(told.title, 92), fontsize=20, weight="bold", color=INK)
    work = sum(s.gigaflops for s in told.stages)
    field = told.answer.receptive_field
    facts = [f"{told.parameters:,} parameters", f"{work:,.1f} GFLOP per image"]
    facts += [f"receptive field {_times(field)} voxels"] if field else []
    facts += [f"feature maps {sum(s.megabytes for s in told.stages):,.0f} MB in single precision"]
    figure.text(0.02, 0.918, "   ·   ".join(facts), fontsize=12.5, color=QUIET)


def _page(axes: Axes, told: Description) -> None:
    plain = not any(x.kind in ("addition", "linear") for x in told.layers) and all(
        sum(x.kind == "convolution" for x in stage.layers) <= MOST for stage in told.stages
    )
    deepest = max(stage.level for stage in told.stages)
    scale = _heights(told)
    levels = _rows(told, scale, deepest)
    boxes: dict[int, list[Box]] = {}
    x = 0.0
    for n, stage in enumerate(told.stages):
        row = _boxes(stage, told if n == 0 else None, plain)
        alone = len(row) == 1 or (n > 0 and len(boxes[n - 1]) == 1)
        if n and stage.part > told.stages[n - 1].part:
            x += boxes[n - 1][-1].width + 8 * GAP
        elif n and alone:
            x += boxes[n - 1][-1].width + GAP
        elif n:  # under (or over) the middle of the box it comes from
            x += (boxes[n - 1][-1].width - row[0].width - row[0].copied) / 2
        for box in row:
            box.height = scale(box.size)
            box.x, box.y = x, levels[stage.level] - box.height
            x += box.width + GAP * (1 + (stage.side == "bottleneck" and len(row) == 2))
        x = row[-1].x
        boxes[n] = row
    bottom = min(b.y for row in boxes.values() for b in row) - 1.25
    point = (levels[0] + 0.75 - bottom) / 564  # of text, on the page
    for n, stage in enumerate(told.stages):
        _row(axes, boxes[n], stage, 9.5 if told.stages[-1].part == 1 else 8.0)
        if n:
            _between(axes, boxes[n - 1][-1], boxes[n][0], point)
    crops = _skips(axes, told, boxes)
    right = max(b.x + b.width for b in boxes[len(told.stages) - 1]) + 0.9
    room = 1.4 * (told.stages[-1].part > 1)  # words beside the outer boxes are longer there, measured in boxes
    axes.set_xlim(-1.3 - room, right + 0.4 + room)
    axes.set_ylim(bottom, levels[0] + 0.75)
    axes.axis("off")
    _legend(axes, told, crops, plain)
    if any(told.margin):
        _tile(axes, told)


def _heights(told: Description) -> Any:
    """Heights that fall with the size, by a power that keeps the smallest maps visible."""
    sizes = [x.size_out[0] for x in told.layers if x.size_out] + [told.size[0]]
    low, high = log2(min(sizes)), log2(max(sizes))

    def height(size: Sequence[int]) -> float:
        return LOW + (TALL - LOW) * ((log2(size[0]) - low) / max(high - low, 1e-9)) ** 1.6

    return height


def _rows(told: Description, scale: Any, deepest: int) -> list[float]:
    """Upper edge of each level, with room for two lines of text between levels."""
    tallest = [
        max(scale(x.size_out) for s in told.stages if s.level == level for x in s.layers if x.size_out)
        for level in range(deepest + 1)
    ]
    page, text = 564.0, 60.0  # points
    room = text * (sum(tallest) + 2.0) / (page - text * deepest)
    tops = [0.0]
    for height in tallest[:-1]:
        tops.append(tops[-1] - height - room)
    return tops


def _width(channels: int) -> float:
    return 0.1 + 0.075 * log2(max(channels, 1))


def _boxes(stage: Stage, first: Description | None, plain: bool) -> list[Box]:
    row = []
    if first is not None:
        row.append(Box(0, 0, _width(first.channels), 0, first.channels, first.size, color=IMAGE))
    shown = [x for x in stage.layers if x.size_out and x.kind in ("convolution", "pooling", "concatenation")]
    if not plain:
        joined = [x for x in shown if x.kind == "concatenation"][:1]
        shown = [*joined, stage.last] if stage.last not in joined else joined
    for layer in shown:
        width = _width(layer.channels_out)
        box = Box(0, 0, width, 0, layer.channels_out, layer.size_out, how=_how(layer))
        if layer.kind == "concatenation":
            box.width, box.how = sum(map(_width, layer.parts)), "join"
            box.copied = _width(layer.parts[0])
        row.append(box)
    if not plain and row and len(stage.layers) > 1:
        row[-1].how = f"{len(stage.layers)} layers"
    return row


def _how(layer: Layer) -> str:
    if layer.kind != "convolution":
        return layer.kind
    if max(layer.stride) > 1:
        return "strided"
    return "head" if max(layer.kernel) == 1 else "convolution"


def _row(axes: Axes, row: list[Box], stage: Stage, text: float) -> None:
    for n, box in enumerate(row):
        _box(axes, box)
        middle = box.x + box.width / 2
        lift = 0.07 + (0.6 * _depth(box) if len(box.size) == 3 else 0)
        axes.text(
            middle + (0.5 * _depth(box) if len(box.size) == 3 else 0), box.y + box.height + lift, f"{box.channels}",
            ha="center", va="bottom", fontsize=11.5, color=INK,
        )  # fmt: skip
        same = n > 0 and row[n - 1].size == box.size
        if not same and (n or len(row) == 1 or row[1].size != box.size):
            box.sized = True
            left = box.x + box.copied / 2 if box.copied else middle
            axes.text(left, box.y - 0.07, _size(box.size), ha="center", va="top", fontsize=10, color=INK)
        if n and box.how not in ("pooling", "strided", "join"):
            before, y = row[n - 1], box.y + box.height / 2
            start = before.x + before.width + (_depth(before) if len(box.size) == 3 else 0) + 0.06
            _arrow(axes, (start, y), (box.x - 0.06, y), "head" if box.how == "head" else "convolution")
    _words(axes, row, stage, text)


def _words(axes: Axes, row: list[Box], stage: Stage, text: float) -> None:
    """Size (where all boxes have it), receptive field and parameters, beside the arrow that leaves or comes."""
    field = stage.last.receptive_field
    words = [_size(row[-1].size)] if len(row) > 1 and not row[-1].sized and row[0].size == row[1].size else []
    words += [f"receptive field {_size(field)}"] if field else []
    lines = [" · ".join(words), f"{_count(stage.parameters)} parameters"]
    y = min(b.y for b in row) - (0.42 if any(b.sized for b in row) else 0.1)
    if len(row) == 1:
        x, side, y = row[0].x + row[0].width + _depth(row[0]) + 0.12, "left", row[0].y - 0.02
    elif stage.side == "bottleneck":
        x, side = (row[0].x + row[-1].x + row[-1].width) / 2, "center"
    elif stage.side == "encoder":
        x, side = row[-1].x + row[-1].width / 2 - 0.2, "right"
    else:
        x, side = row[0].x + (row[0].copied + row[0].width) / 2 + 0.2, "left"
    axes.text(x, y, "\n".join(lines), ha=side, va="top", fontsize=text, color=QUIET, linespacing=1.4)


def _depth(box: Box) -> float:
    """How far a volume goes back on the page."""
    return 0.09 + 0.05 * box.height


def _box(axes: Axes, box: Box) -> None:
    from matplotlib.patches import Polygon, Rectangle

    edge = {"edgecolor": INK, "linewidth": 0.9}
    if len(box.size) == 3:  # a volume: top and side are seen too
        d = _depth(box)
        x, y, w, h = box.x, box.y, box.width, box.height
        axes.add_patch(
            Polygon(
                [(x, y + h), (x + d, y + h + d * 0.6), (x + w + d, y + h + d * 0.6), (x + w, y + h)],
                facecolor="#dceaf6",
                zorder=2,
                **edge,
            )
        )
        axes.add_patch(
            Polygon(
                [(x + w, y), (x + w + d, y + d * 0.6), (x + w + d, y + h + d * 0.6), (x + w, y + h)],
                facecolor="#93b8d8",
                zorder=2,
                **edge,
            )
        )
    axes.add_patch(Rectangle((box.x, box.y), box.width, box.height, facecolor=box.color, zorder=3, **edge))
    if box.copied:
        axes.add_patch(
            Rectangle(
                (box.x, box.y),
                box.copied,
                box.height,
                facecolor=COPY,
                zorder=4,
                hatch="////",
                **(edge | {"linewidth": 0.7, "edgecolor": "#9aa7b3"}),
            )
        )
        axes.add_patch(Rectangle((box.x, box.y), box.width, box.height, fill=False, zorder=5, **edge))


def _between(axes: Axes, before: Box, after: Box, point: float) -> None:
    """Down from an encoder stage to the next, up in the decoder, level between two Us; numbers at boxes stay free."""
    if before.y == after.y:
        y, back = before.y + before.height / 2, _depth(before) if len(before.size) == 3 else 0.0
        _arrow(axes, (before.x + before.width + back + 0.08, y), (after.x - 0.08, y), "copy")
        return
    kind = "down" if after.y + after.height < before.y + before.height else "up"
    middle = before.x + before.width / 2
    center = after.x + (after.copied + after.width) / 2
    back = _depth(before) if len(before.size) == 3 else 0.0
    above = 22 * point + (0.6 * _depth(after) if back else 0)
    below = {True: 20 * point, False: 5 * point}
    near = abs(middle - center) < 0.2
    if kind == "down" and near:
        _arrow(axes, (middle, before.y - below[before.sized]), (middle, after.y + after.height + above), kind)
    elif kind == "down":
        end = (after.x - 0.08, after.y + after.height / 2)
        _arrow(axes, (middle, before.y - below[before.sized]), end, kind, "angle,angleA=-90,angleB=180,rad=0")
    elif near:
        start = (middle, before.y + before.height + 22 * point + (0.6 * _depth(before) if back else 0))
        _arrow(axes, start, (middle, after.y - 5 * point), kind)
    else:
        start = (before.x + before.width + back + 0.08, before.y + before.height / 2)
        end = (center, after.y - below[after.sized and not after.copied])
        _arrow(axes, start, end, kind, "angle,angleA=0,angleB=-90,rad=0")


def _skips(axes: Axes, told: Description, boxes: dict[int, list[Box]]) -> bool:
    """Grey arrows from the last map of an encoder stage to where it is joined; whether any of them is cropped."""
    cropped = False
    for n, stage in enumerate(told.stages):
        joined = next((b for b in boxes[n] if b.copied), None)
        same = (stage.part, "encoder", stage.level)
        other = next((m for m, s in enumerate(told.stages) if (s.part, s.side, s.level) == same), None)
        if stage.side != "decoder" or other is None:
            continue
        before, after = boxes[other][-1], joined or boxes[n][0]
        cropped = cropped or before.size != after.size
        y = after.y + after.height / 2
        _arrow(axes, (before.x + before.width + 0.2, y), (after.x - 0.12, y), "copy")
    return cropped


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], kind: str, path: str = "arc3") -> None:
    axes.annotate(
        "", end, start, zorder=6,
        arrowprops={"arrowstyle": "-|>,head_width=0.32,head_length=0.5", "color": ARROWS[kind][0], "lw": 2.2,
                    "connectionstyle": path, "shrinkA": 0, "shrinkB": 0},
    )  # fmt: skip


def _legend(axes: Axes, told: Description, crops: bool, plain: bool) -> None:
    from matplotlib.lines import Line2D

    kernels = sorted({x.kernel for x in told.layers if x.kind == "convolution" and max(x.kernel) > 1})
    ups = {(x.kind, x.kernel) for x in told.layers if x.kind in ("transposed convolution", "interpolation")}
    pools = {x.kernel for x in told.layers if x.kind == "pooling"}
    down = f"pooling {_times(min(pools))}" if pools else "convolution with stride"
    turned = sorted(kernel for kind, kernel in ups if kind == "transposed convolution")
    up = " or ".join(
        [f"transposed convolution {' or '.join(map(_times, turned))}"] * bool(turned)
        + ["interpolation"] * (len(turned) < len(ups))
    )
    added = "" if any(x.kind == "concatenation" for x in told.layers) else ", added"
    normal = "" if any(x.normalised for x in told.layers) else "convolution {} and activation"
    words = {
        "convolution": (normal or ARROWS["convolution"][1]).format(" or ".join(map(_times, kernels[:3])))
        if plain
        else "layers of a stage",
        "down": ARROWS["down"][1].format(down),
        "up": ARROWS["up"][1].format(up),
        "copy": ARROWS["copy"][1].format(" the middle (crop)" if crops else "") + added,
        "head": ARROWS["head"][1],
    }
    if not plain:
        del words["head"]
    several = told.stages[-1].part > 1
    lines = [Line2D([], [], color=ARROWS[k][0], linewidth=2.6, label=text) for k, text in words.items()]
    axes.legend(
        handles=lines, loc="lower center" if several else "lower right", fontsize=10.5, frameon=False, labelcolor=INK, handlelength=1.6,
        title="over boxes: feature maps; below: voxels\n"
        "convolution, pooling: floor((n + 2p - k) / s) + 1\n"
        "transposed convolution: (n - 1)s - 2p + k",
        title_fontproperties={"size": 10.5}, alignment="left", bbox_to_anchor=(0.5 if several else 1.0, -0.01),
    )  # fmt: skip


def _tile(axes: Axes, told: Description) -> None:
    """The overlap-tile: a square that is answered, and what is seen around it, mirrored where the image ends."""
    from matplotlib.patches import Rectangle

    inset = axes.inset_axes((0.0, 0.0, 0.2, 0.36))
    n, m, edge = told.size[1], told.answer.size_out[1], told.margin[1]
    inset.add_patch(Rectangle((0, 0), n, n, facecolor="#dfe9f3", edgecolor="#2f6fb3", linewidth=1.6))
    inset.add_patch(Rectangle((0, edge), n - edge, n - edge, facecolor="#f5f0e3", edgecolor="none"))
    inset.add_patch(Rectangle((0, 0), n - 0, n, fill=False, edgecolor="#2f6fb3", linewidth=1.8))
    inset.add_patch(Rectangle((edge, edge), m, m, facecolor="#ffe08a", edgecolor="#b58900", linewidth=1.8))
    inset.text(n / 2, n / 2, f"answered\n{m}", ha="center", va="center", fontsize=11, color=INK)
    inset.text(n / 2, n + n * 0.03, f"seen: {n}", ha="center", va="bottom", fontsize=11, color="#2f6fb3")
    inset.text(edge / 2, n / 2, f"{edge}", ha="center", va="center", fontsize=10, color=QUIET)
    inset.text(n / 2, edge / 2, "mirrored", ha="center", va="center", fontsize=10, color="#2f6fb3")
    inset.text(n - edge / 2, n / 2, "mirrored", ha="center", va="center", fontsize=10, color="#2f6fb3", rotation=90)
    inset.text(n / 2, n - edge / 2, "image", ha="center", va="center", fontsize=10, color="#8a6d1f")
    inset.set_title("Overlap-tile at a corner", fontsize=11.5, color=INK, loc="left", pad=16, weight="bold")
    inset.set_xlim(-n * 0.05, n * 1.05)
    inset.set_ylim(-n * 0.05, n * 1.05)
    inset.set_aspect("equal")
    inset.axis("off")


def _size(size: Sequence[int]) -> str:
    if len(set(size)) == 1:
        return f"{size[0]}{'²' if len(size) == 2 else '³'}"
    return "×".join(map(str, size))


def _times(size: Sequence[int]) -> str:
    return " × ".join(map(str, size))


def _count(number: int) -> str:
    return f"{number / 1e6:.2f} M" if number >= 1e6 else f"{number / 1e3:.1f} k" if number >= 1e3 else str(number)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rsplit(" ", 1)[0] + " …"

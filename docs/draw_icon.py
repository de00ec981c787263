"""Draw the icon of extension and module: a U of stacked slabs over a segmented contour. Needs matplotlib.

python docs/draw_icon.py
"""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Polygon

ROOT = Path(__file__).resolve().parents[1]
PLACES = (ROOT / "UNetSegment.png", ROOT / "UNetSegment" / "Resources" / "Icons" / "UNetSegment.png")
SIZE = 128
NIGHT, SKY, CORAL, PAPER = "#17212f", "#4c9ed9", "#e67654", "#f4efe6"


def shaded(color, light):
    """``color`` mixed with white (light > 0) or black (light < 0)."""
    rgb, target = np.array(to_rgb(color)), 1.0 if light > 0 else 0.0
    return tuple(rgb + (target - rgb) * abs(light))


def slab(axes, x, y, width, height, color, depth=7):
    """A box seen from the upper right: front, top and side."""
    front = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
    shift = np.array([depth, depth * 0.62])
    top = [front[3], front[2], tuple(front[2] + shift), tuple(front[3] + shift)]
    side = [front[1], tuple(front[1] + shift), tuple(front[2] + shift), front[2]]
    for corners, light in ((side, -0.32), (top, 0.42), (front, 0.0)):
        axes.add_patch(
            Polygon(corners, facecolor=shaded(color, light), edgecolor=NIGHT, linewidth=1.1, joinstyle="round")
        )


def contour(axes):
    """The segmented shape behind: a smooth closed curve, filled faintly and outlined."""
    t = np.linspace(0, 2 * np.pi, 400)
    radius = 49 + 2.5 * np.cos(2 * t + 2.4) + 2.2 * np.cos(3 * t - 1.0)
    points = np.column_stack([63 + radius * np.cos(t), 64 + radius * np.sin(t)])
    axes.add_patch(Polygon(points, closed=True, facecolor="#2f4561", edgecolor=PAPER, linewidth=2.4))


def draw():
    """The icon as a figure of 128 x 128 pixels."""
    figure = Figure(figsize=(1, 1), dpi=SIZE)
    FigureCanvasAgg(figure)
    figure.patch.set_alpha(0)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, SIZE), ylim=(0, SIZE))
    axes.axis("off")
    axes.add_patch(
        FancyBboxPatch((5, 5), 118, 118, boxstyle="round,pad=0,rounding_size=24", facecolor=NIGHT, linewidth=0)
    )
    figure_scale = 72 / SIZE  # points per unit: line widths above are in pixels
    contour(axes)
    slab(axes, 30, 27, 60, 14, "#8f86c2")
    for y in (46, 65, 84):
        slab(axes, 30, y, 22, 14, SKY)
        slab(axes, 68, y, 22, 14, CORAL)
    for patch in axes.patches:
        patch.set_linewidth(patch.get_linewidth() * figure_scale)
    return figure


if __name__ == "__main__":
    icon = draw()
    for place in PLACES:
        place.parent.mkdir(parents=True, exist_ok=True)
        icon.savefig(place, transparent=True, metadata={"Software": None})

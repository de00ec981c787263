"""``report.html``: an evaluation as a person reads it, in one file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .compare import Difference
from .plan import web_color_of
from .report_pictures import agreement_chart, dice_chart, learning_chart
from .safely import replace_text

WORST, MIDDLE, BEST = 6, 2, 2
"""Cases that are shown."""
_HEADS = {
    "dice": ("Dice", ".4f"),
    "iou": ("IoU", ".4f"),
    "hd95_mm": ("HD95 (mm)", ".2f"),
    "surface_dice": ("surface Dice 1 mm", ".4f"),
    "accuracy": ("pixel accuracy", ".5f"),
    "volume_error_ml": ("volume error (ml)", "+.3f"),
    "volume_error_percent": ("volume error (%)", "+.1f"),
}
TEMPLATE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{{ title }}: evaluation</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>
body{font:15px/1.5 system-ui,sans-serif;color:#1c2733;max-width:1000px;margin:2rem auto;padding:0 1rem;background:#fff}
h1{font-size:1.7rem;margin:0} h2{font-size:1.2rem;margin:2.2rem 0 .5rem} p.lead{color:#566472;margin:.2rem 0 1rem}
table{border-collapse:collapse;font-size:.86rem} td,th{text-align:left;padding:.25rem .8rem .25rem 0;border-bottom:1px solid #e4e9ee}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums} td small{color:#566472} img.chart{max-width:100%;display:block}
.swatch{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.4em} .scroll{overflow-x:auto}
figure{margin:0 0 14px;background:#000;border-radius:6px;overflow:hidden;display:inline-block;max-width:100%}
figure img{max-width:100%;display:block} figcaption{color:#dfe6ec;font-size:.8rem;padding:.35rem .6rem} ul{padding-left:1.3rem}
</style></head><body><h1>{{ title }}</h1><p class="lead">{{ lead }}</p>
<h2>Per structure</h2><div class="scroll"><table><tr><th>structure<th class="n">cases{% for h in heads %}<th class="n">{{ h }}{% endfor %}</tr>
{% for row in table %}<tr><td><span class="swatch" style="background:{{ row.color }}"></span>{{ row.name }}<td class="n">{{ row.cases }}
{% for mean, interval in row.cells %}<td class="n">{{ mean }}<br><small>{{ interval }}</small>{% endfor %}</tr>{% endfor %}</table></div>
<p class="lead">Means over cases; below them 95 % bootstrap intervals of the mean. They tell how far the mean could move with other cases
of the same kind, not how far a new case may lie from it. HD95 needs the structure in answer and expert: cases where one lacks it are
left out of it, and have Dice and surface Dice 0.{% for text in absent %} {{ text }}{% endfor %}</p>
{% for heading, source, words in charts %}<h2>{{ heading }}</h2><img class="chart" alt="{{ heading }}" src="{{ source }}">
<p class="lead">{{ words }}</p>{% endfor %}
{% if differences %}<h2>Compared with {{ previous }}</h2><table><tr><th>structure<th class="n">cases<th class="n">before<th class="n">now
<th class="n">difference<th class="n">95 % interval<th class="n">p<th class="n">better / worse<th>verdict</tr>
{% for d in differences %}<tr><td>{{ d.label }}<td class="n">{{ d.cases }}<td class="n">{{ "%.4f"|format(d.first) }}
<td class="n">{{ "%.4f"|format(d.second) }}<td class="n">{{ "%+.4f"|format(d.difference) }}
<td class="n">{{ "%+.4f to %+.4f"|format(*d.interval) }}<td class="n">{{ "%.3g"|format(d.p_holm) }}
<td class="n">{{ d.better }} / {{ d.worse }}<td>{{ d.verdict }}</tr>{% endfor %}</table>
<p class="lead">Dice, paired by case; Wilcoxon's signed-rank test, corrected for the number of structures (Holm); the mean of all is a test of
its own.</p>{% endif %}
<h2>Failures and outliers</h2>{% if not failures %}<p class="lead">None: every structure was found, and no case stands out.</p>{% endif %}
<ul>{% for text in failures %}<li>{{ text }}</li>{% endfor %}</ul>
<h2>Cases</h2><p class="lead">The slices on which answer and expert differ most; expert dashed white, answer in colour; the patient's right
is on the left.</p>
{% for group, entries in pictures %}<h2>{{ group }}</h2>{% for name, words, source in entries %}
<figure><img loading="lazy" alt="{{ name }}" src="{{ source }}"><figcaption>{{ name }}: {{ words }}</figcaption></figure>{% endfor %}{% endfor %}
</body></html>
"""


def write_report(
    path: Path,
    title: str,
    lead: str,
    rows: Sequence[Mapping[str, Any]],
    summary: Sequence[Mapping[str, Any]],
    pictures: Mapping[str, str],
    runs: Sequence[Path] = (),
    previous: str = "",
    differences: Sequence[Difference] = (),
) -> None:
    """Write the page.

    Args:
        path: ``report.html``, replaced whole.
        title: The model's.
        lead: A line about data and model.
        rows: A row per case and label, of :func:`metrics.measure`.
        summary: Of :func:`metrics.summarize`.
        pictures: A data address per case, of :func:`report_pictures.overlay`.
        runs: Run folders with the logs of the training.
        previous: What ``differences`` compare with.
        differences: Of :func:`compare.compare`, this evaluation second.
    """
    from jinja2 import Environment

    charts = [("Dice per structure", dice_chart(rows, summary), "A dot per case.")]
    words = "From the run's own logs; its validation sees the averaged weights."
    for run in runs:
        if (curves := learning_chart(run)) is not None:
            charts.append(("Learning curves" + f", {run.name}" * (len(runs) > 1), curves, words))
    words = "Lines: mean difference and 1.96 standard deviations about it (Bland and Altman)."
    charts.append(("Agreement of volumes", agreement_chart(rows, summary), words))
    table = [
        {
            "name": entry["name"],
            "cases": entry["cases"],
            "color": web_color_of(int(entry["label"])),
            "cells": [_cell(entry, key, form) for key, (_, form) in _HEADS.items()],
        }
        for entry in summary
    ]
    absent = [
        f"{entry['name']}: neither answer nor expert has it in {entry['absent']} of {entry['cases']} cases, which count as Dice 1."
        for entry in summary
        if entry.get("absent")
    ]
    page = Environment(autoescape=True).from_string(TEMPLATE).render(
        title=title, lead=lead, heads=[head for head, _ in _HEADS.values()], table=table, charts=charts,
        failures=failures(rows), pictures=_chosen(rows, pictures), differences=differences, previous=previous,
        absent=absent,
    )  # fmt: skip
    replace_text(path, page)


def failures(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for every structure that was missed or invented, or whose Dice lies far below that of the other cases."""
    told = []
    for label in dict.fromkeys(row["label"] for row in rows):
        mine = [row for row in rows if row["label"] == label]
        dice = np.array([row["dice"] for row in mine])
        first, third = np.percentile(dice, (25, 75))
        fence = first - 1.5 * (third - first)  # Tukey's
        for row in sorted(mine, key=lambda row: row["dice"]):
            where = f"Case {row['case']}, {row['name']}"
            if row["expert_ml"] > 0 and row["volume_ml"] == 0:
                told.append(f"{where}: not found at all (the expert has {row['expert_ml']:.3g} ml).")
            elif row["expert_ml"] == 0 and row["volume_ml"] > 0:
                told.append(f"{where}: {row['volume_ml']:.3g} ml where the expert has none.")
            elif row["dice"] < fence and len(mine) >= 4:
                told.append(f"{where}: Dice {row['dice']:.3f}, far below the others (median {np.median(dice):.3f}).")
            elif row["dice"] < 0.5:
                told.append(f"{where}: Dice {row['dice']:.3f}.")
    return told


def _chosen(
    rows: Sequence[Mapping[str, Any]], pictures: Mapping[str, str]
) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Worst, middle and best cases by mean Dice, no case twice."""
    scores = {case: float(np.mean([row["dice"] for row in rows if row["case"] == case])) for case in pictures}
    order = sorted(scores, key=lambda case: scores[case])
    worst = order[:WORST]
    rest = [case for case in order if case not in worst]
    best = rest[len(rest) - min(BEST, len(rest)) :][::-1]
    rest = [case for case in rest if case not in best]
    centre = max(len(order) // 2 - len(worst) - MIDDLE // 2, 0)
    groups = {"Worst": worst, "Median": rest[centre : centre + MIDDLE], "Best": best}

    def words(case: str) -> str:
        each = (f"{row['name']} {row['dice']:.3f}" for row in rows if row["case"] == case)
        return f"mean Dice {scores[case]:.3f} ({', '.join(list(each)[:8])})"

    return [(name, [(c, words(c), pictures[c]) for c in cases]) for name, cases in groups.items() if cases]


def _cell(entry: Mapping[str, Any], key: str, form: str) -> tuple[str, str]:
    if entry[key] is None:
        return "", ""
    interval = entry.get(f"{key}_ci95")
    words = " to ".join(format(x, form) for x in interval) if interval else ""
    known = entry.get(f"{key}_cases", entry["cases"])
    return format(entry[key], form), words + (f", {known} cases" if known < entry["cases"] else "")

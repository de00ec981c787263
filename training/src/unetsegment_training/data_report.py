"""``report.html``: a dataset as a person reads it, in one file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

from .data_pictures import charts, embedded
from .fingerprint import Fingerprint
from .plan import web_color_of
from .safely import replace_text

SHOWN = 60
"""Cases with findings that are shown; others are sampled evenly."""
SAMPLED = 24
_ORDER = {"error": 0, "warning": 1, "note": 2}
_KINDS = {
    "files": "Missing or surplus files",
    "unusable": "Cases that cannot be used",
    "duplicate": "The same image twice",
    "scale": "Wildly scaled intensities",
    "flat": "Images without content",
    "spacing": "Unusual spacing",
    "empty": "Nothing labelled",
    "absent": "A label is missing",
    "rare": "Labels of a single case",
    "volume": "Unusual volumes",
    "border": "Labels at the image's border",
    "orientation": "Orientations",
}
TEMPLATE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{{ f.name }}: dataset report</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>
body{font:15px/1.5 system-ui,sans-serif;color:#1c2733;max-width:1000px;margin:2rem auto;padding:0 1rem;background:#fff}
h1{font-size:1.7rem;margin:0} h2{font-size:1.2rem;margin:2.2rem 0 .5rem} p.lead{color:#566472;margin:.2rem 0 1.4rem}
table{border-collapse:collapse;font-size:.9rem} td,th{text-align:left;padding:.25rem .9rem .25rem 0;border-bottom:1px solid #e4e9ee}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums} svg{max-width:100%;height:auto;display:block}
.error{color:#b3261e}.warning{color:#9a5b00}.note{color:#456}.ok{color:#1d7a46}
details{margin:.3rem 0} summary{cursor:pointer;font-weight:600} ul{margin:.3rem 0 .8rem;padding-left:1.3rem}
.cases{display:grid;grid-template-columns:repeat(auto-fill,minmax(300px,1fr));gap:14px}
figure{margin:0;background:#10151c;border-radius:6px;overflow:hidden} figure img{width:100%;display:block}
figcaption{color:#dfe6ec;font-size:.78rem;padding:.35rem .6rem} figcaption span{color:#ffb27a}
.swatch{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.4em}
</style></head><body>
<h1>{{ f.name }}</h1>
<p class="lead">{{ f.cases|length }} usable cases, {{ f.channels|join(", ") }},
{{ f.labels|length - 1 }} label{{ "" if f.labels|length == 2 else "s" }}</p>
<h2>What was found</h2>
{% if not f.findings %}<p class="ok">Nothing odd in any case.</p>{% endif %}
{% for kind, severity, found in groups %}<details{{ " open" if found|length < 12 and severity != "note" }}>
<summary class="{{ severity }}">{{ kind }}: {{ found|length }}</summary>
<ul>{% for x in found %}<li>{{ x.text }}</li>{% endfor %}</ul></details>
{% endfor %}
<h2>Labels</h2><table><tr><th>label<th class="n">value<th class="n">cases<th class="n">median ml<th class="n">smallest ml
<th class="n">largest ml<th class="n">share of labelled voxels</tr>
{% for row in labels %}<tr><td><span class="swatch" style="background:{{ row.color }}"></span>{{ row.name }}<td class="n">{{ row.value }}
<td class="n">{{ row.cases }}<td class="n">{{ row.median }}<td class="n">{{ row.low }}<td class="n">{{ row.high }}
<td class="n">{{ row.share }}</tr>{% endfor %}</table>
{% for title, svg in charts.items() %}<h2>{{ title }}</h2>{{ svg|safe }}{% endfor %}
<h2>Intensities of labelled voxels</h2><table><tr><th>channel<th class="n">mean<th class="n">standard deviation
<th class="n">0.5th percentile<th class="n">median<th class="n">99.5th percentile</tr>
{% for name, x in foreground %}<tr><td>{{ name }}{% for v in (x.mean, x.std, x.p00_5, x.median, x.p99_5) %}
<td class="n">{{ "%.5g"|format(v) }}{% endfor %}</tr>{% endfor %}</table>
<p class="lead">All cases with the same weight. Cropping to what is not zero leaves
{{ "%.0f"|format(100 * f.median_relative_size_after_cropping) }} % of an image (median).</p>
<h2>Cases</h2><p class="lead">{{ caption }} Axial, coronal and sagittal slice with most labelled voxels; the patient's right is
on the left.</p><div class="cases">
{% for name, source, words in pictures %}<figure><img loading="lazy" alt="{{ name }}" src="{{ source }}">
<figcaption>{{ name }}{% if words %} <span>{{ words }}</span>{% endif %}</figcaption></figure>
{% endfor %}</div></body></html>
"""


def write_report(fingerprint: Fingerprint, strips: Mapping[str, bytes], path: Path) -> Path:
    """Write the page.

    Args:
        fingerprint: What to tell.
        strips: JPEG per case, from :func:`data_pictures.strip`.
        path: ``report.html``, replaced whole.
    """
    from jinja2 import Environment

    ordered = sorted(fingerprint.findings, key=lambda f: (_ORDER[f.severity], f.kind))
    groups = [
        (_KINDS.get(kind, kind), severity, list(found))
        for (severity, kind), found in groupby(ordered, key=lambda f: (f.severity, f.kind))
    ]
    shown, caption = _chosen(fingerprint, strips)
    words = {name: ", ".join(sorted({f.kind for f in fingerprint.of_case(name)})) for name in shown}
    page = (
        Environment(autoescape=True)
        .from_string(TEMPLATE)
        .render(
            f=fingerprint,
            groups=groups,
            labels=label_rows(fingerprint),
            charts=charts(fingerprint),
            foreground=list(zip(fingerprint.channels, fingerprint.foreground or ())),
            caption=caption,
            pictures=[(name, embedded(strips[name], "jpeg"), words[name]) for name in shown],
        )
    )
    replace_text(path, page)
    return path


def label_rows(fingerprint: Fingerprint) -> list[dict[str, object]]:
    """A row per label: in how many cases, with which volumes, and its share of all labelled voxels."""
    total = sum(x.voxels for f in fingerprint.cases for x in f.labels.values())
    rows = []
    for value, name in fingerprint.labels.items():
        if not value:
            continue
        found = sorted(f.labels[value].volume_ml for f in fingerprint.cases if f.labels[value].voxels)
        voxels = sum(f.labels[value].voxels for f in fingerprint.cases)
        rows.append(
            {
                "value": value, "name": name, "color": web_color_of(value), "cases": len(found),
                "median": f"{found[len(found) // 2]:.3g}" if found else "", "low": f"{found[0]:.3g}" if found else "",
                "high": f"{found[-1]:.3g}" if found else "", "share": f"{100 * voxels / max(total, 1):.2g} %",
            }
        )  # fmt: skip
    return rows


def _chosen(fingerprint: Fingerprint, strips: Mapping[str, bytes]) -> tuple[list[str], str]:
    worth = {f.case for f in fingerprint.findings if f.severity != "note"}
    odd = [name for name in strips if name in worth]
    rest = [name for name in strips if name not in worth]
    if len(odd) > SHOWN:
        odd = odd[:: -(-len(odd) // SHOWN)]
    if len(rest) > SAMPLED:
        rest = rest[:: -(-len(rest) // SAMPLED)]
    count = len(odd) + len(rest)
    if count == len(strips):
        return odd + rest, "All cases."
    return odd + rest, f"{len(odd)} with a warning, then {len(rest)} evenly sampled of {len(strips)}."

"""The panel on the stand-in host with a network that costs next to nothing: what Apply takes beside it, and for how long
the window does not answer."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

import psutil

from ..options import Options
from ..report import Target
from ..session import Answer, Session
from ..synthetic_model import narrow_package
from ..table import GIB, number

EMPTY_NETWORK = True
"""Matrix products tell nothing here."""
PLANE, SLICES, CLASSES = 512, 300, 3
WAYS = {
    "patches side by side": {"overlap": 0.0, "spacing": 1.0},
    "side by side, axes as Slicer stores them": {"overlap": 0.0, "spacing": 1.0, "slices_first": True},
    "side by side, into the last result": {"overlap": 0.0, "spacing": 1.0, "into": True},
    "patches overlapping by half": {"overlap": 0.5, "spacing": 1.0},
    "side by side, at 1.5 mm": {"overlap": 0.0, "spacing": 1.5},
    "side by side, without a worker": {"overlap": 0.0, "spacing": 1.0, "inside": True},
}


def run(options: Options, folder: Path) -> dict[str, Any]:
    """Each way in a fresh application: Apply once, and then again and again on the same volume."""
    figures = {name: _way(name, dict(way), options, folder) for name, way in WAYS.items()}
    first = figures["patches side by side"]
    applies = [entry for name, one in figures.items() if "inside" not in WAYS[name] for entry in one["applies"]]
    away, busy = (max(applies, key=lambda entry: entry[key]) for key in ("gap", "busy"))
    opened = statistics.median(_computed(one, "ours") for one in figures.values())
    third = sorted({name for one in figures.values() for name in one["open"]["third_party"]})
    targets = [
        Target.at_most("opening the module, this project's code (CPU)", 1000 * opened, 100.0, "ms"),
        Target.at_most("third-party packages imported when the module opens", float(len(third)), 0.0, "packages"),
        Target.at_most("longest time the main thread was away in Apply (wall)", 1000 * away["gap"], 50.0, "ms"),
        Target.at_most("longest time it computed in Apply (CPU)", 1000 * busy["busy"], 50.0, "ms"),
        Target.at_most("second Apply beside the network (wall)", first["beside_wall"], 0.5, "s"),
    ]
    load = f"{psutil.getloadavg()[0]:.1f} processes wanted the {psutil.cpu_count()} cores at the end"
    targets[0]["why"] = f"By step: {_steps(figures, 'ours')}."
    targets[2]["why"] = f"It was in `{away['where']}`; {load}."
    targets[3]["why"] = f"It was in `{busy['busy_in']}`."
    voxels = PLANE * PLANE * SLICES / 1e6
    targets[4]["why"] = (
        f"{voxels:.0f} million voxels are copied, turned, normalised, summed, labelled, counted and copied back; "
        f"all that takes {first['beside_cpu']:.2g} CPU s; {load}."
    )
    return {
        "title": "the panel around an empty network, large volume",
        "scale": (
            f"a synthetic CT of {PLANE}x{PLANE}x{SLICES} int16 voxels at 1 mm, {CLASSES} labels, patch 128^3 in RAS order (but for one row, where its axes are those of nnU-Net's folders), z-score; "
            f"{len(first['applies'])} times Apply each"
        ),
        "table": {"head": HEAD, "rows": [_row(name, one) for name, one in figures.items()]},
        "figures": figures,
        "notes": [_opening(figures, third)],
        "targets": targets,
    }


STEPS = {"import": "to import", "build": "to build the panel", "enter": "to enter it and start the worker"}
HEAD = [
    "Apply",
    "again, wall s",
    "network wall s",
    "beside it, wall s",
    "CPU s",
    "beside it, CPU s",
    "first Apply, wall s",
]
HEAD += ["main thread away, wall ms: least", "median", "most", "in", "main thread busy, CPU ms: median", "most", "in"]
HEAD += ["peak GiB of the process tree"]


def _way(name: str, way: dict[str, Any], options: Options, folder: Path) -> dict[str, Any]:
    inside, slices_first, into = (way.pop(key, False) for key in ("inside", "slices_first", "into"))
    package = narrow_package(folder / name.replace(" ", "-"), CLASSES, slices_first, features=CLASSES, kernel=1, **way)
    compiled = {
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
    }  # as in every use but the first
    scratch = folder / f"{name} run"
    with Session(name, "benchmarks.contenders.panel", sys.executable, options.threads, scratch, compiled) as session:
        opened = session.call("begin", package=str(package)).result
        session.call("prepare", slices=SLICES, plane=PLANE, inside=inside)
        answers = [session.call("apply", into=into) for _ in range(1 + options.repeats)]
        session.call("end")
    applies = [_apply(answer) for answer in answers]
    again = applies[1:]
    figures = {key: min(entry[key] for entry in again) for key in ("wall", "cpu", "beside_wall", "beside_cpu")}
    print(f"  {name}: {figures}", file=sys.stderr, flush=True)
    return {"open": opened, "applies": applies, **figures}


def _apply(answer: Answer) -> dict[str, Any]:
    done, stage = answer.result, answer.stages["apply"]
    network = done["network"]
    return {
        "wall": done["wall"],
        "engine": done["engine"],
        "network_wall": network["wall"],
        "beside_wall": done["wall"] - network["wall"],
        "cpu": stage.cpu,
        "beside_cpu": stage.cpu - network["cpu"],
        "gap": done["gap"],
        "where": done["where"],
        "busy": done["busy"],
        "busy_in": done["busy_in"],
        "peak": stage.rss_peak,
    }


def _row(name: str, one: dict[str, Any]) -> list[str]:
    applies = one["applies"]
    again = min(applies[1:], key=lambda entry: entry["beside_wall"])
    line = [
        again["wall"],
        again["network_wall"],
        again["beside_wall"],
        one["cpu"],
        one["beside_cpu"],
        applies[0]["wall"],
    ]
    cells = [number(value) for value in line]
    for key, place, figures in (
        ("gap", "where", (min, statistics.median, max)),
        ("busy", "busy_in", (statistics.median, max)),
    ):
        values = [1000 * entry[key] for entry in applies]
        worst = max(applies, key=lambda entry: entry[key])
        cells += [*(number(figure(values)) for figure in figures), f"`{worst[place]}`" if worst[place] else "-"]
    return [name, *cells, number(max(entry["peak"] for entry in applies) / GIB)]


def _computed(one: dict[str, Any], room: str) -> float:
    """Processor seconds of a room while the module opened."""
    return sum(step[room] for step in one["open"]["computed"].values())


def _steps(figures: dict[str, Any], room: str) -> str:
    steps = {name: [1000 * one["open"]["computed"][name][room] for one in figures.values()] for name in STEPS}
    return ", ".join(f"{words} {statistics.median(steps[name]):.0f} ms" for name, words in STEPS.items())


def _opening(figures: dict[str, Any], third: list[str]) -> str:
    took = [one["open"]["took"] for one in figures.values()]
    importing, building, entering = (
        1000 * min(one[key] for one in took) for key in ("import", "import and build", "enter")
    )
    return (
        f"Opening the module, CPU, median: this project's code {_steps(figures, 'ours')}; the host's imitation of Slicer and PythonQt "
        f"{_steps(figures, 'host')}. Whose it is tells the innermost frame of either, looked at every half millisecond; what Qt, VTK and the "
        "standard library do counts for whoever called them. The least by the clock, both together: "
        f"{importing:.0f} ms to import, {building:.0f} ms with building, {entering:.0f} ms to enter. Python's bytecode is there already, "
        f"as in every use but the first. Third-party packages imported by opening: {', '.join(third) or 'none'}. "
        "*Main thread away*: the longest time between two ticks of a loop that looks at Qt's events every 5 ms, over the Applies of a row; *busy*: the most it "
        "computed between two of them, which other work on the machine does not lengthen; *in*: what a watching thread saw it do. Memory that two processes share counts twice. Least of the later Applies where not said otherwise."
    )

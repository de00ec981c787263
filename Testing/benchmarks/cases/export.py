"""Export alone: logits on the network's grid to labels on the image's grid, ours beside nnU-Net's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from .. import inputs
from ..compare import agreement
from ..options import Options
from ..report import Target
from ..session import ContenderError, Session, Stage
from ..table import GIB, MIB, number

SHAPE, RESULT, SPACING, CLASSES = (200, 256, 256), (375, 480, 480), 0.8, 20
_NEEDED = {"nnU-Net, default": 9 * GIB, "nnU-Net, torch resampling": 16 * GIB}


def run(options: Options, folder: Path) -> dict[str, Any]:
    """Ours cold and warm, with numba and without, then nnU-Net's default and the one it advises."""
    logits = folder / "logits.npy"
    if not logits.exists():
        np.save(logits, make(inputs.labels(options.data("data", "ct_torso", "labels_3mm.nii.gz"))))
    rows, results, notes = [], {}, []
    ours = {"ours": None, "ours, without numba": False}
    for name, compiled in ours.items():
        with _session(name, "export_ours", None, options, folder) as session:
            session.call("load", logits=str(logits), threads=options.threads)
            for temper in ("first use", "warm"):
                out = folder / f"{name}.npy"
                stage = session.call("run", shape=RESULT, out=str(out), compiled=compiled).stages["export"]
                rows.append({"contender": f"{name}, {temper}", **_figures(stage)})
                results[f"{name}, {temper}"] = out
    for name, resampling in {"nnU-Net, default": "", "nnU-Net, torch resampling": "resample_torch_fornnunet"}.items():
        if options.nnunet_python is None:
            notes.append(f"{name}: not run, no interpreter with nnU-Net was given.")
            continue
        free = psutil.virtual_memory().available
        if free < _NEEDED[name]:
            notes.append(f"{name}: not run, it needs {_NEEDED[name] / GIB:.0f} GiB and {free / GIB:.0f} were free.")
            continue
        try:
            with _session(name, "export_nnunet", options.nnunet_python, options, folder) as session:
                session.call("load", logits=str(logits), threads=options.threads, resampling=resampling)
                out = folder / f"{name}.npy"
                stage = session.call("run", shape=RESULT, spacing=SPACING, out=str(out)).stages["export"]
            rows.append({"contender": name, **_figures(stage)})
            results[name] = out
        except ContenderError as error:
            notes.append(f"{name}: {str(error).splitlines()[0]}")
        print(f"  {name}: done", file=sys.stderr, flush=True)
    return _record(rows, results, notes)


def make(labels: np.ndarray) -> np.ndarray:
    """Smooth float16 logits (20, *SHAPE) from a real label map: its 19 largest structures, blurred, and a slow noise."""
    from scipy import ndimage

    index = [np.minimum((np.arange(n) + 0.5) * old / n, old - 1).astype(int) for n, old in zip(SHAPE, labels.shape)]
    scaled = labels[np.ix_(*index)]
    counts = np.bincount(labels.ravel())
    counts[0] = 0
    kept = [0, *np.argsort(-counts, kind="stable")[: CLASSES - 1]]
    random = np.random.default_rng(0)
    logits = np.empty((CLASSES, *SHAPE), np.float16)
    for number_, value in enumerate(kept):
        inside = (scaled == value) if number_ else ~np.isin(scaled, kept[1:])
        smooth = ndimage.gaussian_filter(inside.astype(np.float32), 1.5, truncate=3)
        coarse = random.standard_normal([n // 8 for n in SHAPE], np.float32)
        noise = ndimage.zoom(coarse, [n / m for n, m in zip(SHAPE, coarse.shape)], order=1)
        logits[number_] = 12 * smooth - 4 + 0.5 * noise
    return logits


def _session(name: str, module: str, python: str | None, options: Options, folder: Path) -> Session:
    interpreter = python or sys.executable
    return Session(name, f"benchmarks.contenders.{module}", interpreter, options.threads, folder / name)


def _figures(stage: Stage) -> dict[str, float]:
    return {"cpu": stage.cpu, "wall": stage.wall, "extra": stage.extra, "peak": stage.rss_peak}


def _record(rows: list[dict[str, Any]], results: dict[str, Path], notes: list[str]) -> dict[str, Any]:
    by_name = {row["contender"]: row for row in rows}
    peers = [name for name in ("nnU-Net, default", "nnU-Net, torch resampling") if name in results]
    found = []
    for name in ("ours, warm", "ours, without numba, warm"):
        found += [{"a": name, "b": peer, **agreement(np.load(results[name]), np.load(results[peer]))} for peer in peers]
    if len(peers) == 2:
        both = agreement(*(np.load(results[peer]) for peer in peers))
        found.append({"a": peers[1], "b": peers[0], **both})
    mine, theirs = by_name["ours, warm"], by_name.get("nnU-Net, default")
    times, memory = (theirs[key] / max(mine[key], 1e-9) if theirs else None for key in ("cpu", "extra"))
    different = next((1 - one["equal"] for one in found if one["b"] == "nnU-Net, default"), None)
    table = {
        "head": ["export", "CPU s", "wall s", "extra memory MiB", "peak GiB"],
        "rows": [
            [row["contender"], number(row["cpu"]), number(row["wall"])]
            + [number(row["extra"] / MIB), number(row["peak"] / GIB)]
            for row in rows
        ],
    }
    voxels = np.prod(RESULT) / 1e6
    return {
        "title": f"logits at 1.5 mm to labels at {SPACING} mm, {CLASSES} classes",
        "scale": f"{'x'.join(map(str, SHAPE))} to {'x'.join(map(str, RESULT))}, {voxels:.1f} M voxels",
        "figures": rows,
        "table": table,
        "agreement": found,
        "notes": [
            "Smooth logits made from a real label map. Extra memory is over what was resident with the logits loaded; the "
            "label map is part of it.",
            *notes,
        ],
        "targets": [
            Target.times("export, CPU time against nnU-Net's default", times, 30.0),
            Target.times("export, extra memory against nnU-Net's default", memory, 20.0),
            Target.at_most("export, voxels different from nnU-Net's default", different, 1e-5, "of them"),
        ],
    }

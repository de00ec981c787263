"""Contenders beside each other: each in its own process, the same inputs, in turns."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .options import Options
from .session import Answer, ContenderError, Session, interpreter


@dataclass(frozen=True)
class Image:
    """An input that every contender gets: a (C, I, J, K) array in a file, and where its voxels are (RAS mm)."""

    name: str
    path: Path
    affine: np.ndarray
    source: Path | None = None

    @property
    def spacing(self) -> list[float]:
        """Voxel size along i, j, k in mm."""
        return [float(s) for s in np.linalg.norm(self.affine[:3, :3], axis=0)]

    def arguments(self, wanted: str) -> dict[str, Any]:
        """What a contender's ``predict`` takes: ``affine``, ``spacing`` or ``file``."""
        if wanted == "file":
            return {"image": str(self.source)}
        place = {"affine": self.affine.tolist()} if wanted == "affine" else {"spacing": self.spacing}
        return {"image": str(self.path)} | place


@dataclass(frozen=True)
class Contender:
    """Who runs: the module of the measured process, its interpreter, what it loads, and how it takes an image."""

    name: str
    module: str
    load: dict[str, Any]
    takes: str = "affine"
    python: str | None = None
    do: str = "predict"
    first_use: bool = False
    warm: bool = True
    environment: dict[str, str] = field(default_factory=dict)


def ours(name: str, package: Path, options: Options, first_use: bool = True, **choices: Any) -> Contender:
    """This project's predictor on a package or trained-model folder."""
    load = {"package": str(package), "device": options.device, "threads": options.threads, **choices}
    return Contender(f"ours, {name}", "benchmarks.contenders.ours", load, first_use=first_use)


def nnunet(
    name: str, folder: Path, options: Options, mirror: bool, files: bool = False, exact: bool = False
) -> Contender:
    """The real nnU-Net on a trained-model folder; ``exact``, with float32 sums, runs for its labels, once."""
    load = {"folder": str(folder), "mirror": mirror, "device": options.device, "threads": options.threads}
    takes, do = ("file", "predict_file") if files else ("spacing", "predict")
    module = "benchmarks.contenders.nnunet"
    return Contender(f"nnU-Net, {name}", module, load | {"exact": exact}, takes, options.nnunet(), do, warm=not exact)


@dataclass
class Run:
    """What was measured of one contender."""

    contender: Contender
    loaded: Answer | None = None
    first_use: float | None = None
    spawn: float = 0.0
    cold: Answer | None = None
    warm: list[Answer] = field(default_factory=list)
    results: dict[str, Path] = field(default_factory=dict)
    error: str | None = None

    def row(self) -> dict[str, Any]:
        """A row of the table: seconds, bytes."""
        row: dict[str, Any] = {"contender": self.contender.name}
        if self.error is not None or self.cold is None or self.loaded is None:
            return row | {"error": self.error or "did not run"}
        cold = self.cold.stages["predict"]
        answers = [self.cold, *self.warm]
        parts = [answer.stages["predict"] for answer in answers]
        row |= {
            "cold_wall": self.spawn + self.loaded.stages["load"].wall + cold.wall,
            "cold_cpu": self.cold.cpu_since_start,
            "load_wall": self.loaded.stages["load"].wall,
            "peak_over_start": max(part.rss_peak for part in parts) - cold.rss_start,
            "peak": max(part.rss_peak for part in parts),
            "maxrss": answers[-1].peak,
            "runs": len(self.warm),
        }
        if self.first_use is not None:
            row["first_use_wall"] = self.first_use
        row |= self._warm()
        calls = [answer.result["network"]["calls"] for answer in self.warm or [self.cold]]
        row["network_calls"] = sum(calls) / len(calls)
        gpu = [answer.result["network"].get("gpu_peak", 0) for answer in answers]
        if any(gpu):
            row["gpu_peak"] = max(gpu)
        if provenance := answers[-1].result.get("provenance"):
            row["provenance"] = {k: provenance[k] for k in provenance if k not in ("time", "seconds", "software")}
        return row

    def _warm(self) -> dict[str, float]:
        """Mean over images of the least of each one's runs: other work on the machine only ever adds."""
        row = {}
        images = len(self.results) if self.warm else 1
        answers = self.warm or [self.cold]
        for kind in ("wall", "cpu"):
            whole = np.array([getattr(answer.stages["predict"], kind) for answer in answers])
            network = np.array([answer.result["network"][kind] for answer in answers])
            figures = {"warm": whole, "network": network, "rest": whole - network}
            if not network.any():  # timed on processors only
                del figures["network"], figures["rest"]
            row |= {f"{key}_{kind}": float(v.reshape(-1, images).min(axis=0).mean()) for key, v in figures.items()}
        return row


def race(
    contenders: list[Contender], images: list[Image], options: Options, folder: Path, repeats: int | None = None
) -> list[Run]:
    """Run every contender: cold on the first image, then warm on all of them in turns, ``repeats`` times.

    A contender that fails gets a row that says so; the others go on.
    """
    runs = [Run(contender) for contender in contenders]
    with ExitStack() as stack:
        sessions: dict[str, Session] = {}
        for run in runs:
            try:
                sessions[run.contender.name] = _start(run, images[0], options, folder, stack)
            except ContenderError as error:
                _fail(run, error, options)
        for number in range(options.repeats if repeats is None else repeats):
            for image in images:
                for run in runs[:: -1 if number % 2 else 1]:
                    if run.error is None and run.contender.warm:
                        try:
                            run.warm.append(_predict(sessions[run.contender.name], run, image, folder))
                        except ContenderError as error:
                            _fail(run, error, options)
    return runs


def _start(run: Run, image: Image, options: Options, folder: Path, stack: ExitStack) -> Session:
    """A session that has loaded its model and segmented its first image."""
    one = run.contender
    arguments = (one.name, one.module, interpreter(one.python), options.threads, folder, one.environment)
    if one.first_use:  # compiles and converts what later starts find in its cache
        with Session(*arguments) as session:
            loaded = session.call("load", **one.load)
            first = _predict(session, run, image, folder)
            run.first_use = session.spawn + loaded.stages["load"].wall + first.stages["predict"].wall
    session = stack.enter_context(Session(*arguments))
    run.spawn, run.loaded = session.spawn, session.call("load", **one.load)
    run.cold = _predict(session, run, image, folder)
    print(f"  {one.name}: cold {run.row()['cold_wall']:.1f} s", file=sys.stderr, flush=True)
    return session


def _predict(session: Session, run: Run, image: Image, folder: Path) -> Answer:
    out = folder / "results" / run.contender.name.replace(" ", "-") / image.name
    out.parent.mkdir(parents=True, exist_ok=True)
    run.results[image.name] = out.with_suffix(".npy") if run.contender.takes != "file" else out
    target = run.results[image.name] if run.contender.takes != "file" else out
    return session.call(run.contender.do, **image.arguments(run.contender.takes), out=str(target))


def _fail(run: Run, error: ContenderError, options: Options) -> None:
    run.error = str(error).splitlines()[0]
    for folder, word in ((options.shared, "SHARED"), (options.scratch, "FOLDER")):  # no paths of this machine
        run.error = run.error.replace(str(folder), word)
    print(f"  {error}", file=sys.stderr, flush=True)

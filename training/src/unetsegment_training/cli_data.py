"""``unetsegment-train inspect | plan | describe``: from data to plan, and networks as tables and pictures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from UNetSegmentLib import io
from UNetSegmentLib.errors import OutputError

from .dataset import DatasetError

SEVERITY = {"error": "red", "warning": "yellow", "note": "dim"}


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(inspect)
    app.command()(plan)
    app.command()(describe)


def inspect(
    dataset: Annotated[Path, typer.Argument(help="Decathlon or nnU-Net folder, or one of images and .seg.nrrd files")],
    out: Annotated[
        Path | None, typer.Option(help="folder for fingerprint.json and report.html; NAME-inspection by default")
    ] = None,
    notes: Annotated[bool, typer.Option("--notes", help="print notes too; the report has them in any case")] = False,
) -> None:
    """Look at every case: what the data are, and what is wrong with which case; exit code 1 if a case cannot be used."""
    from .data_pictures import strip
    from .data_report import write_report
    from .safely import replace_text

    folder = out or Path(f"{dataset.resolve().name}-inspection")
    _writable(folder / "report.html")
    strips: dict[str, bytes] = {}
    fingerprint = _look(dataset, lambda case, image, label: strips.update({case.name: strip(image, label)}))
    console = Console(highlight=False, soft_wrap=True)
    for finding in fingerprint.findings:
        if finding.severity != "note" or notes:
            console.print(f"{finding.severity}: {finding.text}", style=SEVERITY[finding.severity], markup=False)
    counts = {s: sum(f.severity == s for f in fingerprint.findings) for s in SEVERITY}
    _labels(fingerprint)
    replace_text(folder / "fingerprint.json", fingerprint.model_dump_json(indent=1))
    write_report(fingerprint, strips, folder / "report.html")
    told = ", ".join(f"{n} {word}{'s' if n != 1 else ''}" for word, n in counts.items())
    print(f"{fingerprint.name}: {len(fingerprint.cases)} usable cases; {told}")
    print(f"wrote {folder / 'fingerprint.json'} and {folder / 'report.html'}")
    if counts["error"]:
        raise typer.Exit(1)


def plan(
    source: Annotated[Path, typer.Argument(help="dataset folder, or fingerprint.json of 'inspect'")],
    memory: Annotated[str, typer.Option(help="memory for a training step, e.g. 8GB or 800MB")] = "8GB",
    device: Annotated[str, typer.Option(help="cuda or cpu: whose memory it is")] = "cuda",
    out: Annotated[Path, typer.Option(help="file to write")] = Path("plan.json"),
) -> None:
    """Choose spacing, patch, batch, depth, kernels and normalisation by nnU-Net's rules within a memory budget."""
    from .fingerprint import Fingerprint
    from .planning import Budget, make_plan
    from .safely import replace_text

    _writable(out)
    budget = Budget(gigabytes(memory), device)  # type: ignore[arg-type]
    fingerprint = Fingerprint.load(source) if source.is_file() else _look(source)
    made = make_plan(fingerprint, budget)
    table = Table("", *made.configurations, title=f"{made.dataset}, {made.cases} cases, {memory} ({device})")
    x = " x ".join
    rows: dict[str, Any] = {
        "spacing (mm)": lambda c: x(f"{v:.4g}" for v in c.spacing),
        "median image (voxels)": lambda c: x(f"{v:g}" for v in c.median_shape),
        "patch (voxels)": lambda c: x(map(str, c.patch)),
        "axes": lambda c: " ".join(c.axes),
        "batch": lambda c: str(c.batch),
        "stages": lambda c: str(len(c.filters)),
        "features": lambda c: ", ".join(map(str, c.filters)),
        "strides": lambda c: ", ".join(x(map(str, row)) for row in c.strides),
        "kernels": lambda c: ", ".join(x(map(str, row)) for row in c.kernels),
        "memory of a step (GB, estimate)": lambda c: f"{c.step_gigabytes:.2f}",
    }
    for name, tell in rows.items():
        table.add_row(name, *(tell(c) for c in made.configurations.values()))
    console = Console(width=110, highlight=False)
    console.print(table)
    for row in made.normalization:
        console.print(
            f"normalisation of {row.channel}: {row.method}{', of voxels that are not zero' * row.nonzero_only}"
        )
    for name, chosen in made.configurations.items():
        if len(chosen.filters) < 3:
            text = f"{name} has {len(chosen.filters)} stages: its patches are small; 'fit' needs three stages or more."
            console.print(text, style="yellow", markup=False)
    replace_text(out, made.model_dump_json(indent=1))
    print(f"wrote {out}")


def describe(
    network: Annotated[str, typer.Argument(help="a network's name, plan.json, a run folder or a model package")],
    patch: Annotated[str | None, typer.Option(help="image size in voxels, e.g. 128,128,128")] = None,
    configuration: Annotated[str | None, typer.Option(help="of a plan: 3d_fullres, 2d or 3d_lowres")] = None,
    channels: Annotated[int | None, typer.Option(help="image channels", min=1)] = None,
    classes: Annotated[int | None, typer.Option(help="classes, background included", min=1)] = None,
    out: Annotated[Path | None, typer.Option(help="folder for NAME.svg, NAME.png and NAME.json")] = None,
    layers: Annotated[bool, typer.Option("--layers", help="also a row per layer with the formula of its size")] = False,
) -> None:
    """Draw a network as the U it is, and count: sizes, channels, receptive field, parameters, memory, operations."""
    from .describe import describe as run
    from .describe import print_description, save

    size = tuple(numbers(patch)) if patch else None
    if out is not None:
        _writable(out / "x")
    told = run(network, size, configuration, channels, classes)
    print_description(told, Console(width=130, highlight=False), layers)
    if out is not None:
        for path in save(told, out):
            print(f"wrote {path}")


def _look(dataset: Path, each: Any = None) -> Any:
    from .dataset import list_cases
    from .fingerprint import take

    listed, problems = list_cases(dataset)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading cases", total=len(listed.cases))
        return take(listed, problems, each, lambda done, total: bar.update(task, completed=done))


def _writable(path: Path) -> None:
    """Find out before the work whether a file can be written, and make its folder.

    Raises:
        OutputError: It cannot.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"The folder '{path.parent}' cannot be made ({error.strerror}); choose another one."
        ) from None
    io.check_writable(path)


def _labels(fingerprint: Any) -> None:
    from .data_report import label_rows

    table = Table("label", "value", "cases", "median ml", "smallest ml", "largest ml", "share")
    for row in label_rows(fingerprint):
        table.add_row(*(str(row[key]) for key in ("name", "value", "cases", "median", "low", "high", "share")))
    Console(width=100).print(table)


def gigabytes(text: str) -> float:
    """``8GB``, ``8`` or ``800MB`` in gigabytes.

    Raises:
        DatasetError: It is no amount of memory.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(g|m|t)?i?b?\s*", text, re.IGNORECASE)
    if not match:
        raise DatasetError(f"'{text}' is no amount of memory; write 8GB, for example.")
    return float(match[1]) * {"m": 1e-3, "g": 1.0, "t": 1e3}[(match[2] or "g").lower()]


def numbers(text: str) -> list[int]:
    """``40,56,40`` or ``40x56x40`` as numbers.

    Raises:
        DatasetError: It is something else.
    """
    try:
        found = [int(part) for part in re.split(r"[x,]", text)]
    except ValueError:
        found = []
    if len(found) not in (2, 3) or min(found) < 1:
        raise DatasetError(f"'{text}' is no image size; write 40,56,40, for example.")
    return found

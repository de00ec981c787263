"""``unetsegment-train inspect | plan | describe | fit | cross-validate | choose | evaluate | compare | pack | ...``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console
from rich.table import Table
from UNetSegmentLib import package
from UNetSegmentLib.errors import UNetSegmentError
from UNetSegmentLib.package import schema, thumbnail

from . import asked, cli_data, processes
from .dataset import DatasetError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Train U-Nets, measure them, pack them for UNetSegment."
)
Folder = Annotated[Path, typer.Argument(help="dataset folder: dataset.json, imagesTr, labelsTr")]
Run = Annotated[Path, typer.Argument(help="run folder; made if it is not there, continued if it is")]

cli_data.register(app)


@app.callback()
def _app() -> None:
    """Train U-Nets, measure them, pack them for UNetSegment."""


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        raise DatasetError(f"'{text}' are no whole numbers; write them with commas, as in 40,56,40.") from None


@app.command()
def fit(
    dataset: Folder,
    run: Run,
    config: Annotated[Optional[Path], typer.Option(help="TOML file of settings; options here win over it")] = None,
    plan: Annotated[Optional[Path], typer.Option(help="plan.json; settings that it decides lose to --config")] = None,
    configuration: Annotated[Optional[str], typer.Option(help="which of the plan: 3d_fullres, 2d, ...")] = None,
    set_: Annotated[
        Optional[list[str]], typer.Option("--set", help="any setting as key=value; see 'unetsegment-train settings'")
    ] = None,
    fold: Annotated[Optional[int], typer.Option(help="fold that validates, 0 to 4; -1 trains on all cases")] = None,
    epochs: Annotated[Optional[int], typer.Option(help="passes over the training cases")] = None,
    network: Annotated[Optional[str], typer.Option(help="which network")] = None,
    filters: Annotated[Optional[str], typer.Option(help="feature maps per stage, e.g. 16,32,64,128")] = None,
    patch: Annotated[Optional[str], typer.Option(help="patch size in voxels, e.g. 40,56,40")] = None,
    batch: Annotated[Optional[int], typer.Option(help="patches per step")] = None,
    loss: Annotated[Optional[str], typer.Option(help="which loss")] = None,
    learning_rate: Annotated[Optional[float], typer.Option(help="peak learning rate")] = None,
    validate_every: Annotated[Optional[int], typer.Option(help="epochs between validations")] = None,
    seed: Annotated[Optional[int], typer.Option(help="of weights, order and augmentation")] = None,
    from_: Annotated[
        Optional[str], typer.Option("--from", help="model to train on: a package folder or an installed model's name")
    ] = None,
    label: Annotated[
        Optional[list[str]], typer.Option(help="with --from: NAME=STRUCTURE of the model, or NAME=+ for a new one")
    ] = None,
    rehearse: Annotated[
        Optional[Path], typer.Option(help="with --from: dataset of old cases to train on as well")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or gpu")] = "auto",
    devices: Annotated[
        Optional[int], typer.Option(help="GPUs, or processes on a processor, of each node; torchrun and srun say it")
    ] = None,
    nodes: Annotated[Optional[int], typer.Option(help="computers; torchrun and srun say it")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="leave faulty cases out and report them")] = False,
) -> None:
    """Train a model; run the same command again to go on after an interruption."""
    from .fit import fit as run_fit

    options: dict[str, Any] = {
        "fold": fold, "epochs": epochs, "network": network, "filters": filters and _numbers(filters),
        "patch": patch and _numbers(patch), "batch": batch, "loss": loss, "learning_rate": learning_rate,
        "validate_every": validate_every, "seed": seed, "same_labels": label and tuple(label),
    }  # fmt: skip
    layout = processes.Layout.of(devices, nodes)
    data, settings, start = asked.training(
        dataset, skip_bad, config, plan, configuration, set_, options, from_, rehearse
    )
    weights = run_fit(data, run, settings, device, start, layout)
    if processes.first():
        print(f"wrote {weights}")


@app.command("cross-validate")
def cross_validate(
    dataset: Folder,
    runs: Annotated[Path, typer.Argument(help="folder of the runs fold_0, fold_1, ...; made or continued")],
    config: Annotated[Optional[Path], typer.Option(help="TOML file of settings, as for 'fit'")] = None,
    plan: Annotated[Optional[Path], typer.Option(help="plan.json, as for 'fit'")] = None,
    configuration: Annotated[Optional[str], typer.Option(help="which of the plan: 3d_fullres, 2d, ...")] = None,
    set_: Annotated[Optional[list[str]], typer.Option("--set", help="any setting as key=value")] = None,
    folds: Annotated[Optional[str], typer.Option(help="folds to train now, e.g. 0,1; by default all")] = None,
    epochs: Annotated[Optional[int], typer.Option(help="passes over the training cases, for each fold")] = None,
    from_: Annotated[
        Optional[str],
        typer.Option("--from", help="model that every fold starts from, as for 'fit'; it must not know the cases"),
    ] = None,
    label: Annotated[Optional[list[str]], typer.Option(help="with --from, as for 'fit'")] = None,
    rehearse: Annotated[Optional[Path], typer.Option(help="with --from, as for 'fit'")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or gpu, for training")] = "auto",
    backend: Annotated[str, typer.Option(help="auto, openvino or torch, for the answers")] = "auto",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="leave faulty cases out and report them")] = False,
) -> None:
    """Train the folds one after another, let each answer the cases it did not see, evaluate and decide on these answers.

    What is finished is skipped: run the same command again after an interruption, or with other --folds elsewhere."""
    from .crossval import cross_validate as run_cross_validate

    chosen = None if folds is None else _numbers(folds)
    options = {"epochs": epochs, "same_labels": label and tuple(label)}
    data, settings, start = asked.training(
        dataset, skip_bad, config, plan, configuration, set_, options, from_, rehearse
    )
    told = run_cross_validate(data, runs, settings, chosen, device, backend, start)
    _print_summary(told["summary"])
    print(*told["told"], sep="\n")
    print(f"{told['measured_on']}, {told['cases']} cases; wrote {runs / 'evaluation' / 'report.html'}")


@app.command()
def choose(
    folders: Annotated[
        list[Path], typer.Argument(help="folders of 'cross-validate', the simplest configuration first")
    ],
    out: Annotated[Path, typer.Option(help="folder for decisions.json")],
    ensembles: Annotated[
        Optional[Path],
        typer.Option(help="dataset folder: also measure the mean of each two, which no package can hold"),
    ] = None,
    backend: Annotated[str, typer.Option(help="auto, openvino or torch, for these")] = "auto",
) -> None:
    """Say which of several cross-validated configurations is best, and whether its lead is more than chance."""
    from .choose import choose as run_choose

    data = None if ensembles is None else asked.cases(ensembles, False, None, -1)[0]
    told = run_choose(folders, out, data, backend)
    labels = list(told["candidates"][0]["labels"])
    table = Table("folder", "mean Dice", *labels)
    for entry in told["candidates"] + told["means"]:
        table.add_row(entry["folder"], f"{entry['dice']:.4f}", *(f"{entry['labels'][name]:.4f}" for name in labels))
    Console(width=100).print(table)
    print(told["why"])
    print(f"best: {told['chosen']}")


@app.command()
def settings() -> None:
    """Print every setting of 'fit' with its meaning and default, as Markdown (docs/configuration.md)."""
    from .settings import page

    print(page(), end="")


def _print_summary(summary: list[dict[str, Any]]) -> None:
    table = Table("label", "cases", "Dice", "95 % interval", "IoU", "HD95 mm", "surface Dice")
    for row in summary:
        interval = "{:.4f} to {:.4f}".format(*row["dice_ci95"]) if row["dice_ci95"] else ""
        distance = "" if row["hd95_mm"] is None else f"{row['hd95_mm']:.2f}"
        numbers = (f"{row['dice']:.4f}", interval, f"{row['iou']:.4f}", distance)
        table.add_row(str(row["name"]), str(row["cases"]), *numbers, f"{row['surface_dice']:.4f}")
    Console(width=100).print(table)


@app.command()
def evaluate(
    dataset: Folder,
    model: Annotated[str, typer.Argument(help="package folder, or name of an installed model")],
    output: Annotated[Path, typer.Argument(help="folder for report.html, cases.csv, cases.json, summary.json")],
    run: Annotated[Optional[Path], typer.Option(help="run folder: take only its validation cases")] = None,
    fold: Annotated[
        Optional[int],
        typer.Option(help="fold of that run, which says it itself; -1: all cases, also those it trained on"),
    ] = None,
    previous: Annotated[Optional[Path], typer.Option(help="earlier evaluation to compare with in the report")] = None,
    backend: Annotated[str, typer.Option(help="auto, openvino or torch")] = "auto",
    mirror: Annotated[
        bool, typer.Option("--mirror", help="average mirrored copies, as the panel's switch does")
    ] = False,
    folds: Annotated[str, typer.Option(help="which of the model's networks answer: all, first, or e.g. 0,2")] = "all",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="leave faulty cases out and report them")] = False,
) -> None:
    """Measure a model with the predictor that runs in Slicer: a report, and metrics per case and label as CSV and JSON."""
    from .compare import rows
    from .evaluate import evaluate as run_evaluate
    from .parent import by_name

    chosen = package.from_shell(model)
    if previous is not None:
        rows(previous)  # before the work
    data, cases = asked.cases(dataset, skip_bad, run, fold)
    if run is None:
        manifest = package.load(chosen).manifest
        matched = by_name(data, manifest)
        cases = list(matched.cases)
        if matched is data:
            names = {label.value: label.name for label in manifest.segments}
            pairs = (f"'{name}' with '{names.get(value, 'nothing')}'" for value, name in data.labels.items() if value)
            told = f"labels have other names than the model's and are compared by value: {', '.join(pairs)}"
            Console(stderr=True).print(told, style="yellow", highlight=False, markup=False, soft_wrap=True)
    unseen = run is not None and (fold is None or fold >= 0)
    known = {"seen": f"They validated the run '{run.name}', which was not trained on them."} if unseen and run else {}
    _print_summary(run_evaluate(cases, chosen, output, backend, run, previous, mirror, folds, **known))
    print(f"wrote {output / 'report.html'}")


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="folder that 'evaluate' wrote")],
    second: Annotated[Path, typer.Argument(help="another one, of the same cases")],
    metric: Annotated[str, typer.Option(help="dice, iou, hd95_mm, surface_dice, ...")] = "dice",
    out: Annotated[Optional[Path], typer.Option(help="JSON file to write")] = None,
) -> None:
    """Compare two models on the same cases, paired, and say whether the difference is more than chance."""
    from .compare import compare as run_compare
    from .compare import write

    told, odd = run_compare(first, second, metric)
    table = Table("structure", "cases", "first", "second", "difference", "95 % interval", "p (Holm)", "better/worse")
    for row in told:
        numbers = (f"{row.first:.4f}", f"{row.second:.4f}", f"{row.difference:+.4f}")
        interval = "{:+.4f} to {:+.4f}".format(*row.interval)
        table.add_row(row.label, str(row.cases), *numbers, interval, f"{row.p_holm:.3g}", f"{row.better}/{row.worse}")
    console = Console(width=120, highlight=False)
    console.print(table)
    for row in told:
        console.print(f"{row.label}: {row.verdict}.")
    if odd:
        console.print(f"Left out, as one folder alone has them: {', '.join(odd[:5])}{' ...' * (len(odd) > 5)}")
    if out is not None:
        write(out, told, first, second, metric)


@app.command()
def pack(
    dataset: Folder,
    runs: Annotated[
        list[Path], typer.Argument(help="finished run folder; several, or a folder of 'cross-validate', are averaged")
    ],
    output: Annotated[Path, typer.Argument(help="package folder to write")],
    card: Annotated[
        Optional[Path],
        typer.Option(
            help="JSON with name, title, version, licence, intended use, ...; what a run has by --from may stay out"
        ),
    ] = None,
    cross_validated: Annotated[
        Optional[Path],
        typer.Option(
            help="folder of 'cross-validate' with the settings of a run on all cases, which takes its figures"
        ),
    ] = None,
    snapshot: Annotated[
        bool, typer.Option("--snapshot", help="pack the last finished epoch of runs still going")
    ] = False,
    terminology: Annotated[
        Optional[Path], typer.Option(help="table of codes in Slicer's JSON format; by default Slicer's general anatomy")
    ] = None,
    picture: Annotated[
        Optional[Path],
        typer.Option("--thumbnail", help="small PNG of what it finds, as 'unetsegment segment' draws it"),
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="leave faulty cases out and report them")] = False,
) -> None:
    """Pack runs as a model: measured on cases it has not seen, written as a bundle, proven on every backend.

    Several runs are averaged; folds of one cross-validation bring its figures and what it decided."""
    from .measured import pack_measured, runs_of

    shown = None if picture is None else thumbnail.read(picture)
    places = runs_of(runs)
    if card is None and not (places[0] / "parent.json").exists():
        raise typer.BadParameter("--card is needed: JSON with name, title, version, licence, intended use, ...")
    entries = {} if card is None else schema.load_json(card)
    data, _ = asked.cases(dataset, skip_bad, places[0], -1)
    packed, summary = pack_measured(places, data, output, entries, snapshot, terminology, cross_validated)
    if shown is not None:
        thumbnail.put(packed.root, shown)
    if summary:
        _print_summary(summary)
    for label in packed.manifest.segments:
        codes = label.terminology
        parts = [code for code in (codes.type, codes.modifier) if code] if codes else []
        told = ", ".join(f"{code.meaning} ({code.scheme} {code.value})" for code in parts)
        print(f"terminology of '{label.name}': {told or 'none; the table has no such name, give codes in the card'}")
    for origin in packed.manifest.raw.get("ancestors", [])[:1]:
        if (theirs := origin["licence"]["name"]) != packed.manifest.licence:
            print(
                f"licence: {packed.manifest.licence}, but {origin['name']} is under {theirs}; check that it permits this"
            )
    size = sum(p.stat().st_size for p in packed.root.rglob("*") if p.is_file())
    print(f"wrote {output} ({size / 1e6:.1f} MB)")


@app.command()
def publish(
    model: Annotated[str, typer.Argument(help="package folder, or name of an installed model")],
    folder: Annotated[Path, typer.Argument(help="folder that a web server serves; made if it is not there")],
    url: Annotated[Optional[str], typer.Option(help="address of that folder; by default http://localhost:8000")] = None,
    catalog: Annotated[Optional[Path], typer.Option(help="catalog to extend; by default FOLDER/catalog.json")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="also if this version was published before")] = False,
) -> None:
    """Put a package into a folder for a web server: a zip, its SHA-256, and an entry in a catalog that the module reads."""
    from .publish import LOCAL
    from .publish import publish as run_publish

    done = run_publish(package.from_shell(model), folder, url or LOCAL, catalog, replace)
    print(f"wrote {done.zipped} ({done.entry['size'] / 1e6:.1f} MB, SHA-256 {done.sha256})")
    print(f"wrote {done.catalog}; its entry says {done.entry['download']['url']}")


def main(arguments: Optional[list[str]] = None) -> int:
    """Run the command line; an error is one line and exit code 1."""
    try:
        result = app(args=arguments, standalone_mode=False)
        return int(result or 0)
    except UNetSegmentError as error:
        if processes.first():
            print(f"unetsegment-train: {error}", file=sys.stderr)
    except OSError as error:
        told = f"'{error.filename}' cannot be used ({error.strerror})." if error.filename else str(error)
        print(f"unetsegment-train: {told}", file=sys.stderr)
    except ValueError as error:
        print(f"unetsegment-train: {error}", file=sys.stderr)
    except typer.Exit as stop:
        return stop.exit_code
    except (typer.Abort, KeyboardInterrupt):
        print("unetsegment-train: stopped; run the same command again to go on.", file=sys.stderr)
        return 130
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        print(f"unetsegment-train: {error.format_message()}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())

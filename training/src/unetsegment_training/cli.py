"""``unetsegment-train fit | evaluate | pack``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console
from UNetSegmentLib.errors import UNetSegmentError

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Train U-Nets, measure them, pack them for UNetSegment.")
Folder = Annotated[Path, typer.Argument(help="dataset folder: dataset.json, imagesTr, labelsTr")]
Run = Annotated[Path, typer.Argument(help="run folder; made if it is not there, continued if it is")]


@app.callback()
def _app() -> None:
    """Train U-Nets, measure them, pack them for UNetSegment."""


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.replace("x", ",").split(","))


@app.command()
def fit(
    dataset: Folder,
    run: Run,
    fold: Annotated[int, typer.Option(help="fold that validates, 0 to 4; -1 trains on all cases")] = 0,
    epochs: Annotated[int, typer.Option(help="passes over the training cases")] = 100,
    filters: Annotated[str, typer.Option(help="feature maps per stage")] = "16,32,64,128",
    patch: Annotated[str, typer.Option(help="patch size in voxels")] = "40,56,40",
    batch: Annotated[int, typer.Option(help="patches per step")] = 4,
    learning_rate: Annotated[float, typer.Option(help="peak learning rate")] = 2e-3,
    validate_every: Annotated[int, typer.Option(help="epochs between validations")] = 10,
    seed: Annotated[int, typer.Option(help="of weights, order and augmentation")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or gpu")] = "auto",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="leave faulty cases out and report them")] = False,
) -> None:
    """Train a model; run the same command again to go on after an interruption."""
    from .config import FitConfig
    from .dataset import read_dataset
    from .fit import fit as run_fit

    config = FitConfig(
        fold=fold, epochs=epochs, filters=_numbers(filters), patch=_numbers(patch), batch=batch,  # type: ignore[arg-type]
        learning_rate=learning_rate, validate_every=validate_every, seed=seed,
    )  # fmt: skip
    data, problems = read_dataset(dataset, skip_bad)
    for problem in problems:
        Console(stderr=True).print(f"left out: {problem}", style="yellow", highlight=False)
    print(f"wrote {run_fit(data, run, config, device)}")


def main(arguments: Optional[list[str]] = None) -> int:
    """Run the command line; an error is one line and exit code 1."""
    try:
        result = app(args=arguments, standalone_mode=False)
        return int(result or 0)
    except UNetSegmentError as error:
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

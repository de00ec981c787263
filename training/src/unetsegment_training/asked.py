"""What the options of a command ask for: datasets, cases, settings, and the model to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from UNetSegmentLib import package

from . import processes
from .dataset import DatasetError, read_dataset


def training(
    dataset: Path,
    skip_bad: bool,
    config: Path | None,
    plan: Path | None,
    configuration: str | None,
    set_: list[str] | None,
    options: dict[str, Any],
    model: str | None,
    rehearse: Path | None,
) -> tuple[Any, Any, Any]:
    """Dataset, settings and what to start from, as the options of 'fit' and 'cross-validate' ask for them.

    Raises:
        typer.BadParameter: Options that do not go together.
        UNetSegmentError: What they name cannot be used.
    """
    from .config import FitConfig, parse_setting
    from .finetune import begin, defaults
    from .parent import Parent
    from .plan_file import Plan

    if model is None and (options["same_labels"] or rehearse):
        raise typer.BadParameter("--label and --rehearse belong to --from MODEL")
    options = {key: value for key, value in options.items() if value is not None}
    if plan is None and configuration is not None:
        raise typer.BadParameter("--configuration belongs to --plan FILE")
    made = None if plan is None else Plan.load(plan)
    planned = {} if made is None else FitConfig.of_plan(made, configuration)
    parent = None if model is None else Parent.open(package.from_shell(model))
    if parent is not None:
        planned |= defaults(parent, options)
    settings = FitConfig.read(config, dict(map(parse_setting, set_ or ())) | options, **planned)
    data = cases(dataset, skip_bad, None, -1)[0]
    if made is not None:
        made.check(data)
    if parent is None:
        return data, settings, None
    old = None if rehearse is None else cases(rehearse, skip_bad, None, -1)[0]
    data, start = begin(parent, data, settings, old)
    return data, settings, start


def cases(dataset: Path, skip_bad: bool, run: Path | None, fold: int | None) -> tuple[Any, list[Any]]:
    """The dataset, and its cases: all, or with a run folder those that validate it; all of them too where ``fold`` is -1.

    Raises:
        DatasetError: The dataset has faults, or the run was not trained as ``fold`` says.
    """
    from .config import FitConfig
    from .finetune import seen_by
    from .split import stored_split

    own = None if run is None or (fold is not None and fold < 0) else FitConfig.load(run / "config.json").fold
    if own is not None and own < 0:
        raise DatasetError(f"'{run}' trained on every case; measure it on others, without --run.")
    if own is not None and fold not in (None, own):
        raise DatasetError(f"'{run}' trained on the cases of fold {fold}; those that it has not seen are fold {own}.")
    data, problems = read_dataset(dataset, skip_bad)
    for problem in problems if processes.first() else ():
        Console(stderr=True).print(f"left out: {problem}", style="yellow", highlight=False)
    if run is not None:
        data = seen_by(run, data)
    if own is None:
        return data, list(data.cases)
    names = stored_split(run / "split.json", [case.name for case in data.cases], own)[own]["val"]
    return data, [case for case in data.cases if case.name in names]

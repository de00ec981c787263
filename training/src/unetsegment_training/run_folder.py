"""What a folder may hold before a run goes there, and what it says of the run: read with care, as people edit files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .config import FitConfig
from .dataset import Dataset, DatasetError


def check(run: Path, dataset: Dataset) -> None:
    """See that a run may go to a folder: a new one, a run's own, or one whose files it leaves alone.

    Raises:
        DatasetError: It is a file, the dataset, or has files of the names that a run writes, but of something else.
    """
    if run.exists() and not run.is_dir():
        raise DatasetError(f"'{run}' is a file; give a folder for the run.")
    place, data = run.resolve(), dataset.root.resolve()
    if place == data or (run / "dataset.json").exists():
        raise DatasetError(f"'{run}' holds a dataset; give another folder for the run.")
    if data in place.parents and any(case.values is not None for case in dataset.cases):
        raise DatasetError(
            f"'{run}' lies in the dataset '{dataset.root}', where its answers would be taken for cases; give a folder elsewhere."
        )
    if (run / "config.json").exists():
        FitConfig.load(run / "config.json")
        return
    odd = [name for name in ("manifest.json", "weights.pt", "checkpoints") if (run / name).exists()]
    if odd:
        raise DatasetError(f"'{run}' has '{odd[0]}' but no run of this program; give another folder for the run.")


def stored(path: Path) -> Any:
    """The content of a JSON file of a run.

    Raises:
        DatasetError: It is damaged or cannot be read.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise DatasetError(f"'{path}' cannot be read ({error.strerror}).") from None
    except ValueError as error:
        raise DatasetError(f"'{path}' is damaged ({error}); put a copy of it back, or use a new run folder.") from None


def folds_of(path: Path) -> list[dict[str, list[str]]]:
    """The folds in a ``split.json``.

    Raises:
        DatasetError: It is none, or a case trains and validates in one fold.
    """
    split = stored(path)
    fine = isinstance(split, list) and split
    for fold in split if fine else ():
        parts = [fold.get(name) for name in ("train", "val")] if isinstance(fold, dict) else [None]
        fine = fine and all(isinstance(part, list) and all(isinstance(x, str) for x in part) for part in parts)
    if not fine or not all(fold["train"] for fold in split):
        raise DatasetError(
            f"'{path}' is not a list of folds, each with the names of its cases under 'train' and 'val'; correct or remove it."
        )
    for number, fold in enumerate(split):
        if both := sorted(set(fold["train"]) & set(fold["val"])):
            raise DatasetError(
                f"Fold {number} of '{path}' both trains and validates on case '{both[0]}'; correct the file."
            )
    return split

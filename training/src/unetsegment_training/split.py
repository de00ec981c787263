"""Which cases validate which model: five folds, made once and stored."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from sklearn.model_selection import KFold

from . import processes
from .dataset import DatasetError
from .run_folder import folds_of
from .safely import replace_text

SEED = 12345
"""nnU-Net's, so that with the same cases the folds are the same."""


def five_folds(names: Sequence[str], folds: int = 5) -> list[dict[str, list[str]]]:
    """``[{"train": [...], "val": [...]}, ...]``: shuffled k-fold cross-validation over sorted case names."""
    names = sorted(names)
    if len(names) < folds:
        raise DatasetError(
            f"{folds} folds need at least {folds} cases; the dataset has {len(names)}. Train on all of them with 'fit --fold -1'."
        )
    parts = KFold(folds, shuffle=True, random_state=SEED).split(names)
    return [{"train": [names[i] for i in train], "val": [names[i] for i in val]} for train, val in parts]


def stored_split(path: Path, names: Sequence[str], fold: int = 0) -> list[dict[str, list[str]]]:
    """The split in ``path``, made and written there the first time; all cases train where they are few and ``fold`` is -1.

    Raises:
        DatasetError: The stored split is none, names other cases than the dataset has now, lacks the fold, or trains on a case
            that validates.
    """
    if path.exists():
        split = folds_of(path)
    else:
        few = fold < 0 and len(names) < 5
        split = [{"train": sorted(names), "val": []}] if few else five_folds(names)
        if processes.first():
            replace_text(path, json.dumps(split, indent=1))
    stored = {name for fold in split for part in fold.values() for name in part}
    if stored != set(names):
        odd = sorted(stored ^ set(names))[0]
        raise DatasetError(f"The dataset changed since '{path}' was made (case '{odd}'); use a new run folder.")
    if fold >= len(split):
        raise DatasetError(f"There is no fold {fold}; '{path}' has folds 0 to {len(split) - 1}.")
    return split

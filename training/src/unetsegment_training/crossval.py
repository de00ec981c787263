"""Cross-validation: every case is answered by the one network that did not train on it; what is decided rests on that.

A folder ``RUNS`` holds what the folds share (``config.json``, ``split.json``, ``manifest.json``), an ordinary run folder per
fold with its ``answers``, one ``evaluation`` over all answers, and ``decisions.json``.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track
from UNetSegmentLib import io, package
from UNetSegmentLib.package import Manifest
from UNetSegmentLib.package.hashes import sha256
from UNetSegmentLib.package.manifest import MANIFEST_PATH
from UNetSegmentLib.predict import Predictor
from UNetSegmentLib.predict.postprocess import postprocess

from .averaged import mean_answer
from .components import sentences, try_components
from .config import FitConfig
from .dataset import Case, Dataset, DatasetError
from .evaluate import Answer, answer, write_evaluation
from .finetune import Start
from .fit import fit
from .network import PACKAGE
from .pack import one_kind, write_files
from .plan import draft_manifest
from .run_folder import check, stored
from .safely import replace_text
from .split import stored_split

DECISIONS = "decisions.json"


@dataclass(frozen=True)
class Fold:
    """A finished fold of a cross-validation.

    Args:
        number: Which.
        run: Folder with its answers.
        cases: Names of the cases that validate it.
        networks: Run folders whose probabilities are averaged: ``run`` alone, but for :func:`validate_mean`.
    """

    number: int
    run: Path
    cases: tuple[str, ...]
    networks: tuple[Path, ...]

    @property
    def weights(self) -> str:
        """SHA-256 of the networks' weights."""
        return " ".join(sha256(network / "weights.pt") for network in self.networks)


def cross_validate(
    dataset: Dataset,
    runs: Path,
    config: FitConfig,
    folds: Sequence[int] | None = None,
    device: str = "auto",
    backend: str = "auto",
    start: Start | None = None,
) -> dict[str, Any]:
    """Train folds, answer their validation cases, and write one evaluation and the decisions over all folds that are there.

    What is finished is skipped, so the same call goes on after an interruption, and several machines may take some folds
    each; the last one, or a call with all folds, finds them all.

    Args:
        dataset: Images and labels; with ``start``, matched to its model.
        runs: Folder of the cross-validation; ``fold_0``, ``fold_1`` ... in it are run folders of :func:`fit.fit`.
        config: Settings of every fold; ``fold`` counts for nothing.
        folds: To train now; all of the split by default.
        device: ``auto``, ``cpu`` or ``gpu``, for training.
        backend: As in :class:`UNetSegmentLib.predict.Predictor`, for the answers.
        start: The model that every fold starts from. What it was trained on it has seen: cases that were among that are no
            validation cases, and nothing here can tell.

    Returns:
        What ``decisions.json`` holds.

    Raises:
        DatasetError: There is no such fold, the folder belongs to other settings or cases, or a network would answer a
            case that it trained on.
    """
    check(runs, dataset)
    shared = _share(dataset, runs, config, start)
    count = len(stored_split(runs / "split.json", [case.name for case in dataset.cases]))
    for fold in range(count) if folds is None else folds:
        if not 0 <= fold < count:
            raise DatasetError(f"There is no fold {fold}; '{runs / 'split.json'}' has folds 0 to {count - 1}.")
        _train(dataset, runs, shared.changed(fold=fold), device, start)
        _answer(dataset, _fold(runs, fold), backend)
    found = finished(runs)
    for fold in found:
        _answer(dataset, fold, backend)
    return _decide(dataset, runs, found, count)


def _share(dataset: Dataset, runs: Path, config: FitConfig, start: Start | None) -> FitConfig:
    """Settings for all folds: where they leave spacing and slice axis open, those of all cases, as each fold has others.
    A model to start from decides them.

    nnU-Net's plan, too, is made from all cases; nothing else than sizes and spacings goes into it.
    """
    path = runs / "manifest.json"
    stored_split(runs / "split.json", [case.name for case in dataset.cases])
    if path.exists():
        draft = Manifest.from_dict(stored(path))
    else:
        draft = (start.manifest if start else draft_manifest)(dataset, config, dataset.cases)
    axes, spacing = draft.preprocessing.axes, draft.preprocessing.spacing
    open_: dict[str, Any] = {"fold": 0}
    if config.spacing is None and config.network != PACKAGE:
        open_["spacing"] = tuple(spacing[axes.index(axis)] or 0.0 for axis in range(3))
    if config.dimensions == 2 and config.slice_axis is None and config.network != PACKAGE:
        open_["slice_axis"] = "ijk"[axes[0]]
    shared = config.changed(**open_).store(runs / "config.json")
    if start is not None:
        start.note(runs)
    if not path.exists():
        replace_text(path, json.dumps(draft.to_dict(), indent=1))
    return shared


def _train(dataset: Dataset, runs: Path, config: FitConfig, device: str, start: Start | None) -> None:
    """Fit a fold, unless it has ended with these settings."""
    run = runs / f"fold_{config.fold}"
    split = (runs / "split.json").read_text("utf-8")
    if not (run / "split.json").exists():
        replace_text(run / "split.json", split)
    elif stored(run / "split.json") != json.loads(split):
        raise DatasetError(f"'{run}' was split in another way than '{runs}'; use another folder.")
    ended = (run / "weights.pt").exists() and FitConfig.load(run / "config.json").epochs == config.epochs
    config.store(run / "config.json")
    if not ended:
        (run / "weights.pt").unlink(missing_ok=True)  # of fewer epochs: they would pass for the end of this run
        print(f"fold {config.fold}")
        fit(dataset, run, config, device, start)


def validate_mean(dataset: Dataset, folders: Sequence[Path], output: Path, backend: str = "auto") -> dict[str, Any]:
    """Cross-validate the mean of several configurations, each case answered by the networks that did not train on it.

    Args:
        dataset: That all were trained on.
        folders: Of :func:`cross_validate`, with the same split and finished folds.
        output: Folder for answers, evaluation and decisions.
        backend: As in :class:`UNetSegmentLib.predict.Predictor`.

    Returns:
        What ``decisions.json`` holds.

    Raises:
        DatasetError: The folders differ in split, finished folds, channels or labels.
    """
    parts = [finished(folder) for folder in folders]
    split = (folders[0] / "split.json").read_text("utf-8")
    drafts = [stored(folder / "manifest.json") for folder in folders]
    for folder, part, draft in zip(folders, parts, drafts, strict=True):
        same = stored(folder / "split.json") == json.loads(split)
        same = same and [fold.number for fold in part] == [fold.number for fold in parts[0]]
        if not same or any(draft.get(key) != drafts[0].get(key) for key in ("labels", "outputs", "activation")):
            raise DatasetError(f"'{folders[0]}' and '{folder}' differ in folds or labels and cannot be averaged.")
    replace_text(output / "split.json", split)
    replace_text(output / "manifest.json", json.dumps(drafts[0], indent=1))
    folds = [
        Fold(same[0].number, output / same[0].run.name, same[0].cases, tuple(fold.run for fold in same))
        for same in zip(*parts, strict=True)
    ]
    for fold in folds:
        _answer(dataset, fold, backend)
    return _decide(dataset, output, folds, len(json.loads(split)))


def finished(runs: Path) -> list[Fold]:
    """The folds of a cross-validation that have weights, by number.

    Raises:
        DatasetError: The folder is none, or a case validates two folds.
    """
    if not (runs / "manifest.json").exists() or not (runs / "split.json").exists():
        raise DatasetError(f"'{runs}' is not a folder that 'unetsegment-train cross-validate' made.")
    numbers = sorted(int(path.parent.name.removeprefix("fold_")) for path in runs.glob("fold_[0-9]*/weights.pt"))
    folds = [_fold(runs, number) for number in numbers]
    seen: dict[str, int] = {}
    for fold in folds:
        for case in fold.cases:
            if seen.setdefault(case, fold.number) != fold.number:
                raise DatasetError(
                    f"Case '{case}' validates fold {seen[case]} and fold {fold.number} of '{runs / 'split.json'}'."
                )
    return folds


def _fold(runs: Path, number: int) -> Fold:
    """A fold, whose own split proves that it did not train on the cases it answers."""
    run = runs / f"fold_{number}"
    split = stored(run / "split.json")
    whole = stored(runs / "split.json")
    trained = FitConfig.load(run / "config.json").fold
    if trained != number or split != whole:
        raise DatasetError(f"'{run}' is not fold {number} of '{runs}': it trained on other cases.")
    return Fold(number, run, tuple(split[number]["val"]), (run,))


def _answer(dataset: Dataset, fold: Fold, backend: str) -> None:
    """Write ``answers/CASE.seg.nrrd`` for the fold's cases, as its weights give them when they are packed.

    Post-processing is none, as it is decided later. Answers of other weights are thrown away, others are kept.
    """
    folder = fold.run / "answers"
    note = folder / "weights.txt"
    if not note.exists() or note.read_text("utf-8") != fold.weights:
        shutil.rmtree(folder, ignore_errors=True)
        replace_text(note, fold.weights)
    missing = [case for case in _cases(dataset, fold) if not _place(fold, case).exists()]
    if not missing:
        return
    with tempfile.TemporaryDirectory(prefix="unetsegment-") as made:
        places = [Path(made) / str(n) for n in range(len(fold.networks))]
        predictors = [_predictor(dataset, *pair, backend) for pair in zip(fold.networks, places, strict=True)]
        for case in track(missing, f"answers of fold {fold.number}", disable=None):
            several = len(predictors) > 1
            labels = mean_answer(predictors, case) if several else answer(predictors[0], case).labels
            io.write_labelmap(_place(fold, case), labels)


def _predictor(dataset: Dataset, run: Path, root: Path, backend: str) -> Predictor:
    """A run's network as it would ship, without post-processing, in the folder ``root``."""
    raw = one_kind([run]) | {"postprocessing": []}
    write_files(root, raw, [run], dataset)
    path = root / MANIFEST_PATH
    path.parent.mkdir()
    path.write_text(json.dumps(raw), "utf-8")
    return Predictor(package.load(root), backend=backend, mirror=False)


def _place(fold: Fold, case: Case) -> Path:
    return fold.run / "answers" / f"{case.name}.seg.nrrd"


def _cases(dataset: Dataset, fold: Fold) -> list[Case]:
    return [case for case in dataset.cases if case.name in fold.cases]


def _decide(dataset: Dataset, runs: Path, folds: Sequence[Fold], count: int) -> dict[str, Any]:
    """Try the largest components, evaluate the answers with what was kept, and write ``decisions.json``."""
    raw = stored(runs / "manifest.json")
    manifest = Manifest.from_dict(raw)
    asked = [(fold, case) for fold in folds for case in _cases(dataset, fold)]
    told = [
        label for label in manifest.segments if label.value in dataset.labels
    ]  # a model to start from may have more
    # what that model does to structures that these cases do not tell of stays
    given = [step for step in manifest.postprocessing if not set(step["labels"]) <= set(dataset.labels)]

    def pairs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for fold, case in asked:
            yield postprocess(io.read_labelmap(_place(fold, case)).array, given), case.load()[1].array

    trials = try_components(pairs, told)
    words = measured_on(folds, count)
    steps = given + [trial.step(words) for trial in trials if trial.kept]

    def answers() -> Iterator[Answer]:
        for fold, case in track(asked, "evaluate", disable=None):
            image, expert = case.load()
            labels = io.read_labelmap(_place(fold, case))
            labels = type(labels)(postprocess(labels.array, steps), labels.grid, manifest.labels)
            yield Answer(case.name, image, expert, labels)

    lead = (
        f"{words}: {len(asked)} of {len(dataset.cases)} cases, each answered by the network that did not train on it."
    )
    output = runs / "evaluation"
    summary = write_evaluation(output, manifest.title, lead, told, answers(), [f.run for f in folds])
    decisions = {
        "measured_on": words,
        "cases": len(asked),
        "folds": [_told(fold, output) for fold in folds],
        "summary": summary,
        "components": [trial.to_dict() for trial in trials],
        "told": sentences(trials),
        "postprocessing": steps,
    }
    replace_text(runs / DECISIONS, json.dumps(decisions, indent=1))
    return decisions


def measured_on(folds: Sequence[Fold], count: int) -> str:
    """What a cross-validation measures, in words."""
    if len(folds) == count:
        return f"{count}-fold cross-validation"
    return f"{count}-fold cross-validation, folds {', '.join(str(fold.number) for fold in folds)}"


def _told(fold: Fold, evaluation: Path) -> dict[str, Any]:
    """A fold's weights, and its mean Dice per label."""
    rows = [row for row in stored(evaluation / "cases.json") if row["case"] in fold.cases]
    names = dict.fromkeys(row["name"] for row in rows)
    means = {name: round(float(np.mean([row["dice"] for row in rows if row["name"] == name])), 5) for name in names}
    return {
        "fold": fold.number,
        "run": fold.run.name,
        "weights": fold.weights,
        "cases": len({row["case"] for row in rows}),
        "dice": means,
    }


def decided(runs: Path, members: Sequence[Path]) -> dict[str, Any]:
    """``decisions.json``, where it was made with the weights that ``members`` have now.

    Raises:
        DatasetError: There is none, or a member is not of it, or has other weights by now.
    """
    try:
        decisions = json.loads((runs / DECISIONS).read_text("utf-8"))
    except (OSError, ValueError):
        raise DatasetError(f"'{runs}' has no {DECISIONS}; run 'unetsegment-train cross-validate' first.") from None
    known = {fold["run"]: fold["weights"] for fold in decisions["folds"]}
    for run in members:
        if known.get(run.name) != sha256(run / "weights.pt"):
            raise DatasetError(
                f"'{runs / DECISIONS}' was made without the weights of '{run}'; run 'unetsegment-train cross-validate' again."
            )
    return decisions

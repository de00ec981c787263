"""Does keeping the largest connected component help? Decided on answers to cases that their network did not train on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import ndimage, stats
from UNetSegmentLib.labels import Label
from UNetSegmentLib.predict.postprocess import postprocess
from UNetSegmentLib.volume import dice

from .compare import LEVEL, holm
from .metrics import bootstrap

Pairs = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]
"""Called for every pass over the cases: answer and expert (I, J, K), label values."""


@dataclass(frozen=True)
class Trial:
    """One step that was tried.

    Args:
        labels: Values that are one component together.
        names: Their names.
        before: Mean Dice per label without the step.
        after: The same with it.
        gain: Mean over cases of the change of Dice, itself the mean over ``labels``.
        interval: 95 % bootstrap interval of that mean over cases.
        p: Of Wilcoxon's signed-rank test, one-sided; corrected for the number of labels tried (Holm 1979).
        better: Cases that gain.
        worse: Cases that lose.
        kept: Whether the model does the step.
        why: In words.
    """

    labels: list[int]
    names: list[str]
    before: dict[str, float]
    after: dict[str, float]
    gain: float
    interval: list[float]
    p: float
    better: int
    worse: int
    kept: bool
    why: str

    @property
    def numbers(self) -> str:
        """The gain in words."""
        low, high = self.interval
        return (
            f"{self.gain:+.5f} Dice (95 % {low:+.5f} to {high:+.5f}, p {self.p:.2g}, "
            f"{self.better} cases better, {self.worse} worse)"
        )

    def step(self, measured_on: str) -> dict[str, Any]:
        """The step as a manifest's post-processing has it."""
        reason = f"{self.numbers}, {measured_on}."
        return _step(self.labels) | {"reason": reason}

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def sentences(trials: Sequence[Trial]) -> list[str]:
    """What was decided, a line per step that changes anything."""
    told = []
    for trial in trials:
        if trial.better or trial.worse:
            verb = "kept" if trial.kept else "not kept"
            told.append(f"Largest component of {' + '.join(trial.names)}: {verb}; {trial.why}: {trial.numbers}.")
    return told or ["Largest component: would change nothing."]


def _step(labels: Sequence[int]) -> dict[str, Any]:
    return {"method": "keep_largest_component", "labels": list(labels), "connectivity": "corners"}


def try_components(pairs: Pairs, segments: Sequence[Label]) -> list[Trial]:
    """Try the largest component of all labels together, then, on top of what was kept, of each label alone.

    The order is nnU-Net's (Isensee et al. 2021, ``determine_postprocessing``). A step is kept where the mean Dice of no
    label falls, and the gain is more than noise: the bootstrap interval lies above zero and Wilcoxon's test, one-sided
    as only a gain changes anything and corrected for the number of labels, is below 0.05.
    """
    every = [label.value for label in segments]
    trials = _try(pairs, segments, [every], []) if len(every) > 1 else []
    done = [_step(trial.labels) for trial in trials if trial.kept]
    return trials + _try(pairs, segments, [[value] for value in every], done)


def _try(
    pairs: Pairs, segments: Sequence[Label], groups: Sequence[Sequence[int]], done: Sequence[dict[str, Any]]
) -> list[Trial]:
    """Try each group of labels by itself, all after the steps ``done``; the groups share no label."""
    values = [label.value for label in segments]
    rows: list[tuple[list[float], list[float]]] = []
    for answer, expert in pairs():
        before = postprocess(answer, done)
        after = before.copy()
        for group in groups:
            box = _box(np.isin(before, group))
            after[box] = np.where(np.isin(before[box], group), postprocess(before[box], [_step(group)]), after[box])
        rows.append(tuple([dice(x == value, expert == value) for value in values] for x in (before, after)))  # type: ignore[arg-type]
    scores = np.array(rows).reshape(len(rows), 2, len(values))
    columns = [[values.index(value) for value in group] for group in groups]
    gains = [(scores[:, 1, column] - scores[:, 0, column]).mean(axis=1) for column in columns]
    tests = {n: _wilcoxon(gain) for n, gain in enumerate(gains)}
    corrected = holm(tests)
    told = []
    for n, (column, gain) in enumerate(zip(columns, gains, strict=True)):
        labels = [segments[c] for c in column]
        before, after = ({segments[c].name: float(scores[:, k, c].mean()) for c in column} for k in (0, 1))
        low, high = bootstrap(gain.tolist()) or [0.0, 0.0]
        hurt = [name for name in before if after[name] < before[name]]
        if not gain.any():
            kept, why = False, "nothing would change"
        elif hurt:
            kept, why = (
                False,
                f"the mean Dice of {hurt[0]} would fall from {before[hurt[0]]:.4f} to {after[hurt[0]]:.4f}",
            )
        elif corrected[n] >= LEVEL or low <= 0:
            kept, why = False, "the gain is not more than noise"
        else:
            kept, why = True, "every label gains or stays, by more than noise"
        told.append(
            Trial(
                [label.value for label in labels],
                [label.name for label in labels],
                before,
                after,
                float(gain.mean()),
                [low, high],
                corrected[n],
                int((gain > 0).sum()),
                int((gain < 0).sum()),
                kept,
                why,
            )  # fmt: skip
        )
    return told


def _wilcoxon(gain: np.ndarray) -> float:
    changed = gain[gain != 0]  # few of many cases: without the others the test is exact
    return float(stats.wilcoxon(changed, alternative="greater").pvalue) if len(changed) else 1.0


def _box(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box with everything in it: components are the same there, and found sooner."""
    found = ndimage.find_objects(mask.astype(np.uint8))
    return found[0] if found else (slice(0, 0),) * mask.ndim

"""What is odd about the cases of a dataset, one sentence each, with the case's name in front."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .dataset import Dataset
    from .fingerprint import CaseFacts, Finding

SCALE = 20.0
"""A case whose intensities are more than this many times larger or smaller than the others' is wildly scaled."""
DEVIATIONS = 6.0
"""And as many robust standard deviations (1.4826 x the median absolute deviation of the logarithms) away."""
COPY = 0.9999
"""Correlation of two shrunk images above which one is taken for a copy of the other."""
_FACES = {"L": "left", "R": "right", "P": "posterior", "A": "anterior", "I": "inferior", "S": "superior"}


def look_through(dataset: Dataset, facts: Sequence[CaseFacts], thumbnails: Sequence[np.ndarray]) -> list[Finding]:
    """Findings over cases that can be opened."""
    from .fingerprint import Finding

    found = [
        Finding(case=case, kind=kind, severity=severity, text=f"Case '{case}': {text}" if case else text)
        for look in (_copies, _scales, _flat, _spacings, _labels, _borders, _dataset)
        for case, kind, severity, text in look(dataset, facts, thumbnails)
    ]
    rank = {"error": 0, "warning": 1, "note": 2}
    return sorted(found, key=lambda f: rank[f.severity])


Row = tuple[str, str, str, str]
_Facts = Sequence["CaseFacts"]
_Thumbnails = Sequence[np.ndarray]


def _copies(dataset: Dataset, facts: _Facts, thumbnails: _Thumbnails) -> Iterator[Row]:
    first: dict[str, str] = {}
    same: set[tuple[str, str]] = set()
    for fact in facts:
        if fact.content in first:
            same.add((first[fact.content], fact.name))
            yield (
                fact.name, "duplicate", "warning",
                f"its image is the same, voxel for voxel, as that of case '{first[fact.content]}'; keep one, or "
                "both must be in the same fold.",
            )  # fmt: skip
        first.setdefault(fact.content, fact.name)
    table = np.stack(thumbnails)
    for n, fact in enumerate(facts):
        alike = table[:n] @ table[n] > COPY
        for m in np.flatnonzero(alike):
            pair = (facts[m].name, fact.name)
            if pair not in same and facts[m].shape == fact.shape and facts[m].content != fact.content:
                yield (
                    fact.name, "duplicate", "warning",
                    f"its image looks like that of case '{pair[0]}' with other intensities; is it the same patient?",
                )  # fmt: skip


def _scales(dataset: Dataset, facts: _Facts, thumbnails: _Thumbnails) -> Iterator[Row]:
    for c, channel in enumerate(dataset.channels):
        spread = np.array([f.image[c].p99_5 - f.image[c].p00_5 for f in facts])
        logs = np.log10(np.maximum(spread, 1e-12))
        usual = float(np.median(logs))
        robust = 1.4826 * float(np.median(np.abs(logs - usual)))
        for fact, value, log in zip(facts, spread, logs, strict=True):
            if abs(log - usual) > max(np.log10(SCALE), DEVIATIONS * robust) and value > 0:
                times = 10 ** abs(log - usual)
                word = "larger" if log > usual else "smaller"
                yield (
                    fact.name, "scale", "warning",
                    f"its {channel} intensities span {value:.4g}, {times:.0f} times {word} than usual "
                    f"({10**usual:.4g}); normalise each image by itself (z-score), or correct the file.",
                )  # fmt: skip


def _flat(dataset: Dataset, facts: _Facts, thumbnails: _Thumbnails) -> Iterator[Row]:
    for fact in facts:
        for channel, values in zip(dataset.channels, fact.image, strict=True):
            if values.min == values.max:
                yield fact.name, "flat", "warning", f"its {channel} image is {values.min:g} everywhere."


def _spacings(dataset: Dataset, facts: _Facts, thumbnails: _Thumbnails) -> Iterator[Row]:
    spacings = np.array([f.spacing for f in facts])
    usual = np.median(spacings, axis=0)
    for fact in facts:
        ratio = np.asarray(fact.spacing) / usual
        if (np.maximum(ratio, 1 / ratio) > 3).any():
            mine, theirs = (" x ".join(f"{x:.3g}" for x in row) for row in (fact.spacing, usual))
            yield (
                fact.name,
                "spacing",
                "warning",
                f"its spacing is {mine} mm where {theirs} mm is usual; is the unit right?",
            )


def _labels(dataset: Dataset, facts: _Facts, thumbnails: _Thumbnails) -> Iterator[Row]:
    names = {value: name for value, name in dataset.labels.items() if value}
    usual = {value: sum(f.labels[value].voxels > 0 for f in facts) for value in names}
    for fact in facts:
        missing = [value for value in names if not fact.labels[value].voxels]
        if len(missing) == len(names):
            yield fact.name, "empty", "warning", "nothing is labelled in it."
            continue
        for value in missing:
            if usual[value] > len(facts) / 2:
                yield (
                    fact.name, "absent", "warning",
                    f"it has no '{names[value]}', which {usual[value]} of {len(facts)} cases have.",
                )  # fmt: skip
    for value, name in names.items():
        if not usual[value]:
            yield "", "absent", "warning", f"No case has a voxel of the label '{name}'."
        elif usual[value] == 1 and len(facts) >= 5:
            case = next(f.name for f in facts if f.labels[value].voxels)
            yield case, "rare", "warning", f"it is the only case with the label '{name}'; is the name a slip?"
        volumes = {f.name: f.labels[value].volume_ml for f in facts if f.labels[value].voxels}
        if len(volumes) >= 5:
            logs = np.log10(list(volumes.values()))
            middle = float(np.median(logs))
            robust = 1.4826 * float(np.median(np.abs(logs - middle)))
            for (case, volume), log in zip(volumes.items(), logs, strict=True):
                if abs(log - middle) > max(np.log10(4), DEVIATIONS * robust):
                    yield (
                        case, "volume", "warning",
                        f"its '{name}' has {volume:.3g} ml where {10**middle:.3g} ml is usual.",
                    )  # fmt: skip


def _borders(dataset: Dataset, facts: _Facts, thumbnails: _Thumbnails) -> Iterator[Row]:
    for fact in facts:
        touching = {value: x.touches for value, x in fact.labels.items() if x.touches}
        if touching:
            parts = [
                f"'{dataset.labels[value]}' touches the {', '.join(_FACES[c] for c in faces)} border"
                for value, faces in touching.items()
            ]
            yield fact.name, "border", "note", f"{' and '.join(parts)} of the image; it may be cut off."


def _dataset(dataset: Dataset, facts: _Facts, thumbnails: _Thumbnails) -> Iterator[Row]:
    lower: dict[str, list[str]] = defaultdict(list)
    for fact in facts:
        lower[fact.name.casefold()].append(fact.name)
    for names in lower.values():
        if len(names) > 1:
            yield names[1], "duplicate", "warning", f"its name differs from '{names[0]}' in capitals only."
    turns = Counter(f.orientation for f in facts)
    if len(turns) > 1:
        text = ", ".join(f"{n} {code}" for code, n in turns.most_common())
        yield "", "orientation", "note", f"Files are stored in several orientations ({text}); they are turned to RAS."
    stated = dataset.raw.get("numTraining")
    if isinstance(stated, int) and stated != len(facts):
        yield "", "files", "warning", f"dataset.json says {stated} training cases; {len(facts)} can be used."

"""What a case concludes from its rows: agreements between contenders, ratios, and targets met or missed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .compare import agreement, pooled
from .race import Run


def agreements(pairs: Sequence[tuple[str, str]], runs: Mapping[str, Run]) -> list[dict[str, Any]]:
    """Agreement of pairs of contenders, pooled over all images that both segmented."""
    found = []
    for a, b in pairs:
        if a not in runs or b not in runs or runs[a].error or runs[b].error:
            continue
        names = [name for name in runs[a].results if name in runs[b].results]
        parts = [agreement(np.load(runs[a].results[name]), np.load(runs[b].results[name])) for name in names]
        found.append({"a": a, "b": b, **pooled(parts)})
    return found


def ratio(rows: Sequence[Mapping[str, Any]], mine: str, theirs: str, key: str) -> float | None:
    """How many times less than ``theirs`` ``mine`` needs; None where one did not run."""
    values = {row["contender"]: row.get(key) for row in rows}
    if not values.get(mine) or not values.get(theirs):
        return None
    return values[theirs] / values[mine]


def limit(rows: Sequence[Mapping[str, Any]], peer: str, operations: float) -> str:
    """How fast the peer's network runs: what is left for anybody else is the way to the machine's ceiling."""
    row = next((row for row in rows if row["contender"] == peer), {})
    if not row.get("network_cpu"):
        return ""
    rate = operations * row["network_calls"] / row["network_cpu"] / 1e9
    return (
        f"nnU-Net's own network runs at {rate:.0f} GFLOP per CPU second here; the same multiply-adds cannot be done faster "
        "than the ceiling of this machine (see the table above), which bounds this ratio."
    )


class Target:
    """What was aimed at, as JSON: words, the aim, what was measured, whether it was met."""

    @staticmethod
    def at_least(what: str, measured: float | None, aim: float, unit: str) -> dict[str, Any]:
        """Met where the measured value is at least ``aim``."""
        met = None if measured is None else bool(measured >= aim)
        return {"what": what, "aim": aim, "sign": ">=", "unit": unit, "measured": measured, "met": met}

    @staticmethod
    def at_most(what: str, measured: float | None, aim: float, unit: str) -> dict[str, Any]:
        """Met where the measured value is at most ``aim``."""
        met = None if measured is None else bool(measured <= aim)
        return {"what": what, "aim": aim, "sign": "<=", "unit": unit, "measured": measured, "met": met}

    @classmethod
    def times(cls, what: str, measured: float | None, aim: float) -> dict[str, Any]:
        """Times less than the peer."""
        return cls.at_least(what, measured, aim, "times less")

    @classmethod
    def speed(
        cls,
        rows: Sequence[Mapping[str, Any]],
        mine: str,
        theirs: str,
        device: str,
        aim: float = 2.5,
        what: str = "parity",
    ) -> dict[str, Any]:
        """A whole prediction against the peer: CPU time on processors, elapsed time (1.5 times) on a GPU."""
        if device == "cpu":
            return cls.times(f"CPU time of a prediction, {what}", ratio(rows, mine, theirs, "warm_cpu"), aim)
        return cls.times(
            f"elapsed time of a prediction on {device}, {what}", ratio(rows, mine, theirs, "warm_wall"), 1.5
        )

    @classmethod
    def equal(cls, what: str, found: Sequence[Mapping[str, Any]], a: str, b: str, aim: float) -> dict[str, Any]:
        """Share of voxels with equal labels."""
        return cls.at_least(what, _of(found, a, b, "equal"), aim, "of voxels")

    @classmethod
    def dice(cls, what: str, found: Sequence[Mapping[str, Any]], a: str, b: str, aim: float) -> dict[str, Any]:
        """Lowest Dice of a label."""
        return cls.at_least(what, _of(found, a, b, "dice_min"), aim, "Dice of the worst label")


def _of(found: Sequence[Mapping[str, Any]], a: str, b: str, key: str) -> float | None:
    return next((one[key] for one in found if (one["a"], one["b"]) == (a, b)), None)

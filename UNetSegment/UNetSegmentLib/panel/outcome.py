"""What a result card says, in plain Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import state

if TYPE_CHECKING:
    from ..labels import Label
    from ..predict.reports import InputWarning

MANY = 8
"""Structures that can be taken in at a glance: of more, those that were found come first."""


@dataclass(frozen=True)
class Card:
    """A result.

    Args:
        title: Of the section: time, volume and model, short enough for a narrow panel.
        line: Model, seconds and device.
        rows: Each structure with its millilitres.
        warnings: Sentences about the inputs.
        notes: What the engine has to say, in sentences.
        colors: Of the structures.
    """

    title: str
    line: str
    rows: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    notes: str
    colors: tuple[tuple[int, int, int], ...] = ()

    def html(self) -> str:
        """What is to be said about the result; the text has no colour, so that dark themes can be read."""
        from html import escape

        parts = [f"<p><b>!</b> {escape(words)}</p>" for words in self.warnings]
        parts.append(f"<p><i>{escape(self.notes)}</i></p>" if self.notes else "")
        return "".join(parts)


def card(
    volume: str,
    model: str,
    labels: Sequence[Label],
    volumes_ml: Mapping[int, float],
    provenance: Mapping[str, str],
    warnings: Sequence[InputWarning] = (),
    clock: str = "",
    tr: Callable[[str], str] = lambda text: text,
) -> Card:
    """The card of a run of ``model`` on ``volume`` that ended at ``clock``."""
    if len(labels) > MANY:  # a scan shows few of the structures of a model of the whole body: those first
        labels = sorted(labels, key=lambda label: volumes_ml[label.value] == 0)
    taken = float(provenance["seconds"])
    seconds = tr("< 0.1 s") if taken < 0.1 else tr("{seconds:.1f} s").format(seconds=taken)
    title = " · ".join(filter(None, [clock, f"{volume} → {model.split(' (')[0]}"]))
    return Card(
        title=title,
        line=" · ".join(filter(None, [model, seconds, state.where(provenance)])),
        rows=tuple((label.name, millilitres(volumes_ml[label.value])) for label in labels),
        warnings=tuple(warning.short for warning in warnings),
        notes=provenance.get("notes", ""),
        colors=tuple(label.color for label in labels),
    )


def millilitres(ml: float) -> str:
    """``1.84 ml``, ``0.012 ml``, ``1520 ml``: three digits that mean something."""
    digits = 0 if ml >= 100 else 1 if ml >= 10 else 2 if ml >= 0.1 or ml == 0 else 3
    return f"{ml:.{digits}f} ml"

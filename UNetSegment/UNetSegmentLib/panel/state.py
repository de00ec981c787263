"""What the panel says and allows, decided in plain Python from what the user chose.

No Qt and no scene here: every text and every enabled button can be tested without them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .. import package
from ..errors import UNetSegmentError
from ..labels import Label
from ..package import Manifest

MAX_INPUTS = 4
"""Rows the panel has; models with more channels run by script."""


def installed_models() -> dict[str, tuple[Manifest | None, str]]:
    """The models on this computer by name: the manifest, or the sentence that says why it cannot be read."""
    from ..package import store

    found: dict[str, tuple[Manifest | None, str]] = {}
    for name, folder in store.installed().items():
        try:
            found[name] = package.load(folder).manifest, ""
        except UNetSegmentError as error:
            found[name] = None, str(error)
    return found


@dataclass(frozen=True)
class InputRow:
    """One volume selector: its label, and the hint under it."""

    label: str
    hint: str = ""
    visible: bool = True


@dataclass(frozen=True)
class PanelView:
    """Everything the panel shows."""

    inputs: tuple[InputRow, ...]
    model_line: str
    structures: str
    options: str
    apply_text: str
    apply_enabled: bool
    apply_tip: str
    inputs_enabled: bool
    can_mirror: bool


def view(
    manifest: Manifest | None,
    chosen: Sequence[str | None],
    running: bool = False,
    model_problem: str = "",
    device: str = "",
    tr: Callable[[str], str] = lambda text: text,
) -> PanelView:
    """Decide what the panel shows.

    Args:
        manifest: Of the chosen model; None where none could be read.
        chosen: Name of the volume in each input row, None where none is chosen.
        running: Whether a segmentation is under way.
        model_problem: The sentence that says why there is no manifest.
        device: Words for what the work will run on; stands in the title of the folded options.
        tr: Translates a text.
    """
    rows, missing = _rows(manifest, chosen, tr)
    problem = model_problem or (tr("Choose a model.") if manifest is None else "")
    if manifest is not None and len(manifest.channels) > MAX_INPUTS:
        problem = tr("This model needs {count} volumes, more than the panel has rows; run it by script.").format(
            count=len(manifest.channels)
        )
    if not problem and missing:
        problem = missing
    names = [label.name for label in manifest.segments] if manifest else []
    if running:
        apply_text, tip = tr("Cancel"), tr("Stop; the scene stays as it was.")
    else:
        apply_text, tip = tr("Apply"), problem or tr("Segment the volume with this model.")
    return PanelView(
        inputs=rows,
        model_line=model_problem or (manifest.summary if manifest else ""),
        options=tr("Options: {device}").format(device=device) if device else tr("Options"),
        structures=tr("Structures: {names}").format(names=", ".join(names)) if names else "",
        apply_text=apply_text,
        apply_enabled=running or not problem,
        apply_tip=tip,
        inputs_enabled=not running,
        can_mirror=manifest is not None and bool(manifest.inference.mirror_axes),
    )


def _rows(
    manifest: Manifest | None, chosen: Sequence[str | None], tr: Callable[[str], str]
) -> tuple[tuple[InputRow, ...], str]:
    channels = manifest.channels[:MAX_INPUTS] if manifest else ()
    rows, first_missing = [], ""
    for index in range(MAX_INPUTS):
        if index >= max(len(channels), 1):
            rows.append(InputRow("", visible=False))
            continue
        channel = channels[index] if channels else None
        label = (channel.title or channel.name) if channel else tr("Volume")
        hint = ""
        if channel is not None and not (index < len(chosen) and chosen[index]):
            if len(channels) == 1:
                hint = tr("Choose the {name} volume to segment.").format(name=channel.name)
            else:
                names = ", ".join(c.name for c in channels)
                hint = tr("This model needs {count} volumes: {names}. Choose the {name} volume.").format(
                    count=len(channels), names=names, name=channel.name
                )
            first_missing = first_missing or hint
        rows.append(InputRow(label, hint))
    return tuple(rows), first_missing


def result_line(labels: Sequence[Label], volumes_ml: dict[int, float], provenance: Mapping[str, str]) -> str:
    """The result in one line: seconds, device, up to four structures with their volumes, and the engine's notes."""
    parts = [f"{label.name} {volumes_ml[label.value]:.2f} ml" for label in labels[:4]]
    if len(labels) > 4:
        parts.append(f"+ {len(labels) - 4}")
    seconds = float(provenance["seconds"])
    line = f"{seconds:.1f} s · {_where(provenance)}   " + " · ".join(parts)
    return "\n".join(filter(None, [line, provenance.get("notes", "")]))


def ran_line(ran: Mapping[str, str] | None) -> str:
    """What a run uses, and whether it was proven: ``CPU bf16, proven on this computer``."""
    if not ran:
        return ""
    proven = ", proven on this computer" if ran.get("reference_dice") else ""
    return _where(ran) + proven


def log_text(ran: Mapping[str, str] | None, lines: Sequence[str]) -> str:
    """Everything about the last run, for a report: what was run, then the end of the worker's log."""
    return "\n".join([*(f"{key}: {value}" for key, value in (ran or {}).items()), "", *lines[-200:]])


def remaining(seconds: float | None, elapsed: float) -> str:
    """Seconds left, as words, once enough is known."""
    return "" if seconds is None or elapsed < 2 else f"{max(round(seconds), 1)} s left"


def _where(ran: Mapping[str, str]) -> str:
    return " ".join(filter(None, [ran.get("device", "").upper(), ran.get("precision", "")]))

"""What the panel says and allows, decided in plain Python from what the user chose.

No Qt and no scene here: every text and every enabled button can be tested without them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .. import package
from ..errors import UNetSegmentError
from ..package import Manifest
from . import structures

if TYPE_CHECKING:
    from ..predict.reports import InputWarning

MAX_INPUTS = 4
"""Rows the panel has; models with more channels run by script."""
LONGEST_LABEL = 24
"""Characters of a channel's title that leave room for the volume's name beside it; its name stands for a longer one."""


def installed_models() -> dict[str, tuple[Manifest | None, str]]:
    """The models on this computer by name: the manifest, or the sentence that says why it cannot be read."""
    found: dict[str, tuple[Manifest | None, str]] = {}
    for name, folder in package.installed(recorded=True).items():
        try:
            found[name] = package.load(folder).manifest, ""
        except UNetSegmentError as error:
            found[name] = None, str(error)
    return found


def distinct(titles: Mapping[str, str]) -> dict[str, str]:
    """The titles of models by name, with the name added where several share one: ``Liver · liver-ct-2``."""
    counts = Counter(titles.values())
    return {name: f"{title} · {name}" if counts[title] > 1 else title for name, title in titles.items()}


@dataclass(frozen=True)
class InputRow:
    """One volume selector: its label, the hint under it, and its tool tip."""

    label: str
    hint: str = ""
    visible: bool = True
    tip: str = ""


@dataclass(frozen=True)
class PanelView:
    """Everything the panel shows."""

    inputs: tuple[InputRow, ...]
    model_line: str
    model_tip: str
    structures: str
    output_hint: str
    options: str
    options_tip: str
    apply_text: str
    apply_hint: str
    apply_enabled: bool
    apply_tip: str
    inputs_enabled: bool
    can_mirror: bool
    mode: str
    folds: tuple[tuple[str, str], ...]
    fold: str


def view(
    manifest: Manifest | None,
    chosen: Sequence[str | None],
    running: bool = False,
    model_problem: str = "",
    device: str = "",
    tr: Callable[[str], str] = lambda text: text,
    kept: Collection[int] | None = None,
    warnings: Sequence[InputWarning] = (),
    mode: str = "auto",
    folds: str = "all",
    asking: bool = False,
    device_tip: str = "",
    obstacles: Mapping[str, str] | None = None,
    output_note: str = "",
    has_volumes: bool = True,
    has_others: bool = False,
) -> PanelView:
    """Decide what the panel shows.

    Args:
        manifest: Of the chosen model; None where none could be read.
        chosen: Name of the volume in each input row, None where none is chosen.
        running: Whether a segmentation is under way.
        model_problem: The sentence that says why there is no manifest.
        device: Words for what the work will run on; stands in the title of the folded options.
        tr: Translates a text.
        kept: Label values of the structures to write; None: all.
        warnings: What looks wrong about the chosen volumes.
        mode: As for :class:`Predictor`.
        folds: Which of the model's networks are wanted, as for :class:`Predictor`.
        device_tip: Sentences about ``device``.
        asking: Whether the user was asked if volumes that look quite wrong shall be segmented all the same.
        obstacles: What about the ``output`` or the ``region`` would stop a run, as a sentence each.
        output_note: What the user may not expect of writing to the chosen segmentation.
        has_volumes: Whether the scene has any image to choose.
        has_others: Whether it has any that cannot be chosen: colour images, label maps.
    """
    obstacles = obstacles or {}
    nothing = ""
    if not has_volumes:
        nothing = tr("No image is loaded; load one first, for example in the DICOM or Sample Data module.")
        if has_others:
            nothing = tr(
                "Only colour images or label maps are loaded; load another image, or convert a colour image with the "
                "Vector to Scalar Volume module."
            )
    rows, missing = _rows(manifest, chosen, tr, nothing)
    rows = _warned(rows, manifest, chosen, [warning for warning in warnings if warning.code != "model"])
    told = {warning.code: warning.message for warning in reversed(warnings)}  # of several with one code the first
    model_problem = _first(_too_many(manifest, tr), model_problem, told.get("model", ""))
    problem = _first(
        model_problem,
        tr("Choose a model.") if manifest is None else "",
        missing,
        told.get("refused", ""),
        obstacles.get("output", ""),
    )
    apply_hint = ""
    if not problem:  # what has no control in sight that it could stand under
        none = tr("No structure is chosen; check at least one under Structures.")
        apply_hint = _first(none if kept is not None and not kept else "", obstacles.get("region", ""))
        problem = apply_hint
    if running:
        apply_text, tip = tr("Cancel"), tr("Stop; the scene stays as it was.")
    elif asking and not problem:
        apply_text, tip = tr("Segment anyway"), tr("Run the model although the volumes look wrong for it.")
    else:
        apply_text, tip = tr("Apply"), problem or tr("Segment the volume with this model.")
    model_tip = tr("What to look for. Lists the models on this computer.")
    return PanelView(
        inputs=rows,
        model_tip=_named(manifest.title if manifest is not None else None, model_tip),
        model_line=model_problem or (manifest.summary if manifest else ""),
        output_hint=obstacles.get("output", "") or output_note,
        options=tr("Options: {device}").format(device=device) if device else tr("Options"),
        options_tip=device_tip,
        structures=structures.title(manifest, kept, tr),
        apply_text=apply_text,
        apply_enabled=running or not problem,
        apply_tip=tip,
        apply_hint="" if running else apply_hint,
        inputs_enabled=not running,
        can_mirror=manifest is not None and bool(manifest.inference.mirror_axes),
        mode=mode,
        folds=fold_choices(manifest, tr),
        fold=wanted_folds(manifest, folds),
    )


def _named(name: str | None, tip: str) -> str:
    """The tool tip of a list that is too narrow for long names."""
    return f"{name} · {tip}" if name else tip


def _first(*words: str) -> str:
    """The first of them that says something."""
    return next(filter(None, words), "")


def _too_many(manifest: Manifest | None, tr: Callable[[str], str]) -> str:
    if manifest is None or len(manifest.channels) <= MAX_INPUTS:
        return ""
    words = tr("This model needs {count} volumes, more than the panel has rows; run it by script.")
    return words.format(count=len(manifest.channels))


def fold_choices(
    manifest: Manifest | None, tr: Callable[[str], str] = lambda text: text
) -> tuple[tuple[str, str], ...]:
    """Words and value of each choice between a model's networks; none where it has a single one."""
    names = manifest.folds if manifest is not None else ()
    if len(names) < 2:
        return ()
    every = tr("All {count}, averaged: as the model is meant").format(count=len(names))
    only = tr("Fold {name} only: {count} times faster")
    singles = [(only.format(name=name, count=len(names)), name) for name in names]
    return (every, "all"), (singles[0][0], "first"), *singles[1:]


def wanted_folds(manifest: Manifest | None, folds: str) -> str:
    """``folds`` where the model has that choice, else all: the choice was made for another model."""
    return folds if folds in [value for _, value in fold_choices(manifest)] else "all"


def _rows(
    manifest: Manifest | None, chosen: Sequence[str | None], tr: Callable[[str], str], nothing: str
) -> tuple[tuple[InputRow, ...], str]:
    channels = manifest.channels[:MAX_INPUTS] if manifest else ()
    rows, first_missing = [], ""
    for index in range(MAX_INPUTS):
        if index >= max(len(channels), 1):
            rows.append(InputRow("", visible=False))
            continue
        channel = channels[index] if channels else None
        label = tr("Volume")
        if channel is not None:
            label = channel.title if channel.title and len(channel.title) <= LONGEST_LABEL else channel.name
        hint = ""
        if channel is not None and not (index < len(chosen) and chosen[index]):
            if nothing:
                hint = "" if first_missing else nothing
            elif len(channels) == 1:
                hint = tr("Choose the {name} volume to segment.").format(name=channel.name)
            elif first_missing:
                hint = tr("Choose the {name} volume.").format(name=channel.name)
            else:
                names = ", ".join(c.name for c in channels)
                hint = tr("This model needs {count} volumes: {names}. Choose the {name} volume.").format(
                    count=len(channels), names=names, name=channel.name
                )
            first_missing = first_missing or hint
        tip = tr("The volume to segment. It is read, never changed.")
        if index:
            tip = tr("Volume for input {count} of the model. It is read, never changed.").format(count=index + 1)
        name = chosen[index] if index < len(chosen) else None
        rows.append(InputRow(label, hint, tip=_named(name, tip)))
    return tuple(rows), first_missing


def _warned(
    rows: tuple[InputRow, ...],
    manifest: Manifest | None,
    chosen: Sequence[str | None],
    warnings: Sequence[InputWarning],
) -> tuple[InputRow, ...]:
    """The rows with each warning under the input it concerns; what concerns all of them stands under the last, at the end."""
    names = [channel.name for channel in manifest.channels[:MAX_INPUTS]] if manifest else []
    rows_ = list(rows)
    for warning in sorted(warnings, key=lambda warning: warning.channel not in names):
        index = names.index(warning.channel) if warning.channel in names else len(names) - 1
        if index >= 0:
            name = chosen[index] if index < len(chosen) else None
            words = warning.short if warning.stops else f"! {_below(warning.short, name, warning.channel)}"
            rows_[index] = replace(rows_[index], hint="\n".join(filter(None, [rows_[index].hint, words])))
    return tuple(rows_)


def _below(words: str, volume: str | None, channel: str) -> str:
    """A sentence about a volume, under the selector that shows its name already."""
    rest = words.removeprefix(f"Volume '{volume}' ").removeprefix(f"for {channel} ")
    return rest[:1].upper() + rest[1:]


def plan_line(
    ran: Mapping[str, str] | None,
    chosen: str,
    expected: str,
    region: str = "",
    tr: Callable[[str], str] = lambda text: text,
) -> str:
    """What a run will use, whether that was proven, how long it will take, and the region of interest.

    ``about 20 s on CPU (16-bit, proven here)``; where nothing is known of it yet, the device that is chosen.
    """
    if ran:
        bits = {"bf16": tr("16-bit"), "fp16": tr("16-bit"), "fp32": tr("32-bit")}.get(ran.get("precision", ""), "")
        words = ", ".join(filter(None, [bits, tr("proven here") if ran.get("reference_dice") else ""]))
        chosen = ran.get("device", "").upper() + (f" ({words})" if words else "")
    if expected:
        chosen = (tr("{time} on {device}") if ran else tr("{device}, {time}")).format(time=expected, device=chosen)
    return " · ".join(filter(None, [chosen, tr("region {name}").format(name=region) if region else ""]))


def plan_tip(ran: Mapping[str, str] | None, expected: str, tr: Callable[[str], str] = lambda text: text) -> str:
    """The same in sentences, for whoever wants to know what stands behind it."""
    parts = [tr("What the work runs on, and how. Click to open or close.")]
    if ran and ran.get("reference_dice"):
        parts.append(
            tr("It gave the model's own answer on this computer, on the patch of an image that comes with the model.")
        )
    if expected:
        parts.append(tr("The time is foretold from what was measured on this computer."))
    return " ".join(parts)


def about(seconds: float, tr: Callable[[str], str] = lambda text: text) -> str:
    """A forecast in words, as exact as it is: ``under 1 s``, ``about 3 s``, ``about 40 s``, ``about 4 min``, ``about 2 h``."""
    if seconds < 0.75:
        return tr("under 1 s")
    if seconds < 10:
        return tr("about {count} s").format(count=round(seconds))
    if seconds < 57.5:
        return tr("about {count} s").format(count=5 * round(seconds / 5))
    if seconds < 3570:
        return tr("about {count} min").format(count=round(seconds / 60))
    return tr("about {count} h").format(count=f"{round(seconds / 1800) / 2:g}")


def log_text(ran: Mapping[str, str] | None, lines: Sequence[str], tr: Callable[[str], str] = lambda text: text) -> str:
    """Everything about the last run, for a report: what was run, then the end of the worker's log."""
    told = [f"{key}: {value}" for key, value in (ran or {}).items()]
    return "\n".join(
        [*told, *([""] if told else []), *(lines[-200:] or [tr("The model's process wrote nothing to its log.")])]
    )


def remaining(seconds: float | None, elapsed: float, tr: Callable[[str], str] = lambda text: text) -> str:
    """The time left, in words, once enough is known: ``14 s left``, ``18 min left``."""
    if seconds is None or elapsed < 2:
        return ""
    if seconds < 100:
        return tr("{count} s left").format(count=max(round(seconds), 1))
    return tr("{count} min left").format(count=round(seconds / 60))


def where(ran: Mapping[str, str]) -> str:
    """``CPU bf16``."""
    return " ".join(filter(None, [ran.get("device", "").upper(), ran.get("precision", "")]))

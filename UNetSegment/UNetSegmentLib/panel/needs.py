"""What must be installed before a model can run on a device, decided in plain Python from its manifest and what is there."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import BackendError
from ..package import Manifest
from ..predict.backends import runs_on_openvino_alone, torch_needs
from ..predict.backends.installed import State, state

Translate = Callable[[str], str]


@dataclass(frozen=True)
class Library:
    """Something that models may need.

    Args:
        name: The distribution.
        title: For people.
        floor: The lowest version that will do; empty: any.
        size: Of the download, in words.
        reason: What it is for, in words.
        is_enough_alone: Whether it runs with what Slicer has, so that pip may install it by itself where what it asks for
            is not what Slicer comes with.
    """

    name: str
    title: str
    floor: str
    size: str
    reason: str
    is_enough_alone: bool = False

    @property
    def requirement(self) -> str:
        """For pip."""
        return f"{self.name}>={self.floor}" if self.floor else self.name


LIBRARIES = {
    library.name: library
    for library in (
        Library("openvino", "OpenVINO", "2025.0", "about 60 MB", "runs networks on the processor", True),
        Library("torch", "PyTorch", "", "200 MB, or about 3 GB with an NVIDIA GPU", "runs networks on NVIDIA GPUs"),
        Library("monai", "MONAI", "1.4", "about 2 MB", "has the plan of this model's network"),
        Library("einops", "einops", "", "less than 1 MB", "is a part of this model's network"),
        Library("scipy", "SciPy", "1.11", "about 35 MB", "prepares images as nnU-Net does"),
    )
}
"""PyTorch has no floor here: the extension PyTorch chooses what this computer can run. OpenVINO's last version for Macs with
Intel processors (2025.4.1), which Slicer's Python is built for on every Mac, asks for NumPy before 2.4 where Slicer 5.12 has
2.4.6; it runs with that as well, with the same answers.
"""


@dataclass(frozen=True)
class Need:
    """A library to install; ``state`` is what is there of it now."""

    library: Library
    state: State

    @property
    def by_extension(self) -> bool:
        """Whether Slicer's extension PyTorch installs it, which knows the build for this computer's graphics card."""
        return self.library.name == "torch"


def needs(manifest: Manifest, device: str, look: Callable[[str], State] = state) -> list[Need]:
    """What must be installed, in this order, so that a model can run.

    The small set for the processor is enough where OpenVINO gets the network by itself; PyTorch is asked for where an
    NVIDIA GPU is chosen, or the model cannot do without. Where PyTorch is there already, OpenVINO is not asked for.

    Args:
        manifest: The model's.
        device: ``auto``, ``cpu`` or ``cuda``.
        look: Tells the state of a distribution.

    Raises:
        BackendError: The model cannot run on this device, whatever is installed.
    """
    by_torch, alone = torch_needs(manifest), runs_on_openvino_alone(manifest)
    if device == "cuda" and not by_torch:
        raise BackendError(
            f"Model '{manifest.title}' has a network for OpenVINO only, which does not run on NVIDIA GPUs; choose the CPU."
        )
    wanted: tuple[str, ...] = by_torch
    if device != "cuda" and alone:
        here = _is_enough("openvino", look("openvino"))  # first: PyTorch's list of files is long
        ready = here or (bool(by_torch) and all(_is_enough(name, look(name)) for name in by_torch))
        wanted = () if ready else ("openvino",)
    before = manifest.preprocessing
    if before.resampling.image_order == 3 or any(c.normalization.mask == "filled" for c in manifest.channels):
        wanted += ("scipy",)
    found = {name: look(name) for name in wanted}
    return [Need(LIBRARIES[name], there) for name, there in found.items() if not _is_enough(name, there)]


def _is_enough(name: str, there: State) -> bool:
    return there.is_whole and _numbers(there.version) >= _numbers(LIBRARIES[name].floor)


def _numbers(version: str) -> list[int]:
    release = re.match(r"\d+(\.\d+)*", version)
    return [int(number) for number in release[0].split(".")] if release else []


def has_nvidia_gpu() -> bool:
    """Whether the driver of an NVIDIA GPU is here; nothing is loaded or started to find out."""
    if sys.platform == "win32":
        return shutil.which("nvcuda.dll") is not None or shutil.which("nvidia-smi") is not None
    folder = Path("/proc/driver/nvidia/gpus")
    return (folder.is_dir() and any(folder.iterdir())) or shutil.which("nvidia-smi") is not None


def titles(wanted: Iterable[Need]) -> str:
    """``OpenVINO``; ``PyTorch, MONAI and einops``."""
    *first, last = [need.library.title for need in wanted]
    return f"{', '.join(first)} and {last}" if first else last


def hint(wanted: Sequence[Need], tr: Translate = lambda text: text) -> str:
    """What the first run will install, before anybody presses Apply; empty where all is there."""
    if not wanted:
        return ""
    damaged = [need.library.title for need in wanted if need.state.fault]
    if damaged:
        return tr("{names} is damaged ({why}); the next run installs it again, after asking.").format(
            names=", ".join(damaged), why=next(need.state.fault for need in wanted if need.state.fault)
        )
    size = wanted[0].library.size
    return tr("The first run installs {names} ({size}), after asking.").format(names=titles(wanted), size=size)


def question(wanted: Sequence[Need], model: str, device: str, gpu: bool, tr: Translate = lambda text: text) -> str:
    """The text of the one dialog: what, how large, what for.

    Args:
        wanted: What :func:`needs` gave; not empty.
        model: Title of the model.
        device: As chosen.
        gpu: Whether an NVIDIA GPU is here.
        tr: Translates a text.
    """
    lines = [tr("'{model}' needs what Slicer's Python does not have yet:").format(model=model), ""]
    for need in wanted:
        library = need.library
        reason = tr(library.reason)
        if need.by_extension and device != "cuda":
            reason = tr("this model's network runs with it only")
        line = tr("{title} ({size}): {reason}").format(title=library.title, size=library.size, reason=reason)
        if need.state.fault:
            line += tr("; what is there is damaged ({why}) and is replaced").format(why=need.state.fault)
        elif need.state.version:
            line += tr("; version {version} is there, which is too old").format(version=need.state.version)
        lines.append(f"• {line}")
    lines += ["", tr("Slicer can be used meanwhile, Cancel stops it, and the work goes on by itself afterwards.")]
    if any(need.by_extension for need in wanted):
        lines += ["", tr("The extension PyTorch chooses the build; Slicer may stand still for some seconds at first.")]
        if device == "cuda" and not gpu:
            lines += [
                "",
                tr("No NVIDIA GPU was found here: unless there is one, cancel and choose Automatic under Options."),
            ]
    elif gpu and device == "auto":
        lines += [
            "",
            tr("To use this computer's NVIDIA GPU instead, cancel and choose it under Options: PyTorch, 3 GB."),
        ]
    lines += ["", tr("Install now?")]
    return "\n".join(lines)

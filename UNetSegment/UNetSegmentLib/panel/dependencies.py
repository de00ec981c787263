"""What must be installed into Slicer's Python before a model can run, asked for when it is needed."""

from __future__ import annotations

from pathlib import Path

import slicer
from slicer.i18n import tr as _

from ..errors import BackendError
from ..predict.backends import is_installed


def ensure(device: str, requirements: Path) -> None:
    """Install what ``device`` needs, after asking; returns at once where it is there.

    Args:
        device: ``auto`` and ``cpu`` need the small set in ``requirements``; ``cuda`` needs torch and MONAI.
        requirements: The module's requirements.txt.

    Raises:
        BackendError: It was declined, or could not be installed.
    """
    if not missing(device):
        return
    if device == "cuda":
        _ensure_torch()
    else:
        _pip_install(requirements.read_text("utf-8"), "OpenVINO (about 60 MB)")
        if not is_installed("openvino"):
            raise BackendError("OpenVINO is not installed, so no model can run; press Apply again to install it.")


def missing(device: str) -> bool:
    """Whether something that ``device`` needs is not installed; told by metadata, nothing is imported."""
    torch = is_installed("torch") and is_installed("monai")
    return not torch if device == "cuda" else not (is_installed("openvino") or torch)


def hint(device: str) -> str:
    """What the first run will install, before anybody presses Apply; nothing where all is there."""
    if not missing(device):
        return ""
    if device == "cuda":
        return _("The first run installs PyTorch and MONAI (some gigabytes), after asking.")
    return _("The first run installs OpenVINO (about 60 MB), after asking: it runs models on the processor.")


def _ensure_torch() -> None:
    if not is_installed("torch"):
        try:
            import PyTorchUtils
        except ImportError:
            raise BackendError(
                "Running on the GPU needs the PyTorch extension; install it in the Extensions Manager and restart Slicer."
            ) from None
        if PyTorchUtils.PyTorchUtilsLogic().installTorch(askConfirmation=True) is None:
            raise BackendError("PyTorch is not installed, so the GPU cannot be used; choose the CPU or try again.")
    if not is_installed("monai"):
        _pip_install("monai>=1.4", "MONAI")


def _pip_install(requirements: str, what: str) -> None:
    lines = [line.split("#")[0].strip() for line in requirements.splitlines()]
    wanted = [line for line in lines if line]
    try:
        from slicer.packaging import pip_ensure
    except ImportError:  # Slicer before 5.12
        question = f"UNetSegment needs {what}. Install it into Slicer's Python now?"
        if slicer.app.testingEnabled() or not slicer.util.confirmOkCancelDisplay(question):
            return

        def install() -> None:
            slicer.util.pip_install(wanted)

    else:

        def install() -> None:
            pip_ensure(wanted, requester="UNetSegment")

    try:
        install()
    except RuntimeError as error:  # pip_ensure's word for "the user said no"
        raise BackendError(f"{what} was not installed; press Apply again when you want to install it.") from error
    except Exception as error:  # pip's own failures have no common class
        last = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise BackendError(
            f"{what} could not be installed ({last[-1].strip()}); see the log for pip's output."
        ) from error

"""What must be installed into Slicer's Python before a model can run: asked for, installed, and then the work goes on."""

from __future__ import annotations

import contextlib
import importlib
import logging
import re
import shutil
import sys
from collections.abc import Callable, Collection, Sequence
from importlib import metadata
from typing import Any

import slicer
from slicer.i18n import tr as _

from ..errors import BackendError, Cancelled
from ..package import Manifest, cache_folder
from ..package.lock import locked
from ..predict.backends.installed import state
from . import needs, pip
from .binding import in_tip
from .errand import Errand
from .lookout import Lookout

LIGHT_THE_TORCH = "light-the-torch>=0.5"
"""What the extension PyTorch installs first: it finds the PyTorch that fits the graphics card."""
_VERSION = re.compile(r"\d+(\.\d+)*((a|b|rc)\d+)?(\.post\d+)?(\.dev\d+)?(\+[a-z0-9.]+)?")  # pip refuses others


class Dependencies:
    """The panel's installations, one at a time; while one is under way, the panel's Cancel button stops it.

    ``lines`` is what pip said in the last one, where it failed.
    """

    def __init__(self, panel: Any) -> None:
        self._panel, self.lines = panel, []
        self._replaced: list[str] = []
        self._lookout = Lookout(self._ended, self._told)
        self._wanted: list[needs.Need] = []
        self._still_wanted: Callable[[], list[needs.Need]] = list
        self._go_on: Callable[[], None] | None = None

    def hint(self, manifest: Manifest | None, device: str) -> str:
        """What the first run will install, before anybody presses Apply; nothing where all is there."""
        try:
            return needs.hint(needs.needs(manifest, device), _) if manifest is not None else ""
        except BackendError:  # said when it is really asked for
            return ""

    def then(self, manifest: Manifest | None, device: str, go_on: Callable[[], None]) -> None:
        """Call ``go_on`` once all is there: now, or after the user agreed and pip did it. Errors go to the panel."""
        panel, self.lines = self._panel, []
        try:
            self._wanted = needs.needs(manifest, device) if manifest is not None else []
            if manifest is not None and self._wanted:
                panel.hold(self)  # before anything lets the window live: Apply is not pressed twice
                self._begin(manifest, device)
        except Exception as error:
            panel.onError(error)
            return
        if not self._wanted:
            go_on()
            return
        self._go_on, self._still_wanted = go_on, lambda: needs.needs(manifest, device)
        panel.begin(self, self._heading())
        panel.ui.installHint.visible = False
        panel.ui.progressBar.setRange(0, 0)

    def ask(self, question: str, details: str) -> bool:
        """Whether to install; never in testing mode, in which Slicer itself would answer yes."""
        if slicer.app.testingEnabled():
            return False
        return slicer.util.confirmOkCancelDisplay(in_tip(question), "UNetSegment", detailedText=details)

    def cancel(self) -> None:
        """Stop; what pip was replacing is put back where it can be."""
        self._lookout.cancel()

    def stop(self) -> None:
        """Stop and wait for it: the panel goes away."""
        self._lookout.stop(pip.GRACE + 2)

    def _begin(self, manifest: Manifest, device: str) -> None:
        titles = needs.titles(self._wanted)
        if _slicer_installs():
            raise BackendError("Another package is being installed in this Slicer; wait until it is there.")
        if any(need.by_extension for need in self._wanted):
            _pytorch_utils()  # before anybody is asked in vain
        question = needs.question(self._wanted, manifest.title, device, needs.has_nvidia_gpu(), _)
        if not self.ask(question, "\n".join(f"pip install {need.library.requirement}" for need in self._wanted)):
            raise BackendError(f"{titles} is not installed, so this model cannot run; press Apply again to install it.")
        commands, alone = _commands(self._wanted), _alone(self._wanted)
        python = shutil.which("PythonSlicer") or sys.executable
        # the extension PyTorch may choose an older NumPy (on Macs with Intel processors), which must then stay
        free = any(need.by_extension for need in self._wanted)
        in_use = {name.split(".")[0] for name in [*sys.modules]} - sys.stdlib_module_names
        in_use -= {need.library.name for need in self._wanted}
        used = set() if free else in_use
        version = state("pip").version
        self._replaced = []

        def work(tell: Callable[[pip.Report], None], cancelled: Callable[[], bool]) -> list[str]:
            waiting = pip.Report(_("Waiting for another Slicer that installs packages"))
            with locked(cache_folder() / "install.lock", cancelled, lambda: tell(waiting)):
                before = _versions(in_use) if free else {}
                try:
                    return pip.run(python, commands, tell, cancelled, lambda: _versions(used), version)
                except pip.PipError as error:
                    if not error.is_conflict or not alone:
                        raise
                    return error.lines + pip.run(python, alone, tell, cancelled, lambda: _versions(used), version)
                finally:
                    after = _versions(before)
                    self._replaced = [
                        f"{name} {after.get(name, '')}".strip() for name in before if after.get(name) != before[name]
                    ]

        self._lookout.send(work)

    def _heading(self) -> str:
        return _("Installing {names}").format(names=needs.titles(self._wanted))

    def _told(self, errand: Errand) -> None:
        """Show what pip does."""
        if errand.report is not None and not errand.is_cancelled:
            ui, fraction = self._panel.ui, errand.report.fraction
            self._panel.say(f"{self._heading()}\n{pip.shown(errand.report)}")
            ui.progressBar.setRange(0, 0 if fraction is None else 1000)
            ui.progressBar.setValue(round(1000 * (fraction or 0)))

    def _ended(self, errand: Errand) -> None:
        """Go on with what was asked for."""
        panel = self._panel
        panel.ui.progressBar.setRange(0, 1000)
        go_on, self._go_on = self._go_on, None
        importlib.invalidate_caches()
        if self._replaced:
            words = _(
                "{names} came with PyTorch, in place of what this Slicer has in use. Models run in a process of their own, "
                "with the new one; save your work and restart Slicer when they are done."
            )
            slicer.util.warningDisplay(words.format(names=", ".join(self._replaced)), "UNetSegment")
        try:
            self._check(errand)
        except Exception as error:
            panel.onError(error)
            panel.ready.warm()
            return
        panel.end()
        panel.logic.stop()  # a worker that ran before does not see what came: a fresh one does
        if go_on is not None:
            go_on()

    def _check(self, errand: Errand) -> None:
        titles = needs.titles(self._wanted)
        if isinstance(errand.error, pip.PipError):
            self.lines = errand.error.lines
            logging.error("UNetSegment: pip failed\n%s", "\n".join(self.lines))
            raise BackendError(f"{titles} could not be installed: {errand.error}.")
        if errand.is_cancelled:
            raise Cancelled()
        if errand.error is not None:
            raise errand.error
        logging.info("UNetSegment: pip\n%s", "\n".join(errand.result))
        if left := self._still_wanted():
            raise BackendError(
                f"{needs.titles(left)} was installed, but this Slicer does not find it; restart Slicer and try again."
            )


def _versions(modules: Collection[str]) -> dict[str, str]:
    """The versions of the distributions that are imported by these names, and of PyTorch: pip must leave them alone.

    To replace files in use fails halfway on Windows, and leaves Slicer with a mixture everywhere. The PyTorch that is
    there was chosen for this computer's graphics card.
    """
    found: dict[str, str] = {}
    for name in modules:
        with contextlib.suppress(metadata.PackageNotFoundError, ValueError):
            found[name] = metadata.version(name)
    torch = state("torch")
    if torch.is_whole:
        found["torch"] = torch.version
    return {name: version for name, version in found.items() if version and _VERSION.fullmatch(version)}


def _commands(wanted: Sequence[needs.Need]) -> list[list[str]]:
    """What pip is to do: take away what is damaged, then PyTorch by its extension, then the rest."""
    damaged = [need for need in wanted if need.state.fault]
    remains = [path for need in damaged for path in need.state.remains]
    recorded = [need.library.name for need in damaged if need.state.version and not need.state.remains]
    commands = [pip.clean(remains)] if remains else []
    if recorded:
        commands.append(["-m", "pip", "uninstall", "--yes", *recorded])
    if any(need.by_extension for need in wanted):
        commands += _pytorch_commands()
    rest = [need.library.requirement for need in wanted if not need.by_extension]
    return [*commands, pip.arguments(rest, constrained=True)] if rest else commands


def _alone(wanted: Sequence[needs.Need]) -> list[list[str]]:
    """What pip is to do where Slicer's libraries conflict with what those wanted ask for; empty where that is no help."""
    alone = [need.library.requirement for need in wanted if need.library.is_enough_alone]
    rest = [need.library.requirement for need in wanted if not need.library.is_enough_alone and not need.by_extension]
    commands = [pip.arguments(alone, alone=True)] if alone else []
    return [*commands, pip.arguments(rest, constrained=True)] if alone and rest else commands


def _pytorch_utils() -> Any:
    """The logic of the extension PyTorch.

    Raises:
        BackendError: The extension is not there.
    """
    try:
        import PyTorchUtils
    except ImportError:
        raise BackendError(
            "This needs PyTorch, which comes through the extension PyTorch; install that in the Extensions Manager and "
            "restart Slicer."
        ) from None
    return PyTorchUtils.PyTorchUtilsLogic


def _pytorch_commands() -> list[list[str]]:
    """What the extension PyTorch would run; its own ``installTorch`` runs the same, but Slicer stands still meanwhile."""
    try:
        install = ["-m", "light_the_torch", *_pytorch_utils()._getPipInstallArguments()]
    except BackendError:
        raise
    except Exception as error:  # what it raises is not said anywhere
        logging.error("UNetSegment: the extension PyTorch failed", exc_info=error)
        raise BackendError(
            "The extension PyTorch could not be used (see the log); install PyTorch in its module PyTorchUtils, then "
            "press Apply again."
        ) from None
    return [install] if state("light-the-torch").is_whole else [pip.arguments([LIGHT_THE_TORCH]), install]


def _slicer_installs() -> bool:
    try:
        from slicer.packaging import isPipInstallInProgress
    except ImportError:  # Slicer before 5.12
        return False
    return isPipInstallInProgress()

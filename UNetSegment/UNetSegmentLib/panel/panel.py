"""The panel: collects what the user chose, asks :mod:`state` what to show, hands work to the logic."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleWidget
from slicer.util import VTKObservationMixin

from ..errors import Cancelled, InputError, UNetSegmentError, WorkerError
from . import binding, cards, outcome, state, structures
from .advice import Advice
from .checklist import Checklist
from .chosen import ChosenModel
from .dependencies import Dependencies
from .expected import Expected
from .paper import Paper
from .selftest import SelfTest

DEVICE_SETTING = "UNetSegment/Device"


class Panel(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Base of the module's widget, which says which logic it works with and where the sample is."""

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: Any = None
        self._parameterNode: Any = None
        self._parameterNodeGuiTag: Any = None
        self._run: Any = None
        self._cancel = False
        self._advice: Any = None
        self._began = 0.0
        self._asked: Any = None
        self._ran: Any = None
        self._under: Any = None
        self._paper = Paper()
        self.model = ChosenModel(self)

    def makeLogic(self) -> Any:
        raise NotImplementedError

    def sample(self) -> tuple[Any, Any] | None:
        """The sample as a :class:`Volume`, and the expert's labels of it as an array; None where they are not there."""
        raise NotImplementedError

    def setup(self) -> None:
        """Build the panel from its .ui file."""
        ScriptedLoadableModuleWidget.setup(self)
        widget = slicer.util.loadUI(self.resourcePath("UI/UNetSegment.ui"))
        self.layout.addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        self.logic = self.makeLogic()
        self.model.fill()
        binding.fill(self.ui)
        device = slicer.util.settingsValue(DEVICE_SETTING, "auto")
        self.ui.deviceSelector.setCurrentIndex(max(self.ui.deviceSelector.findData(device), 0))
        self._checklist = Checklist(self.ui, self.onStructures)
        self._selfTest = SelfTest(self)
        self.dependencies = Dependencies(self)
        self._advice = Advice(self)
        self.expected = Expected(self)
        self._cards = cards.Cards(self.ui.cardsPanel.layout(), self.onLog)
        self.ui.modelSelector.connect("currentIndexChanged(int)", self.onModelChanged)
        self.ui.modelsButton.connect("clicked(bool)", self.model.onButton)
        self.ui.deviceSelector.connect("currentIndexChanged(int)", self.onDeviceChanged)
        self.ui.modeSelector.connect("currentIndexChanged(int)", self.onModeChanged)
        self.ui.foldsSelector.connect("currentIndexChanged(int)", self.onFoldsChanged)
        self.ui.regionSelector.connect("nodeAddedByUser(vtkMRMLNode*)", self.onRegionAdded)
        self.ui.checkupButton.connect("clicked(bool)", self._selfTest.onButton)
        self.ui.applyButton.connect("clicked(bool)", self.onApplyButton)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.initializeParameterNode()

    def cleanup(self) -> None:
        """Called when the application closes or the module is reloaded."""
        self._cancelRun()
        if self._advice is not None:
            self._advice.stop()
            self.dependencies.stop()
        self.model.close()
        self._paper.close()
        self.setParameterNode(None)
        self.removeObservers()
        if self.logic is not None:
            self.logic.stop()

    def onReload(self) -> None:
        """The developer's Reload button: Slicer reads the module's file again, and with this the library's too."""
        for name in [name for name in sys.modules if name.split(".")[0] == "UNetSegmentLib"]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def enter(self) -> None:
        """Called each time the user opens the module: the first time, the worker starts in the background."""
        self.initializeParameterNode()
        self._warm()

    def exit(self) -> None:
        """Called each time the user opens another module."""
        self.setParameterNode(None)

    def onSceneStartClose(self, caller: Any, event: Any) -> None:
        if self._run is not self.dependencies:  # what is being installed has nothing to do with the scene
            self._cancelRun()
        self.setParameterNode(None)

    def onSceneEndClose(self, caller: Any, event: Any) -> None:
        self._cards.clear()
        self._advice.clear()
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self) -> None:
        """Take this scene's parameters; where no volume is chosen yet, take the first one."""
        self.setParameterNode(self.logic.getParameterNode())
        if not self._parameterNode.input1:
            volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")  # also label maps and colour images
            volumes = [
                v for v in volumes if v.GetClassName() == "vtkMRMLScalarVolumeNode" and not v.GetHideFromEditors()
            ]
            self._parameterNode.input1 = volumes[0] if volumes else None
        self.refresh()

    def setParameterNode(self, inputParameterNode: Any) -> None:
        """Connect the panel to a parameter node, or to none."""
        if self._parameterNode:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.refresh)
        self._parameterNode = inputParameterNode
        if self._parameterNode:
            self._parameterNodeGuiTag = self._parameterNode.connectGui(self.ui)
            self.addObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.refresh)

    def inputs(self) -> list:
        """The chosen volume nodes, one per channel of the model; None where none is chosen."""
        manifest = self.model.manifest
        count = len(manifest.channels) if manifest else 1
        return [getattr(self._parameterNode, f"input{n}") for n in range(1, min(count, state.MAX_INPUTS) + 1)]

    def _kept(self) -> set[int] | None:
        return structures.wanted(self._parameterNode.structures, self.model.name, self.model.manifest)

    @property
    def region(self) -> Any:
        """The region of interest; None for the whole volume."""
        return self._parameterNode.region

    @property
    def ran(self) -> Any:
        """What a run with the present options uses, as the worker told; None where it did not yet."""
        return self._ran if self._asked == self._how() else None

    def _how(self) -> tuple:
        return (self.model.name, *self.options().values())

    def frames(self) -> int:
        """How many images a run segments: one, or every frame of a sequence."""
        return self.logic.frames(self.inputs()[0]) if self._parameterNode.everyFrame else 1

    @property
    def isRunning(self) -> bool:
        """Whether something is under way."""
        return self._run is not None

    @property
    def isConnected(self) -> bool:
        """Whether the panel shows a scene's choices: not while another module is open."""
        return self._parameterNode is not None

    def refresh(self, caller: Any = None, event: Any = None) -> None:
        """Show what :mod:`state` decides for the present choices."""
        if self._parameterNode is None:
            return
        if self.model.follow(self._parameterNode.model):
            self._warm()
        manifest = self.model.manifest
        names = [node.GetName() if node else None for node in self.inputs()]
        ran, expected, region = self.ran, self.expected.words(), self.region.GetName() if self.region else ""
        plan = state.plan_line(ran, self.ui.deviceSelector.currentText, expected, region, _)
        view = state.view(
            *(manifest, names, self._run is not None, self.model.problem, plan, _),
            device_tip=state.plan_tip(ran, expected, _),
            kept=self._kept(),
            mode=self._parameterNode.mode,
            folds=self._parameterNode.folds,
            warnings=self._advice.warnings(),
            asking=self._advice.is_asking,
        )
        binding.show(self.ui, view)
        frames = self.logic.frames(self.inputs()[0])
        self.ui.everyFrameCheckBox.text = _("Every one of the {count} frames").format(count=frames)
        self.ui.everyFrameCheckBox.visible = frames > 1
        self._checklist.show(manifest.segments if manifest else (), self._kept())
        self._cards.refresh(self._run is not None)

    def onModelChanged(self, index: int) -> None:
        self._keep("model", self.model.name)

    def onDeviceChanged(self, index: int) -> None:
        slicer.app.userSettings().setValue(DEVICE_SETTING, self.ui.deviceSelector.currentData)
        self._warm()
        self.refresh()

    def onModeChanged(self, index: int) -> None:
        self._keep("mode", self.ui.modeSelector.currentData)

    def onFoldsChanged(self, index: int) -> None:
        self._keep("folds", self.ui.foldsSelector.currentData)

    def _keep(self, name: str, value: str) -> None:
        """Keep a choice in the scene, and have ready what it needs."""
        if self._parameterNode is not None:
            setattr(self._parameterNode, name, value)
            self._warm()
            self.refresh()

    def onStructures(self, values: set[int]) -> None:
        """The user checked or cleared a structure."""
        manifest = self.model.manifest
        if self._parameterNode is not None and manifest is not None:
            before = self._parameterNode.structures
            self._parameterNode.structures = structures.remember(before, self.model.name, manifest, values)

    def useVolume(self, node: Any) -> None:
        """Choose a volume as the model's first input, unless something is under way."""
        if self._run is None and self._parameterNode is not None:
            self._parameterNode.input1 = node

    def onRegionAdded(self, node: Any) -> None:
        """A new region of interest starts as large as the volume, so that there is something to drag."""
        volume = self.inputs()[0] if self._parameterNode else None
        bounds = [0.0] * 6
        if node is not None and volume is not None:
            volume.GetRASBounds(bounds)
            node.SetCenter([(low + high) / 2 for low, high in zip(bounds[::2], bounds[1::2], strict=True)])
            node.SetSize([high - low for low, high in zip(bounds[::2], bounds[1::2], strict=True)])

    def onApplyButton(self, checked: bool = False) -> None:
        """Apply, or while it runs, Cancel."""
        if self._run is not None:
            self._cancelRun()
            self.say(_("Stopping"))
            return
        if not self._advice.agreed():
            self.say(_("This will probably not work: see above. Segment anyway?"))
            self.refresh()
            return
        self._cancel, self._began = False, time.monotonic()
        self._advice.forget()
        parameters, volume = self._parameterNode, self.inputs()[0]
        under = (parameters, volume, self.model.title)
        self._asked, self._ran = self._how(), self.ran
        run = partial(
            self.logic.start,
            self.inputs(),
            parameters.outputSegmentation,
            model=self.model.name,
            show3D=parameters.show3D,
            region=parameters.region,
            keep=self._kept(),
            everyFrame=self.frames() > 1,
            onProgress=self.onProgress,
            onWarnings=self.onWarnings,
            onDone=self.onDone,
            onError=self.onError,
            **self.options(),
        )
        nodes = [*self.inputs(), parameters.outputSegmentation, parameters.region]
        self.dependencies.then(
            self.model.manifest, self.options()["device"], lambda: self._start(run, under, list(filter(None, nodes)))
        )

    def _start(self, run: Callable[[], Any], under: tuple, nodes: list) -> None:
        """Begin what Apply asked for; something may have been installed meanwhile."""
        self._cancel, self._began, self._under = False, time.monotonic(), under
        self.ui.installHint.visible = False
        try:
            for node in nodes:
                if node.GetScene() is None:
                    raise InputError(f"'{node.GetName()}' is not in the scene any more; choose again and press Apply.")
            self._run = run()
        except Exception as error:
            self.onError(error)
            return
        self.begin(_("Starting"))

    def begin(self, words: str) -> None:
        """Show that something is under way, and look after the worker."""
        self.say(words)
        self.ui.progressBar.setValue(0)
        self.ui.progressBar.visible = True
        self.logic.watch()
        self.refresh()

    def say(self, words: str) -> None:
        """The line under the Apply button."""
        self.ui.statusLabel.text = words
        self.ui.statusLabel.setVisible(bool(words))

    def onProgress(self, report: Any, secondsLeft: float | None = None) -> None:
        """Show how far it is."""
        self.ui.progressBar.setValue(round(1000 * report.fraction))
        left = state.remaining(secondsLeft, time.monotonic() - self._began)
        self.say(" · ".join(part for part in (report.message, left) if part))

    def onWarnings(self, warnings: list) -> None:
        """Show what looks wrong under the input it concerns."""
        if self._parameterNode is not None:
            self._advice.take(warnings)
            self.refresh()

    def onDone(self, result: Any) -> None:
        """Show a result, the scene's :class:`Result`."""
        self._run = None
        parameters, volume, title = self._under  # those of the beginning: the user may be in another module now
        parameters.outputSegmentation = result.node
        card = outcome.card(
            *(volume.GetName(), title, result.labels, result.volumes_ml, result.provenance, result.warnings),
            *(time.strftime("%H:%M"), _),
        )
        self._ran = dict(result.provenance)
        self.expected.forget()
        self._cards.add(card, result.node, volume, self._ran)
        self.say("")
        self.end()

    def onError(self, error: Exception) -> None:
        """Say what went wrong; where no worker ever started on this computer, do the work in this process."""
        self._run = None
        if isinstance(error, WorkerError) and self.isConnected and not self._cancel and self.logic.moveInside():
            logging.warning("UNetSegment: %s Models run inside of Slicer from now on.", error)
            self.onApplyButton()
            return
        if isinstance(error, Cancelled):
            self.say(_("Cancelled; the scene is as it was."))
        elif isinstance(error, UNetSegmentError):
            self.say(str(error))
        else:
            logging.error("UNetSegment failed", exc_info=error)
            self.say(_("This failed unexpectedly ({error}); the scene is as it was, see the log.").format(error=error))
        self.end()

    def end(self) -> None:
        """Nothing is under way any more."""
        self._run, self.ui.progressBar.visible = None, False
        self.refresh()

    def onLog(self, shown: cards.Shown) -> None:
        """Show what was run, and the end of the worker's log."""
        self._paper.show(_("Log"), state.log_text(shown.ran, self.logic.log()), "UNetSegment-log.txt")

    def options(self) -> dict:
        """What the user chose about how to run."""
        manifest, parameters = self.model.manifest, self._parameterNode
        mirror = parameters.mirror and manifest is not None and bool(manifest.inference.mirror_axes)
        return {
            "device": self.ui.deviceSelector.currentData or "auto",
            "mode": parameters.mode,
            "mirror": True if mirror else None,
            "folds": state.wanted_folds(manifest, parameters.folds),
        }

    def _warm(self) -> None:
        """Have the chosen model ready in the background, where everything for it is installed."""
        manifest = self.model.manifest
        if self._parameterNode is None or self._run is not None:
            return
        self.ui.installHint.text = words = self.dependencies.hint(manifest, self.options()["device"])
        self.ui.installHint.visible = bool(words)
        if manifest is None or words:
            return

        def ready(result: dict) -> None:
            self._ran = result["ran"]
            self.expected.forget()
            self.refresh()

        asked = self._how()
        if asked == self._asked and self.logic.worker().is_alive:
            return
        self._asked, self._ran = asked, None
        self.logic.warm(self.model.name, onDone=ready, **self.options())

    def _cancelRun(self) -> None:
        self._cancel = True
        if self._run is not None:
            self._run.cancel()

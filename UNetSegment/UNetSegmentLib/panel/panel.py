"""The panel: collects what the user chose, asks :mod:`state` what to show, hands work to the logic."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleWidget
from slicer.util import VTKObservationMixin

from ..errors import Cancelled, UNetSegmentError
from . import advice, binding, cards, outcome, state, structures
from .advice import Advice
from .apply import Apply
from .checklist import Checklist
from .chosen import ChosenModel
from .dependencies import Dependencies
from .expected import Expected
from .paper import Paper
from .ready import Ready
from .selftest import SelfTest
from .volumes import Volumes, spread

DEVICE_SETTING = "UNetSegment/Device"
DOUBLE_CLICK = 0.4
"""Seconds after Apply in which a click is no Cancel: it is the second half of a double click."""


class Panel(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Base of the module's widget, which says which logic it works with and where the sample is."""

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: Any = None
        self._parameterNode: Any = None
        self._parameterNodeTags: tuple[Any, int] = (None, 0)
        self._run: Any = None
        self._began = 0.0
        self._cancel = False
        self._advice: Any = None
        self._isWaiting = False
        self._shown: Any = None
        self._saidOf: tuple | None = None
        self._volumes = Volumes(self.onNodesChanged, lambda *nodes: self.logic.isOfOtherVolume(*nodes))
        self._paper = Paper()
        self.model = ChosenModel(self)
        self.ready = Ready(self)

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
        self.ui, self._shown = slicer.util.childWidgetVariables(widget), None
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
        self._cards = cards.Cards(self.ui.cardsPanel.layout(), self.onLog, self.ui.logButton)
        self._volumes.attend(self.ui)
        self.ui.modelSelector.connect("currentIndexChanged(int)", self.onModelChanged)
        self.ui.modelsButton.connect("clicked(bool)", self.model.onButton)
        self.ui.deviceSelector.connect("currentIndexChanged(int)", self.onDeviceChanged)
        self.ui.modeSelector.connect("currentIndexChanged(int)", self.onModeChanged)
        self.ui.foldsSelector.connect("currentIndexChanged(int)", self.onFoldsChanged)
        self.ui.regionSelector.connect("nodeAddedByUser(vtkMRMLNode*)", self.onRegionAdded)
        self.ui.checkupButton.connect("clicked(bool)", self._selfTest.onButton)
        self.ui.applyButton.connect("clicked(bool)", self.onApplyButton)
        self.ui.logButton.connect("clicked(bool)", self.onLogButton)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartImportEvent, self.onSceneStartImport)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndBatchProcessEvent, self.onSceneEndBatchProcess)
        self.initializeParameterNode()

    def cleanup(self) -> None:
        """Called when the application closes or the module is reloaded."""
        self._cancelRun()
        if self._advice is not None:
            self._advice.stop()
            self.dependencies.stop()
        self._volumes.stop()
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
        self.ready.warm()

    def exit(self) -> None:
        """Called each time the user opens another module."""
        self._isWaiting = False
        self.setParameterNode(None)

    def onSceneStartClose(self, caller: Any, event: Any) -> None:
        if self._run is not self.dependencies:  # what is being installed has nothing to do with the scene
            self._cancelRun()
        self._wait()

    def onSceneEndClose(self, caller: Any, event: Any) -> None:
        self._cards.clear()
        self._advice.clear()
        self._volumes.clear()

    def onSceneStartImport(self, caller: Any, event: Any) -> None:
        self._wait()  # until nodes have their IDs: what is chosen looks like nothing before

    def onSceneEndBatchProcess(self, caller: Any, event: Any) -> None:
        """A scene was closed or loaded, or one after the other."""
        if self._isWaiting:
            self._isWaiting = False
            self.initializeParameterNode()

    def _wait(self) -> None:
        """Show no choices until the scene is whole again."""
        self._isWaiting = self._isWaiting or self.isConnected
        self.setParameterNode(None)

    def initializeParameterNode(self) -> None:
        """Take this scene's parameters; where no volume is chosen yet, take one."""
        self.setParameterNode(self.logic.getParameterNode())
        self._volumes.suggest(self._parameterNode, self.model.manifest)
        self.refresh()

    def setParameterNode(self, inputParameterNode: Any) -> None:
        """Connect the panel to a parameter node, or to none."""
        if self._parameterNode:
            gui, observer = self._parameterNodeTags
            self._parameterNode.disconnectGui(gui)
            self._parameterNode.RemoveObserver(observer)
            self._volumes.stop()
        self._parameterNode = inputParameterNode
        if self._parameterNode:
            gui = self._parameterNode.connectGui(self.ui)
            # not with addObserver(), which keeps what it once observed, and this keeps the nodes that were chosen
            observer = self._parameterNode.AddObserver(vtk.vtkCommand.ModifiedEvent, self.refresh)
            self._parameterNodeTags = gui, observer

    def inputs(self) -> list:
        """The chosen volume nodes, one per channel of the model; None where none is chosen."""
        manifest = self.model.manifest
        count = len(manifest.channels) if manifest else 1
        return [getattr(self._parameterNode, f"input{n}") for n in range(1, min(count, state.MAX_INPUTS) + 1)]

    def kept(self) -> set[int] | None:
        """Label values of the structures that a run writes; None: all."""
        return structures.wanted(self._parameterNode.structures, self.model.name, self.model.manifest)

    def _written(self) -> list[str]:
        """Names of the structures that a run writes."""
        manifest, kept = self.model.manifest, self.kept()
        return [s.name for s in manifest.segments if kept is None or s.value in kept] if manifest else []

    def corrected(self) -> list[str]:
        """The structures that were corrected by hand, and that a run would replace."""
        return self.logic.corrected(self.output, self._written())

    @property
    def output(self) -> Any:
        """The segmentation to write to; None for a new one, which every frame of a sequence goes to."""
        return None if self.frames() > 1 else self._parameterNode.outputSegmentation

    @property
    def region(self) -> Any:
        """The region of interest; None for the whole volume."""
        return self._parameterNode.region

    def frames(self) -> int:
        """How many images a run segments: one, or every frame of a sequence."""
        return self.logic.frames(self.inputs()[0]) if self._parameterNode.everyFrame else 1

    @property
    def isRunning(self) -> bool:
        """Whether something is under way."""
        return self._run is not None

    @property
    def isCancelled(self) -> bool:
        """Whether what is under way was asked to stop."""
        return self._cancel

    @property
    def isConnected(self) -> bool:
        """Whether the panel shows a scene's choices: not while another module is open."""
        return self._parameterNode is not None

    def refresh(self, caller: Any = None, event: Any = None) -> None:
        """Show what :mod:`state` decides for the present choices."""
        if not self.isConnected:
            return
        if self.model.follow(self._parameterNode.model):
            self.ready.warm()
        self._volumes.follow(self._parameterNode, self.inputs(), self.isRunning)
        manifest, parameters, volume = self.model.manifest, self._parameterNode, self.inputs()[0]
        if self._saidOf not in (None, self._choices()):
            self.say("")
        kept = self.kept()
        written, output = self._written(), self.output
        names = [node.GetName() if node else None for node in self.inputs()]
        if self.isRunning:
            obstacles, note = {}, ""
        else:
            obstacles, note = self.logic.obstacles(volume, output, self.region, written), self._targetNote()
        ran, expected, region = self.ready.ran, self.expected.words(), self.region.GetName() if self.region else ""
        plan = state.plan_line(ran, self.ui.deviceSelector.currentText, expected, region, _)
        view = state.view(
            manifest,
            names,
            running=self.isRunning,
            model_problem=self.model.problem,
            device=plan,
            device_tip=state.plan_tip(ran, expected, _),
            tr=_,
            kept=kept,
            mode=parameters.mode,
            folds=parameters.folds,
            warnings=self._advice.warnings(),
            asking=self._advice.is_asking,
            obstacles=obstacles,
            output_note=note,
            has_volumes=volume is not None or bool(self._volumes.there()),
            has_others=slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLVolumeNode") > 0,
        )
        if not view.apply_enabled:
            self._advice.withdraw()
        binding.show(self.ui, view, self._shown)
        self._shown = view
        frames = self.logic.frames(volume)
        self.ui.everyFrameCheckBox.text = _("Every one of the {count} frames").format(count=frames)
        self.ui.everyFrameCheckBox.visible = frames > 1
        self._checklist.show(manifest.segments if manifest else (), kept)
        self._cards.refresh(self.isRunning)

    def _targetNote(self) -> str:
        """What the user may not expect of where the result goes."""
        if self.frames() > 1:
            return _("The frames go to a new sequence of segmentations.")
        model = self.model.manifest.name if self.model.manifest else ""
        return self.logic.targetNote(self.inputs()[0], self.output, self._written(), model, self.region)

    def onNodesChanged(self, came: bool, differs: bool) -> None:
        """A chosen node is not what it was, or a node came."""
        if not self.isConnected or self.isRunning:
            return
        if came:
            self._volumes.suggest(self._parameterNode, self.model.manifest)
        if differs:  # a stroke in a segmentation or a region that is dragged says nothing about the volumes
            self._advice.outdate()
        self.refresh()

    def _choices(self) -> tuple:
        nodes = [*self.inputs(), self._parameterNode.outputSegmentation, self._parameterNode.region]
        return (self.model.name, *(node and node.GetID() for node in nodes), *self.options().values())

    def onModelChanged(self, index: int) -> None:
        self._keep("model", self.model.name)
        if self.isConnected:
            self._volumes.suggest(self._parameterNode, self.model.manifest)

    def onDeviceChanged(self, index: int) -> None:
        slicer.app.userSettings().setValue(DEVICE_SETTING, self.ui.deviceSelector.currentData)
        self.ready.warm()
        self.refresh()

    def onModeChanged(self, index: int) -> None:
        self._keep("mode", self.ui.modeSelector.currentData)

    def onFoldsChanged(self, index: int) -> None:
        self._keep("folds", self.ui.foldsSelector.currentData)

    def _keep(self, name: str, value: str) -> None:
        """Keep a choice in the scene, and have ready what it needs."""
        if self.isConnected:
            setattr(self._parameterNode, name, value)
            self.ready.warm()
            self.refresh()

    def onStructures(self, values: set[int]) -> None:
        """The user checked or cleared a structure."""
        manifest = self.model.manifest
        if self.isConnected and manifest is not None:
            before = self._parameterNode.structures
            self._parameterNode.structures = structures.remember(before, self.model.name, manifest, values)

    def useVolume(self, node: Any) -> None:
        """Choose a volume as the model's first input, unless something is under way."""
        if self.isConnected and not self.isRunning:
            self._parameterNode.input1 = node

    def onRegionAdded(self, node: Any) -> None:
        """A new region of interest starts as large as the volume, so that there is something to drag."""
        volume = self.inputs()[0] if self.isConnected else None
        if node is not None and volume is not None:
            spread(node, volume)
            self.refresh()

    def onApplyButton(self, checked: bool = False) -> None:
        """Apply, or while it runs, Cancel."""
        if self.isRunning:
            if not (advice.asks() and time.monotonic() - self._began < DOUBLE_CLICK):
                self._cancelRun()
                self.say(_("Stopping"))
            return
        agreed = self._advice.agreed()
        if self._advice.is_refused:  # said where it belongs
            return
        if not agreed:
            self.say(self._advice.question)
            self.refresh()
            return
        self._advice.forget()
        self._began = time.monotonic()
        Apply(self, self._parameterNode).begin()

    def hold(self, run: Any) -> None:
        """From now on ``run`` is under way, which its ``cancel()`` stops: nothing else can begin."""
        self._run = run

    def begin(self, run: Any, words: str) -> None:
        """Show that something is under way, and look after the worker."""
        self.hold(run)
        self.say(words)
        self.ui.progressBar.setValue(0)
        self.ui.progressBar.visible = True
        self.logic.watch()
        self.refresh()

    def say(self, words: str) -> None:
        """The line under the Apply button."""
        self._saidOf = None
        self.ui.statusLabel.text = words
        self.ui.statusLabel.setVisible(bool(words))
        tells = bool(self.dependencies.lines) if self._run is self.dependencies else self._run is not None
        self.ui.logButton.setVisible(bool(words) and tells)

    def showProgress(self, fraction: float, words: str) -> None:
        """Show how far it is, from 0 to 1."""
        self.ui.progressBar.setValue(round(1000 * fraction))
        self.say(words)

    def onWarnings(self, warnings: list) -> None:
        """Show what looks wrong under the input it concerns."""
        if self.isConnected:
            self._advice.take(warnings)
            self.refresh()

    def onResult(self, card: outcome.Card, node: Any, volume: Any, ran: dict[str, str]) -> None:
        """Show what a run gave: its card, the segmentation and volume nodes, and what was run."""
        self._cards.add(card, node, volume, ran)
        self.say("")
        self.end()

    def onError(self, error: Exception, isSceneClosed: bool = False) -> None:
        """Say what went wrong."""
        if isinstance(error, Cancelled):
            self.say(_("Stopped: the scene was closed.") if isSceneClosed else _("Cancelled; the scene is as it was."))
        elif isinstance(error, UNetSegmentError):
            self.say(str(error))
        else:
            logging.error("UNetSegment failed", exc_info=error)
            self.say(_("This failed unexpectedly ({error}); the scene is as it was, see the log.").format(error=error))
        self.end()

    def end(self) -> None:
        """Nothing is under way any more; what was said of it goes with the choices it is about."""
        self._run, self._cancel, self.ui.progressBar.visible = None, False, False
        self._saidOf = self._choices() if self.isConnected else None
        self.refresh()

    def onLog(self, shown: cards.Shown | None = None) -> None:
        """Show what was run, or would be, and the end of the worker's log; what pip said where it failed."""
        if shown is None and self.dependencies.lines and not self.isRunning:
            self._paper.show(_("Log"), "\n".join(self.dependencies.lines), "UNetSegment-pip-log.txt")
            return
        ran = shown.ran if shown is not None else self.ready.ran
        self._paper.show(_("Log"), state.log_text(ran, self.logic.log(), _), "UNetSegment-log.txt")

    def onLogButton(self, checked: bool = False) -> None:
        self.onLog()

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

    def _cancelRun(self) -> None:
        if self._run is not None:
            self._cancel = True
            self._run.cancel()

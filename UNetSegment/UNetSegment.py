"""UNetSegment: run U-Nets on the volumes of the scene. The module is thin; :mod:`UNetSegmentLib` does the work."""

import hashlib
import logging
import shutil
import sys
import time
from pathlib import Path
from typing import Optional

import qt
import slicer
import vtk
from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin
from UNetSegmentLib import package, scene
from UNetSegmentLib.errors import Cancelled, InputError, UNetSegmentError, WorkerError
from UNetSegmentLib.panel import binding, dependencies, state
from UNetSegmentLib.panel.models import ModelChooser
from UNetSegmentLib.predict import gather
from UNetSegmentLib.predict.predictor import Predictor
from UNetSegmentLib.worker import Worker

DEFAULT_MODEL = "hippocampus-mr-t1"
DEVICE_SETTING = "UNetSegment/Device"
POLL_MS = 30
SAMPLE = "hippocampus/hippocampus_084_image.nii.gz"


class UNetSegment(ScriptedLoadableModule):
    """What Slicer shows of the module before it is opened."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("UNetSegment")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = []
        self.parent.contributors = ["UNetSegment contributors"]
        self.parent.helpText = _(
            "Segment a volume with a U-Net: choose the volume and a model, press Apply. "
            "Not a medical device, not for diagnosis."
        )
        self.parent.acknowledgementText = _(
            "The hippocampus model and sample come from the Medical Segmentation Decathlon, Task04 (CC-BY-SA 4.0)."
        )
        slicer.app.connect("startupCompleted()", registerSampleData)


def sampleFile() -> Optional[Path]:
    """The sample MRI that ships with the extension; None where it is not there."""
    places = (folder / SAMPLE for folder in package.resource_folders("SampleData"))
    return next((path for path in places if path.is_file()), None)


def registerSampleData() -> None:
    """Offer the sample MRI in the Sample Data module; it is a local file, nothing is downloaded."""
    import SampleData

    path = sampleFile()
    if path is None:
        return
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="UNetSegment",
        sampleName="HippocampusMRI",
        uris=path.as_uri(),
        fileNames=path.name,
        checksums="SHA256:" + hashlib.sha256(path.read_bytes()).hexdigest(),
        nodeNames="HippocampusMRI",
    )


@parameterNodeWrapper
class UNetSegmentParameterNode:
    """What belongs to the scene. The device belongs to the computer and is an application setting."""

    input1: vtkMRMLScalarVolumeNode
    input2: vtkMRMLScalarVolumeNode
    input3: vtkMRMLScalarVolumeNode
    input4: vtkMRMLScalarVolumeNode
    outputSegmentation: vtkMRMLSegmentationNode
    model: str = DEFAULT_MODEL
    mode: str = "auto"
    mirror: bool = False
    show3D: bool = False


class UNetSegmentWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel: collects what the user chose, asks :mod:`state` what to show, hands work to the logic."""

    def __init__(self, parent=None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self._parameterNode = None
        self._parameterNodeGuiTag = None
        self._models = {}
        self._run = None
        self._cancel = False
        self._began = 0.0
        self._asked = None
        self._ran = None
        self._timer = None
        self._resultNode = None
        self._chooser = None

    def setup(self) -> None:
        """Build the panel from its .ui file."""
        ScriptedLoadableModuleWidget.setup(self)
        widget = slicer.util.loadUI(self.resourcePath("UI/UNetSegment.ui"))
        self.layout.addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        self.logic = UNetSegmentLogic()
        self._fillModels()
        for text, device in ((_("Automatic"), "auto"), (_("CPU"), "cpu"), (_("GPU (NVIDIA)"), "cuda")):
            self.ui.deviceSelector.addItem(text, device)
        device = slicer.util.settingsValue(DEVICE_SETTING, "auto")
        self.ui.deviceSelector.setCurrentIndex(max(self.ui.deviceSelector.findData(device), 0))

        for text, mode in ((_("Automatic"), "auto"), (_("As trained"), "parity"), (_("Fast"), "fast")):
            self.ui.modeSelector.addItem(text, mode)
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL_MS)

        self.ui.modelSelector.connect("currentIndexChanged(int)", self.onModelChanged)
        self.ui.modelsButton.connect("clicked(bool)", self.onModelsButton)
        self.ui.deviceSelector.connect("currentIndexChanged(int)", self.onDeviceChanged)
        self.ui.modeSelector.connect("currentIndexChanged(int)", self.onModeChanged)
        self.ui.applyButton.connect("clicked(bool)", self.onApplyButton)
        self.ui.editButton.connect("clicked(bool)", self.onEditButton)
        self.ui.statisticsButton.connect("clicked(bool)", self.onStatisticsButton)
        self.ui.logButton.connect("clicked(bool)", self.onLogButton)
        self._timer.connect("timeout()", self.onTimer)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.initializeParameterNode()

    def cleanup(self) -> None:
        """Called when the application closes or the module is reloaded."""
        self._cancelRun()
        if self._timer is not None:
            self._timer.stop()
        if self._chooser is not None:
            self._chooser.close()
        self.setParameterNode(None)
        self.removeObservers()
        if self.logic is not None:
            self.logic.stop()

    def enter(self) -> None:
        """Called each time the user opens the module: the first time, the worker starts in the background."""
        self.initializeParameterNode()
        self._warm()

    def exit(self) -> None:
        """Called each time the user opens another module."""
        self.setParameterNode(None)

    def onSceneStartClose(self, caller, event) -> None:
        self._cancelRun()
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event) -> None:
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self) -> None:
        """Take this scene's parameters; where no volume is chosen yet, take the first one."""
        self.setParameterNode(self.logic.getParameterNode())
        if not self._parameterNode.input1:
            first = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
            if first and not first.IsA("vtkMRMLLabelMapVolumeNode"):
                self._parameterNode.input1 = first
        self._selectModel(self._parameterNode.model)
        self.refresh()

    def setParameterNode(self, inputParameterNode) -> None:
        """Connect the panel to a parameter node, or to none."""
        if self._parameterNode:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.refresh)
        self._parameterNode = inputParameterNode
        if self._parameterNode:
            self._parameterNodeGuiTag = self._parameterNode.connectGui(self.ui)
            self.addObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.refresh)

    def _fillModels(self) -> None:
        """List the models on this computer; the one that is chosen stays chosen where it is still there."""
        chosen = self.ui.modelSelector.currentData
        self._models = state.installed_models()
        self.ui.modelSelector.blockSignals(True)
        self.ui.modelSelector.clear()
        for name, (manifest, _problem) in self._models.items():
            self.ui.modelSelector.addItem(manifest.title if manifest else name, name)
        self.ui.modelSelector.setCurrentIndex(max(self.ui.modelSelector.findData(chosen), 0))
        self.ui.modelSelector.blockSignals(False)
        if self.ui.modelSelector.currentData != chosen:
            self.onModelChanged(self.ui.modelSelector.currentIndex)

    def onModelsButton(self, checked: bool = False) -> None:
        """Open the window with all models."""
        if self._chooser is None:
            self._chooser = ModelChooser(
                self.resourcePath("UI/ModelChooser.ui"), self.onModelsChanged, self._selectModel
            )
        self._chooser.show(self.ui.modelSelector.currentData or "")

    def onModelsChanged(self, name=None) -> None:
        """Models came or went; one that came is chosen, unless a run is under way."""
        self._fillModels()
        if name is not None and self._run is None:
            self._selectModel(name)
        self.refresh()

    def _selectModel(self, name: str) -> None:
        index = self.ui.modelSelector.findData(name)
        if index >= 0 and index != self.ui.modelSelector.currentIndex:
            self.ui.modelSelector.setCurrentIndex(index)

    def _manifest(self):
        return self._models.get(self.ui.modelSelector.currentData, (None, _("No model is installed.")))

    def _inputs(self) -> list:
        manifest, _problem = self._manifest()
        count = len(manifest.channels) if manifest else 1
        return [getattr(self._parameterNode, f"input{n}") for n in range(1, min(count, state.MAX_INPUTS) + 1)]

    def refresh(self, caller=None, event=None) -> None:
        """Show what :mod:`state` decides for the present choices."""
        if self._parameterNode is None:
            return
        manifest, problem = self._manifest()
        names = [node.GetName() if node else None for node in self._inputs()]
        device = " · ".join(filter(None, [self.ui.deviceSelector.currentText, state.ran_line(self._ran)]))
        binding.show(self.ui, state.view(manifest, names, self._run is not None, problem, device, _))
        hasResult = self._resultNode is not None and self._resultNode.GetScene() is not None
        for button in (self.ui.editButton, self.ui.statisticsButton):
            button.setVisible(hasResult and self._run is None)
        self.ui.logButton.setVisible(bool(self._ran) and hasResult and self._run is None)
        index = self.ui.modeSelector.findData(self._parameterNode.mode)
        if index >= 0 and index != self.ui.modeSelector.currentIndex:
            self.ui.modeSelector.setCurrentIndex(index)

    def onModelChanged(self, index: int) -> None:
        if self._parameterNode is not None:
            self._parameterNode.model = self.ui.modelSelector.currentData or ""
            self._warm()
            self.refresh()

    def onDeviceChanged(self, index: int) -> None:
        qt.QSettings().setValue(DEVICE_SETTING, self.ui.deviceSelector.currentData)
        self._warm()
        self.refresh()

    def onModeChanged(self, index: int) -> None:
        if self._parameterNode is not None:
            self._parameterNode.mode = self.ui.modeSelector.currentData
            self._warm()
            self.refresh()

    def onTimer(self) -> None:
        """Take what the worker reports; asleep while there is nothing to wait for."""
        self.logic.poll()
        if not self.logic.isBusy():
            self._timer.stop()

    def onApplyButton(self, checked: bool = False) -> None:
        """Apply, or while it runs, Cancel."""
        if self._run is not None:
            self._cancelRun()
            self.ui.statusLabel.text = _("Stopping")
            return
        self._cancel, self._began = False, time.monotonic()
        self.ui.progressBar.setValue(0)
        try:
            dependencies.ensure(self._options()["device"], Path(self.resourcePath("requirements.txt")))
            self._run = self.logic.start(
                self._inputs(),
                self._parameterNode.outputSegmentation,
                model=self.ui.modelSelector.currentData or "",
                show3D=self._parameterNode.show3D,
                onProgress=self.onProgress,
                onDone=self.onDone,
                onError=self.onError,
                **self._options(),
            )
        except Exception as error:
            self.onError(error)
            return
        self.ui.statusLabel.text = _("Starting")
        self.ui.progressBar.setVisible(True)
        self._timer.start()
        self.refresh()

    def onProgress(self, report, secondsLeft=None) -> None:
        """Show how far it is."""
        self.ui.progressBar.setValue(round(1000 * report.fraction))
        left = state.remaining(secondsLeft, time.monotonic() - self._began)
        self.ui.statusLabel.text = " · ".join(part for part in (report.message, left) if part)

    def onDone(self, result) -> None:
        """Show the result."""
        self._run = None
        if self._parameterNode is not None:
            self._parameterNode.outputSegmentation = result.node
        self._resultNode = result.node
        self.ui.statusLabel.text = state.result_line(result.labels, result.volumes_ml, result.provenance)
        self._ran = dict(result.provenance)
        self._finish()

    def onError(self, error) -> None:
        """Say what went wrong; where no worker ever started on this computer, do the work here instead."""
        first, self._run = self._run is not None, None
        if isinstance(error, WorkerError) and first and not self.logic.hasWorked() and not self._cancel:
            logging.warning("UNetSegment: %s Working without a worker.", error)
            self._runHere()
            return
        if isinstance(error, Cancelled):
            self.ui.statusLabel.text = _("Cancelled; the scene is as it was.")
        elif isinstance(error, UNetSegmentError):
            self.ui.statusLabel.text = str(error)
        else:
            logging.error("UNetSegment failed", exc_info=error)
            self.ui.statusLabel.text = _(
                "This failed unexpectedly ({error}); the scene is as it was, see the log."
            ).format(error=error)
        self._finish()

    def onEditButton(self, checked: bool = False) -> None:
        """Open the Segment Editor on the last result and its volume."""
        slicer.util.selectModule("SegmentEditor")
        editor = slicer.modules.segmenteditor.widgetRepresentation().self().editor
        editor.setSegmentationNode(self._resultNode)
        editor.setSourceVolumeNode(self._inputs()[0] if self._parameterNode else None)

    def onStatisticsButton(self, checked: bool = False) -> None:
        """Open Segment Statistics on the last result."""
        slicer.util.selectModule("SegmentStatistics")
        widget = slicer.modules.segmentstatistics.widgetRepresentation().self()
        widget.segmentationSelector.setCurrentNode(self._resultNode)

    def onLogButton(self, checked: bool = False) -> None:
        """Show what was run, and the end of the worker's log."""
        slicer.util.infoDisplay(
            state.ran_line(self._ran) or _("Nothing was run yet."),
            detailedText=state.log_text(self._ran, self.logic.log()),
        )

    def _options(self) -> dict:
        manifest, _problem = self._manifest()
        mirror = self._parameterNode.mirror and manifest is not None and bool(manifest.inference.mirror_axes)
        return {
            "device": self.ui.deviceSelector.currentData or "auto",
            "mode": self._parameterNode.mode,
            "mirror": True if mirror else None,
        }

    def _warm(self) -> None:
        """Have the chosen model ready in the background, where everything for it is installed."""
        manifest, _problem = self._manifest()
        if self._parameterNode is None or manifest is None or self._run is not None:
            return
        if dependencies.missing(self._options()["device"]):
            return

        def ready(result) -> None:
            self._ran = result["ran"]
            self.refresh()

        asked = (self.ui.modelSelector.currentData, *self._options().values())
        if asked == self._asked and self.logic.worker().is_alive:
            return
        self._asked, self._ran = asked, None
        self.logic.warm(self.ui.modelSelector.currentData, onDone=ready, **self._options())
        self._timer.start()

    def _cancelRun(self) -> None:
        self._cancel = True
        if self._run is not None:
            self._run.cancel()

    def _finish(self) -> None:
        self.ui.progressBar.setVisible(False)
        self.refresh()

    def _runHere(self) -> None:
        """Segment in this process: the window lives on between patches only."""
        parameters, began = self._parameterNode, time.monotonic()

        def progress(report) -> None:
            elapsed = time.monotonic() - began
            self.onProgress(report, elapsed / report.fraction - elapsed if report.fraction > 0.05 else None)
            slicer.app.processEvents()

        self._run = _Here(self)
        try:
            node = self.logic.process(
                self._inputs(),
                parameters.outputSegmentation,
                model=self.ui.modelSelector.currentData or "",
                progress=progress,
                cancel=lambda: self._cancel,
                show3D=parameters.show3D,
                **self._options(),
            )
        except Exception as error:
            self._run = None
            self.onError(error)
            return
        labels = self.logic.lastResult.labels
        provenance = dict(self.logic.lastResult.provenance)
        self.onDone(scene.Result(node, labels.segments, labels.volumes_ml(), provenance))


class _Here:
    """A run in this process, which is cancelled by the panel's flag."""

    def __init__(self, panel) -> None:
        self._panel = panel

    def cancel(self) -> None:
        self._panel._cancel = True


class UNetSegmentLogic(ScriptedLoadableModuleLogic):
    """Segmentation of volume nodes, for the panel and for scripts::

    logic = slicer.util.getModuleLogic("UNetSegment")
    segmentation = logic.process(slicer.util.getNode("MRHead"), model="hippocampus-mr-t1")
    """

    def __init__(self, engine=Predictor, worker=None) -> None:
        """``engine(package, device, mode, mirror)`` makes a predictor, ``worker`` runs in the background; tests may give
        their own."""
        ScriptedLoadableModuleLogic.__init__(self)
        self._engine = engine
        self._worker = worker
        self._polling = False
        self._ready = (None, None)
        self.lastResult = None

    def getParameterNode(self):
        return UNetSegmentParameterNode(super().getParameterNode())

    def process(
        self,
        inputVolume,
        outputSegmentation=None,
        model: str = DEFAULT_MODEL,
        device: str = "auto",
        progress=None,
        cancel=None,
        show3D: bool = False,
        mode: str = "auto",
        mirror: Optional[bool] = None,
    ):
        """Segment one volume, or several as the channels of one image, in this process; blocks until done.

        Args:
            inputVolume: vtkMRMLScalarVolumeNode, or a list with one node per channel in the model's order.
            outputSegmentation: Node to write to; its segments of other names stay as they are. New by default.
            model: Name of an installed model, or a package folder.
            device: ``auto``, ``cpu`` or ``cuda``.
            progress: Called with a :class:`UNetSegmentLib.predict.Progress` some 20 times a second.
            cancel: Asked as often; True stops the work.
            show3D: Also make the surfaces.
            mode: ``auto``, ``parity`` or ``fast``.
            mirror: Average mirrored copies; by default where the mode is ``parity`` and the model allows it.

        Returns:
            The vtkMRMLSegmentationNode, under the input's transform and beside it in the subject hierarchy.

        Raises:
            UNetSegmentError: One sentence that says what is wrong; the scene is as it was.
        """
        nodes = list(inputVolume) if isinstance(inputVolume, (list, tuple)) else [inputVolume]
        loaded = package.load(model)
        volume = gather([scene.world_volume(node) for node in nodes], loaded.manifest)
        result = self._predictor(loaded, device, mode, mirror).predict(volume, progress, cancel)
        for node in (*nodes, outputSegmentation):
            if node is not None and node.GetScene() is None:
                raise InputError(f"'{node.GetName()}' was removed while it was being segmented; nothing was written.")
        name = f"{nodes[0].GetName()} {loaded.manifest.title}"
        written = scene.write_segmentation(result.labels, nodes[0], outputSegmentation, name, result.provenance, show3D)
        self.lastResult = result
        return written

    def _predictor(self, loaded, device: str, mode: str, mirror: Optional[bool]):
        """The predictor of the last run, where model and options are the same: nothing is loaded twice."""
        key = (loaded.root, loaded.content_hash, device, mode, mirror)
        if self._ready[0] != key:
            self._ready = (key, self._engine(loaded, device=device, mode=mode, mirror=mirror))
        return self._ready[1]

    def start(
        self,
        inputVolume,
        outputSegmentation=None,
        model: str = DEFAULT_MODEL,
        device: str = "auto",
        mode: str = "auto",
        mirror: Optional[bool] = None,
        show3D: bool = False,
        onProgress=None,
        onDone=None,
        onError=None,
    ):
        """Segment in the worker; returns at once. Call :meth:`poll` some thirty times a second until it is finished.

        Args:
            inputVolume: As for :meth:`process`, like the other arguments up to ``show3D``.
            onProgress: Called with a :class:`UNetSegmentLib.predict.Progress` and the seconds left, or None.
            onDone: Called with a :class:`UNetSegmentLib.scene.Result`.
            onError: Called with the error; the scene is as it was.

        Returns:
            The :class:`UNetSegmentLib.scene.Run`, which has ``cancel()`` and ``finished``.

        Raises:
            UNetSegmentError: What can be known at once is wrong.
        """
        nodes = list(inputVolume) if isinstance(inputVolume, (list, tuple)) else [inputVolume]
        options = self._asked(device, mode, mirror)
        return scene.Run(
            self.worker(), package.load(model), nodes, outputSegmentation, options, show3D, onProgress, onDone, onError
        )

    def warm(self, model: str, device: str = "auto", mode: str = "auto", mirror: Optional[bool] = None, onDone=None):
        """Have a model ready in the worker; what cannot be done is told when it is really asked for."""
        try:
            self.worker().load(str(package.load(model).root), self._asked(device, mode, mirror), on_done=onDone)
        except UNetSegmentError as error:
            logging.info("UNetSegment: %s", error)

    def worker(self) -> Worker:
        """The process that runs models; it starts with the first request."""
        if self._worker is None:
            self._worker = Worker([shutil.which("PythonSlicer") or sys.executable])
        return self._worker

    def poll(self) -> None:
        """Call what waits for the worker's reports; does nothing when called from within one of them."""
        if self._worker is None or self._polling:
            return
        self._polling = True
        try:
            self._worker.poll()
        finally:
            self._polling = False

    def isBusy(self) -> bool:
        """Whether the worker has something to do."""
        return self._worker is not None and self._worker.is_busy

    def hasWorked(self) -> bool:
        """Whether a worker ever answered."""
        return self._worker is not None and self._worker.has_answered

    def log(self) -> list:
        """The last lines of the worker's log."""
        return list(self._worker.lines) if self._worker is not None else []

    def stop(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._worker.stop()

    @staticmethod
    def _asked(device: str, mode: str, mirror: Optional[bool]) -> dict:
        return {"device": device, "mode": mode} | ({} if mirror is None else {"mirror": mirror})


class UNetSegmentTest(ScriptedLoadableModuleTest):
    """The self-test: the sample MRI through the shipped model, in the application itself."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        """What the "Reload and Test" button and ctest run."""
        self.setUp()
        self.test_sampleIsSegmented()

    def test_sampleIsSegmented(self) -> None:
        path = sampleFile()
        self.assertIsNotNone(path, "the sample MRI is not installed")
        volume = slicer.util.loadVolume(str(path))
        try:
            node = UNetSegmentLogic().process(volume)
        except UNetSegmentError as error:
            if "No library to run networks" in str(error):
                self.skipTest(str(error))
            raise
        segmentation = node.GetSegmentation()
        names = [segmentation.GetNthSegment(n).GetName() for n in range(segmentation.GetNumberOfSegments())]
        self.assertEqual(names, ["Anterior hippocampus", "Posterior hippocampus"])


def load_tests(loader, tests, pattern):
    """unittest's hook: the self-test, and the module's tests in Testing/Python where that folder is on the path.

    ``test_host_contract.py`` is about the stand-in host, not about this module: it runs by its own name.
    """
    suite = loader.loadTestsFromTestCase(UNetSegmentTest)
    folder = Path(__file__).parent / "Testing" / "Python"
    if str(folder) in [str(Path(entry)) for entry in sys.path]:
        for name in ("test_scene", "test_module"):
            suite.addTests(loader.loadTestsFromName(name))
    return suite

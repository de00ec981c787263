"""UNetSegment: run U-Nets on the volumes of the scene. The module is thin; :mod:`UNetSegmentLib` does the work."""

import hashlib
import logging
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
from UNetSegmentLib.errors import Cancelled, InputError, UNetSegmentError
from UNetSegmentLib.panel import binding, dependencies, state
from UNetSegmentLib.predict import gather
from UNetSegmentLib.predict.predictor import Predictor

DEFAULT_MODEL = "hippocampus-mr-t1"
DEVICE_SETTING = "UNetSegment/Device"
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
        self._running = False
        self._cancel = False

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

        self.ui.modelSelector.connect("currentIndexChanged(int)", self.onModelChanged)
        self.ui.deviceSelector.connect("currentIndexChanged(int)", self.onDeviceChanged)
        self.ui.applyButton.connect("clicked(bool)", self.onApplyButton)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.initializeParameterNode()

    def cleanup(self) -> None:
        """Called when the application closes or the module is reloaded."""
        self._cancel = True
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self) -> None:
        """Called each time the user opens the module."""
        self.initializeParameterNode()

    def exit(self) -> None:
        """Called each time the user opens another module."""
        self.setParameterNode(None)

    def onSceneStartClose(self, caller, event) -> None:
        self._cancel = True
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
        for name, folder in package.installed().items():
            try:
                manifest, problem = package.load(folder).manifest, ""
            except UNetSegmentError as error:
                manifest, problem = None, str(error)
            self._models[name] = (manifest, problem)
            self.ui.modelSelector.addItem(manifest.title if manifest else name, name)

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
        binding.show(
            self.ui, state.view(manifest, names, self._running, problem, self.ui.deviceSelector.currentText, _)
        )

    def onModelChanged(self, index: int) -> None:
        if self._parameterNode is not None:
            self._parameterNode.model = self.ui.modelSelector.currentData or ""
            self.refresh()

    def onDeviceChanged(self, index: int) -> None:
        qt.QSettings().setValue(DEVICE_SETTING, self.ui.deviceSelector.currentData)
        self.refresh()

    def onApplyButton(self, checked: bool = False) -> None:
        """Apply, or while it runs, Cancel."""
        if self._running:
            self._cancel = True
            self.ui.statusLabel.text = _("Stopping")
            return
        self._running, self._cancel = True, False
        self.ui.progressBar.setValue(0)
        self.ui.progressBar.setVisible(True)
        self.refresh()
        try:
            self.ui.statusLabel.text = self._run()
        except Cancelled:
            self.ui.statusLabel.text = _("Cancelled; the scene is as it was.")
        except UNetSegmentError as error:
            self.ui.statusLabel.text = str(error)
        except Exception as error:
            logging.exception("UNetSegment failed")
            self.ui.statusLabel.text = _(
                "This failed unexpectedly ({error}); the scene is as it was, see the log."
            ).format(error=error)
        finally:
            self._running = False
            self.ui.progressBar.setVisible(False)
            self.refresh()

    def _run(self) -> str:
        device = self.ui.deviceSelector.currentData or "auto"
        inputs, began = self._inputs(), time.monotonic()
        parameters = self._parameterNode
        dependencies.ensure(device, Path(self.resourcePath("requirements.txt")))

        def progress(report) -> None:
            self.ui.progressBar.setValue(round(1000 * report.fraction))
            left = state.remaining(report.fraction, time.monotonic() - began)
            self.ui.statusLabel.text = " · ".join(part for part in (report.message, left) if part)
            slicer.app.processEvents()

        node = self.logic.process(
            inputs,
            parameters.outputSegmentation,
            model=self.ui.modelSelector.currentData or "",
            device=device,
            progress=progress,
            cancel=lambda: self._cancel,
            show3D=parameters.show3D,
        )
        parameters.outputSegmentation = node
        result = self.logic.lastResult
        return state.result_line(
            result.labels.segments,
            result.labels.volumes_ml(),
            float(result.provenance["seconds"]),
            result.provenance["device"],
        )


class UNetSegmentLogic(ScriptedLoadableModuleLogic):
    """Segmentation of volume nodes, for the panel and for scripts::

    logic = slicer.util.getModuleLogic("UNetSegment")
    segmentation = logic.process(slicer.util.getNode("MRHead"), model="hippocampus-mr-t1")
    """

    def __init__(self, engine=Predictor) -> None:
        """``engine(package, device=...)`` makes a predictor; tests may give their own."""
        ScriptedLoadableModuleLogic.__init__(self)
        self._engine = engine
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
    ):
        """Segment one volume, or several as the channels of one image; blocks until done.

        Args:
            inputVolume: vtkMRMLScalarVolumeNode, or a list with one node per channel in the model's order.
            outputSegmentation: Node to write to; its segments of other names stay as they are. New by default.
            model: Name of an installed model, or a package folder.
            device: ``auto``, ``cpu`` or ``cuda``.
            progress: Called with a :class:`UNetSegmentLib.predict.Progress` some 20 times a second.
            cancel: Asked as often; True stops the work.
            show3D: Also make the surfaces.

        Returns:
            The vtkMRMLSegmentationNode, under the input's transform and beside it in the subject hierarchy.

        Raises:
            UNetSegmentError: One sentence that says what is wrong; the scene is as it was.
        """
        nodes = list(inputVolume) if isinstance(inputVolume, (list, tuple)) else [inputVolume]
        loaded = package.load(model)
        volume = gather([scene.world_volume(node) for node in nodes], loaded.manifest)
        result = self._predictor(loaded, device).predict(volume, progress, cancel)
        for node in (*nodes, outputSegmentation):
            if node is not None and node.GetScene() is None:
                raise InputError(f"'{node.GetName()}' was removed while it was being segmented; nothing was written.")
        name = f"{nodes[0].GetName()} {loaded.manifest.title}"
        written = scene.write_segmentation(result.labels, nodes[0], outputSegmentation, name, result.provenance, show3D)
        self.lastResult = result
        return written

    def _predictor(self, loaded, device: str):
        """The predictor of the last run, where model and device are the same: nothing is loaded twice."""
        key = (loaded.root, loaded.content_hash, device)
        if self._ready[0] != key:
            self._ready = (key, self._engine(loaded, device=device))
        return self._ready[1]


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

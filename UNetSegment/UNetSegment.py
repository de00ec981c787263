"""UNetSegment: run U-Nets on the volumes of the scene. The module is thin; :mod:`UNetSegmentLib` does the work."""

import hashlib
import logging
import sys
from pathlib import Path
from typing import Optional

import slicer
from slicer import vtkMRMLMarkupsROINode, vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
)
from UNetSegmentLib import package, predict, scene
from UNetSegmentLib.errors import UNetSegmentError
from UNetSegmentLib.panel import hierarchy
from UNetSegmentLib.panel.background import Background
from UNetSegmentLib.panel.panel import Panel
from UNetSegmentLib.scene.moduletest import ModuleTest

DEFAULT_MODEL = "hippocampus-mr-t1"
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
        slicer.app.connect("startupCompleted()", registerHierarchyPlugin)


def sampleFile() -> Optional[Path]:
    """The sample MRI that ships with the extension; None where it is not there."""
    places = (folder / SAMPLE for folder in package.resource_folders("SampleData"))
    return next((path for path in places if path.is_file()), None)


def readSample() -> Optional[tuple]:
    """The sample as a :class:`Volume`, and the expert's labels of it as an array (I, J, K); None where they are not there."""
    from UNetSegmentLib import io

    path = sampleFile()
    expert = Path(str(path).replace("_image", "_label"))
    return (io.read_volume(path), io.read_labelmap(expert).array) if path and expert.is_file() else None


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


class UNetSegmentSubjectHierarchyPlugin(hierarchy.HierarchyPlugin):
    """ "Segment with U-Net" in the menu of a volume; Slicer finds the class by this name."""

    filePath = __file__


def registerHierarchyPlugin() -> None:
    """Add the menu entry, once every module of Slicer is there."""
    hierarchy.register(UNetSegmentSubjectHierarchyPlugin.filePath, logging.warning)


def asList(inputVolume) -> list:
    """The volume nodes of an argument that may be one of them or several; at least one, which may be None."""
    return (list(inputVolume) or [None]) if isinstance(inputVolume, (list, tuple)) else [inputVolume]


def asSentence(error: Exception) -> UNetSegmentError:
    """An error as the worker tells it, in a sentence."""
    from UNetSegmentLib.worker import protocol

    return protocol.restore_error(protocol.describe_error(error))


@parameterNodeWrapper
class UNetSegmentParameterNode:
    """What belongs to the scene. The device belongs to the computer and is an application setting."""

    input1: vtkMRMLScalarVolumeNode
    input2: vtkMRMLScalarVolumeNode
    input3: vtkMRMLScalarVolumeNode
    input4: vtkMRMLScalarVolumeNode
    outputSegmentation: vtkMRMLSegmentationNode
    region: vtkMRMLMarkupsROINode
    structures: str = ""
    model: str = DEFAULT_MODEL
    mode: str = "auto"
    mirror: bool = False
    folds: str = "all"
    show3D: bool = False
    everyFrame: bool = False


class UNetSegmentWidget(Panel):
    """The panel, with this module's logic and sample."""

    def makeLogic(self):
        return UNetSegmentLogic()

    def sample(self):
        return readSample()


class UNetSegmentLogic(ScriptedLoadableModuleLogic, Background):
    """Segmentation of volume nodes, for the panel and for scripts::

    logic = slicer.util.getModuleLogic("UNetSegment")
    segmentation = logic.process(slicer.util.getNode("MRHead"), model="hippocampus-mr-t1")
    """

    def __init__(self, engine=None, worker=None) -> None:
        """``engine(package, device, mode, mirror, folds)`` makes a predictor instead of :class:`predict.Predictor`, ``worker`` runs
        in the background; tests may give their own."""
        ScriptedLoadableModuleLogic.__init__(self)
        Background.__init__(self, worker)
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
        mode: str = "auto",
        mirror: Optional[bool] = None,
        region=None,
        keep=None,
        folds: str = "all",
    ):
        """Segment one volume, or several as the channels of one image, in this process; blocks until done.

        Args:
            inputVolume: vtkMRMLScalarVolumeNode, or a list with one node per channel in the model's order.
            outputSegmentation: Node to write to; its segments of other names stay as they are. New by default.
            model: Name of an installed model, or the path of a model's folder or zip; see :func:`UNetSegmentLib.package.load`.
            device: ``auto``, ``cpu`` or ``cuda``.
            progress: Called with a :class:`UNetSegmentLib.predict.Progress` some 20 times a second.
            cancel: Asked as often; True stops the work.
            show3D: Also make the surfaces.
            mode: ``auto``, ``parity`` or ``fast``.
            mirror: Average mirrored copies; by default where the mode is ``parity`` and the model is one of nnU-Net's.
            region: vtkMRMLMarkupsROINode to segment the inside of; the whole volume by default.
            keep: Label values of the structures to write; all by default.
            folds: Which networks of a model with several are averaged: ``all``, ``first``, or names like ``0,2``.

        Returns:
            The vtkMRMLSegmentationNode, under the input's transform and beside it in the subject hierarchy.

        Raises:
            UNetSegmentError: One sentence that says what is wrong; the scene is as it was.
        """
        from UNetSegmentLib.volume import LabelMap

        nodes = asList(inputVolume)
        loaded = package.load(model)
        labels = scene.kept_labels(loaded.manifest, keep)
        scene.check_present(*nodes, outputSegmentation, region, has_begun=False)
        scene.world_volume(nodes[0])  # its own mistakes first
        scene.check_target(outputSegmentation, nodes[0], [label.name for label in labels])
        volume = predict.gather([scene.world_volume(node) for node in nodes], loaded.manifest)
        inside = {} if region is None else {"region": scene.region_box(region, nodes[0])}
        try:
            result = self._predictor(loaded, device, mode, mirror, folds).predict(volume, progress, cancel, **inside)
        except MemoryError as error:
            raise asSentence(error) from None
        scene.check_present(*nodes, outputSegmentation)
        name = f"{nodes[0].GetName()} {loaded.manifest.title}"
        kept = LabelMap(result.labels.array, result.labels.grid, labels) if keep is not None else result.labels
        written = scene.write_segmentation(kept, nodes[0], outputSegmentation, name, result.provenance, show3D)
        self.lastResult = result
        return written

    def _predictor(self, loaded, device: str, mode: str, mirror: Optional[bool], folds: str):
        """The predictor of the last run, where model and options are the same: nothing is loaded twice."""
        key = (loaded.root, loaded.content_hash, device, mode, mirror, folds)
        if self._ready[0] != key:
            engine = self._engine or predict.Predictor
            self._ready = (key, engine(loaded, device=device, mode=mode, mirror=mirror, folds=folds))
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
        region=None,
        keep=None,
        onWarnings=None,
        everyFrame: bool = False,
        folds: str = "all",
    ):
        """Segment in the worker; returns at once. What is reported comes while Slicer waits for events, through a timer; a
        script that gives it no time to wait calls :meth:`poll` some thirty times a second until it is finished.

        Args:
            inputVolume: As for :meth:`process`, like the other arguments that have the same name there.
            onProgress: Called with a :class:`UNetSegmentLib.predict.Progress` and the seconds left, or None.
            onDone: Called with a :class:`UNetSegmentLib.scene.Result`.
            onError: Called with the error; the scene is as it was.
            onWarnings: Called with what looks wrong about the volumes, where something does.
            everyFrame: Segment every frame of the sequence that the volume shows, into a new sequence.

        Returns:
            The :class:`UNetSegmentLib.scene.Run` or :class:`UNetSegmentLib.scene.FrameRun`, which has ``cancel()`` and ``finished``.

        Raises:
            UNetSegmentError: What can be known at once is wrong.
        """
        nodes = asList(inputVolume)
        options = self._asked(device, mode, mirror, folds)
        loaded = package.load(model)
        if region is not None:
            scene.check_present(*nodes, region, has_begun=False)
            scene.world_volume(nodes[0])  # its own mistakes first
            options["region"] = scene.region_box(region, nodes[0])
        told = {"on_progress": onProgress, "on_done": onDone, "on_error": onError, "on_warnings": onWarnings}
        if everyFrame:
            run = scene.FrameRun(self.worker(), loaded, nodes, options, show3D, keep=keep, **told)
        else:
            run = scene.Run(self.worker(), loaded, nodes, outputSegmentation, options, show3D, keep=keep, **told)
        self.watch()
        return run

    def frames(self, volume) -> int:
        """How many frames the sequence has that a volume shows; 1 for a volume like any other."""
        return scene.frame_count(volume)

    def warm(
        self,
        model: str,
        device: str = "auto",
        mode: str = "auto",
        mirror: Optional[bool] = None,
        folds: str = "all",
        onDone=None,
    ):
        """Have a model ready in the worker; what cannot be done is told when it is really asked for."""
        try:
            self.worker().load(str(package.load(model).root), self._asked(device, mode, mirror, folds), on_done=onDone)
        except UNetSegmentError as error:
            logging.info("UNetSegment: %s", error)
        self.watch()

    def check(self, inputVolume, model: str = DEFAULT_MODEL) -> list:
        """What looks wrong about volumes before they are segmented, as :class:`InputWarning` list; takes hundredths of a
        second. What would stop a run is told in the same way, with the code ``refused``, or ``model`` where it is the model."""
        from UNetSegmentLib.predict import sanity

        nodes = asList(inputVolume)
        try:
            manifest = package.load(model).manifest
        except UNetSegmentError as error:
            return [predict.InputWarning("", "model", str(error))]
        volumes = []
        for node, channel in zip(nodes, manifest.channels, strict=False):
            try:
                scene.check_present(node, has_begun=False)
                volumes.append(scene.world_volume(node))
            except UNetSegmentError as error:
                return [predict.InputWarning(channel.name, "refused", str(error))]
        return sanity.check(volumes, manifest)

    def obstacles(self, inputVolume, outputSegmentation=None, region=None, names=()) -> dict:
        """What about the ``output`` or the ``region`` would stop a run on a volume, as a sentence each; empty where nothing.

        ``names`` are those of the structures that would be written."""
        try:
            scene.world_volume(inputVolume)
        except UNetSegmentError:  # the volume's own mistakes are for ``check`` to tell
            return {}
        found = {}
        for what, look in (
            ("output", lambda: scene.check_target(outputSegmentation, inputVolume, names)),
            ("region", lambda: region is None or scene.region_box(region, inputVolume)),
        ):
            try:
                look()
            except UNetSegmentError as error:
                found[what] = str(error)
        return found

    def targetNote(self, inputVolume, outputSegmentation, names, model: str = "", region=None) -> str:
        """What a user may not expect of writing structures with these names to a segmentation; empty where there is nothing."""
        if inputVolume is None:
            return ""
        inside = region.GetName() if region is not None else ""
        return scene.target_note(outputSegmentation, inputVolume, names, _, model, inside)

    def corrected(self, outputSegmentation, names) -> list:
        """Those of the structures with these names that were worked on by hand since they were written to a segmentation."""
        return scene.corrected(outputSegmentation, names)

    def isOfOtherVolume(self, outputSegmentation, inputVolume) -> bool:
        """Whether a segmentation holds what was not made from this volume, as far as the scene knows."""
        return scene.holds_segments(outputSegmentation) and scene.made_from(outputSegmentation) is not inputVolume

    def expectedSeconds(
        self,
        inputVolume=None,
        model: str = DEFAULT_MODEL,
        device: str = "auto",
        mode: str = "auto",
        mirror: Optional[bool] = None,
        folds: str = "all",
        region=None,
        ran=None,
    ) -> Optional[float]:
        """How long a run in the worker will take, foretold from what was measured on this computer; None where nothing was,
        or where there would be no run. Without a volume: for an image as large as those that the model was trained on.

        The arguments are those of :meth:`process`; ``ran`` tells what it would run on, where that is known."""
        from UNetSegmentLib.predict import forecast, speeds

        nodes = asList(inputVolume)
        try:
            manifest = package.load(model).manifest
            known = nodes and nodes[0] is not None
            grid = scene.world_volume(nodes[0]).grid if known else forecast.usual_grid(manifest)
            if grid is None:
                return None
            box = scene.region_box(region, nodes[0]) if known and region is not None else None
            return speeds.expected(manifest, self._asked(device, mode, mirror, folds), grid, box, ran)
        except UNetSegmentError:
            return None

    @staticmethod
    def _asked(device: str, mode: str, mirror: Optional[bool], folds: str) -> dict:
        """Options for the worker; what is usual is left out, so that the same model is not kept ready twice."""
        unusual = {"mirror": mirror, "folds": None if folds == "all" else folds}
        return {"device": device, "mode": mode} | {name: value for name, value in unusual.items() if value is not None}


class UNetSegmentTest(ModuleTest):
    """What "Reload and Test" and ctest run, with this module's logic and sample."""

    def makeLogic(self):
        return UNetSegmentLogic()

    def sampleFile(self):
        return sampleFile()

    def readSample(self):
        return readSample()


def load_tests(loader, tests, pattern):
    """unittest's hook: the self-test, and the module's tests in Testing/Python where that folder is on the path.

    ``test_host_*.py`` are about the stand-in host, not about this module: they run by their own names.
    """
    suite = loader.loadTestsFromTestCase(UNetSegmentTest)
    folder = Path(__file__).parent / "Testing" / "Python"
    if str(folder) in [str(Path(entry)) for entry in sys.path]:
        for path in sorted(folder.glob("test_*.py")):
            if not path.name.startswith("test_host_"):
                suite.addTests(loader.loadTestsFromName(path.stem))
    return suite

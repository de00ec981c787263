"""What the module's tests share: the panel, a stand-in for the worker, the sample. Runs in Slicer and on the stand-in host."""

import contextlib
import functools
import os
import shutil
import tempfile
import time
import unittest
import unittest.mock
from pathlib import Path

import numpy as np
import slicer
from UNetSegmentLib.errors import Cancelled
from UNetSegmentLib.labels import Label
from UNetSegmentLib.panel import needs
from UNetSegmentLib.predict import Prediction, Progress
from UNetSegmentLib.predict.backends import is_installed
from UNetSegmentLib.volume import LabelMap
from UNetSegmentLib.worker import Job, Outcome
from UNetSegmentLib.worker.memory import SharedArray

MODULE = Path(__file__).resolve().parents[2] / "UNetSegment.py"
BACKEND = is_installed("openvino") or (is_installed("torch") and is_installed("monai"))
CONTROLS = (
    *("QPushButton", "QToolButton", "QComboBox", "QCheckBox", "QLineEdit", "QTreeWidget", "QTextBrowser"),
    *("QListWidget", "QProgressBar", "ctkSearchBox", "ctkCollapsibleButton", "qMRMLNodeComboBox"),
)
CACHE = "unetsegment-tests-"
"""How the name of a cache folder begins that is for tests alone."""
NO_BACKEND = "neither openvino nor torch with monai is installed here"


def needs_main_window(test):
    """Skip a test that changes the module where there is no main window to show another one in."""

    @functools.wraps(test)
    def tried(self):
        if slicer.util.mainWindow() is None:
            self.skipTest("Slicer runs without a main window")
        test(self)

    return tried


def load_panel():
    """The module's panel: in Slicer its widget, on the stand-in host the one that the host builds."""
    if not hasattr(slicer.modules, "unetsegment"):
        import host

        host.load_module(MODULE)
    with contextlib.suppress(RuntimeError):  # Slicer without a main window
        slicer.util.selectModule("UNetSegment")
    widget = slicer.modules.unetsegment.widgetRepresentation().self()
    widget.initializeParameterNode()
    return widget


def module():
    load_panel()
    import UNetSegment

    return UNetSegment


def setUpModule():
    """Models that the tests import go into a cache folder of their own, whatever the user's is; pytest has one for all."""
    if Path(os.environ.get("UNETSEGMENT_CACHE", "")).name.startswith(CACHE):
        return
    folder = tempfile.mkdtemp(prefix=CACHE)
    unittest.addModuleCleanup(shutil.rmtree, folder, ignore_errors=True)
    place = unittest.mock.patch.dict(os.environ, {"UNETSEGMENT_CACHE": folder})
    place.start()
    unittest.addModuleCleanup(place.stop)


class FakePredictor:
    """Stands in for the engine where only the panel's mechanics are looked at: labels every bright voxel."""

    def __init__(self, loaded, device="auto", mode="auto", mirror=None, folds="all"):
        self.package, self.device = loaded, device

    def predict(self, volume, progress=None, cancel=None):
        for step in range(5):
            if progress:
                progress(Progress("segment", step / 5, f"Patch {step + 1} of 5"))
            if cancel and cancel():
                raise Cancelled()
        bright = volume.array[0] > np.median(volume.array[0])
        labels = LabelMap(bright.astype(np.uint8), volume.grid, (Label(0, "background"), Label(1, "Bright")))
        return Prediction(labels, {"seconds": "0.1", "device": self.device, "model": self.package.manifest.name})


class FakeWorker:
    """Stands in for the worker where only the panel's mechanics are looked at; does a step whenever it is polled.

    Bright voxels get label 1 in the lower half of the first axis and label 2 in the upper one. ``during`` is called
    halfway, ``warnings`` are told, ``asked`` remembers every request.
    """

    has_answered = is_alive = True
    is_inside = False

    def __init__(self, during=None):
        self.during, self.lines, self.jobs, self.asked = during, ["a line of its log"], [], []
        self.warnings = []

    is_busy = property(lambda self: bool(self.jobs))
    is_ending = False

    def load(self, model, options, on_done=None):
        self.asked.append(("load", model, options))

    def predict(self, model, volumes, numbering, options, **callbacks):
        self.asked.append(("predict", model, options))
        job = Job(number=len(self.asked), **callbacks)
        self.jobs.append((job, self._steps(job, volumes[0].array[0], numbering, options.get("region"))))
        return job

    def _steps(self, job, image, numbering, region):
        labels = (image > np.median(image)).astype(np.uint8)
        labels[len(labels) // 2 :] *= 2
        if region:
            inside = np.zeros_like(labels)
            box = tuple(slice(*ends) for ends in region)
            inside[box] = labels[box]
            labels = inside
        result = np.zeros_like(labels)
        for value, number in numbering.items():
            result[labels == value] = number
        filled = np.zeros_like(result)
        if self.warnings and job.on_warnings:
            job.on_warnings(self.warnings)
        for step in range(5):
            if job.on_progress:
                job.on_progress(Progress("segment", step / 5, f"Patch {step + 1} of 5"), 5.0 - step)
            box = (slice(step * len(labels) // 5, (step + 1) * len(labels) // 5), slice(None), slice(None))
            filled[box] = result[box]
            if job.on_slab:
                job.on_slab(tuple(slice(*cut.indices(n)[:2]) for cut, n in zip(box, filled.shape)), filled)
                if job.on_grown:
                    job.on_grown()
            if step == 2 and self.during:
                self.during()
            yield
        if job.on_answer and not job.on_slab and not job.is_cancelled:  # else the slabs were all of it
            job.on_answer(result)
        voxels = {value: int(np.count_nonzero(labels == value)) for value in numbering}
        ran = {
            "seconds": "0.1",
            "device": "cpu",
            "precision": "fp32",
            "notes": "",
            "model": Path(self.asked[-1][1]).name,
        }
        memory = SharedArray.create(result.T.shape, result.dtype)
        memory.forget_name()
        memory.array[...] = result.T
        job.answer = Outcome(memory, voxels, ran)

    def cancel(self, job):
        job.cancelled_at = 1.0

    def poll(self):
        for entry in list(self.jobs):
            job, steps = entry
            if not job.is_cancelled and next(steps, "done") != "done" and not job.is_cancelled:
                continue
            self.jobs.remove(entry)
            job.finished = True
            if job.is_cancelled:
                job.on_error(Cancelled())
            else:
                job.on_done(job.answer)

    def stop(self, words=""):
        self.jobs.clear()


def add_sample():
    return slicer.util.loadVolume(str(module().sampleFile()))


def segment_names(node):
    segmentation = node.GetSegmentation()
    return [segmentation.GetNthSegment(n).GetName() for n in range(segmentation.GetNumberOfSegments())]


class PanelCase(unittest.TestCase):
    """The panel with a worker that only looks like one."""

    def setUp(self):
        slicer.mrmlScene.Clear()
        self.panel_dependencies()
        self.panel = load_panel()
        self.panel.logic.stop()
        self.worker = self.panel.logic._worker = FakeWorker()

    def panel_dependencies(self):
        original, needs.needs = needs.needs, lambda manifest, device: []
        self.addCleanup(setattr, needs, "needs", original)

    def tearDown(self):
        self.finish()
        self.panel.logic.stop()
        self.panel.logic._worker = None

    def apply(self):
        """Click Apply and wait; the segmentation that is then chosen."""
        self.panel.ui.applyButton.click()
        self.finish()
        return self.panel.ui.outputSelector.currentNode()

    def finish(self, seconds=300):
        """Let the worker work until the panel has nothing under way."""
        end = time.monotonic() + seconds
        while self.panel._run is not None and time.monotonic() < end:
            self.panel.logic.onTimer()
            slicer.app.processEvents()
            time.sleep(0.002)
        self.assertIsNone(self.panel._run)

    def unfold(self, section):
        """Open a section until the test ends: what is in a folded one counts as hidden."""
        section.collapsed = False
        self.addCleanup(setattr, section, "collapsed", True)

    def chooser(self):
        """The window with all models."""
        self.panel.ui.modelsButton.click()
        self.addCleanup(self.panel.model.chooser.dialog.hide)
        return self.panel.model.chooser

    def wait_for(self, condition, seconds=60):
        end = time.monotonic() + seconds
        while not condition() and time.monotonic() < end:
            slicer.app.processEvents()
            time.sleep(0.005)
        self.assertTrue(condition())

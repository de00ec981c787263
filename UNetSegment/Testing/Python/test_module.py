"""The module as a person and a script use it. Runs in Slicer and on the stand-in host."""

import contextlib
import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

import numpy as np
import slicer
import vtk
from UNetSegmentLib import io, package
from UNetSegmentLib.errors import Cancelled, InputError, PackageError
from UNetSegmentLib.labels import Label
from UNetSegmentLib.predict import Prediction, Predictor, Progress
from UNetSegmentLib.predict.backends import is_installed
from UNetSegmentLib.volume import LabelMap
from UNetSegmentLib.worker import Job, Worker
from UNetSegmentLib.worker.client import Outcome

MODULE = Path(__file__).resolve().parents[2] / "UNetSegment.py"
BACKEND = is_installed("openvino") or (is_installed("torch") and is_installed("monai"))
CONTROLS = (
    *(
        "QPushButton",
        "QToolButton",
        "QComboBox",
        "QCheckBox",
        "QLineEdit",
        "QTreeWidget",
        "QTextBrowser",
        "QListWidget",
    ),
    *("QProgressBar", "ctkSearchBox", "ctkCollapsibleButton", "qMRMLNodeComboBox"),
)
NO_BACKEND = "neither openvino nor torch with monai is installed here"


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
    """Models that the tests import go into a cache folder of their own."""
    if "UNETSEGMENT_CACHE" not in os.environ:
        os.environ["UNETSEGMENT_CACHE"] = folder = tempfile.mkdtemp(prefix="unetsegment-tests-")
        unittest.addModuleCleanup(shutil.rmtree, folder, ignore_errors=True)
        unittest.addModuleCleanup(os.environ.pop, "UNETSEGMENT_CACHE")


class FakePredictor:
    """Stands in for the engine where only the panel's mechanics are looked at: labels every bright voxel."""

    def __init__(self, loaded, device="auto", mode="auto", mirror=None):
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
    """Stands in for the worker where only the panel's mechanics are looked at; does a step whenever it is polled."""

    has_answered = is_alive = True

    def __init__(self, during=None):
        self.during, self.lines, self.jobs, self.asked = during, ["a line of its log"], [], []

    is_busy = property(lambda self: bool(self.jobs))

    def load(self, model, options, on_done=None):
        self.asked.append(("load", model, options))

    def predict(self, model, volumes, numbering, options, **callbacks):
        self.asked.append(("predict", model, options))
        job = Job(len(self.asked), **callbacks)
        self.jobs.append((job, volumes[0], self._steps(job)))
        return job

    def _steps(self, job):
        for step in range(5):
            job.on_progress(Progress("segment", step / 5, f"Patch {step + 1} of 5"), 5.0 - step)
            if step == 2 and self.during:
                self.during()
            yield

    def cancel(self, job):
        job._cancelled_at = 1.0

    def poll(self):
        for entry in list(self.jobs):
            job, volume, steps = entry
            if job.is_cancelled or next(steps, "done") == "done":
                self.jobs.remove(entry)
                job.finished = True
                if job.is_cancelled:
                    job.on_error(Cancelled())
                    continue
                bright = (volume.array[0] > np.median(volume.array[0])).astype(np.uint8)
                ran = {"seconds": "0.1", "device": "cpu", "precision": "fp32", "notes": ""}
                job.on_done(Outcome(bright, {0: 0, 1: int(bright.sum())}, ran, None))

    def stop(self, words=""):
        self.jobs.clear()


def add_sample():
    return slicer.util.loadVolume(str(module().sampleFile()))


def segment_names(node):
    segmentation = node.GetSegmentation()
    return [segmentation.GetNthSegment(n).GetName() for n in range(segmentation.GetNumberOfSegments())]


class LoadingTest(unittest.TestCase):
    def test_loading_imports_nothing_third_party(self):
        code = (
            "import sys; sys.path.insert(0, sys.argv[1])\n"
            "from UNetSegmentLib import package, cli, io, errors\n"
            "from UNetSegmentLib.panel import state\n"
            "from UNetSegmentLib.predict import gather, Predictor\n"
            "bad = {'torch', 'monai', 'openvino', 'SimpleITK', 'onnx', 'scipy', 'matplotlib'} & set(sys.modules)\n"
            "sys.exit(str(sorted(bad)) if bad else 0)\n"
        )
        subprocess.run([sys.executable, "-c", code, str(MODULE.parent)], check=True)


class LogicTest(unittest.TestCase):
    def setUp(self):
        slicer.mrmlScene.Clear()
        self.module = module()

    def logic(self):
        return self.module.UNetSegmentLogic(engine=FakePredictor)

    def test_mistakes_leave_the_scene_as_it_was(self):
        volume = add_sample()
        holes = slicer.util.addVolumeFromArray(np.full((3, 3, 3), np.nan, np.float32), name="holes")
        logic, before = self.logic(), slicer.mrmlScene.GetNumberOfNodes()
        with self.assertRaisesRegex(InputError, "No volume is chosen"):
            logic.process(None)
        with self.assertRaisesRegex(PackageError, "no model 'nonsense'"):
            logic.process(volume, model="nonsense")
        with self.assertRaisesRegex(InputError, "2 were given; remove the others"):
            logic.process([volume, volume])
        with self.assertRaises(Cancelled):
            logic.process(volume, cancel=lambda: True)
        with self.assertRaisesRegex(InputError, "'holes' has voxels that are NaN"):
            logic.process(holes)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), before)

    def test_a_volume_removed_meanwhile_is_said_and_nothing_written(self):
        volume = add_sample()

        def remove(progress):
            if volume.GetScene():
                slicer.mrmlScene.RemoveNode(volume)

        with self.assertRaisesRegex(InputError, "was removed while"):
            self.logic().process(volume, progress=remove)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"), 0)

    def test_the_predictor_is_kept_for_the_next_run(self):
        made = []

        def engine(loaded, device, mode, mirror):
            made.append(device)
            return FakePredictor(loaded, device)

        logic, volume = self.module.UNetSegmentLogic(engine), add_sample()
        first = logic.process(volume)
        second = logic.process(volume, first)
        logic.process(volume, device="cpu")
        self.assertIs(first, second)
        self.assertEqual(made, ["auto", "cpu"])

    @unittest.skipUnless(BACKEND, NO_BACKEND)
    def test_the_sample_is_segmented_as_on_the_command_line(self):
        volume = add_sample()
        node = self.module.UNetSegmentLogic().process(volume)
        self.assertEqual(segment_names(node), ["Anterior hippocampus", "Posterior hippocampus"])
        path = self.module.sampleFile()
        expected = Predictor(package.load(self.module.DEFAULT_MODEL)).predict(io.read_volume(path)).labels.array
        expert = io.read_labelmap(str(path).replace("_image", "_label")).array
        for index, value in enumerate((1, 2)):
            segment_id = node.GetSegmentation().GetNthSegmentID(index)
            mask = slicer.util.arrayFromSegmentBinaryLabelmap(node, segment_id, volume).T > 0
            np.testing.assert_array_equal(mask, expected == value)
            dice = 2 * np.sum(mask & (expert == value)) / (np.sum(mask) + np.sum(expert == value))
            print(f"Dice against the expert, {segment_names(node)[index]}: {dice:.3f}")
            self.assertGreater(dice, 0.8)

    @unittest.skipUnless(BACKEND, NO_BACKEND)
    def test_under_a_rigid_parent_transform_the_same_anatomy_is_found(self):
        volume = add_sample()
        plain = self.module.UNetSegmentLogic().process(volume)
        turn = vtk.vtkTransform()
        turn.Translate(30, -10, 5)
        turn.RotateWXYZ(30, 1, 1, 0)
        parent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        parent.SetMatrixTransformToParent(turn.GetMatrix())
        moved = add_sample()
        moved.SetAndObserveTransformNodeID(parent.GetID())
        result = self.module.UNetSegmentLogic().process(moved)
        self.assertEqual(result.GetTransformNodeID(), parent.GetID())
        for index in range(2):
            one, two = (
                slicer.util.arrayFromSegmentBinaryLabelmap(node, node.GetSegmentation().GetNthSegmentID(index), image)
                for node, image in ((plain, volume), (result, moved))
            )
            np.testing.assert_array_equal(one, two)


class PanelTest(unittest.TestCase):
    def setUp(self):
        slicer.mrmlScene.Clear()
        self.installed = self.panel_dependencies()
        self.panel = load_panel()
        self.panel.logic.stop()
        self.worker = self.panel.logic._worker = FakeWorker()

    def panel_dependencies(self):
        dependencies = module().dependencies
        original, dependencies.ensure = dependencies.ensure, lambda device, requirements: None
        self.addCleanup(setattr, dependencies, "ensure", original)
        return original

    def tearDown(self):
        self.finish()
        self.panel.logic.stop()
        self.panel.logic._worker = None

    def finish(self, seconds=60):
        """Let the worker work until the panel has nothing under way."""
        end = time.monotonic() + seconds
        while self.panel._run is not None and time.monotonic() < end:
            self.panel.onTimer()
            slicer.app.processEvents()
            time.sleep(0.002)
        self.assertIsNone(self.panel._run)

    def test_without_a_volume_apply_is_off_and_says_why(self):
        ui = self.panel.ui
        self.assertFalse(ui.applyButton.enabled)
        self.assertIn("Choose the T1 volume", ui.inputHint1.text)
        self.assertEqual(ui.applyButton.toolTip, ui.inputHint1.text)

    def test_choose_click_and_get_a_segmentation(self):
        volume, ui = add_sample(), self.panel.ui
        ui.inputSelector1.setCurrentNode(volume)
        self.assertTrue(ui.applyButton.enabled)
        ui.applyButton.click()
        self.assertEqual(ui.applyButton.text, "Cancel")
        self.assertFalse(ui.progressBar.isHidden())
        self.finish()
        node = ui.outputSelector.currentNode()
        self.assertEqual(segment_names(node), ["Anterior hippocampus", "Posterior hippocampus"])
        self.assertIn("Anterior hippocampus", ui.statusLabel.text)
        self.assertEqual(ui.applyButton.text, "Apply")
        self.assertTrue(ui.progressBar.isHidden())
        self.assertFalse(ui.editButton.isHidden())
        ui.applyButton.click()
        self.finish()
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"), 1)

    @unittest.skipUnless(BACKEND, NO_BACKEND)
    def test_with_the_real_worker(self):
        ui = self.panel.ui
        self.panel.logic._worker = None
        ui.inputSelector1.setCurrentNode(add_sample())
        ui.applyButton.click()
        self.finish()
        self.assertIn("Anterior hippocampus", ui.statusLabel.text)
        node = ui.outputSelector.currentNode()
        logic = module().UNetSegmentLogic()
        expected = logic.process(ui.inputSelector1.currentNode())
        for index in range(2):
            one, two = (
                slicer.util.arrayFromSegmentBinaryLabelmap(
                    n, n.GetSegmentation().GetNthSegmentID(index), ui.inputSelector1.currentNode()
                )
                for n in (node, expected)
            )
            np.testing.assert_array_equal(one, two)
        self.assertIn("proven on this computer", ui.optionsButton.text)

    @unittest.skipUnless(BACKEND, NO_BACKEND)
    def test_where_no_worker_starts_the_panel_does_the_work(self):
        ui = self.panel.ui
        self.panel.logic._worker = Worker([sys.executable, "-c", "import sys; sys.exit(3)"])
        ui.inputSelector1.setCurrentNode(add_sample())
        ui.applyButton.click()
        self.finish()
        self.assertIn("Anterior hippocampus", ui.statusLabel.text)

    def test_cancel_while_it_runs(self):
        ui = self.panel.ui
        self.worker.during = ui.applyButton.click
        ui.inputSelector1.setCurrentNode(add_sample())
        ui.applyButton.click()
        self.finish()
        self.assertIn("Cancelled", ui.statusLabel.text)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"), 0)
        self.assertEqual(ui.applyButton.text, "Apply")
        self.assertTrue(ui.applyButton.enabled)

    def test_a_failure_is_a_sentence_and_the_panel_goes_on(self):
        volume, ui = add_sample(), self.panel.ui
        volume.GetImageData().GetPointData().Initialize()
        ui.inputSelector1.setCurrentNode(volume)
        ui.applyButton.click()
        self.assertIn("has no voxels", ui.statusLabel.text)
        self.assertEqual(ui.applyButton.text, "Apply")

    def test_closing_the_scene_during_a_run(self):
        ui = self.panel.ui
        self.worker.during = slicer.mrmlScene.Clear
        ui.inputSelector1.setCurrentNode(add_sample())
        ui.applyButton.click()
        self.finish()
        self.assertIn("Cancelled", ui.statusLabel.text)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"), 0)
        self.panel.initializeParameterNode()
        self.assertFalse(ui.applyButton.enabled)

    def test_deleting_the_volume_during_a_run(self):
        volume, ui = add_sample(), self.panel.ui
        self.worker.during = lambda: slicer.mrmlScene.RemoveNode(volume)
        ui.inputSelector1.setCurrentNode(volume)
        ui.applyButton.click()
        self.finish()
        self.assertIn("was removed while", ui.statusLabel.text)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"), 0)

    def test_leaving_and_coming_back_during_a_run(self):
        ui = self.panel.ui
        ui.inputSelector1.setCurrentNode(add_sample())
        ui.applyButton.click()
        self.panel.exit()
        self.finish()
        self.panel.enter()
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"), 1)

    def test_choices_reach_the_worker(self):
        ui = self.panel.ui
        ui.inputSelector1.setCurrentNode(add_sample())
        ui.modeSelector.setCurrentIndex(ui.modeSelector.findData("parity"))
        self.assertEqual(self.panel._parameterNode.mode, "parity")
        ui.applyButton.click()
        self.finish()
        self.assertEqual(self.worker.asked[-1][2], {"device": ui.deviceSelector.currentData, "mode": "parity"})
        self.assertFalse(ui.mirrorCheckBox.enabled)  # the shipped model was not trained for it
        ui.modeSelector.setCurrentIndex(0)

    def test_the_folded_options_say_what_is_set(self):
        ui = self.panel.ui
        before = ui.deviceSelector.currentIndex
        self.addCleanup(ui.deviceSelector.setCurrentIndex, before)
        self.panel._ran = None
        ui.deviceSelector.setCurrentIndex(ui.deviceSelector.findData("cpu"))
        self.assertEqual(ui.optionsButton.text, "Options: CPU")

    def test_a_model_with_two_channels_asks_for_two_volumes(self):
        panel, ui, volume = self.panel, self.panel.ui, add_sample()
        name = ui.modelSelector.currentData
        manifest, problem = panel._models[name]
        second = dataclasses.replace(manifest.channels[0], name="T2", title="T2-weighted MRI")
        panel._models[name] = (dataclasses.replace(manifest, channels=(*manifest.channels, second)), problem)
        self.addCleanup(panel._models.__setitem__, name, (manifest, problem))
        ui.inputSelector1.setCurrentNode(volume)
        panel.refresh()
        self.assertFalse(ui.applyButton.enabled)
        self.assertEqual(ui.inputLabel2.text, "T2-weighted MRI")
        self.assertFalse(ui.inputSelector2.isHidden())
        self.assertTrue(ui.inputSelector3.isHidden())
        self.assertIn("needs 2 volumes: T1, T2. Choose the T2 volume.", ui.inputHint2.text)
        ui.inputSelector2.setCurrentNode(add_sample())
        self.assertTrue(ui.applyButton.enabled)

    def test_removing_the_chosen_volume_turns_apply_off(self):
        volume, ui = add_sample(), self.panel.ui
        ui.inputSelector1.setCurrentNode(volume)
        slicer.mrmlScene.RemoveNode(volume)
        self.assertFalse(ui.applyButton.enabled)

    def test_every_control_has_a_tool_tip_and_a_name(self):
        for ui in (self.panel.ui, self.chooser().ui):
            for name, control in vars(ui).items():
                if control.className() in CONTROLS:
                    self.assertTrue(control.toolTip, name)
                    self.assertTrue(control.accessibleName or getattr(control, "text", ""), name)

    def chooser(self):
        """The window with all models."""
        self.panel.ui.modelsButton.click()
        self.addCleanup(self.panel._chooser.dialog.hide)
        return self.panel._chooser

    def wait_for(self, condition, seconds=60):
        end = time.monotonic() + seconds
        while not condition() and time.monotonic() < end:
            slicer.app.processEvents()
            time.sleep(0.005)
        self.assertTrue(condition())

    def test_the_chooser_lists_finds_and_describes_models(self):
        ui = self.chooser().ui
        self.assertIn("CC-BY-SA-4.0", ui.cardBrowser.plainText)
        self.assertIn("Dice", ui.cardBrowser.plainText)
        self.assertFalse(ui.getButton.enabled)  # it is here
        self.assertFalse(ui.deleteButton.enabled)  # it ships
        everything = ui.modelList.topLevelItemCount
        ui.searchBox.setText("liver ct")
        self.assertTrue(0 < ui.modelList.topLevelItemCount < everything)
        ui.searchBox.setText("")
        self.assertEqual(ui.modelList.topLevelItemCount, everything)

    def test_the_licence_is_shown_before_a_download_and_a_refused_model_says_why(self):
        chooser = self.chooser()
        ui = chooser.ui
        self.addCleanup(ui.searchBox.setText, "")
        ui.searchBox.setText("totalsegmentator-body")
        ui.getButton.click()
        self.assertFalse(chooser.is_busy)
        self.assertIn("Licence of", ui.cardBrowser.plainText)
        self.assertIn("trust on first use", ui.cardBrowser.plainText)
        self.assertIn("Accept and get", ui.getButton.text)
        ui.searchBox.setText("unest")
        self.assertEqual(ui.getButton.text, "Get")
        self.assertFalse(ui.getButton.enabled)
        self.assertIn("cannot run here", ui.cardBrowser.plainText)

    def test_a_model_is_imported_used_and_deleted(self):
        chooser, ui = self.chooser(), self.panel.ui
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(package.load(module().DEFAULT_MODEL).root, Path(folder) / "mine")
            manifest = Path(folder) / "mine" / "configs" / "manifest.json"
            manifest.write_text(manifest.read_text("utf-8").replace('"hippocampus-mr-t1"', '"mine"'), "utf-8")
            chooser.import_(Path(folder) / "mine")
            self.assertEqual(chooser.ui.getButton.text, "Cancel")
            self.wait_for(lambda: not chooser.is_busy)
        self.assertIn("is ready", chooser.ui.chooserStatus.text)
        self.assertEqual(ui.modelSelector.currentData, "mine")
        chooser.ui.deleteButton.click()
        self.assertGreaterEqual(ui.modelSelector.findData("mine"), 0)  # the first click only asks
        chooser.ui.deleteButton.click()
        self.assertLess(ui.modelSelector.findData("mine"), 0)
        self.assertEqual(ui.modelSelector.currentData, module().DEFAULT_MODEL)

    def test_what_cannot_be_imported_is_a_sentence(self):
        chooser = self.chooser()
        chooser.import_("no such file.zip")
        self.wait_for(lambda: not chooser.is_busy)
        self.assertIn("There is no file or folder", chooser.ui.chooserStatus.text)

    def test_choices_survive_in_the_parameter_node(self):
        volume = add_sample()
        self.panel.ui.inputSelector1.setCurrentNode(volume)
        self.panel.ui.show3DCheckBox.setChecked(True)
        self.panel.exit()
        self.panel.enter()
        self.assertIs(self.panel.ui.inputSelector1.currentNode(), volume)
        self.assertTrue(self.panel.ui.show3DCheckBox.checked)


if __name__ == "__main__":
    unittest.main()

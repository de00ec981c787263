"""The module as a person and a script use it. Runs in Slicer and on the stand-in host."""

import dataclasses
import subprocess
import sys
import unittest
import unittest.mock
from pathlib import Path

import numpy as np
import slicer
import vtk

sys.path.insert(0, str(Path(__file__).parent))  # for what the tests share, wherever they are started from
from panel_case import (  # noqa: E402, F401
    BACKEND,
    MODULE,
    NO_BACKEND,
    FakePredictor,
    FakeWorker,
    PanelCase,
    add_sample,
    load_panel,
    module,
    segment_names,
    setUpModule,
)
from UNetSegmentLib import io, package  # noqa: E402
from UNetSegmentLib.errors import Cancelled, InputError, PackageError, UNetSegmentError  # noqa: E402
from UNetSegmentLib.predict import Predictor  # noqa: E402
from UNetSegmentLib.worker import Worker  # noqa: E402


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

    def test_what_is_no_volume_or_left_the_scene_is_said_at_once(self):
        """A script has names where nodes are meant, lists without anything, and nodes from before the scene was cleared."""
        gone = add_sample()
        slicer.mrmlScene.Clear()
        volume, model = add_sample(), slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", "skull")
        logic, before, fakes = self.logic(), slicer.mrmlScene.GetNumberOfNodes(), FakeWorker()
        logic._worker = fakes
        self.addCleanup(logic.stop)
        for arguments, words in (
            (["MRHead"], r"'MRHead' is no node of the scene; slicer.util.getNode\(\) gives"),
            ([[]], "No volume is chosen"),
            ([model], "'skull' is no volume"),
            ([gone], "is not in the scene; load it again"),
            ([volume, model], "'skull' is no segmentation"),
            ([volume, "result"], "'result' is no node"),
        ):
            for call in (logic.process, logic.start):
                with self.subTest(call=call.__name__, words=words), self.assertRaisesRegex(UNetSegmentError, words):
                    call(*arguments)
        for call in (logic.process, logic.start):
            with self.assertRaisesRegex(InputError, "'skull' is no region of interest"):
                call(volume, region=model)
        self.assertRegex(logic.check("MRHead")[0].message, "'MRHead' is no node")
        self.assertEqual((fakes.asked, slicer.mrmlScene.GetNumberOfNodes()), ([], before))

    def test_short_memory_is_a_sentence_for_scripts_too(self):
        logic = self.logic()
        with unittest.mock.patch.object(FakePredictor, "predict", side_effect=MemoryError("148 GiB")):
            with self.assertRaisesRegex(UNetSegmentError, "not enough memory for an image of this size"):
                logic.process(add_sample())

    def test_a_volume_removed_meanwhile_is_said_and_nothing_written(self):
        volume = add_sample()

        def remove(progress):
            if volume.GetScene():
                slicer.mrmlScene.RemoveNode(volume)

        with self.assertRaisesRegex(InputError, "was removed from the scene"):
            self.logic().process(volume, progress=remove)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"), 0)

    def test_the_predictor_is_kept_for_the_next_run(self):
        made = []

        def engine(loaded, device, mode, mirror, folds):
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


class PanelTest(PanelCase):
    def test_without_a_volume_apply_is_off_and_says_why(self):
        ui = self.panel.ui
        self.assertFalse(ui.applyButton.enabled)
        self.assertIn("No image is loaded", ui.inputHint1.text)
        self.assertEqual(ui.applyButton.toolTip, ui.inputHint1.text)
        add_sample()
        self.panel.refresh()
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
        (shown,) = self.panel._cards.shown
        self.assertEqual([name for name, _ml in shown.card.rows], segment_names(node))
        self.assertEqual(ui.applyButton.text, "Apply")
        self.assertTrue(ui.progressBar.isHidden())
        self.assertTrue(all(button.enabled for button in shown.buttons))
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
        self.assertIn("Anterior hippocampus", dict(self.panel._cards.shown[0].card.rows))
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
        self.assertIn("proven here", ui.optionsButton.text)
        self.assertRegex(ui.optionsButton.text, r"(about \d+|under 1) s on CPU")  # the run was measured
        self.assertIn("model's own answer on this computer", ui.optionsButton.toolTip)

    @unittest.skipUnless(BACKEND, NO_BACKEND)
    def test_where_no_worker_starts_the_panel_does_the_work(self):
        ui = self.panel.ui
        self.panel.logic._worker = Worker([sys.executable, "-c", "import sys; sys.exit(3)"])
        ui.inputSelector1.setCurrentNode(add_sample())
        ui.applyButton.click()
        self.finish()
        self.assertIn("Anterior hippocampus", dict(self.panel._cards.shown[0].card.rows))

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
        ui.inputSelector1.setCurrentNode(volume)
        start = self.panel.logic.start
        self.addCleanup(setattr, self.panel.logic, "start", start)

        def refuse(*arguments, **more):
            raise InputError("The sentence.")

        self.panel.logic.start = refuse
        ui.applyButton.click()
        self.assertEqual((ui.statusLabel.text, ui.applyButton.text), ("The sentence.", "Apply"))
        ui.inputSelector1.setCurrentNode(add_sample())  # a sentence goes with what it is about
        self.assertEqual(ui.statusLabel.text, "")

    def test_closing_the_scene_during_a_run(self):
        ui = self.panel.ui
        self.worker.during = slicer.mrmlScene.Clear
        ui.inputSelector1.setCurrentNode(add_sample())
        ui.applyButton.click()
        self.finish()
        self.assertIn("the scene was closed", ui.statusLabel.text)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"), 0)
        self.panel.initializeParameterNode()
        self.assertFalse(ui.applyButton.enabled)

    def test_deleting_the_volume_during_a_run(self):
        volume, ui = add_sample(), self.panel.ui
        self.worker.during = lambda: slicer.mrmlScene.RemoveNode(volume)
        ui.inputSelector1.setCurrentNode(volume)
        ui.applyButton.click()
        self.finish()
        self.assertIn("was removed from the scene", ui.statusLabel.text)
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
        ui.deviceSelector.setCurrentIndex(ui.deviceSelector.findData("cpu"))
        self.assertEqual(ui.optionsButton.text, "Options: CPU")

    def test_a_model_with_two_channels_asks_for_two_volumes(self):
        panel, ui, volume = self.panel, self.panel.ui, add_sample()
        name = ui.modelSelector.currentData
        manifest, problem = panel.model.known[name]
        second = dataclasses.replace(manifest.channels[0], name="T2", title="T2-weighted MRI")
        panel.model.known[name] = (dataclasses.replace(manifest, channels=(*manifest.channels, second)), problem)
        self.addCleanup(panel.model.known.__setitem__, name, (manifest, problem))
        ui.inputSelector1.setCurrentNode(volume)
        panel.refresh()
        self.assertFalse(ui.applyButton.enabled)
        self.assertEqual(ui.inputLabel2.text, "T2-weighted MRI")
        self.assertFalse(ui.inputSelector2.isHidden())
        self.assertTrue(ui.inputSelector3.isHidden())
        self.assertIn("needs 2 volumes: T1, T2. Choose the T2 volume.", ui.inputHint2.text)
        ui.inputSelector2.setCurrentNode(add_sample())
        self.assertTrue(ui.applyButton.enabled)

    def test_a_model_with_several_networks_lets_choose_between_them(self):
        panel, ui = self.panel, self.panel.ui
        self.unfold(ui.optionsButton)
        name = ui.modelSelector.currentData
        manifest, problem = panel.model.known[name]
        self.assertTrue(ui.foldsSelector.isHidden() and ui.foldsLabel.isHidden())
        more = {f"onnx.{n}": manifest.files["onnx"] for n in (1, 2)}
        panel.model.known[name] = (dataclasses.replace(manifest, files=manifest.files | more), problem)
        self.addCleanup(panel.refresh)
        self.addCleanup(panel.model.known.__setitem__, name, (manifest, problem))
        ui.inputSelector1.setCurrentNode(add_sample())
        panel.refresh()
        self.assertFalse(ui.foldsSelector.isHidden())
        self.assertEqual(ui.foldsSelector.count, 4)
        self.assertIn("All 3", ui.foldsSelector.currentText)
        ui.foldsSelector.setCurrentIndex(2)
        self.assertEqual(panel._parameterNode.folds, "1")
        self.assertEqual(self.worker.asked[-1][2]["folds"], "1")  # it is made ready at once
        panel.exit()
        panel.enter()
        self.assertEqual(ui.foldsSelector.currentData, "1")
        ui.applyButton.click()
        self.assertFalse(ui.foldsSelector.enabled)
        self.finish()
        self.assertEqual(self.worker.asked[-1][2]["folds"], "1")
        panel.model.known[name] = (manifest, problem)  # a choice for another model is passed over, and kept
        panel.refresh()
        self.assertTrue(ui.foldsSelector.isHidden())
        self.assertEqual(panel.options()["folds"], "all")

    def test_removing_the_chosen_volume_turns_apply_off(self):
        volume, ui = add_sample(), self.panel.ui
        ui.inputSelector1.setCurrentNode(volume)
        slicer.mrmlScene.RemoveNode(volume)
        self.assertFalse(ui.applyButton.enabled)

    def test_the_volume_taken_at_first_is_an_image(self):
        slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
        slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "photo")
        self.panel.initializeParameterNode()
        self.assertIsNone(self.panel._parameterNode.input1)
        volume = add_sample()
        self.panel.initializeParameterNode()
        self.assertIs(self.panel._parameterNode.input1, volume)
        self.assertIs(self.panel.ui.inputSelector1.currentNode(), volume)

    def test_reload_reads_the_library_again(self):
        before = {name: each for name, each in sys.modules.items() if name.split(".")[0] == "UNetSegmentLib"}
        volume, panel = add_sample(), self.panel
        panel.ui.inputSelector1.setCurrentNode(volume)
        try:
            panel.onReload()
            self.assertIsNot(sys.modules["UNetSegmentLib.panel.state"], before["UNetSegmentLib.panel.state"])
            fresh = load_panel()
            self.assertIsNot(fresh, panel)
            self.assertIs(fresh.ui.inputSelector1.currentNode(), volume)
        finally:  # the tests that follow compare with classes of before
            for name in [name for name in sys.modules if name.split(".")[0] == "UNetSegmentLib"]:
                del sys.modules[name]
            sys.modules.update(before)
            slicer.util.reloadScriptedModule("UNetSegment")
        self.panel = load_panel()

    @unittest.skipUnless(BACKEND, NO_BACKEND)
    def test_slicer_closes_during_a_run(self):
        panel, ui = self.panel, self.panel.ui
        panel.logic._worker = None
        ui.inputSelector1.setCurrentNode(add_sample())
        ui.applyButton.click()
        self.wait_for(lambda: panel.logic.worker().pid is not None)  # it is there, and at work
        child = panel.logic.worker()._process
        slicer.util.reloadScriptedModule("UNetSegment")  # as at the end, the panel's cleanup() is called
        self.assertIsNone(panel._run)
        self.assertFalse(panel.isConnected)
        self.wait_for(lambda: child.exit_code is not None)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"), 0)
        self.panel = load_panel()
        self.assertTrue(self.panel.ui.applyButton.enabled)

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

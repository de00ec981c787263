"""What the panel makes of the nodes that are chosen in it. Runs in Slicer and on the stand-in host."""

import dataclasses
import gc
import shutil
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np
import qt
import slicer
import vtk

sys.path.insert(0, str(Path(__file__).parent))  # for what the tests share, wherever they are started from
from panel_case import PanelCase, add_sample, module, segment_names, setUpModule  # noqa: E402, F401
from UNetSegmentLib import package  # noqa: E402
from UNetSegmentLib.errors import OutputError  # noqa: E402
from UNetSegmentLib.panel import advice  # noqa: E402
from UNetSegmentLib.scene import target  # noqa: E402


def warp():
    """A transform that is not linear."""
    points = ((0, 0, 0), (50, 0, 0), (0, 50, 0), (0, 0, 50), (9, 9, 9))
    here, there = vtk.vtkPoints(), vtk.vtkPoints()
    for x, y, z in points:
        here.InsertNextPoint(x, y, z)
        there.InsertNextPoint(x, y + x * z / 50, z + (x == 9))
    spline = vtk.vtkThinPlateSplineTransform()
    spline.SetSourceLandmarks(here)
    spline.SetTargetLandmarks(there)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "warp")
    node.SetAndObserveTransformToParent(spline)
    return node


def add(name, **channels):
    return slicer.util.addVolumeFromArray(np.zeros((3, 3, 3), np.int16), name=name, **channels)


class InputsTest(PanelCase):
    def test_a_volume_that_comes_is_taken_where_none_was_there(self):
        ui = self.panel.ui
        self.assertIn("No image is loaded", ui.inputHint1.text)
        slicer.util.addVolumeFromArray(np.zeros((3, 3, 3), np.int16), nodeClassName="vtkMRMLLabelMapVolumeNode")
        volume = add_sample()
        self.wait_for(lambda: ui.inputSelector1.currentNode() is volume)
        add_sample()
        self.wait_for(lambda: not self.panel._volumes._timer.isActive())
        self.assertIs(ui.inputSelector1.currentNode(), volume)  # what is chosen stays

    def test_the_volumes_of_a_model_with_several_inputs_are_guessed_by_name(self):
        panel, ui = self.panel, self.panel.ui
        flair, first, second = add("5: t2_tirm_FLAIR_tra"), add("2: t1_mprage_sag"), add("4: t2_tse_cor")
        add("7: t1_mprage_sag post contrast")
        panel.initializeParameterNode()
        self.assertIs(ui.inputSelector1.currentNode(), flair)  # the first one
        name = ui.modelSelector.currentData
        manifest, problem = panel.model.known[name]
        channels = [dataclasses.replace(manifest.channels[0], name=n, title="") for n in ("T1", "T2", "FLAIR", "CT")]
        panel.model.known[name] = (dataclasses.replace(manifest, channels=tuple(channels)), problem)
        self.addCleanup(panel.model.known.__setitem__, name, (manifest, problem))
        panel.onModelChanged(0)
        self.assertEqual([node and node.GetName() for node in panel.inputs()[:3]],
                         [node.GetName() for node in (first, second, flair)])  # fmt: skip
        self.assertIsNone(panel.inputs()[3])
        ui.inputSelector2.setCurrentNode(flair)  # the user's own choice stays
        panel.initializeParameterNode()
        self.assertIs(panel.inputs()[1], flair)

    def test_what_cannot_be_run_is_said_before_and_comes_back_when_it_is_mended(self):
        ui, volume = self.panel.ui, add_sample()
        ui.inputSelector1.setCurrentNode(volume)
        self.assertTrue(ui.applyButton.enabled)
        volume.SetAndObserveTransformNodeID(warp().GetID())
        self.wait_for(lambda: not ui.applyButton.enabled)
        self.assertTrue(ui.inputHint1.text.startswith(f"Volume '{volume.GetName()}' is under the non-linear transform"))
        self.assertEqual(ui.applyButton.toolTip, ui.inputHint1.text)
        volume.SetAndObserveTransformNodeID(None)
        self.wait_for(lambda: ui.applyButton.enabled)
        self.assertEqual(ui.inputHint1.text, "")
        self.assertEqual(self.worker.asked, [])

    def test_who_clicks_faster_than_the_panel_looks_is_told_too(self):
        ui = self.panel.ui
        empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
        ui.inputSelector1.setCurrentNode(empty)
        ui.applyButton.click()
        self.assertIn("'empty' has no voxels", ui.inputHint1.text)
        self.assertFalse(ui.applyButton.enabled)
        self.assertEqual(ui.statusLabel.text, "")

    def test_voxels_that_are_no_numbers_are_seen_before(self):
        ui = self.panel.ui
        array = np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32)
        array[:10] = np.nan
        ui.inputSelector1.setCurrentNode(slicer.util.addVolumeFromArray(array, name="holes"))
        self.wait_for(lambda: not ui.applyButton.enabled)
        self.assertIn("'holes' has voxels that are NaN", ui.inputHint1.text)

    def test_a_model_that_is_deleted_meanwhile(self):
        panel, ui = self.panel, self.panel.ui
        ui.inputSelector1.setCurrentNode(add_sample())
        folder = Path(tempfile.mkdtemp()) / "brief"
        self.addCleanup(shutil.rmtree, folder.parent)
        shutil.copytree(package.load(module().DEFAULT_MODEL).root, folder)
        manifest = package.load(folder).manifest
        panel.model.known[str(folder)] = (manifest, "")
        ui.modelSelector.addItem("Brief", str(folder))
        self.addCleanup(panel.model.fill)
        ui.modelSelector.setCurrentIndex(ui.modelSelector.count - 1)
        shutil.rmtree(folder)
        ui.applyButton.click()
        self.assertIn("brief", ui.modelHint.text)
        self.assertIn("There is no model", ui.modelHint.text)
        self.assertFalse(ui.applyButton.enabled)
        ui.modelSelector.setCurrentIndex(0)
        self.assertTrue(ui.applyButton.enabled)


class OutputTest(PanelCase):
    def test_the_next_volume_gets_a_segmentation_of_its_own(self):
        ui, first, second = self.panel.ui, add_sample(), add_sample()
        ui.inputSelector1.setCurrentNode(first)
        node = self.apply()
        self.assertIs(self.apply(), node)  # the same volume again: its result is replaced
        self.assertEqual(ui.outputHint.text, "")
        ui.inputSelector1.setCurrentNode(second)
        self.assertIsNone(ui.outputSelector.currentNode())
        other = self.apply()
        self.assertIsNot(other, node)
        ui.outputSelector.setCurrentNode(node)  # who wants it so may have it so, and is told
        self.assertIn(f"made from '{first.GetName()}'", ui.outputHint.text)
        self.assertTrue(ui.applyButton.enabled)
        ui.outputSelector.setCurrentNode(other)
        self.panel.exit()
        self.panel.enter()
        self.assertIs(ui.outputSelector.currentNode(), other)

    def test_a_result_outlives_its_volume(self):
        ui, first = self.panel.ui, add_sample()
        ui.inputSelector1.setCurrentNode(first)
        node = self.apply()
        slicer.mrmlScene.RemoveNode(first)
        self.assertIs(ui.outputSelector.currentNode(), node)
        second = slicer.util.loadVolume(str(module().sampleFile()))
        self.panel.initializeParameterNode()  # as who comes back from the module that loads images
        self.assertIs(ui.inputSelector1.currentNode(), second)
        self.assertIsNone(ui.outputSelector.currentNode())

    def test_an_empty_segmentation_stays_chosen(self):
        ui, first, second = self.panel.ui, add_sample(), add_sample()
        mine = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
        ui.inputSelector1.setCurrentNode(first)
        ui.outputSelector.setCurrentNode(mine)
        ui.inputSelector1.setCurrentNode(second)
        self.assertIs(ui.outputSelector.currentNode(), mine)

    def test_what_cannot_be_written_to_is_said_before(self):
        ui = self.panel.ui
        ui.inputSelector1.setCurrentNode(add_sample())
        node = self.apply()
        parent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "parent")
        node.SetAndObserveTransformNodeID(parent.GetID())
        self.wait_for(lambda: not ui.applyButton.enabled)
        self.assertIn("is under another transform", ui.outputHint.text)
        self.assertEqual(ui.applyButton.toolTip, ui.outputHint.text)
        ui.outputSelector.setCurrentNode(None)
        self.assertTrue(ui.applyButton.enabled)

    def test_completed_segments_are_named(self):
        ui = self.panel.ui
        ui.inputSelector1.setCurrentNode(add_sample())
        node = self.apply()
        node.GetSegmentation().GetNthSegment(0).SetTag("Segmentation.Status", "completed")
        self.wait_for(lambda: ui.outputHint.text)
        self.assertEqual(ui.outputHint.text, f"Marked as completed, stays as it is: {segment_names(node)[0]}.")
        self.apply()
        card = self.panel._cards.shown[0].card
        self.assertEqual([name for name, _ml in card.rows], segment_names(node)[1:])  # the other is not the model's
        self.assertIn(f"left as it was: {segment_names(node)[0]}.", card.notes)
        node.GetSegmentation().GetNthSegment(1).SetTag("Segmentation.Status", "completed")
        self.wait_for(lambda: not ui.applyButton.enabled)
        self.assertIn("every structure is marked as completed", ui.outputHint.text)
        with self.assertRaisesRegex(OutputError, "marked as completed"):
            self.panel.logic.start(ui.inputSelector1.currentNode(), node)

    def test_what_was_corrected_by_hand_is_not_lost_unasked(self):
        before, advice.asks = advice.asks, lambda: True
        self.addCleanup(setattr, advice, "asks", before)
        ui = self.panel.ui
        ui.inputSelector1.setCurrentNode(add_sample())
        node = self.apply()
        segment, name = node.GetSegmentation().GetNthSegment(0), segment_names(node)[0]
        for _ in range(2):  # and the same again, for what was corrected after that
            segment.SetTag("Segmentation.Status", "inprogress")  # as the Segment Editor does at the first stroke
            self.wait_for(lambda: ui.outputHint.text)
            self.assertIn(f"Corrected since and would be replaced: {name}.", ui.outputHint.text)
            done = len(self.panel._cards.shown)
            ui.applyButton.click()
            self.assertIsNone(self.panel._run)
            self.assertIn("corrected by hand would be lost", ui.statusLabel.text)
            self.assertEqual(ui.applyButton.text, "Segment anyway")
            ui.structuresNoneButton.click()  # nothing can be run: the question goes
            self.assertEqual(ui.statusLabel.text, "")
            ui.structuresAllButton.click()
            self.assertEqual(ui.applyButton.text, "Apply")
            ui.applyButton.click()
            self.panel._advice._asked_at -= 1
            self.apply()
            self.assertEqual(len(self.panel._cards.shown), done + 1)
            self.assertEqual(ui.outputHint.text, "")
            self.assertEqual(target.status(segment), "notstarted")
        self.apply()
        self.assertEqual(len(self.panel._cards.shown), done + 2)

    def test_many_names_are_not_all_told(self):
        self.assertEqual(target.some(["a", "b", "c", "d"]), "a, b, c, d")
        self.assertEqual(target.some([str(n) for n in range(1, 101)]), "1, 2, 3 and 97 more")

    def test_what_another_model_made_and_what_a_region_leaves_out_is_told(self):
        ui, panel = self.panel.ui, self.panel
        ui.inputSelector1.setCurrentNode(add_sample())
        node = self.apply()
        self.assertEqual(ui.outputHint.text, "")
        region = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "box")
        panel.onRegionAdded(region)
        ui.regionSelector.setCurrentNode(region)
        self.assertEqual(ui.outputHint.text, "Outside of 'box' these structures become empty.")
        ui.regionSelector.setCurrentNode(None)
        node.SetAttribute("UNetSegment.model", "another")
        panel.refresh()
        self.assertIn("not made by this model", ui.outputHint.text)
        ui.outputSelector.setCurrentNode(None)
        self.assertEqual(ui.outputHint.text, "")

    def test_a_region_that_misses_the_volume_is_said_under_apply(self):
        ui, volume = self.panel.ui, add_sample()
        ui.inputSelector1.setCurrentNode(volume)
        region = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "box")
        ui.regionSelector.setCurrentNode(region)
        self.assertIn("'box' is not placed yet", ui.applyHint.text)
        self.assertEqual(ui.applyButton.toolTip, ui.applyHint.text)
        region.SetCenter([5000.0, 0.0, 0.0])
        region.SetSize([10.0, 10.0, 10.0])
        self.wait_for(lambda: "does not touch" in ui.applyHint.text)
        self.assertFalse(ui.applyButton.enabled)
        bounds = [0.0] * 6
        volume.GetRASBounds(bounds)
        region.SetCenter([sum(bounds[:2]) / 2, sum(bounds[2:4]) / 2, sum(bounds[4:]) / 2])
        self.wait_for(lambda: ui.applyButton.enabled)
        self.assertTrue(ui.applyHint.isHidden())

    def test_a_volume_is_not_read_again_because_a_region_or_a_segment_changed(self):
        """Large ones take a while, and somebody drags or paints."""
        panel, ui, looked = self.panel, self.panel.ui, []
        volume = add_sample()
        ui.inputSelector1.setCurrentNode(volume)
        node = self.apply()
        region = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "box")
        panel.onRegionAdded(region)
        ui.regionSelector.setCurrentNode(region)
        check = panel.logic.check
        self.addCleanup(setattr, panel.logic, "check", check)
        panel.logic.check = lambda *asked: looked.append(asked) or check(*asked)
        timers = (panel._volumes._timer, panel._advice._timer)
        self.wait_for(lambda: not any(timer.isActive() for timer in timers))
        for change, times in (
            (lambda: region.SetCenter([1.0, 2.0, 3.0]), 0),
            (lambda: node.GetSegmentation().GetNthSegment(0).SetColor(1, 0, 0), 0),
            (volume.GetImageData().Modified, 1),
        ):
            looked.clear()
            change()
            self.assertTrue(timers[0].isActive())
            self.wait_for(lambda: not any(timer.isActive() for timer in timers))
            self.assertEqual(len(looked), times)

    def test_no_structure_is_said_in_sight(self):
        ui = self.panel.ui
        ui.inputSelector1.setCurrentNode(add_sample())
        ui.structuresNoneButton.click()
        self.assertIn("No structure is chosen", ui.applyHint.text)
        ui.structuresAllButton.click()
        self.assertEqual(ui.applyHint.text, "")


class SceneTest(PanelCase):
    def go(self):
        """A result of the second of two volumes."""
        ui, (first, second) = self.panel.ui, (add_sample(), add_sample())
        first.SetName("first")
        second.SetName("second")
        ui.inputSelector1.setCurrentNode(second)
        ui.applyButton.click()
        self.finish()
        ui.outputSelector.currentNode().SetName("result")
        return first, second, ui.outputSelector.currentNode()

    def settle(self):
        self.panel._volumes._timer.start()
        self.wait_for(lambda: not self.panel._volumes._timer.isActive())

    def test_a_scene_that_is_loaded_brings_its_choices(self):
        self.go()
        ui, folder = self.panel.ui, tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        path = str(Path(folder) / "scene.mrb")
        self.assertTrue(slicer.util.saveScene(path))
        # into an empty scene, to one with other choices, and in its place
        for there, clear in ((False, False), (True, False), (True, True)):
            slicer.mrmlScene.Clear(0)
            self.assertTrue(self.panel.isConnected)
            if there:
                other = add_sample()
                other.SetName("other")
                self.panel.initializeParameterNode()
                ui.applyButton.click()
                self.finish()
                self.assertIs(ui.inputSelector1.currentNode(), other)
            slicer.util.loadScene(path, {"clear": clear})
            self.settle()
            self.assertEqual(ui.inputSelector1.currentNode().GetName(), "second")
            self.assertEqual(ui.outputSelector.currentNode().GetName(), "result")
            self.assertEqual(self.panel.inputs(), [ui.inputSelector1.currentNode()])
            self.assertTrue(ui.applyButton.enabled)

    def test_a_scene_that_is_loaded_during_a_run_keeps_its_choices(self):
        self.go()
        ui, folder = self.panel.ui, tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        path = str(Path(folder) / "scene.mrb")
        self.assertTrue(slicer.util.saveScene(path))
        slicer.mrmlScene.Clear(0)
        ui.inputSelector1.setCurrentNode(add_sample())
        self.worker.during = lambda: slicer.util.loadScene(path)
        ui.applyButton.click()
        self.finish()
        self.assertEqual(len(self.panel._cards.shown), 1)
        self.assertEqual(ui.inputSelector1.currentNode().GetName(), "second")
        self.assertEqual(ui.outputSelector.currentNode().GetName(), "result")

    def test_nothing_takes_the_place_of_a_node_that_is_deleted(self):
        """A node selector of Slicer's chooses the next node, which may be another patient's, or somebody's work."""
        ui, (_first, second, node) = self.panel.ui, self.go()
        region, other = (slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", name) for name in "ab")
        ui.regionSelector.setCurrentNode(region)
        slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
        for selector, gone in ((ui.regionSelector, region), (ui.outputSelector, node), (ui.inputSelector1, second)):
            self.assertIs(selector.currentNode(), gone)
            slicer.mrmlScene.RemoveNode(gone)
            self.assertIsNone(selector.currentNode())
        self.assertEqual(self.panel.inputs(), [None])
        self.assertIsNone(self.panel._parameterNode.outputSegmentation)
        self.assertIsNone(self.panel.region)
        self.assertFalse(ui.applyButton.enabled)

    def test_a_scene_that_comes_during_a_run_keeps_its_own_choices(self):
        ui, first, second = self.panel.ui, add_sample(), add_sample()
        ui.inputSelector1.setCurrentNode(first)
        self.worker.during = lambda: setattr(self.panel._parameterNode, "input1", second)
        ui.applyButton.click()
        self.finish()
        self.assertEqual(len(self.panel._cards.shown), 1)
        self.assertIs(ui.inputSelector1.currentNode(), second)
        self.assertIsNone(ui.outputSelector.currentNode())  # the first one's result is not overwritten by the second's

    @unittest.skipUnless(type(qt).__name__ == "_Qt", "Slicer's own parts may hold nodes longer")
    def test_nodes_that_left_the_scene_are_let_go(self):
        """A volume is hundreds of megabytes."""
        for close in (False, True):
            held = [vtk.vtkWeakReference() for _ in range(3)]
            for each, node in zip(held, self.go(), strict=True):
                each.Set(node)
            self.panel.exit()
            self.panel.enter()
            if close:
                slicer.mrmlScene.Clear(0)
            else:
                for each in held:
                    slicer.mrmlScene.RemoveNode(each.Get())
            node = None
            self.settle()
            self.panel.refresh()
            gc.collect()
            self.assertEqual([each.Get() for each in held], [None] * 3)

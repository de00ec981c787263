"""Sequences: every frame is segmented, into a sequence beside it. Runs in Slicer and on the stand-in host."""

import sys
import types
import unittest
from pathlib import Path

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

sys.path.insert(0, str(Path(__file__).parent))  # for what the tests share, wherever they are started from
from panel_case import PanelCase, add_sample, segment_names, setUpModule  # noqa: E402, F401

COUNT = 3


def sequences_logic():
    """Slicer's own; the stand-in host has the class but not the module."""
    if not hasattr(slicer.modules, "sequences"):
        logic = slicer.vtkSlicerSequencesLogic()
        logic.SetMRMLScene(slicer.mrmlScene)
        slicer.modules.sequences = types.SimpleNamespace(logic=lambda: logic)
    return slicer.modules.sequences.logic()


class FramesTest(PanelCase):
    def add_sequence(self):
        """A sequence whose n-th frame has n bright rows in each half; the volume node that shows it."""
        logic = sequences_logic()
        sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "cine")
        sequence.SetIndexName("time")
        for number in range(COUNT):
            image = vtk.vtkImageData()
            image.SetDimensions(8, 9, 10)
            image.AllocateScalars(vtk.VTK_SHORT, 1)
            voxels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(10, 9, 8)
            voxels[:] = 0
            voxels[0, : number + 1] = 100
            frame = slicer.vtkMRMLScalarVolumeNode()
            frame.SetName("frame")
            frame.SetAndObserveImageData(image)
            sequence.SetDataNodeAtValue(frame, str(number))
        self.browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "browser")
        self.browser.AddSynchronizedSequenceNode(sequence)
        self.browser.SetSelectedItemNumber(1)
        logic.UpdateProxyNodesFromSequences(self.browser)
        return self.browser.GetProxyNode(sequence)

    def browse(self):
        """Look at other frames, as people do while they wait."""
        self.browser.SetSelectedItemNumber((self.browser.GetSelectedItemNumber() + 1) % COUNT)
        sequences_logic().UpdateProxyNodesFromSequences(self.browser)

    def test_every_frame_is_segmented(self):
        volume, ui = self.add_sequence(), self.panel.ui
        self.unfold(ui.optionsButton)
        ui.inputSelector1.setCurrentNode(volume)
        self.assertFalse(ui.everyFrameCheckBox.isHidden())
        self.assertIn("3 frames", ui.everyFrameCheckBox.text)
        ui.everyFrameCheckBox.setChecked(True)
        self.assertIn("new sequence", ui.outputHint.text)
        self.worker.during = self.browse
        ui.applyButton.click()
        self.finish()
        self.assertEqual(sum(request[0] == "predict" for request in self.worker.asked), COUNT, ui.statusLabel.text)
        node = self.panel._cards.shown[0].node
        self.assertEqual(slicer.util.getNodesByClass("vtkMRMLSegmentationNode"), [node])
        self.assertIsNone(ui.outputSelector.currentNode())  # one frame's result is not to be written into a sequence
        self.assertEqual(segment_names(node), ["Anterior hippocampus", "Posterior hippocampus"])
        result = self.browser.GetSequenceNode(node)
        self.assertEqual(result.GetNumberOfDataNodes(), COUNT)
        self.assertEqual(result.GetIndexName(), "time")
        for number in range(COUNT):
            layer = (
                result.GetNthDataNode(number).GetSegmentation().GetNthSegment(0).GetRepresentation("Binary labelmap")
            )
            voxels = vtk_to_numpy(layer.GetPointData().GetScalars())
            self.assertEqual(np.count_nonzero(voxels), 8 * (number + 1))
        self.assertEqual(self.browser.GetSelectedItemNumber(), 1)
        self.assertIn("3 frames", self.panel._cards.shown[0].card.notes)
        self.assertNotIn("changed meanwhile", self.panel._cards.shown[0].card.notes)

    def test_cancelled_on_the_way_the_scene_is_as_it_was(self):
        ui = self.panel.ui
        ui.inputSelector1.setCurrentNode(self.add_sequence())
        ui.everyFrameCheckBox.setChecked(True)
        before = slicer.mrmlScene.GetNumberOfNodes()
        self.worker.during = lambda: len(self.worker.asked) == 2 and ui.applyButton.click()
        self.worker.asked.clear()
        ui.applyButton.click()
        self.finish()
        self.assertIn("Cancelled", ui.statusLabel.text)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), before)
        self.assertEqual(self.browser.GetSelectedItemNumber(), 1)

    def test_the_time_left_is_told_after_the_first_frame(self):
        seen = []
        run = self.panel.logic.start(
            self.add_sequence(),
            everyFrame=True,
            onProgress=lambda report, left: seen.append((report.message[:7], left)),
        )
        while not run.finished:
            self.panel.logic.poll()
        self.assertEqual(list(dict.fromkeys(frame for frame, _left in seen)), ["Frame 1", "Frame 2", "Frame 3"])
        for frame, left in seen:
            self.assertEqual(left is None, frame == "Frame 1")
        self.assertTrue(all(left >= 0 for _frame, left in seen if left is not None))

    def test_a_volume_like_any_other_offers_no_frames(self):
        sequences_logic()
        self.unfold(self.panel.ui.optionsButton)
        self.panel.ui.inputSelector1.setCurrentNode(add_sample())
        self.assertTrue(self.panel.ui.everyFrameCheckBox.isHidden())


if __name__ == "__main__":
    unittest.main()

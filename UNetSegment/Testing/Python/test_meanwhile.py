"""What people do to the scene while a run is under way. Runs in Slicer and on the stand-in host."""

import sys
import unittest
from pathlib import Path

import numpy as np
import slicer
import vtk

sys.path.insert(0, str(Path(__file__).parent))  # for what the tests share, wherever they are started from
from panel_case import PanelCase, add_sample, segment_names, setUpModule  # noqa: E402, F401


class MeanwhileTest(PanelCase):
    def test_work_done_by_hand_during_a_run_is_left_and_the_result_is_whole(self):
        """In the segmentation that would be written to, and in one that grows: a run takes minutes, and people go on."""
        ui, volume = self.panel.ui, add_sample()
        ui.inputSelector1.setCurrentNode(volume)
        self.apply()
        first = ui.outputSelector.currentNode()
        whole, painted = self.masks(first, volume), []

        def paint():
            node = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")[-1]
            mask = self.masks(node, volume)[0].astype(np.uint8)
            mask[5:9, 5:9] = 1 - mask[5:9, 5:9]
            segment = node.GetSegmentation().GetNthSegmentID(0)
            slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, segment, volume)
            painted.append((node, mask > 0))

        self.worker.during = paint
        self.apply()
        ui.outputSelector.setCurrentNode(None)
        self.apply()
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"), 4)
        for (node, mask), shown in zip(painted, self.panel._cards.shown[1::-1], strict=True):
            self.assertTrue((self.masks(node, volume)[0] == mask).all())
            self.assertIsNot(shown.node, node)
            self.assertEqual(segment_names(shown.node), segment_names(first))
            for one, other in zip(self.masks(shown.node, volume), whole, strict=True):
                self.assertTrue((one == other).all())
            self.assertIn("was changed meanwhile", shown.card.html())

    def test_a_volume_that_is_moved_during_a_run_takes_its_result_along(self):
        """Hardened, or put into place in the Volumes module: into a new segmentation that grows, and one that is there."""
        ui, volume = self.panel.ui, add_sample()
        matrix = vtk.vtkMatrix4x4()
        matrix.SetElement(0, 3, 70)
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "T")
        transform.SetMatrixTransformToParent(matrix)
        volume.SetAndObserveTransformNodeID(transform.GetID())
        ui.inputSelector1.setCurrentNode(volume)
        self.apply()
        first = ui.outputSelector.currentNode()
        whole = self.masks(first, volume)
        self.worker.during = volume.HardenTransform
        self.apply()
        ui.outputSelector.setCurrentNode(None)
        volume.SetAndObserveTransformNodeID(transform.GetID())
        self.apply()
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"), 3)
        grown, beside, _before = (shown.node for shown in self.panel._cards.shown)
        for node in (grown, beside):
            self.assertIsNone(node.GetParentTransformNode())
        for one, other in zip(self.masks(grown, volume), whole, strict=True):
            self.assertTrue((one == other).all())
        self.assertIn("the volume moved", self.panel._cards.shown[1].card.html())
        self.assertEqual(segment_names(beside), segment_names(first))

    def test_a_volume_that_gets_other_voxels_while_somebody_paints(self):
        """As where it is cropped in place: the result stays where the voxels were that it is of."""
        ui, volume = self.panel.ui, add_sample()
        ui.inputSelector1.setCurrentNode(volume)
        before = volume.GetImageData().GetExtent()

        def crop_and_paint():
            (node,) = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
            node.GetSegmentation().GetNthSegment(0).GetRepresentation("Binary labelmap").Modified()
            image = vtk.vtkImageData()
            image.SetDimensions(3, 4, 5)
            image.AllocateScalars(vtk.VTK_SHORT, 1)
            volume.SetAndObserveImageData(image)
            volume.SetOrigin(9, 9, 9)

        self.worker.during = crop_and_paint
        self.apply()
        (shown,) = self.panel._cards.shown
        layer = shown.node.GetSegmentation().GetNthSegment(0).GetRepresentation("Binary labelmap")
        self.assertEqual((layer.GetExtent(), layer.GetOrigin()), (before, (1, 1, 1)))
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"), 2)

    def test_voxels_that_change_during_a_run_are_told_of(self):
        ui, volume = self.panel.ui, add_sample()
        ui.inputSelector1.setCurrentNode(volume)

        def fill():
            slicer.util.arrayFromVolume(volume)[:] = 0
            slicer.util.arrayFromVolumeModified(volume)

        self.worker.during = lambda: volume.GetDisplayNode().SetWindowLevel(300, 200)
        self.apply()
        self.assertNotIn("meanwhile", self.panel._cards.shown[0].card.html())
        self.worker.during = fill
        self.apply()
        self.assertIn("changed meanwhile: this result is of those from before", self.panel._cards.shown[0].card.html())

    def test_a_structure_that_is_renamed_while_it_grows_keeps_its_name(self):
        ui, volume = self.panel.ui, add_sample()
        ui.inputSelector1.setCurrentNode(volume)

        def rename():
            (node,) = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
            node.GetSegmentation().GetNthSegment(0).SetName("Head")

        self.worker.during = rename
        self.apply()
        (shown,) = self.panel._cards.shown
        self.assertEqual(segment_names(shown.node), ["Head", "Posterior hippocampus"])
        self.assertTrue(self.masks(shown.node, volume)[0].any())

    def masks(self, node, volume):
        segmentation = node.GetSegmentation()
        ids = [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]
        return [slicer.util.arrayFromSegmentBinaryLabelmap(node, each, volume) > 0 for each in ids]

    def test_a_growing_segmentation_that_the_user_deletes(self):
        ui = self.panel.ui
        ui.inputSelector1.setCurrentNode(add_sample())
        self.worker.during = lambda: slicer.mrmlScene.RemoveNode(
            slicer.util.getNodesByClass("vtkMRMLSegmentationNode")[0]
        )
        self.apply()
        self.assertIn("was removed from the scene", ui.statusLabel.text)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"), 0)


if __name__ == "__main__":
    unittest.main()

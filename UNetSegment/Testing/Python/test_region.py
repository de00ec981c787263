"""Regions of interest: the box of voxels around them, and their way to the worker. Runs in Slicer and on the stand-in host."""

import sys
import unittest
from pathlib import Path

import numpy as np
import slicer
import vtk

sys.path.insert(0, str(Path(__file__).parent))  # for what the tests share, wherever they are started from
from panel_case import PanelCase, add_sample, setUpModule  # noqa: E402, F401
from UNetSegmentLib import scene  # noqa: E402
from UNetSegmentLib.errors import InputError  # noqa: E402


class RegionTest(PanelCase):
    def add_roi(self, center, size, name="R"):
        roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", name)
        roi.SetCenter(center)
        roi.SetSize(size)
        return roi

    def add_turn(self, degrees, axis, shift=(0.0, 0.0, 0.0)):
        turn = vtk.vtkTransform()
        turn.Translate(*shift)
        turn.RotateWXYZ(degrees, *axis)
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        node.SetMatrixTransformToParent(turn.GetMatrix())
        return node

    def add_volume(self, spacing=(1.0, 1.0, 1.0), shape=(20, 24, 28)):
        node = slicer.util.addVolumeFromArray(np.zeros(shape[::-1], np.int16), name="mri")
        node.SetSpacing(*spacing)
        return node

    def test_a_box_along_the_axes(self):
        volume = self.add_volume((1.0, 2.0, 0.5))
        roi = self.add_roi((5.0, 10.0, 5.0), (4.0, 8.0, 2.0))
        # voxels whose inside the box meets: 3..7 mm of 1 mm voxels centred on whole numbers are 3 to 7
        self.assertEqual(scene.region_box(roi, volume), [[3, 8], [3, 8], [8, 13]])

    def test_what_lies_outside_is_cut_and_what_misses_is_said(self):
        volume = self.add_volume()
        self.assertEqual(scene.region_box(self.add_roi((0, 0, 0), (10, 10, 1000)), volume)[2], [0, 28])
        with self.assertRaisesRegex(InputError, "'R' does not touch volume 'mri'"):
            scene.region_box(self.add_roi((100, 0, 0), (10, 10, 10)), volume)
        with self.assertRaisesRegex(InputError, "not placed yet"):
            scene.region_box(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode"), volume)

    def test_volume_and_region_that_move_together_keep_the_box(self):
        volume, roi = self.add_volume((0.9, 1.1, 1.3)), self.add_roi((8.0, 9.0, 10.0), (5.0, 6.0, 7.0))
        before = scene.region_box(roi, volume)
        parent = self.add_turn(33, (1, 2, 3), (50, -20, 7))
        for node in (volume, roi):
            node.SetAndObserveTransformNodeID(parent.GetID())
        self.assertEqual(scene.region_box(roi, volume), before)

    def test_an_oblique_region_lies_within_its_box_and_touches_every_side(self):
        volume, roi = self.add_volume(shape=(60, 60, 60)), self.add_roi((0.0, 0.0, 0.0), (10.0, 14.0, 18.0))
        roi.SetAndObserveTransformNodeID(self.add_turn(40, (1, -1, 2), (30, 30, 30)).GetID())
        box = scene.region_box(roi, volume)
        planes, inside = vtk.vtkPlanes(), np.zeros((60, 60, 60), bool)
        roi.GetPlanesWorld(planes)
        for index in np.ndindex(inside.shape):
            inside[index] = planes.EvaluateFunction([float(n) for n in index]) <= 0
        found = np.argwhere(inside)
        for axis, (first, stop) in enumerate(box):
            self.assertTrue(first <= found[:, axis].min() <= first + 2)
            self.assertTrue(stop - 3 <= found[:, axis].max() < stop)

    def test_the_box_follows_the_transform_of_the_volume(self):
        volume, roi = self.add_volume(), self.add_roi((5.0, 6.0, 7.0), (3.0, 3.0, 3.0))
        before = scene.region_box(roi, volume)
        volume.SetAndObserveTransformNodeID(self.add_turn(0, (0, 0, 1), (2, 0, -3)).GetID())
        expected = [[a - shift, b - shift] for (a, b), shift in zip(before, (2, 0, -3))]
        self.assertEqual(scene.region_box(roi, volume), expected)

    def test_the_region_reaches_the_worker_and_stands_in_the_title(self):
        ui, volume = self.panel.ui, add_sample()
        ui.inputSelector1.setCurrentNode(volume)
        roi = self.add_roi((0, 0, 0), (1, 1, 1), "Left side")
        self.panel.onRegionAdded(roi)
        ui.regionSelector.setCurrentNode(roi)
        self.assertIn("region Left side", ui.optionsButton.text)
        ui.applyButton.click()
        self.finish()
        shape = volume.GetImageData().GetDimensions()
        self.assertEqual(self.worker.asked[-1][2]["region"], [[0, n] for n in shape])
        roi.SetCenter(1000, 0, 0)
        ui.applyButton.click()
        self.assertIn("does not touch", ui.statusLabel.text)
        slicer.mrmlScene.RemoveNode(roi)
        self.assertNotIn("Left side", ui.optionsButton.text)


if __name__ == "__main__":
    unittest.main()

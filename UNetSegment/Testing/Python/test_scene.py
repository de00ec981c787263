"""Nodes to volumes and label maps to nodes: nothing moves, nothing else changes. Runs in Slicer and on the stand-in host."""

import itertools
import os
import tempfile
import types
import unittest
import unittest.mock

import numpy as np
import slicer
import vtk
from UNetSegmentLib import scene
from UNetSegmentLib.errors import InputError, OutputError
from UNetSegmentLib.labels import Code, Label, Terminology
from UNetSegmentLib.scene.others import Others
from UNetSegmentLib.scene.read import to_numpy
from UNetSegmentLib.volume import LabelMap, Reorientation

LIVER = Terminology(Code("SCT", "123037004", "Anatomical Structure"), Code("SCT", "10200004", "Liver"))
LABELS = (Label(0, "background"), Label(3, "Liver", (221, 130, 101), LIVER), Label(300, "Lesion", (144, 238, 144)))


def rotation(degrees=25.0, axis=(1, 2, 3)):
    transform = vtk.vtkTransform()
    transform.RotateWXYZ(degrees, *axis)
    return to_numpy(transform.GetMatrix())


def vtk_matrix(array):
    matrix = vtk.vtkMatrix4x4()
    for row, column in itertools.product(range(4), repeat=2):
        matrix.SetElement(row, column, float(array[row, column]))
    return matrix


def add_volume(shape=(4, 5, 6), matrix=None, name="mri", dtype=np.int16):
    """A volume node whose voxel (i, j, k) has the value i + 10 j + 100 k; ``shape`` is (i, j, k)."""
    i, j, k = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    array = (i + 10 * j + 100 * k).astype(dtype).T
    node = slicer.util.addVolumeFromArray(np.ascontiguousarray(array), name=name)
    node.SetIJKToRASMatrix(vtk_matrix(np.diag([1.0, 2, 3, 1]) if matrix is None else matrix))
    return node


def add_transform(matrix, name="parent"):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
    node.SetMatrixTransformToParent(vtk_matrix(matrix))
    return node


def segment_array(node, name, reference):
    segmentation = node.GetSegmentation()
    for index in range(segmentation.GetNumberOfSegments()):
        if segmentation.GetNthSegment(index).GetName() == name:
            segment_id = segmentation.GetNthSegmentID(index)
            return slicer.util.arrayFromSegmentBinaryLabelmap(node, segment_id, reference).T
    raise AssertionError(f"no segment {name}")


def segment_names(node):
    segmentation = node.GetSegmentation()
    return [segmentation.GetNthSegment(index).GetName() for index in range(segmentation.GetNumberOfSegments())]


def corner_labels(shape):
    """Two structures away from each other's mirror images, so that a flip would be seen."""
    array = np.zeros(shape, np.uint16)
    array[0, 0, 0] = 3
    array[-1:, :2, -1:] = 300
    return array


class SceneTest(unittest.TestCase):
    def setUp(self):
        slicer.mrmlScene.Clear()

    def test_voxels_and_places_of_a_volume(self):
        matrix = rotation() @ np.diag([0.5, -2.0, 3.0, 1.0])
        matrix[:3, 3] = (10, -20, 30)
        volume = scene.world_volume(add_volume(matrix=matrix))
        self.assertEqual(volume.array.shape, (1, 4, 5, 6))
        self.assertEqual(volume.array[0, 1, 2, 3], 321)
        np.testing.assert_allclose(volume.grid.ijk_to_ras, matrix, atol=1e-9)
        self.assertEqual(volume.channels, ("mri",))

    def test_voxels_of_every_type_of_number(self):
        kinds = "CHAR SIGNED_CHAR UNSIGNED_CHAR SHORT UNSIGNED_SHORT INT UNSIGNED_INT LONG UNSIGNED_LONG LONG_LONG "
        for kind in (kinds + "UNSIGNED_LONG_LONG FLOAT DOUBLE").split():
            image = vtk.vtkImageData()
            image.SetDimensions(2, 3, 4)
            image.AllocateScalars(getattr(vtk, "VTK_" + kind), 1)
            image.GetPointData().GetScalars().Fill(0)
            image.SetScalarComponentFromDouble(1, 2, 3, 0, 99)
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", kind)
            node.SetAndObserveImageData(image)
            volume = scene.world_volume(node)
            self.assertIn(volume.array.dtype.kind, "iuf")  # what the worker takes
            self.assertEqual((volume.array[0, 1, 2, 3], volume.array.sum()), (99, 99))

    def test_parent_transforms_move_the_volume_in_the_world(self):
        node, inner, outer = add_volume(), add_transform(rotation()), add_transform(rotation(40, (0, 0, 1)))
        inner.SetAndObserveTransformNodeID(outer.GetID())
        node.SetAndObserveTransformNodeID(inner.GetID())
        expected = rotation(40, (0, 0, 1)) @ rotation() @ np.diag([1.0, 2, 3, 1])
        np.testing.assert_allclose(scene.world_volume(node).grid.ijk_to_ras, expected, atol=1e-9)

    def test_nonlinear_and_shearing_transforms_are_refused(self):
        node = add_volume()
        warp = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "warp")
        spline = vtk.vtkThinPlateSplineTransform()
        source, target = vtk.vtkPoints(), vtk.vtkPoints()
        for point in itertools.product((0, 10), repeat=3):
            source.InsertNextPoint(point)
            target.InsertNextPoint([x + 0.1 * x * x for x in point])
        spline.SetSourceLandmarks(source)
        spline.SetTargetLandmarks(target)
        spline.SetBasisToR()
        warp.SetAndObserveTransformToParent(spline)
        node.SetAndObserveTransformNodeID(warp.GetID())
        with self.assertRaisesRegex(InputError, "'mri' is under the non-linear transform 'warp'"):
            scene.world_volume(node)
        shear = np.eye(4)
        shear[0, 1] = 0.5
        node.SetAndObserveTransformNodeID(add_transform(shear).GetID())
        with self.assertRaisesRegex(InputError, "'mri' is under the transform 'parent', which shears"):
            scene.world_volume(node)

    def test_bad_volumes_are_named(self):
        with self.assertRaisesRegex(InputError, "No volume is chosen"):
            scene.world_volume(None)
        empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
        with self.assertRaisesRegex(InputError, "'empty' has no voxels"):
            scene.world_volume(empty)
        flat = add_volume(name="flat", matrix=np.diag([1.0, 1, 1, 1]))
        flat.SetSpacing(1, 0, 1)
        with self.assertRaisesRegex(InputError, "'flat'.*spacing of zero"):
            scene.world_volume(flat)
        color = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "photo")
        image = vtk.vtkImageData()
        image.SetDimensions(2, 3, 4)
        image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
        color.SetAndObserveImageData(image)
        with self.assertRaisesRegex(InputError, "'photo' has 3 values per voxel"):
            scene.world_volume(color)

    def test_segments_carry_value_name_colour_and_terminology(self):
        node = add_volume()
        labels = LabelMap(corner_labels((4, 5, 6)), scene.world_volume(node).grid, LABELS)
        result = scene.write_segmentation(labels, node, name="result", provenance={"model": "test"})
        self.assertEqual(segment_names(result), ["Liver", "Lesion"])
        liver = result.GetSegmentation().GetNthSegment(0)
        np.testing.assert_allclose(liver.GetColor(), np.array([221, 130, 101]) / 255, atol=1e-6)
        tag = vtk.reference("")
        self.assertTrue(liver.GetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), tag))
        self.assertIn("SCT^10200004^Liver", str(tag))
        self.assertEqual(result.GetAttribute("UNetSegment.model"), "test")
        self.assertEqual(result.GetNodeReferenceID(result.GetReferenceImageGeometryReferenceRole()), node.GetID())

    def test_every_orientation_comes_back_to_the_same_voxels(self):
        plain = corner_labels((4, 5, 6))
        for axes in itertools.permutations(range(3)):
            for flips in ((False, False, False), (True, False, True), (False, True, False)):
                turn = Reorientation(axes, flips)
                array = turn.apply(plain)
                start = to_numpy(vtk_matrix(rotation() @ np.diag([1.0, 2, 3, 1])))
                matrix = self.grid(plain.shape, start).reoriented(turn).ijk_to_ras
                slicer.mrmlScene.Clear()
                node = add_volume(array.shape, matrix)
                labels = LabelMap(array, scene.world_volume(node).grid, LABELS)
                result = scene.write_segmentation(labels, node)
                np.testing.assert_array_equal(segment_array(result, "Liver", node), array == 3)
                np.testing.assert_array_equal(segment_array(result, "Lesion", node), array == 300)

    @staticmethod
    def grid(shape, matrix):
        from UNetSegmentLib.volume import Grid

        return Grid(shape, matrix)

    def test_single_slice_volumes(self):
        node = add_volume((4, 5, 1))
        labels = LabelMap(corner_labels((4, 5, 1)), scene.world_volume(node).grid, LABELS)
        result = scene.write_segmentation(labels, node)
        self.assertEqual(int(segment_array(result, "Liver", node).sum()), int((labels.array == 3).sum()))

    def test_result_lies_under_the_inputs_transform_and_beside_it(self):
        node, parent = add_volume(), add_transform(rotation())
        node.SetAndObserveTransformNodeID(parent.GetID())
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
        study = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "study")
        hierarchy.SetItemParent(hierarchy.GetItemByDataNode(node), study)
        labels = LabelMap(corner_labels((4, 5, 6)), scene.world_volume(node).grid, LABELS)
        result = scene.write_segmentation(labels, node)
        self.assertEqual(result.GetTransformNodeID(), parent.GetID())
        self.assertEqual(hierarchy.GetItemParent(hierarchy.GetItemByDataNode(result)), study)
        # The Liver voxel is where voxel (0, 0, 0) of the volume is in the world
        center = [0.0, 0.0, 0.0]
        result.GetSegmentCenterRAS(result.GetSegmentation().GetNthSegmentID(0), center)
        np.testing.assert_allclose(center, scene.world_volume(node).grid.origin, atol=1e-4)

    def test_a_second_result_replaces_its_own_segments_only(self):
        node = add_volume()
        grid = scene.world_volume(node).grid
        result = scene.write_segmentation(LabelMap(corner_labels((4, 5, 6)), grid, LABELS), node)
        segmentation = result.GetSegmentation()
        mine = segmentation.AddEmptySegment("mine", "Mine")
        mask = np.zeros((6, 5, 4), np.uint8)
        mask[2, 2:4, 1] = 1
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask, result, mine, node)
        kept = segment_array(result, "Mine", node).copy()
        ids = [segmentation.GetNthSegmentID(n) for n in range(3)]

        second = np.zeros((4, 5, 6), np.uint16)
        second[2, 2, 2] = 3
        again = scene.write_segmentation(LabelMap(second, grid, LABELS), node, result)
        self.assertIs(again, result)
        self.assertEqual([segmentation.GetNthSegmentID(n) for n in range(3)], ids)
        np.testing.assert_array_equal(segment_array(result, "Mine", node), kept)
        np.testing.assert_array_equal(segment_array(result, "Liver", node), second == 3)
        self.assertEqual(int(segment_array(result, "Lesion", node).sum()), 0)

    @staticmethod
    def node_ids():
        nodes = (slicer.mrmlScene.GetNthNode(n) for n in range(slicer.mrmlScene.GetNumberOfNodes()))
        return {node.GetID() for node in nodes}

    def test_replaced_segments_keep_what_the_user_gave_them(self):
        node = add_volume()
        grid = scene.world_volume(node).grid
        result = scene.write_segmentation(LabelMap(corner_labels((4, 5, 6)), grid, LABELS), node, show_3d=True)
        segmentation = result.GetSegmentation()
        liver, lesion = (segmentation.GetNthSegmentID(n) for n in range(2))
        segmentation.GetSegment(liver).SetColor(0.1, 0.2, 0.3)
        segmentation.GetSegment(lesion).SetTag("Segmentation.Status", "completed")
        kept = segment_array(result, "Lesion", node).copy()
        other = np.full((4, 5, 6), 3, np.uint16)
        other[1:3, 1:3, 1:3] = 300
        scene.write_segmentation(LabelMap(other, grid, LABELS), node, result)
        self.assertEqual([segmentation.GetNthSegmentID(n) for n in range(2)], [liver, lesion])
        np.testing.assert_allclose(segmentation.GetSegment(liver).GetColor(), (0.1, 0.2, 0.3))
        np.testing.assert_array_equal(segment_array(result, "Liver", node), other == 3)
        np.testing.assert_array_equal(segment_array(result, "Lesion", node), kept)  # completed: left alone
        surface = slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
        self.assertIsNotNone(segmentation.GetSegment(liver).GetRepresentation(surface))  # made again, as it was shown

    def test_replaced_segments_leave_nothing_in_a_layer_that_others_use(self):
        node = add_volume()
        grid = scene.world_volume(node).grid
        result = scene.write_segmentation(LabelMap(corner_labels((4, 5, 6)), grid, LABELS), node)
        segmentation = result.GetSegmentation()
        lesion = segmentation.GetSegment(segmentation.GetNthSegmentID(1))
        binary = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
        old = lesion.GetRepresentation(binary)
        only_liver = LabelMap(np.full((4, 5, 6), 3, np.uint16), grid, LABELS[:2])
        scene.write_segmentation(only_liver, node, result)
        self.assertIs(lesion.GetRepresentation(binary), old)
        self.assertEqual(old.GetScalarRange(), (0.0, float(lesion.GetLabelValue())))
        values = {int(old.GetPointData().GetScalars().GetValue(n)) for n in range(old.GetNumberOfPoints())}
        self.assertEqual(values, {0, lesion.GetLabelValue()})
        np.testing.assert_array_equal(segment_array(result, "Lesion", node), corner_labels((4, 5, 6)) == 300)

    def test_a_failure_halfway_leaves_the_scene_as_it_was(self):
        node = add_volume()
        grid = scene.world_volume(node).grid
        result = scene.write_segmentation(LabelMap(corner_labels((4, 5, 6)), grid, LABELS), node)
        kept, before = segment_array(result, "Liver", node).copy(), self.node_ids()
        put, calls = scene.write._put, []

        def fails_second(*arguments):
            calls.append(arguments)
            if len(calls) % 2 == 0:
                raise RuntimeError("out of memory")
            return put(*arguments)

        scene.write._put = fails_second
        self.addCleanup(setattr, scene.write, "_put", put)
        other = LabelMap(np.full((4, 5, 6), 3, np.uint16), grid, LABELS)
        for target in (None, result):
            with self.assertRaises(RuntimeError):
                scene.write_segmentation(other, node, target)
        self.assertEqual(self.node_ids() - before, set())
        self.assertEqual(segment_names(result), ["Liver", "Lesion"])
        np.testing.assert_array_equal(segment_array(result, "Liver", node), kept)

    def test_segmentations_that_cannot_take_the_result_are_left_alone(self):
        node = add_volume()
        grid = scene.world_volume(node).grid
        result = scene.write_segmentation(LabelMap(corner_labels((4, 5, 6)), grid, LABELS), node)
        node.SetAndObserveTransformNodeID(add_transform(rotation()).GetID())
        before = slicer.mrmlScene.GetNumberOfNodes()
        with self.assertRaisesRegex(OutputError, "under another transform"):
            scene.write_segmentation(LabelMap(corner_labels((4, 5, 6)), grid, LABELS), node, result)
        self.assertEqual(segment_names(result), ["Liver", "Lesion"])
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), before)

    def test_the_first_voxel_may_have_another_index_than_0(self):
        """Slicer's views go by the extent of the image; what was cut out of another may begin anywhere."""
        whole, part = add_volume((6, 7, 8)), add_volume((3, 4, 5))
        part.GetImageData().SetExtent(2, 4, 3, 6, 1, 5)
        np.testing.assert_allclose(scene.world_volume(part).grid.origin, (2, 6, 3))
        labels = LabelMap(np.full((3, 4, 5), 3, np.uint16), scene.world_volume(part).grid, LABELS[:2])
        result = scene.write_segmentation(labels, part)
        shown = np.zeros((6, 7, 8), np.uint8)
        shown[2:5, 3:7, 1:6] = 1
        np.testing.assert_array_equal(segment_array(result, "Liver", whole), shown)

    def test_results_on_different_voxels_share_a_segmentation(self):
        """What the first volume is too small or too coarse for stays whole; that saving moves it is said before."""
        coarse, matrix = add_volume((10, 10, 10), np.diag([4.0, 4, 4, 1]), "coarse"), rotation() @ np.diag([1, 1, 2, 1])
        matrix[:3, 3] = (-20, 10, 30)
        fine, shifted = (
            add_volume((30, 40, 50), matrix, "fine"),
            add_volume((4, 5, 6), np.diag([4.0, 4, 4, 1]), "shifted"),
        )
        shifted.SetOrigin(-16, 8, 0)
        first = np.zeros((10, 10, 10), np.uint16)
        first[2:5] = 3
        result = scene.write_segmentation(LabelMap(first, scene.world_volume(coarse).grid, LABELS[:2]), coarse)
        second = np.zeros((30, 40, 50), np.uint16)
        second[:, ::3, 5:] = 300
        said = scene.target_note(result, fine, ["Lesion"])
        self.assertIn("moves all of it onto the voxels of 'coarse'", said)
        self.assertEqual(scene.target_note(result, shifted, ["Lesion"]), "")
        scene.write_segmentation(LabelMap(second, scene.world_volume(fine).grid, (LABELS[0], LABELS[2])), fine, result)
        np.testing.assert_array_equal(segment_array(result, "Liver", coarse), first > 0)
        np.testing.assert_array_equal(segment_array(result, "Lesion", fine), second > 0)

    def test_undo_in_the_segment_editor_brings_back_what_a_result_replaced(self):
        """And what is saved for it after the result is the result: Slicer takes a copy that it has where that looks newer."""
        node = add_volume()
        grid = scene.world_volume(node).grid

        def labels(stop):
            array = np.zeros((4, 5, 6), np.uint16)
            array[:stop], array[-1] = 3, 300
            return LabelMap(array, grid, LABELS)

        def liver():
            return int(segment_array(result, "Liver", node).sum())

        result = scene.write_segmentation(labels(1), node)
        history = slicer.vtkSegmentationHistory()
        history.SetSegmentation(result.GetSegmentation())
        editor = types.SimpleNamespace(segmentationNodeID=result.GetID, saveStateForUndo=history.SaveState)
        opened = types.SimpleNamespace(editor=editor)
        layer, voxels = scene.write.new_layer(node, 2)  # a run begins
        history.SaveState()  # something else in the editor
        result.GetSegmentation().GetSegment("Segment_3").SetColor(1, 0, 0)
        voxels[...] = np.where(labels(2).array > 3, 2, labels(2).array > 0).T
        with unittest.mock.patch.object(slicer.modules, "SegmentEditorWidget", opened, create=True):
            scene.write_segmentation(labels(2), node, result, layer=layer)
        self.assertEqual(liver(), 2 * 30)
        history.SaveState()  # as before a stroke
        result.GetSegmentation().GetSegment("Segment_3").RemoveRepresentation(scene.target.binary())
        history.RestorePreviousState()
        self.assertEqual(liver(), 2 * 30)
        history.RestorePreviousState()
        self.assertEqual(liver(), 30)
        self.assertEqual(result.GetSegmentation().GetSegment("Segment_3").GetColor(), (1, 0, 0))
        history.RestoreNextState()
        self.assertEqual(liver(), 2 * 30)

    def test_who_only_looks_at_a_segmentation_did_not_change_it(self):
        """Nothing that a user does beside editing says of a layer that it was modified, so that a result goes where it was to."""
        names = ["Liver", "Lesion"]

        def color(node, segmentation):
            segmentation.GetNthSegment(0).SetColor(1, 0, 0)
            node.GetDisplayNode().SetSegmentVisibility(segmentation.GetNthSegmentID(0), False)

        def surface(node, segmentation):
            node.CreateClosedSurfaceRepresentation()
            node.RemoveClosedSurfaceRepresentation()

        def save(node, segmentation):
            slicer.util.saveNode(node, os.path.join(folder.name, "saved.seg.nrrd"))

        def read(node, segmentation):
            segment_array(node, "Liver", volume)
            node.GetRASBounds([0.0] * 6)
            slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode").Copy(node)

        def open_editor(node, segmentation):
            history.SetSegmentation(segmentation)
            history.SaveState()

        def add(node, segmentation):
            segmentation.AddEmptySegment("mine", "mine")
            segmentation.CollapseBinaryLabelmaps(False)

        def remove(node, segmentation):
            segmentation.RemoveSegment(segmentation.GetNthSegmentID(1))

        def undo(node, segmentation):
            open_editor(node, segmentation)
            segmentation.GetNthSegment(0).SetColor(0, 1, 0)
            history.RestorePreviousState()

        folder, history = tempfile.TemporaryDirectory(), slicer.vtkSegmentationHistory()
        self.addCleanup(folder.cleanup)
        looks, edits = (color, surface, save, read, open_editor, add), (remove, undo)
        for action in looks + edits:
            with self.subTest(action.__name__):
                volume, others = add_volume(), Others()
                node = scene.write_segmentation(
                    LabelMap(corner_labels((4, 5, 6)), scene.world_volume(volume).grid, LABELS), volume
                )
                others.watch(node, names)
                action(node, node.GetSegmentation())
                self.assertEqual(others.changed(node, names), action in edits)
                others.stop()


if __name__ == "__main__":
    unittest.main()

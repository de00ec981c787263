"""The manners of PythonQt and of Slicer that a scripted module relies on: the same in Slicer and on the stand-in host."""

import os
import shutil
import tempfile
import time
import unittest

import qt
import slicer
import vtk

ON_HOST = type(qt).__name__ == "_Qt"


def folder_of(test):
    """A new folder, until the test ends."""
    folder = tempfile.mkdtemp()
    test.addCleanup(shutil.rmtree, folder, ignore_errors=True)
    return folder


class PythonQtManners(unittest.TestCase):
    def test_properties_are_attributes(self):
        b = qt.QPushButton("abc")
        b.text, b.enabled = "x", False
        self.assertEqual((b.text, b.enabled, b.isEnabled()), ("x", False, False))
        with self.assertRaises(TypeError):
            b.text()
        with self.assertRaises(AttributeError):
            b.myattr = 1

    def test_slots_get_no_more_arguments_than_they_take(self):
        heard, b = [], qt.QPushButton("abc")
        b.checkable = True

        def nothing():
            heard.append("nothing")

        for slot in (nothing, heard.append, lambda *a: heard.append(a)):
            self.assertTrue(b.connect("clicked(bool)", slot))
        b.click()
        self.assertEqual(heard, ["nothing", True, (True,)])
        self.assertTrue(b.disconnect("clicked(bool)", nothing))
        b.click()
        self.assertEqual(heard[3:], [False, (False,)])

    def test_bound_methods_disconnect(self):
        class Listener:
            count = 0

            def hear(self, text):
                self.count += 1

        listener, edit = Listener(), qt.QLineEdit()
        edit.textChanged.connect(listener.hear)
        edit.text = "a"
        self.assertTrue(edit.textChanged.disconnect(listener.hear))
        edit.text = "b"
        self.assertEqual(listener.count, 1)

    def test_wrong_signature_is_refused_silently(self):
        self.assertFalse(qt.QPushButton().connect("nosuch()", lambda: None))
        self.assertFalse(qt.QComboBox().connect("currentIndexChanged(double)", lambda: None))

    def test_enums_are_integers_both_ways(self):
        label = qt.QLabel("x")
        label.alignment = qt.Qt.AlignRight | qt.Qt.AlignVCenter
        self.assertEqual(int(label.alignment), 2 | 128)
        label.setAlignment(qt.Qt.AlignLeft)
        self.assertEqual(int(label.alignment) & 1, 1)
        label.setSizePolicy(qt.QSizePolicy.Expanding, qt.QSizePolicy.Fixed)
        self.assertEqual(int(label.sizePolicy.horizontalPolicy()), 7)

    def test_python_subclass(self):
        class Watcher(qt.QWidget):
            def __init__(self):
                qt.QWidget.__init__(self)
                self.mine, self.seen = 5, []

            def eventFilter(self, watched, event):
                self.seen.append(int(event.type()))
                return False

        watcher, button = Watcher(), qt.QPushButton("b")
        button.installEventFilter(watcher)
        button.enabled = False
        button.removeEventFilter(watcher)
        self.assertEqual(watcher.mine, 5)
        self.assertIsInstance(watcher, qt.QWidget)
        self.assertIn(98, watcher.seen)  # QEvent.EnabledChange

    def test_same_object_same_wrapper_and_lists_are_tuples(self):
        parent = qt.QWidget()
        layout, button = qt.QVBoxLayout(parent), qt.QPushButton("b", parent)
        button.setObjectName("named")
        layout.addWidget(button)
        self.assertIs(button.parent(), parent)
        self.assertIs(parent.findChild(qt.QPushButton, "named"), button)
        self.assertEqual(parent.findChildren("QLabel"), ())
        self.assertEqual(button.name, "named")

    def test_dynamic_property(self):
        b = qt.QPushButton()
        self.assertFalse(b.setProperty("SlicerParameterName", "threshold"))
        self.assertEqual(b.property("SlicerParameterName"), "threshold")
        self.assertFalse(b.property("nope"))

    def test_settings(self):
        settings = qt.QSettings(os.path.join(folder_of(self), "s.ini"), qt.QSettings.IniFormat)
        settings.setValue("UNetSegmentTest/x", "true")
        self.assertTrue(slicer.util.settingsValue("UNetSegmentTest/x", False, slicer.util.toBool, settings))
        self.assertIsNone(settings.value("nope"))
        self.assertEqual(settings.value("nope", 5), 5)

    def test_timer(self):
        heard = []
        qt.QTimer.singleShot(0, lambda: heard.append(1))
        timer = qt.QTimer()
        timer.interval = 1
        timer.connect("timeout()", lambda: heard.append(2))
        timer.start()
        for _ in range(100):
            slicer.app.processEvents()
            if 1 in heard and 2 in heard:
                break
            time.sleep(0.005)
        timer.stop()
        self.assertTrue(1 in heard and 2 in heard)

    def test_file_dialogs_give_a_name_and_nothing_else(self):
        if not ON_HOST:
            self.skipTest("a person would have to answer")
        from PySide6.QtWidgets import QFileDialog

        for name, given in (("getOpenFileName", "/a.zip"), ("getSaveFileName", "/b.txt"), ("getOpenFileNames", ["/c"])):
            before = getattr(QFileDialog, name)
            self.addCleanup(setattr, QFileDialog, name, before)
            setattr(QFileDialog, name, staticmethod(lambda *a, given=given: (given, "All files (*)")))
            told = getattr(qt.QFileDialog, name)(None, "Title", "", "All files (*)")
            self.assertEqual(told, tuple(given) if isinstance(given, list) else given)


class SlicerManners(unittest.TestCase):
    def tearDown(self):
        slicer.mrmlScene.Clear(0)

    def test_parameter_node(self):
        from slicer.parameterNodeWrapper import parameterNodeWrapper

        @parameterNodeWrapper
        class Fields:
            volume: slicer.vtkMRMLScalarVolumeNode
            device: str = "auto"
            on: bool = True
            text: str

        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", "Fields")
        fields, events = Fields(node), []
        self.assertEqual((fields.volume, fields.device, fields.on, fields.text), (None, "auto", True, ""))
        fields.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda caller, event: events.append(event))
        fields.volume = volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "v")
        fields.text, fields.on = "seven", False
        self.assertTrue(events)
        self.assertIs(Fields(node).volume, volume)
        self.assertEqual(node.GetNodeReferenceID("volume"), volume.GetID())
        self.assertEqual(
            (node.GetParameter("text"), node.GetParameter("on"), node.GetParameter("device")),
            ("seven", "False", "auto"),
        )
        with self.assertRaises(TypeError):
            fields.device = 3
        with self.assertRaises(ValueError):
            fields.text = None
        self.assertTrue(fields.isCached("text") and fields.isCached("volume"))
        before = node.StartModify()
        node.SetParameter("text", "three")
        self.assertEqual(fields.text, "seven")  # until the node says that it was modified
        node.EndModify(before)
        self.assertEqual(fields.text, "three")
        slicer.mrmlScene.RemoveNode(volume)
        self.assertIsNone(fields.volume)

    def test_volume_arrays_are_kji_and_share_memory(self):
        import numpy as np

        node = slicer.util.addVolumeFromArray(np.zeros((2, 3, 4), np.int16))
        self.assertEqual(node.GetImageData().GetDimensions(), (4, 3, 2))
        slicer.util.arrayFromVolume(node)[1, 2, 3] = 9
        slicer.util.arrayFromVolumeModified(node)
        self.assertEqual(node.GetImageData().GetScalarComponentAsDouble(3, 2, 1, 0), 9)

    def test_segment_array_round_trip(self):
        import numpy as np

        volume = slicer.util.addVolumeFromArray(np.zeros((4, 5, 6), np.int16))
        segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
        segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        segment_id = segmentation.GetSegmentation().AddEmptySegment("one", "One")
        array = np.zeros((4, 5, 6), np.uint8)
        array[1:3, 2:4, 1:5] = 1
        slicer.util.updateSegmentBinaryLabelmapFromArray(array, segmentation, segment_id, volume)
        back = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, segment_id, volume)
        self.assertTrue((back == array).all())

    def test_file_round_trip(self):
        import numpy as np

        folder = folder_of(self)
        node = slicer.util.addVolumeFromArray(np.arange(24, dtype=np.int16).reshape(2, 3, 4), name="made")
        for suffix in (".nrrd", ".nii.gz"):
            path = os.path.join(folder, "made" + suffix)
            self.assertTrue(slicer.util.saveNode(node, path))
            loaded = slicer.util.loadVolume(path)
            self.assertTrue((slicer.util.arrayFromVolume(loaded) == slicer.util.arrayFromVolume(node)).all())
        with self.assertRaises(RuntimeError):
            slicer.util.loadVolume(os.path.join(folder, "absent.nrrd"))

    def test_scenes_keep_any_text(self):
        text = '{"a": [1, 2], "b": "x;y:z=w & <é> \\" "}'
        for suffix in (".mrml", ".mrb"):
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "made")
            node.SetAttribute("UNetSegmentTest.text", text)
            path = os.path.join(folder_of(self), "scene" + suffix)
            self.assertTrue(slicer.util.saveScene(path))
            slicer.mrmlScene.Clear(0)
            slicer.util.loadScene(path)
            (node,) = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
            self.assertEqual(node.GetAttribute("UNetSegmentTest.text"), text)
            slicer.mrmlScene.Clear(0)

    def test_errors_are_raised_again(self):
        with self.assertRaises(ValueError):
            with slicer.util.tryWithErrorDisplay("Failed", waitCursor=True):
                raise ValueError("why")


if __name__ == "__main__":
    unittest.main()

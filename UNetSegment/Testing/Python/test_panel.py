"""What the panel offers beside Apply: structures, forecasts, the menu of a volume, the self-test. Runs in Slicer and on the stand-in host."""

import shutil
import sys
import unittest
from pathlib import Path

import numpy as np
import qt
import slicer

sys.path.insert(0, str(Path(__file__).parent))  # for what the tests share, wherever they are started from
from panel_case import (  # noqa: E402, F401
    BACKEND,
    NO_BACKEND,
    PanelCase,
    add_sample,
    module,
    needs_main_window,
    segment_names,
    setUpModule,
)
from UNetSegmentLib import package  # noqa: E402
from UNetSegmentLib.labels import Label  # noqa: E402
from UNetSegmentLib.panel import hierarchy, needs, structures  # noqa: E402
from UNetSegmentLib.predict import forecast, speeds  # noqa: E402
from UNetSegmentLib.predict.backends.installed import State  # noqa: E402
from UNetSegmentLib.worker import Worker  # noqa: E402


class FirstSightTest(PanelCase):
    def test_what_the_first_run_installs_is_said_before(self):
        ui = self.panel.ui
        self.addCleanup(self.panel.enter)
        nothing, needs.needs = needs.needs, lambda manifest, device: [needs.Need(needs.LIBRARIES["openvino"], State())]
        self.panel.enter()
        self.assertIn("about 60 MB", ui.installHint.text)
        self.assertFalse(ui.installHint.isHidden())
        needs.needs = nothing
        self.panel.enter()
        self.assertTrue(ui.installHint.isHidden())

    def test_in_testing_mode_nothing_is_installed(self):
        if not slicer.app.testingEnabled():
            self.skipTest("not in testing mode")
        ui = self.panel.ui
        needs.needs = lambda manifest, device: [needs.Need(needs.LIBRARIES["openvino"], State())]
        ui.inputSelector1.setCurrentNode(add_sample())
        ui.applyButton.click()
        self.assertFalse(self.panel.isRunning)
        self.assertIn("OpenVINO is not installed", ui.statusLabel.text)


class ForecastTest(PanelCase):
    RAN = {"backend": "openvino", "device": "cpu", "precision": "bf16", "reference_dice": "0.9994"}

    def setUp(self):
        super().setUp()
        notes = package.cache_folder() / "speeds"
        shutil.rmtree(notes, ignore_errors=True)
        self.addCleanup(shutil.rmtree, notes, ignore_errors=True)
        panel, ui = self.panel, self.panel.ui
        ui.inputSelector1.setCurrentNode(add_sample())
        panel.ready.begin()
        panel.ready.took(self.RAN)
        options = self.panel.logic._asked(ui.deviceSelector.currentData, "auto", None, "all")
        self.note = lambda network, beside: speeds.note_run(
            panel.model.manifest, options, self.RAN, forecast.Measured(forecast.Work(8, 70000), network, beside)
        )
        panel.expected.forget()
        panel.refresh()

    def test_the_options_say_how_long_it_takes_once_that_is_known(self):
        panel, ui = self.panel, self.panel.ui
        self.assertEqual(ui.optionsButton.text, "Options: CPU (16-bit, proven here)")
        self.note(160.0, 0.0)
        panel.expected.forget()
        panel.refresh()
        self.assertEqual(ui.optionsButton.text, "Options: about 20 s on CPU (16-bit, proven here)")
        region = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "R")
        panel.onRegionAdded(region)
        ui.regionSelector.setCurrentNode(region)
        self.assertIn("proven here) · region R", ui.optionsButton.text)
        large = slicer.util.addVolumeFromArray(np.zeros((100, 120, 80), np.int16), name="large")
        ui.regionSelector.setCurrentNode(None)
        ui.inputSelector1.setCurrentNode(large)
        self.assertIn("about 16 min", ui.optionsButton.text)  # 4 x 4 x 3 patches of 20 s
        ui.inputSelector1.setCurrentNode(None)
        self.assertNotIn("about", ui.optionsButton.text)

    def test_a_run_makes_the_forecast_better(self):
        panel, ui = self.panel, self.panel.ui
        self.worker.during = lambda: self.note(24.0, 0.0)  # as the worker does
        ui.applyButton.click()
        self.finish()
        panel.ready.took(self.RAN)
        panel.refresh()
        self.assertIn("about 3 s", ui.optionsButton.text)

    def test_an_answer_about_what_was_chosen_before_is_not_taken_for_this(self):
        panel, ui, answers = self.panel, self.panel.ui, []
        self.worker.load = lambda model, options, on_done=None: answers.append(on_done)
        for index in (1, 2):  # precision: as trained, fast
            ui.modeSelector.setCurrentIndex(index)
        answers[0]({"ran": self.RAN})
        self.assertIsNone(panel.ready.ran)
        answers[1]({"ran": self.RAN})
        self.assertEqual(panel.ready.ran, self.RAN)

    def test_a_card_says_how_long_it_takes_here(self):
        chooser = self.chooser()
        self.assertNotIn("Expected time here", chooser.ui.cardBrowser.plainText)
        self.note(160.0, 0.0)
        chooser.refresh()
        self.assertIn("about 20 s for 'hippocampus_084_image", chooser.ui.cardBrowser.plainText)
        self.panel.ui.inputSelector1.setCurrentNode(None)
        chooser.refresh()
        self.assertIn("about 20 s for an image like those", chooser.ui.cardBrowser.plainText)


class MenuTest(PanelCase):
    def test_a_volume_is_taken_over_from_the_subject_hierarchy(self):
        first, second = add_sample(), add_sample()
        self.panel.ui.inputSelector1.setCurrentNode(first)
        shNode = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
        self.assertIs(hierarchy.volume_of(shNode.GetItemByDataNode(second)), second)
        self.assertIsNone(hierarchy.volume_of(shNode.GetSceneItemID()))
        self.panel.useVolume(second)
        self.assertIs(self.panel.ui.inputSelector1.currentNode(), second)

    @needs_main_window
    def test_the_menu_entry_is_there_for_images_and_opens_the_module_on_them(self):
        handler = slicer.qSlicerSubjectHierarchyPluginHandler.instance()
        menu = handler.pluginByName("UNetSegment").self()
        (action,) = menu.itemContextMenuActions()
        volume, labels = add_sample(), slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
        shNode = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
        for node, visible in ((labels, False), (volume, True)):
            item = shNode.GetItemByDataNode(node)
            handler.setCurrentItem(item)
            menu.showContextMenuActionsForItem(item)
            self.assertEqual(action.visible, visible)
        slicer.util.selectModule("Models")
        self.assertFalse(self.panel.isConnected)
        action.trigger()
        self.assertEqual(slicer.util.selectedModule(), "UNetSegment")
        self.assertIs(self.panel.ui.inputSelector1.currentNode(), volume)
        handler.setCurrentItem(0)
        action.trigger()  # nothing is chosen: nothing happens
        self.assertIs(self.panel.ui.inputSelector1.currentNode(), volume)


class StructuresTest(PanelCase):
    def check(self, row, on):
        self.panel.ui.structuresList.item(row).setCheckState(qt.Qt.Checked if on else qt.Qt.Unchecked)

    def test_only_checked_structures_are_written(self):
        ui = self.panel.ui
        ui.inputSelector1.setCurrentNode(add_sample())
        self.assertEqual(ui.structuresButton.text, "Structures: all 2")
        self.check(0, False)
        self.assertEqual(ui.structuresButton.text, "Structures: 1 of 2")
        ui.applyButton.click()
        self.finish()
        node = ui.outputSelector.currentNode()
        self.assertEqual(segment_names(node), ["Posterior hippocampus"])
        array = slicer.util.arrayFromSegmentBinaryLabelmap(
            node, node.GetSegmentation().GetNthSegmentID(0), ui.inputSelector1.currentNode()
        )
        half = array.shape[2] // 2  # the stand-in gives label 1 below, label 2 above
        self.assertFalse(array[..., :half].any())
        self.assertTrue(array[..., half:].any())
        (shown,) = self.panel._cards.shown
        self.assertEqual([name for name, _ml in shown.card.rows], ["Posterior hippocampus"])

    def test_with_none_checked_apply_is_off_and_says_why(self):
        ui = self.panel.ui
        ui.inputSelector1.setCurrentNode(add_sample())
        ui.structuresNoneButton.click()
        self.assertFalse(ui.applyButton.enabled)
        self.assertIn("check at least one", ui.applyButton.toolTip)
        ui.structuresAllButton.click()
        self.assertTrue(ui.applyButton.enabled)
        self.assertEqual(self.panel._parameterNode.structures, "")

    def test_the_choice_survives_in_the_scene(self):
        self.check(1, False)
        self.panel.exit()
        self.panel.enter()
        self.assertEqual(self.panel.ui.structuresButton.text, "Structures: 1 of 2")
        self.assertIn("Anterior hippocampus", self.panel._parameterNode.structures)
        slicer.mrmlScene.Clear()
        self.panel.initializeParameterNode()
        self.assertEqual(self.panel.ui.structuresButton.text, "Structures: all 2")

    def test_many_structures_are_searched(self):
        labels = tuple(Label(n, f"rib {n}" if n % 2 else f"vertebra {n}") for n in range(1, 105))
        checklist, ui, seen = self.panel._checklist, self.panel.ui, []
        self.addCleanup(self.panel.refresh)
        before, checklist._changed = checklist._changed, seen.append
        self.addCleanup(setattr, checklist, "_changed", before)
        checklist.show(labels, None)
        ui.structuresSearch.setText("rib")
        self.addCleanup(ui.structuresSearch.setText, "")
        ui.structuresNoneButton.click()
        self.assertEqual(seen[-1], {label.value for label in labels if "vertebra" in label.name})

    def test_what_the_scene_keeps_is_plain_text(self):
        manifest = package.load(module().DEFAULT_MODEL).manifest
        text = structures.remember("", "a", manifest, {2})
        text = structures.remember(text, "b", manifest, {1, 2})
        self.assertEqual(structures.wanted(text, "a", manifest), {2})
        self.assertIsNone(structures.wanted(text, "b", manifest))
        self.assertEqual(structures.remember(text, "a", manifest, {1, 2}), "")
        for broken in ("", "nonsense", "[]", '{"a": 3}'):
            self.assertIsNone(structures.wanted(broken, "a", manifest))
        self.assertEqual(structures.title(manifest, {2}), "Structures: 1 of 2")


class SelfTestTest(PanelCase):
    @unittest.skipUnless(BACKEND, NO_BACKEND)
    def test_this_computer_passes(self):
        self.panel.logic._worker = None
        nodes = slicer.mrmlScene.GetNumberOfNodes()
        self.panel.ui.checkupButton.click()
        self.assertEqual(self.panel.ui.applyButton.text, "Cancel")
        self.finish()
        report = self.panel._selfTest.report
        self.assertIn("UNetSegment self-test: all well", report)
        for words in ("turned by 25 degrees", "left-handed", "axes in another order", "against the expert", "numpy"):
            self.assertIn(words, report)
        self.assertNotIn(str(Path.home()), report)
        self.assertIn("passed the self-test", self.panel.ui.statusLabel.text)
        self.assertTrue(self.panel.ui.logButton.isHidden())
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), nodes)
        self.panel._paper.dialog.hide()

    @unittest.skipUnless(BACKEND, NO_BACKEND)
    def test_where_no_worker_starts_the_check_is_of_what_apply_does_then(self):
        for command in (["/no/such/python"], [sys.executable, "-c", "import sys; sys.exit(3)"]):
            with self.subTest(command=command):
                self.panel.logic._worker = Worker(command)
                self.panel.ui.checkupButton.click()
                self.finish()
                self.assertIn("self-test: all well", self.panel._selfTest.report)
                self.assertIn("models run inside of it", self.panel._selfTest.report)
                self.panel._paper.dialog.hide()
                self.panel.logic.stop()

    def test_a_wrong_answer_is_told(self):
        self.panel.ui.checkupButton.click()  # the stand-in for the worker labels what is bright
        self.finish()
        report = self.panel._selfTest.report
        self.assertIn("checks failed", report)
        self.assertIn("[FAILED] Anterior hippocampus: Dice", report)
        self.assertIn("failed the self-test", self.panel.ui.statusLabel.text)
        self.panel._paper.dialog.hide()


if __name__ == "__main__":
    unittest.main()

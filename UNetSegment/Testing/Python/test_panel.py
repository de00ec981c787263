"""What the panel offers beside Apply: models, structures, results, the self-test. Runs in Slicer and on the stand-in host."""

import dataclasses
import shutil
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np
import qt
import slicer
from vtk.util.numpy_support import vtk_to_numpy

sys.path.insert(0, str(Path(__file__).parent))  # for what the tests share, wherever they are started from
from panel_case import BACKEND, CONTROLS, NO_BACKEND, PanelCase, add_sample, module, segment_names, setUpModule  # noqa: E402, F401
from UNetSegmentLib import package  # noqa: E402
from UNetSegmentLib.labels import Label  # noqa: E402
from UNetSegmentLib.panel import advice, hierarchy, needs, outcome, pictures, structures  # noqa: E402
from UNetSegmentLib.predict import InputWarning, forecast, speeds  # noqa: E402
from UNetSegmentLib.predict.backends.installed import State  # noqa: E402
from UNetSegmentLib.predict.sanity import check  # noqa: E402
from UNetSegmentLib.scene import world_volume  # noqa: E402
from UNetSegmentLib.worker import Worker  # noqa: E402


class ChooserTest(PanelCase):
    def test_every_control_has_a_tool_tip_and_a_name(self):
        for ui in (self.panel.ui, self.chooser().ui):
            for name, control in vars(ui).items():
                if control.className() in CONTROLS:
                    self.assertTrue(control.toolTip, name)
                    self.assertTrue(control.accessibleName or getattr(control, "text", ""), name)

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

    def test_a_model_without_a_picture_gets_one_in_its_colours(self):
        for count in range(1, 8):
            colors = [(30 * n, 200, 250 - 30 * n) for n in range(1, count + 1)]
            picture = pictures.drawn(colors).toImage()
            seen = {picture.pixel(x, y) for x in range(pictures.SIDE) for y in range(pictures.SIDE)}
            for color in colors[:5]:
                self.assertIn(qt.QColor(*color).rgb(), seen)

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

    def test_a_damaged_model_says_so_and_can_be_deleted(self):
        chooser, ui = self.chooser(), self.panel.ui
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(package.load(module().DEFAULT_MODEL).root, Path(folder) / "mine")
            chooser.import_(Path(folder) / "mine")
            self.wait_for(lambda: not chooser.is_busy)
        root = package.cache_folder() / "models" / module().DEFAULT_MODEL
        self.addCleanup(shutil.rmtree, root, ignore_errors=True)
        next((root / "models").iterdir()).unlink()
        self.panel.model.onChanged()
        chooser.refresh()
        self.assertEqual(chooser.item().status, "broken")
        self.assertIn("missing", chooser.ui.cardBrowser.plainText)
        self.assertFalse(chooser.ui.useButton.enabled)
        self.assertFalse(ui.applyButton.enabled)
        chooser.ui.deleteButton.click()
        chooser.ui.deleteButton.click()
        self.assertEqual(chooser.item().status, "ready")  # the one that ships
        ui.inputSelector1.setCurrentNode(add_sample())
        self.assertTrue(ui.applyButton.enabled)

    def test_a_scene_comes_back_with_its_model_or_says_which_is_missing(self):
        ui, shipped = self.panel.ui, module().DEFAULT_MODEL
        ui.inputSelector1.setCurrentNode(add_sample())
        ui.modelSelector.addItem("other", "other")
        self.addCleanup(lambda: ui.modelSelector.removeItem(ui.modelSelector.findData("other")))
        ui.modelSelector.setCurrentIndex(ui.modelSelector.findData("other"))
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "scene.mrb")
            self.assertTrue(slicer.util.saveScene(path))
            ui.modelSelector.setCurrentIndex(ui.modelSelector.findData(shipped))
            slicer.util.loadScene(path)
            self.assertEqual(ui.modelSelector.currentData, "other")
            ui.modelSelector.removeItem(ui.modelSelector.findData("other"))
            slicer.util.loadScene(path)
        self.assertEqual(ui.modelSelector.currentIndex, -1)
        self.assertIn("model 'other' is not on this computer", ui.modelHint.text)
        self.assertFalse(ui.applyButton.enabled)
        self.panel.model.onChanged()  # models came and went, but not this one
        self.assertEqual(ui.modelSelector.currentIndex, -1)
        ui.modelSelector.setCurrentIndex(ui.modelSelector.findData(shipped))
        self.assertEqual(self.panel._parameterNode.model, shipped)
        self.assertTrue(ui.applyButton.enabled)

    def test_the_window_works_beside_another_module_and_leads_back(self):
        chooser, ui, shipped = self.chooser(), self.panel.ui, module().DEFAULT_MODEL
        ui.modelSelector.addItem("other", "other")
        self.addCleanup(lambda: ui.modelSelector.removeItem(ui.modelSelector.findData("other")))
        ui.modelSelector.setCurrentIndex(ui.modelSelector.findData("other"))
        slicer.util.selectModule("Models")
        self.assertFalse(self.panel.isConnected)
        chooser.ui.cardBrowser.setHtml("")
        chooser.refresh(shipped)
        self.assertIn("Hippocampus", chooser.ui.cardBrowser.plainText)
        chooser.ui.useButton.click()
        self.assertEqual(slicer.util.selectedModule(), "UNetSegment")
        self.assertEqual(ui.modelSelector.currentData, shipped)
        self.assertEqual(self.panel._parameterNode.model, shipped)

    def test_the_window_cannot_change_the_model_of_a_run(self):
        chooser, ui = self.chooser(), self.panel.ui
        ui.inputSelector1.setCurrentNode(add_sample())
        ui.applyButton.click()
        before = ui.modelSelector.currentIndex
        ui.modelSelector.addItem("other", "other")
        self.addCleanup(ui.modelSelector.removeItem, ui.modelSelector.count - 1)
        chooser._chosen("other")
        self.assertEqual(ui.modelSelector.currentIndex, before)


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
        panel._asked, panel._ran = panel._how(), dict(self.RAN)
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
        panel._ran = dict(self.RAN)
        panel.expected.forget()
        panel.refresh()
        self.assertIn("about 3 s", ui.optionsButton.text)

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


class ResultTest(PanelCase):
    def apply(self):
        self.panel.ui.applyButton.click()
        self.finish()

    def test_cards_newest_on_top_earlier_ones_folded(self):
        self.panel.ui.inputSelector1.setCurrentNode(add_sample())
        for _ in range(3):
            self.apply()
        shown = self.panel._cards.shown
        self.assertEqual([each.widget.collapsed for each in shown], [False, True, True])
        layout = self.panel.ui.cardsPanel.layout()
        self.assertEqual(layout.itemAt(0).widget(), shown[0].widget)
        self.assertIn("→ Hippocampus", shown[0].widget.text)
        self.assertIn("0.1 s · CPU fp32", shown[0].card.line)
        self.assertRegex(dict(shown[0].card.rows)["Anterior hippocampus"], r"^[0-9.]+ ml$")

    def test_long_names_do_not_widen_the_panel(self):
        ui, window = self.panel.ui, self.panel.parent
        volume = add_sample()
        ui.inputSelector1.setCurrentNode(volume)
        before = window.minimumSizeHint.width()
        name = "301: t1_mprage_sag_p2_iso_1.0 after contrast, second visit " * 3 + "_".join(["reformatted"] * 9)
        self.worker.warnings = [InputWarning("T1", "ct_for_mr", f"Volume '{name}' looks like CT.")]
        volume.SetName(name)
        region = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", name)
        ui.regionSelector.setCurrentNode(region)
        self.panel.onRegionAdded(region)
        self.apply()
        slicer.app.processEvents()
        self.assertIn(name, self.panel._cards.shown[0].widget.text)
        self.assertIn(name, ui.optionsButton.text)
        self.assertLessEqual(window.minimumSizeHint.width(), max(before, 400))

    def test_a_card_whose_node_went_offers_the_log_only(self):
        self.panel.ui.inputSelector1.setCurrentNode(add_sample())
        self.apply()
        (shown,) = self.panel._cards.shown
        slicer.mrmlScene.RemoveNode(shown.node)
        self.panel.refresh()
        self.assertEqual([button.enabled for button in shown.buttons], [False, False, False, True])
        shown.buttons[-1].click()
        self.assertIn("a line of its log", self.panel._paper.text.plainText)
        self.panel._paper.dialog.hide()

    def test_closing_the_scene_takes_the_cards(self):
        self.panel.ui.inputSelector1.setCurrentNode(add_sample())
        self.apply()
        (card,) = self.panel._cards.shown
        slicer.mrmlScene.Clear()
        self.assertEqual(self.panel._cards.shown, [])
        self.assertEqual((card.node, card.volume), (None, None))  # whoever still holds the card: not the voxels

    def test_many_structures_are_a_table(self):
        labels = [Label(n, f"structure {n}") for n in range(1, 30)]
        ran = {"seconds": "2", "device": "cpu", "notes": "Memory was short."}
        card = outcome.card("mri", "All", labels, {label.value: 0.0123 for label in labels}, ran)
        self.assertTrue(card.is_long)
        self.assertNotIn("structure 3", card.html())
        self.assertIn("Memory was short.", card.html())
        self.assertEqual(card.rows[0], ("structure 1", "0.012 ml"))
        shown = self.panel._cards.add(card, None, None, ran)
        self.assertEqual(shown.widget.findChildren(qt.QTreeWidget)[0].topLevelItemCount, 29)
        self.panel._cards.clear()

    def test_warnings_stand_under_the_input_and_in_the_card(self):
        ui, volume = self.panel.ui, add_sample()
        words = "Volume 'x' looks like CT; it can be run anyway."
        self.worker.warnings = [InputWarning("T1", "ct_for_mr", words)]
        ui.inputSelector1.setCurrentNode(volume)
        seen = []
        self.worker.during = lambda: seen.append(ui.inputHint1.text)
        self.apply()
        self.assertEqual(seen, [words])
        self.assertIn(words, ui.inputHint1.text)
        self.assertEqual(self.panel._cards.shown[0].card.warnings, (words,))
        ui.inputSelector1.setCurrentNode(add_sample())
        self.assertEqual(ui.inputHint1.text, "")  # it was about the other volume

    def test_what_looks_wrong_is_said_before_apply(self):
        ui = self.panel.ui
        volume = slicer.util.addVolumeFromArray(np.zeros((20, 20, 20), np.int16), name="nothing")
        ui.inputSelector1.setCurrentNode(volume)
        self.wait_for(lambda: ui.inputHint1.text != "")
        self.assertIn("'nothing'", ui.inputHint1.text)
        self.assertTrue(ui.applyButton.enabled)
        volume.GetImageData().GetPointData().Initialize()
        self.panel._advice.forget()
        self.panel.refresh()
        self.wait_for(lambda: "has no voxels" in ui.inputHint1.text)
        ui.inputSelector1.setCurrentNode(add_sample())
        self.panel._advice.look()
        self.assertEqual(ui.inputHint1.text, "")

    def test_what_looks_quite_wrong_is_asked_about_once(self):
        ui, asked = self.panel.ui, self.panel._advice
        self.untested()
        steps = np.broadcast_to(np.int16([-1000, 40]).repeat(10), (20, 20, 20))  # air and soft tissue in a CT
        noise = np.random.default_rng(0).normal(0, 20, (20, 20, 20))
        volume = slicer.util.addVolumeFromArray((steps + noise).astype(np.int16), name="torso")
        ui.inputSelector1.setCurrentNode(volume)
        ui.applyButton.click()  # at once, before the volume was looked at by itself
        self.assertIsNone(self.panel._run)
        self.assertIn("'torso' looks like a CT", ui.inputHint1.text)
        self.assertIn("Segment anyway?", ui.statusLabel.text)
        self.assertEqual(ui.applyButton.text, "Segment anyway")
        ui.applyButton.click()  # a double click is no answer
        self.assertIsNone(self.panel._run)
        ui.inputSelector1.setCurrentNode(add_sample())
        self.assertEqual(ui.applyButton.text, "Apply")
        self.assertEqual(ui.statusLabel.text, "")
        self.apply()  # nothing is wrong with this one
        self.assertEqual(len(self.panel._cards.shown), 1)
        ui.inputSelector1.setCurrentNode(volume)
        ui.applyButton.click()
        asked._asked_at -= 1
        ui.applyButton.click()
        self.assertIsNotNone(self.panel._run)
        self.finish()
        self.apply()  # it was agreed to
        self.assertEqual(len(self.panel._cards.shown), 3)
        slicer.mrmlScene.Clear()
        self.panel.initializeParameterNode()
        self.assertFalse(asked._agreed)

    def test_a_region_answers_for_an_image_that_is_too_large(self):
        ui = self.panel.ui
        self.untested()
        ui.inputSelector1.setCurrentNode(add_sample())
        large = [InputWarning("", "field_of_view_large", "Volume 'x' shows too much.")]
        before, self.panel.logic.check = self.panel.logic.check, lambda nodes, model: large
        self.addCleanup(setattr, self.panel.logic, "check", before)
        self.panel._advice.forget()
        ui.applyButton.click()
        self.assertEqual(ui.applyButton.text, "Segment anyway")
        region = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "R")
        self.panel.onRegionAdded(region)
        ui.regionSelector.setCurrentNode(region)
        self.apply()
        self.assertEqual(len(self.panel._cards.shown), 1)

    def test_one_volume_for_two_channels_is_asked_about(self):
        panel, ui = self.panel, self.panel.ui
        self.untested()
        name = panel.model.name
        manifest, problem = panel.model.known[name]
        second = dataclasses.replace(manifest.channels[0], name="T2", title="T2-weighted MRI")
        two = dataclasses.replace(manifest, channels=(*manifest.channels, second))
        panel.model.known[name] = (two, problem)
        self.addCleanup(panel.model.known.__setitem__, name, (manifest, problem))
        before, panel.logic.check = panel.logic.check, lambda nodes, model: check([world_volume(n) for n in nodes], two)
        self.addCleanup(setattr, panel.logic, "check", before)
        volume = add_sample()
        ui.inputSelector1.setCurrentNode(volume)
        ui.inputSelector2.setCurrentNode(volume)
        self.wait_for(lambda: "shows the same image" in ui.inputHint2.text)
        ui.applyButton.click()
        self.assertIsNone(panel._run)
        self.assertEqual(ui.applyButton.text, "Segment anyway")

    def untested(self):
        """As a person has it: in testing mode nothing is asked."""
        before, advice.asks = advice.asks, lambda: True
        self.addCleanup(setattr, advice, "asks", before)

    def test_a_new_segmentation_grows_and_goes_where_it_is_cancelled(self):
        ui, sizes = self.panel.ui, []
        ui.inputSelector1.setCurrentNode(add_sample())

        def look():
            (node,) = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
            image = node.GetSegmentation().GetNthSegment(0).GetRepresentation("Binary labelmap")
            sizes.append(np.count_nonzero(vtk_to_numpy(image.GetPointData().GetScalars())))
            self.assertEqual(segment_names(node), ["Anterior hippocampus", "Posterior hippocampus"])

        self.worker.during = look
        self.apply()
        node = ui.outputSelector.currentNode()
        image = node.GetSegmentation().GetNthSegment(0).GetRepresentation("Binary labelmap")
        whole = np.count_nonzero(vtk_to_numpy(image.GetPointData().GetScalars()))
        self.assertTrue(0 < sizes[0] < whole, (sizes, whole))
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"), 1)
        ui.outputSelector.setCurrentNode(None)
        before = slicer.mrmlScene.GetNumberOfNodes()
        self.worker.during = ui.applyButton.click
        self.apply()
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), before)
        self.assertIn("Cancelled", ui.statusLabel.text)

    def test_a_growing_segmentation_that_the_user_deletes(self):
        ui = self.panel.ui
        ui.inputSelector1.setCurrentNode(add_sample())
        self.worker.during = lambda: slicer.mrmlScene.RemoveNode(
            slicer.util.getNodesByClass("vtkMRMLSegmentationNode")[0]
        )
        self.apply()
        self.assertIn("was removed while", ui.statusLabel.text)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"), 0)

    @unittest.skipUnless(BACKEND, NO_BACKEND)
    def test_where_no_worker_can_be_started_the_work_is_done_in_this_process(self):
        ui, logic = self.panel.ui, self.panel.logic
        for command in (["/no/such/python"], [sys.executable, "-c", "exit(3)"]):  # refused, or gone at once
            with self.subTest(command):
                logic._worker = Worker(command)
                self.addCleanup(logic.stop)
                ui.inputSelector1.setCurrentNode(add_sample())
                with self.assertLogs(level="WARNING") as logged:
                    self.apply()
                self.assertIn("inside of Slicer", logged.output[0])
                self.assertEqual(ui.statusLabel.text, "")
                self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"), 1)
                self.assertTrue(logic.worker().is_inside)
                logic.stop()
                slicer.mrmlScene.Clear(0)


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
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), nodes)
        self.panel._paper.dialog.hide()

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

"""The window with all models, beside the panel. Runs in Slicer and on the stand-in host."""

import shutil
import sys
import tempfile
import unittest
from pathlib import Path

import qt
import slicer

sys.path.insert(0, str(Path(__file__).parent))  # for what the tests share, wherever they are started from
from panel_case import CONTROLS, PanelCase, add_sample, module, needs_main_window, setUpModule  # noqa: E402, F401
from UNetSegmentLib import package  # noqa: E402
from UNetSegmentLib.panel import pictures  # noqa: E402


class ChooserTest(PanelCase):
    def test_every_control_has_a_tool_tip_and_a_name(self):
        for ui in (self.panel.ui, self.chooser().ui):
            for name, control in vars(ui).items():
                if control.className() in CONTROLS:
                    self.assertTrue(control.toolTip, name)
                    self.assertTrue(control.accessibleName or getattr(control, "text", ""), name)

    def test_the_chooser_lists_finds_and_describes_models(self):
        chooser = self.chooser()
        ui = chooser.ui
        self.assertIn("CC-BY-SA-4.0", ui.cardBrowser.plainText)
        self.assertIn("Dice", ui.cardBrowser.plainText)
        self.assertFalse(ui.getButton.enabled)  # it is here
        self.assertFalse(ui.deleteButton.enabled)  # it ships
        everything = ui.modelList.topLevelItemCount
        ui.searchBox.setText("liver ct")
        self.assertTrue(0 < ui.modelList.topLevelItemCount < everything)
        ui.searchBox.setText("s")
        ui.searchBox.setText("spleen")  # one that is named so, not the first of those that have one among others
        self.assertTrue(chooser.item().title.startswith("Spleen"), chooser.item().title)
        ui.searchBox.setText("")
        self.assertTrue(chooser.item().title.startswith("Spleen"))
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
        titles = [ui.modelSelector.itemText(n) for n in range(ui.modelSelector.count)]
        self.assertEqual(len(set(titles)), len(titles))  # two models of one title can be told apart
        self.assertTrue(chooser.item().title.endswith("· mine"), chooser.item().title)
        self.assertEqual(chooser.item().anatomy, ", ".join(package.load("mine").manifest.raw["anatomy"]))
        chooser.ui.deleteButton.click()
        self.assertGreaterEqual(ui.modelSelector.findData("mine"), 0)  # the first click only asks
        chooser.ui.deleteButton.click()
        self.assertGreaterEqual(ui.modelSelector.findData("mine"), 0)  # a double click deletes nothing
        chooser._asked_at -= 1
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
        chooser._asked_at -= 1
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

    @needs_main_window
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
        chooser.ui.useButton.click()
        self.assertTrue(chooser.dialog.visible)
        self.assertIn("under way", chooser.ui.chooserStatus.text)
        self.finish()
        chooser.ui.useButton.click()
        self.assertFalse(chooser.dialog.visible)


if __name__ == "__main__":
    unittest.main()

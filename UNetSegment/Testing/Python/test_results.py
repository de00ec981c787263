"""What the panel shows of a run: growing segmentation, cards, warnings. Runs in Slicer and on the stand-in host."""

import dataclasses
import sys
import unittest
import unittest.mock
from pathlib import Path

import numpy as np
import qt
import slicer
from vtk.util.numpy_support import vtk_to_numpy

sys.path.insert(0, str(Path(__file__).parent))  # for what the tests share, wherever they are started from
from panel_case import BACKEND, NO_BACKEND, PanelCase, add_sample, segment_names, setUpModule  # noqa: E402, F401
from UNetSegmentLib.labels import Label  # noqa: E402
from UNetSegmentLib.panel import advice, outcome  # noqa: E402
from UNetSegmentLib.predict import InputWarning  # noqa: E402
from UNetSegmentLib.predict.sanity import check  # noqa: E402
from UNetSegmentLib.scene import world_volume, write_segmentation  # noqa: E402
from UNetSegmentLib.worker import Worker  # noqa: E402


class ResultTest(PanelCase):
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

    def test_a_result_that_cannot_be_written_is_a_sentence(self):
        """As where memory is short: the panel must not wait for ever for a run that is over."""
        self.panel.ui.inputSelector1.setCurrentNode(add_sample())
        before = slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")

        def write(labels, reference, target, name, provenance, *others):
            if provenance is not None:  # the last time, not while it grows
                raise MemoryError
            return write_segmentation(labels, reference, target, name, provenance, *others)

        with unittest.mock.patch("UNetSegmentLib.scene.run.write_segmentation", write), self.assertLogs():
            self.apply()
        self.assertIn("could not be written (MemoryError)", self.panel.ui.statusLabel.text)
        self.assertIsNone(self.panel._run)
        self.assertEqual(self.panel.ui.applyButton.text, "Apply")
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"), before)
        self.apply()
        self.assertEqual(len(self.panel._cards.shown), 1)

    def test_the_log_is_one_click_away_while_it_runs_and_where_it_failed(self):
        panel, ui, seen = self.panel, self.panel.ui, []
        ui.inputSelector1.setCurrentNode(add_sample())
        self.assertTrue(ui.logButton.isHidden())
        self.worker.during = lambda: seen.append(ui.logButton.isHidden())
        self.apply()
        self.assertEqual(seen, [False])
        self.assertTrue(ui.logButton.isHidden())
        self.worker.during = lambda: slicer.mrmlScene.RemoveNode(panel.inputs()[0])
        self.apply()
        self.assertIn("removed from the scene", ui.statusLabel.text)
        self.assertFalse(ui.logButton.isHidden())
        ui.logButton.click()
        self.addCleanup(panel._paper.dialog.hide)
        self.assertIn(self.worker.lines[0], panel._paper.text.plainText)
        self.worker.lines.clear()
        ui.logButton.click()
        self.assertIn("wrote nothing", panel._paper.text.plainText)

    def test_a_double_click_on_apply_does_not_cancel(self):
        ui = self.panel.ui
        self.untested()
        ui.inputSelector1.setCurrentNode(add_sample())
        ui.applyButton.click()
        self.panel._began += 9  # however slow this computer is
        ui.applyButton.click()
        self.finish()
        self.assertEqual(len(self.panel._cards.shown), 1)
        ui.applyButton.click()
        self.panel._began -= 1
        ui.applyButton.click()
        self.finish()
        self.assertIn("Cancelled", ui.statusLabel.text)

    def test_names_are_shown_as_they_are(self):
        ui, volume = self.panel.ui, add_sample()
        volume.SetName("<b>H&N</b>")
        ui.inputSelector1.setCurrentNode(volume)
        self.apply()
        shown = self.panel._cards.shown[0]
        self.assertIn("<b>H&&N</b>", shown.widget.text)  # no shortcut, no underlined N
        self.assertIn("<b>H&N</b>", shown.card.title)
        self.assertIn("&lt;b&gt;H&amp;N", shown.widget.toolTip)  # Qt takes a tip with a tag in it for HTML
        for name, label in vars(ui).items():
            if label.className() == "QLabel":
                self.assertEqual(label.textFormat, qt.Qt.PlainText, name)

    def test_structures_are_a_table_those_that_were_found_first(self):
        labels = [Label(n, f"structure {n}") for n in range(1, 30)]
        ran = {"seconds": "2", "device": "cpu", "notes": "Memory was short."}
        card = outcome.card("mri", "All", labels, {label.value: 0.0123 for label in labels}, ran)
        self.assertIn("Memory was short.", card.html())
        self.assertEqual(card.rows[0], ("structure 1", "0.012 ml"))
        found = {label.value: 5.0 * (label.value in (7, 9)) for label in labels}
        first = outcome.card("mri", "All", labels, found, ran)
        self.assertEqual([name for name, _ml in first.rows[:3]], ["structure 7", "structure 9", "structure 1"])
        shown = self.panel._cards.add(card, None, None, ran)
        self.assertEqual(shown.widget.findChildren(qt.QTreeWidget)[0].topLevelItemCount, 29)
        self.panel._cards.clear()

    def test_long_names_leave_the_figures_in_sight(self):
        names = ("left_inferior_frontal_gyrus_pars_opercularis_grey_matter_" * 2, "كبد", "<b>Liver</b>")
        labels = [Label(n, name) for n, name in enumerate(names, start=1)]
        ran = {"seconds": "2", "device": "cpu", "notes": ""}
        card = outcome.card("mri", "All", labels, {label.value: 12.3 for label in labels}, ran)
        shown = self.panel._cards.add(card, None, None, ran)
        self.addCleanup(self.panel._cards.clear)
        slicer.app.processEvents()
        (table,) = shown.widget.findChildren(qt.QTreeWidget)
        self.assertLessEqual(table.columnWidth(0) + table.columnWidth(1), table.width)
        self.assertEqual([table.topLevelItem(row).text(0) for row in range(3)], list(names))
        self.assertIn("&lt;b&gt;", table.topLevelItem(2).toolTip(0))

    def test_warnings_stand_under_the_input_and_in_the_card(self):
        ui, volume = self.panel.ui, add_sample()
        words = "Volume 'x' looks like CT; it can be run anyway."
        self.worker.warnings = [InputWarning("T1", "ct_for_mr", words)]
        ui.inputSelector1.setCurrentNode(volume)
        seen = []
        self.worker.during = lambda: seen.append(ui.inputHint1.text)
        self.apply()
        short = "Volume 'x' looks like CT."
        self.assertEqual(seen, [f"! {short}"])
        self.assertIn(short, ui.inputHint1.text)
        self.assertEqual(self.panel._cards.shown[0].card.warnings, (short,))
        ui.inputSelector1.setCurrentNode(add_sample())
        self.assertEqual(ui.inputHint1.text, "")  # it was about the other volume

    def test_what_looks_wrong_is_said_before_apply(self):
        ui = self.panel.ui
        volume = slicer.util.addVolumeFromArray(np.zeros((20, 20, 20), np.int16), name="nothing")
        ui.inputSelector1.setCurrentNode(volume)
        self.wait_for(lambda: ui.inputHint1.text != "")
        self.assertTrue(ui.inputHint1.text.startswith("! Has the value 0 everywhere"))  # its name stands above
        self.panel._advice.outdate()
        self.panel.refresh()
        self.assertTrue(ui.inputHint1.text)  # it stays until the volume was looked at again
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
        self.assertIn("! Looks like a CT", ui.inputHint1.text)
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
        self.wait_for(lambda: "! Shows the same image as" in ui.inputHint2.text)
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

    def test_a_segmentation_made_in_the_selector_is_filled_and_shown(self):
        ui, volume = self.panel.ui, add_sample()
        ui.inputSelector1.setCurrentNode(volume)
        made = ui.outputSelector.addNode()
        self.panel._parameterNode.show3D = True
        self.apply()
        self.assertIs(self.panel._cards.shown[0].node, made)
        self.assertEqual(len(segment_names(made)), 2)
        self.assertTrue(made.GetDisplayNode().GetVisibility() and made.GetDisplayNode().GetVisibility3D())

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


if __name__ == "__main__":
    unittest.main()

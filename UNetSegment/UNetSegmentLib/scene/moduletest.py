"""The module's test inside the application: files, geometry, panel, worker, and the sample through the shipped model.

Without a library to run networks the last two are skipped, the worker once it has answered; what was skipped is said.
"""

from __future__ import annotations

import logging
import time
import unittest
from pathlib import Path
from typing import Any

import slicer
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleTest

from .. import package
from ..errors import UNetSegmentError

MODEL = "hippocampus-mr-t1"


class ModuleTest(ScriptedLoadableModuleTest):
    """Base of the module's test, which says which logic it works with and where the sample is."""

    def makeLogic(self) -> Any:
        raise NotImplementedError

    def sampleFile(self) -> Any:
        """The path of the sample; None where it is not there."""
        raise NotImplementedError

    def readSample(self) -> tuple[Any, Any]:
        """The sample as a :class:`Volume`, and the expert's labels of it as an array (I, J, K)."""
        raise NotImplementedError

    def setUp(self) -> None:
        slicer.mrmlScene.Clear()

    def tearDown(self) -> None:
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        """What "Reload and Test" and the module Self Tests run: every test; what could not be tested is said, not an error."""
        names, skipped = unittest.defaultTestLoader.getTestCaseNames(type(self)), []
        for name in names:
            logging.info("UNetSegment test: %s", name)
            self.setUp()
            try:
                getattr(self, name)()
            except unittest.SkipTest as reason:
                skipped.append(f"{name} was skipped: {reason}")
            finally:
                self.tearDown()
        self.delayDisplay("\n".join([f"{len(names) - len(skipped)} of {len(names)} tests passed.", *skipped]))

    def sample(self) -> Any:
        """The sample as a volume node, as Slicer's own reader has it."""
        path = self.sampleFile()
        self.assertIsNotNone(path, "the sample MRI is not installed")
        return slicer.util.loadVolume(str(path))

    def segments(self, node: Any, volume: Any) -> dict[str, Any]:
        """Name of each segment -> its mask (I, J, K) on the voxels of a volume."""
        found, segmentation = {}, node.GetSegmentation()
        for index in range(segmentation.GetNumberOfSegments()):
            mask = slicer.util.arrayFromSegmentBinaryLabelmap(node, segmentation.GetNthSegmentID(index), volume)
            found[segmentation.GetNthSegment(index).GetName()] = mask.T > 0
        return found

    def checkAgainstExpert(self, node: Any, volume: Any) -> None:
        from ..volume import dice

        expert = self.readSample()[1]
        masks = self.segments(node, volume)
        self.assertEqual(list(masks), ["Anterior hippocampus", "Posterior hippocampus"])
        for value, mask in enumerate(masks.values(), start=1):
            self.assertGreater(dice(mask, expert == value), 0.8)

    def test_modelAndResourcesAreWhole(self) -> None:
        package.load(MODEL).verify()
        for name in ("UI/UNetSegment.ui", "UI/ModelChooser.ui", "Icons/UNetSegment.png"):
            self.assertTrue((Path(slicer.util.modulePath("UNetSegment")).parent / "Resources" / name).is_file(), name)

    def test_imagesAndResultsKeepTheirPlace(self) -> None:
        from ..volume import LabelMap
        from .read import world_volume
        from .write import write_segmentation

        volume = self.sample()
        seen, (stored, labels) = world_volume(volume), self.readSample()
        self.assertTrue(seen.grid.is_close(stored.grid))
        self.assertTrue((seen.array == stored.array).all())
        expert = LabelMap(labels, seen.grid, package.load(MODEL).manifest.segments)
        parent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        volume.SetAndObserveTransformNodeID(parent.GetID())
        node = write_segmentation(expert, volume, None, "expert")
        self.assertEqual(node.GetTransformNodeID(), parent.GetID())
        for label, mask in zip(expert.segments, self.segments(node, volume).values(), strict=True):
            self.assertTrue((mask == (labels == label.value)).all(), label.name)

    def test_panelOffersToSegmentTheSample(self) -> None:
        panel = slicer.util.getModuleWidget("UNetSegment")
        volume = self.sample()
        try:
            panel.initializeParameterNode()
            panel.model.select(MODEL)
            self.assertIs(panel.inputs()[0], volume)
            self.assertTrue(panel.ui.applyButton.enabled, panel.ui.applyButton.toolTip)
        finally:
            if not panel.parent.isEntered:
                panel.exit()

    def test_sampleIsSegmentedInTheWorker(self) -> None:
        volume = self.sample()
        logic: Any = self.makeLogic()
        ends: list[Any] = []
        try:
            run = logic.start(volume, onDone=ends.append, onError=ends.append)
            end = time.monotonic() + 300
            while not run.finished and time.monotonic() < end:
                logic.poll()
                slicer.app.processEvents()
                time.sleep(0.02)
        finally:
            logic.stop()
        self.assertTrue(ends, "the worker did not answer in five minutes")
        self.skipWithoutLibrary(ends[0])
        self.checkAgainstExpert(ends[0].node, volume)

    def test_sampleIsSegmentedInThisProcess(self) -> None:
        volume = self.sample()
        try:
            node = self.makeLogic().process(volume)
        except UNetSegmentError as error:
            self.skipWithoutLibrary(error)
        self.checkAgainstExpert(node, volume)

    def skipWithoutLibrary(self, error: Any) -> None:
        if isinstance(error, UNetSegmentError):
            if "No library to run networks" in str(error):
                self.skipTest(str(error))
            raise error

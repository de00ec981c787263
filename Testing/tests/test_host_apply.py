"""The whole way on the stand-in host: open the panel, choose the sample MRI, press Apply; the same voxels as the command line."""

from pathlib import Path

import host
import numpy as np
import pytest
import slicer
from host import pythonqt
from UNetSegmentLib import cli, io
from UNetSegmentLib.volume import dice

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "Resources" / "SampleData" / "hippocampus"
IMAGE, EXPERT = SAMPLE / "hippocampus_084_image.nii.gz", SAMPLE / "hippocampus_084_label.nii.gz"
MODEL = ROOT / "Resources" / "Models" / "hippocampus-mr-t1"

pytestmark = pytest.mark.skipif(not (IMAGE.exists() and MODEL.exists()), reason="the sample or the model is not here")


def test_apply_gives_what_the_command_line_gives(tmp_path):
    pytest.importorskip("openvino")
    slicer.mrmlScene.Clear(0)
    pythonqt.slot_errors.clear()
    panel = host.load_module(ROOT / "UNetSegment" / "UNetSegment.py")
    panel.enter()
    volume = slicer.util.loadVolume(str(IMAGE))
    panel.ui.inputSelector1.setCurrentNode(volume)
    panel.ui.modelSelector.setCurrentIndex(panel.ui.modelSelector.findData("hippocampus-mr-t1"))
    panel.ui.deviceSelector.setCurrentIndex(panel.ui.deviceSelector.findData("cpu"))
    assert panel.ui.applyButton.enabled
    panel.ui.applyButton.click()
    host.wait(lambda: panel._run is None, 60)
    panel.logic.stop()
    assert not pythonqt.slot_errors, panel.ui.statusLabel.text
    (node,) = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    segmentation = node.GetSegmentation()
    names = [segmentation.GetNthSegment(n).GetName() for n in range(segmentation.GetNumberOfSegments())]
    assert names == ["Anterior hippocampus", "Posterior hippocampus"]

    out = tmp_path / "command_line.seg.nrrd"
    assert cli.main(["segment", str(IMAGE), "-m", "hippocampus-mr-t1", "-o", str(out), "--device", "cpu"]) in (0, None)
    command_line, expert = io.read_labelmap(out), io.read_labelmap(EXPERT)
    for value, index in ((1, 0), (2, 1)):
        segment = segmentation.GetNthSegmentID(index)
        shown = slicer.util.arrayFromSegmentBinaryLabelmap(node, segment, volume).transpose(2, 1, 0) > 0
        np.testing.assert_array_equal(shown, command_line.array == value)
        overlap = dice(shown, expert.array == value)
        print(f"{names[index]}: Dice {overlap:.3f} against the expert")
        assert overlap > 0.8
    slicer.mrmlScene.Clear(0)

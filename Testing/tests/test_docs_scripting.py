"""Every Python block of docs/scripting.md runs, on the stand-in host, in the order of the page."""

import re
import shutil
import sys
import types
from pathlib import Path

import host
import pytest
import slicer
from host import pythonqt
from synthetic import packages
from UNetSegmentLib import io

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "Resources" / "SampleData" / "hippocampus" / "hippocampus_084_image.nii.gz"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.skipif(not SAMPLE.exists(), reason="the sample is not here")


def add_cine():
    """A sequence of two frames; the host has Slicer's class but not its module."""
    if not hasattr(slicer.modules, "sequences"):
        logic = slicer.vtkSlicerSequencesLogic()
        logic.SetMRMLScene(slicer.mrmlScene)
        slicer.modules.sequences = types.SimpleNamespace(logic=lambda: logic)
    volume = slicer.util.loadVolume(str(SAMPLE))
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "cine")
    for number in range(2):
        sequence.SetDataNodeAtValue(volume, str(number))
    slicer.mrmlScene.RemoveNode(volume)
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "browser")
    browser.AddSynchronizedSequenceNode(sequence)
    browser.SetSelectedItemNumber(0)
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
    sequence.SetName("frames of cine")
    browser.GetProxyNode(sequence).SetName("cine")
    return browser


@pytest.fixture
def logic(tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.setenv("UNETSEGMENT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    packages.threshold_package(tmp_path / "cache" / "models" / "our-t1-t2-model", 2, name="our-t1-t2-model")
    slicer.mrmlScene.Clear(0)
    pythonqt.slot_errors.clear()
    panel = host.load_module(ROOT / "UNetSegment" / "UNetSegment.py")
    yield panel.logic
    panel.logic.stop()
    slicer.mrmlScene.Clear(0)


def test_every_block_runs(logic, tmp_path, capsys, monkeypatch):
    blocks = BLOCK.findall((ROOT / "docs" / "scripting.md").read_text("utf-8"))
    names = {"slicer": slicer, "image_file": SAMPLE}
    for name in ("T1", "T2"):
        slicer.util.loadVolume(str(SAMPLE)).SetName(name)
    browser = add_cine()
    batch = next(block for block in blocks if block.startswith("# batch.py"))
    printed = []
    for block in blocks:
        if block is not batch:
            exec(compile(block, "docs/scripting.md", "exec"), names)
            host.wait(lambda: not logic.isBusy())  # as Slicer's console would
        assert not pythonqt.slot_errors
        printed.append(capsys.readouterr().out)
    text = "\n".join(printed)
    assert "Anterior hippocampus 1." in printed[1] and "openvino" in printed[1]
    assert "no model 'no-such-model'" in printed[2]
    assert "['T1 MRI', 'T1 MRI']" in text and "2 frames" in text and "100%" in text
    assert text.count("{1: 1.5") == 3  # started, waited for, and the sequence
    assert "Cancelled; nothing was changed." in text
    (result,) = [n for n in slicer.util.getNodesByClass("vtkMRMLSequenceNode") if "frames" not in n.GetName()]
    assert result.GetNumberOfDataNodes() == 2 and browser.GetProxyNode(result)
    assert {label.name for label in io.read_segments(tmp_path / "hippocampus.seg.nrrd")} >= {"Anterior hippocampus"}

    images, results = tmp_path / "images", tmp_path / "results"
    images.mkdir()
    results.mkdir()
    shutil.copy(SAMPLE, images / "good.nii.gz")
    (images / "bad.nii.gz").write_bytes(b"no image")
    (tmp_path / "batch.py").write_text(batch, "utf-8")
    monkeypatch.setattr(sys, "argv", ["batch.py", str(images), str(results)])
    codes = []
    monkeypatch.setattr(slicer.util, "exit", codes.append)  # the tests go on
    exec(compile(batch, "batch.py", "exec"), {"slicer": slicer})
    assert codes == [1] and (results / "good.seg.nrrd").exists()

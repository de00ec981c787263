"""From training data to a segmentation in the panel: fit, pack, publish on a web server, add its catalog, Get, Apply."""

import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import host
import numpy as np
import pytest
import SimpleITK as sitk
import slicer
from host import pythonqt
from UNetSegmentLib import cli, io
from UNetSegmentLib.package import addresses, package
from UNetSegmentLib.volume import dice

ROOT = Path(__file__).parents[2]
CARD = {
    "name": "tiny-balls",
    "title": "Balls",
    "version": "1.0.0",
    "description": "A ball in noise.",
    "labels": [{"value": 0, "name": "background"}, {"value": 1, "name": "Ball", "color": [230, 118, 84]}],
    "licence": {"name": "CC0-1.0", "clinical_use": False},
    "intended_use": "Tests.",
}
FIT = ["--filters", "4,8,8", "--patch", "16,16,16", "--epochs", "20", "--batch", "4", "--device", "cpu", "--seed", "1"]
FIT += ["--learning-rate", "0.01", "--validate-every", "20", "--set", "augmentation=none", "--set", "ema_decay=0"]
FIT += ["--set", "warmup_steps=0"]


@pytest.fixture
def dataset(tmp_path):
    """Ten images of a bright ball, in the Decathlon's layout."""
    rng, root = np.random.default_rng(0), tmp_path / "balls"
    for n in range(10):
        centre = rng.uniform(7, 12, (3, 1, 1, 1))
        label = (np.sum((np.mgrid[:20, :18, :23] - centre) ** 2, axis=0) < 30).astype(np.uint8)
        image = (label * 50 + rng.normal(100, 10, label.shape)).astype(np.float32)
        for folder, array in (("imagesTr", image), ("labelsTr", label)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(sitk.GetImageFromArray(array.T), str(root / folder / f"ball_{n}.nii.gz"))
    about = {"name": "Balls", "modality": {"0": "MRI"}, "labels": {"0": "background", "1": "Ball"}}
    (root / "dataset.json").write_text(json.dumps(about))
    return root


@pytest.fixture
def web(tmp_path):
    """A folder, and its address on a web server of this computer."""
    folder = tmp_path / "web"
    folder.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_from_training_data_to_a_segmentation_in_the_panel(dataset, web, tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    training = pytest.importorskip("unetsegment_training.cli")
    monkeypatch.setenv("UNETSEGMENT_CACHE", str(tmp_path / "cache"))
    run, model, card = tmp_path / "run", tmp_path / "model", tmp_path / "card.json"
    (served, url), image = web, dataset / "imagesTr" / "ball_0.nii.gz"
    card.write_text(json.dumps(CARD))
    for line in (
        ["fit", str(dataset), str(run), *FIT],
        ["pack", str(dataset), str(run), str(model), "--card", str(card)],
        ["publish", str(model), str(served), "--url", url],
    ):
        assert training.main(line) == 0

    slicer.mrmlScene.Clear(0)
    pythonqt.slot_errors.clear()
    panel = host.load_module(ROOT / "UNetSegment" / "UNetSegment.py")
    panel.enter()
    panel.ui.modelsButton.click()
    chooser = panel.model.chooser
    assert chooser.ui.catalogButton.text == "Add" and not chooser.ui.catalogButton.enabled
    chooser.ui.catalogSelector.setEditText(url)
    chooser.ui.catalogButton.click()
    host.wait(lambda: not chooser.is_busy)
    assert chooser.ui.chooserStatus.text == f"The catalog '{url}/catalog.json' was added."
    assert addresses.addresses() == [f"{url}/catalog.json"]
    chooser.ui.searchBox.setText("tiny-balls")
    host.screenshot(chooser.dialog, tmp_path / "catalog_added.png")
    assert chooser.item().name == "tiny-balls" and chooser.ui.getButton.text == "Get"
    chooser.ui.getButton.click()
    chooser._asked_at -= 1  # who reads the licence takes a second
    chooser.ui.getButton.click()
    host.wait(lambda: not chooser.is_busy)
    assert chooser.ui.chooserStatus.text == "'Balls' is ready."  # proven by the catalog's hash: no remark
    chooser.ui.useButton.click()
    assert panel.ui.modelSelector.currentData == "tiny-balls"
    assert package.load("tiny-balls").content_hash == package.load(model).content_hash

    volume = slicer.util.loadVolume(str(image))
    panel.ui.inputSelector1.setCurrentNode(volume)
    panel.ui.deviceSelector.setCurrentIndex(panel.ui.deviceSelector.findData("cpu"))
    panel.ui.applyButton.click()
    host.wait(lambda: not panel.isRunning)
    (node,) = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    assert node.GetSegmentation().GetNthSegment(0).GetName() == "Ball", panel.ui.statusLabel.text
    segment = node.GetSegmentation().GetNthSegmentID(0)
    shown = slicer.util.arrayFromSegmentBinaryLabelmap(node, segment, volume).transpose(2, 1, 0) > 0

    out = tmp_path / "out.nii.gz"
    assert cli.main(["segment", str(image), "-m", str(model), "-o", str(out), "--device", "cpu"]) in (0, None)
    answer, truth = (io.read_labelmap(path).array == 1 for path in (out, dataset / "labelsTr" / "ball_0.nii.gz"))
    np.testing.assert_array_equal(shown, answer)
    assert dice(answer, truth) > 0.8

    panel.ui.modelsButton.click()  # the catalog is fetched again
    host.wait(lambda: not chooser.is_busy)
    chooser.ui.catalogSelector.setEditText(f"{url}/catalog.json")
    assert chooser.ui.catalogButton.text == "Remove"
    chooser.ui.catalogButton.click()
    assert addresses.addresses() == [] and panel.ui.modelSelector.findData("tiny-balls") >= 0
    chooser.ui.catalogSelector.setEditText("models.hospital.example")
    chooser.ui.catalogButton.click()
    host.wait(lambda: not chooser.is_busy)
    assert "is not the address of a catalog" in chooser.ui.chooserStatus.text
    chooser.dialog.hide()
    panel.logic.stop()
    slicer.mrmlScene.Clear(0)
    assert not pythonqt.slot_errors

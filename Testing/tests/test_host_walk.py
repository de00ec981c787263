"""A walk through the panel on the stand-in host, as a person would take it, with a picture at each step."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import host
import pytest
import slicer
from host import pythonqt
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication
from synthetic import catalogs
from synthetic.server import serve

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "Resources" / "SampleData" / "hippocampus" / "hippocampus_084_image.nii.gz"
MODEL = ROOT / "Resources" / "Models" / "hippocampus-mr-t1"

pytestmark = pytest.mark.skipif(not (SAMPLE.exists() and MODEL.exists()), reason="the sample or the model is not here")


@pytest.fixture
def panel():
    slicer.mrmlScene.Clear(0)
    pythonqt.slot_errors.clear()
    panel = host.load_module(ROOT / "UNetSegment" / "UNetSegment.py")
    panel.enter()
    yield panel
    panel.logic.stop()
    slicer.mrmlScene.Clear(0)
    assert not pythonqt.slot_errors


def test_choosing_a_model(panel, tmp_path):
    panel.ui.modelsButton.click()
    chooser = panel.model.chooser
    assert chooser.dialog.visible and chooser.item().name == "hippocampus-mr-t1"
    host.screenshot(chooser.dialog, tmp_path / "chooser_1_installed.png")
    chooser.ui.searchBox.setText("spleen")
    names = [item.name for item in chooser._items if item.matches(["spleen"])]
    assert chooser.ui.modelList.topLevelItemCount == len(names) > 0
    chooser.ui.searchBox.setText("spleen-ct")
    host.screenshot(chooser.dialog, tmp_path / "chooser_2_search.png")
    assert chooser.ui.getButton.text == "Get" and chooser.ui.getButton.enabled
    chooser.ui.getButton.click()
    assert chooser.ui.getButton.text.startswith("Accept and get") and "Licence of" in chooser.ui.cardBrowser.plainText
    host.screenshot(chooser.dialog, tmp_path / "chooser_3_licence.png")
    chooser.ui.searchBox.setText("no such organ")
    assert not chooser.ui.getButton.enabled
    chooser.ui.searchBox.setText("unest")
    assert "cannot run here" in chooser.ui.cardBrowser.plainText and not chooser.ui.getButton.enabled
    host.screenshot(chooser.dialog, tmp_path / "chooser_4_refused.png")
    chooser.ui.searchBox.setText("")

    copy = shutil.copytree(MODEL, tmp_path / "mine")
    manifest = copy / "configs" / "manifest.json"
    text = manifest.read_text("utf-8").replace('"hippocampus-mr-t1"', '"mine"').replace("Hippocampus (", "Mine (")
    manifest.write_text(text, "utf-8")
    chooser.import_(copy)
    assert chooser.ui.getButton.text == "Cancel"
    host.screenshot(chooser.dialog, tmp_path / "chooser_5_importing.png")
    host.wait(lambda: not chooser.is_busy)
    assert "is ready" in chooser.ui.chooserStatus.text and panel.ui.modelSelector.currentData == "mine"
    host.screenshot(chooser.dialog, tmp_path / "chooser_6_imported.png")
    chooser.ui.deleteButton.click()
    assert "again" in chooser.ui.chooserStatus.text and panel.ui.modelSelector.findData("mine") >= 0
    chooser._asked_at -= 1  # who reads it takes a second
    chooser.ui.deleteButton.click()
    assert panel.ui.modelSelector.findData("mine") < 0
    assert panel.ui.modelSelector.currentData == "hippocampus-mr-t1"
    chooser.dialog.hide()


@pytest.fixture
def offered(tmp_path):
    """A model in a catalog of the user's, served by this computer: (server, bytes of its zip)."""
    copy = shutil.copytree(MODEL, tmp_path / "copy" / "offered")
    manifest = copy / "configs" / "manifest.json"
    manifest.write_text(manifest.read_text("utf-8").replace('"hippocampus-mr-t1"', '"offered"'), "utf-8")
    zipped = Path(shutil.make_archive(str(tmp_path / "offered"), "zip", copy.parent, "offered")).read_bytes()
    place = Path(os.environ["UNETSEGMENT_CACHE"]) / "catalogs" / "ours.json"
    with serve(zipped) as server:
        entry = catalogs.entry(
            server.url,
            **{"name": "offered", "title": "Offered hippocampus", "task": "Hippocampus", "anatomy": ["Hippocampus"]},
            **{"labels": ["Anterior"], "size": len(zipped)},
            download={"sha256": hashlib.sha256(zipped).hexdigest()},
        )
        catalogs.write(place, entry, title="Ours")
        yield server, zipped
    place.unlink()


def test_a_download_is_cancelled_and_taken_up_again(panel, offered, tmp_path):
    server, zipped = offered
    panel.ui.modelsButton.click()
    chooser = panel.model.chooser
    ui = chooser.ui
    ui.searchBox.setText("offered")
    server.script.append(f"stall:{len(zipped) // 2}")
    ui.getButton.click()
    ui.getButton.click()  # a double click accepts nothing
    assert not server.requests and ui.getButton.text.startswith("Accept and get")
    chooser._asked_at -= 1
    ui.getButton.click()
    host.wait(lambda: ui.chooserProgress.value > 300)
    host.screenshot(chooser.dialog, tmp_path / "download_1.png")
    assert ui.getButton.text == "Cancel"
    ui.getButton.click()
    host.wait(lambda: not chooser.is_busy)
    assert "Cancelled" in ui.chooserStatus.text and panel.ui.modelSelector.findData("offered") < 0
    ui.getButton.click()
    chooser._asked_at -= 1
    ui.getButton.click()
    host.wait(lambda: not chooser.is_busy)
    assert "is ready" in ui.chooserStatus.text, ui.chooserStatus.text
    assert panel.ui.modelSelector.currentData == "offered" and server.ranges[-1] is not None
    host.screenshot(chooser.dialog, tmp_path / "download_2.png")
    ui.deleteAllButton.click()
    chooser._asked_at -= 1
    ui.deleteAllButton.click()
    assert "freed" in ui.chooserStatus.text and panel.ui.modelSelector.findData("offered") < 0
    chooser.dialog.hide()


def test_a_picture_is_fetched_when_its_model_is_looked_at(panel, offered, tmp_path):
    picture = (MODEL / "docs" / "thumbnail.png").read_bytes()
    place = Path(os.environ["UNETSEGMENT_CACHE"]) / "catalogs" / "ours.json"
    content = json.loads(place.read_text("utf-8"))
    with serve(picture) as server:
        told = {"url": server.url, "sha256": hashlib.sha256(picture).hexdigest()}
        content["models"][0]["thumbnail"] = told
        place.write_text(json.dumps(content), "utf-8")
        panel.ui.modelsButton.click()
        chooser = panel.model.chooser
        slicer.app.processEvents()
        assert not server.requests and not chooser._pictures.is_busy
        chooser.ui.searchBox.setText("offered")
        host.screenshot(chooser.dialog, tmp_path / "picture_1.png")
        host.wait(lambda: not chooser._pictures.is_busy)
        assert chooser.item().thumbnail.read_bytes() == picture and "<img" in chooser.ui.cardBrowser.toHtml()
        host.screenshot(chooser.dialog, tmp_path / "picture_2.png")
        chooser.ui.searchBox.setText("")
        chooser.ui.searchBox.setText("offered")
        assert len(server.requests) == 1
    chooser.dialog.hide()


def test_from_first_sight_to_a_result_card(panel, tmp_path):
    pytest.importorskip("openvino")
    ui, window = panel.ui, panel.parent

    def picture(name):
        host.process_events()
        window.resize(400, max(window.sizeHint.height(), 500))
        host.screenshot(window, tmp_path / f"panel_{name}.png")
        assert window.minimumSizeHint.width() <= 400, "the panel needs horizontal scrolling"

    picture("1_first_sight")
    volume = slicer.util.loadVolume(str(SAMPLE))
    ui.inputSelector1.setCurrentNode(volume)
    panel.model.select("hippocampus-mr-t1")
    picture("2_volume")
    ui.optionsButton.collapsed = False
    region = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "R")
    panel.onRegionAdded(region)
    ui.regionSelector.setCurrentNode(region)
    picture("3_options")
    ui.optionsButton.collapsed = True
    ui.regionSelector.setCurrentNode(None)
    ui.structuresButton.collapsed = False
    ui.structuresList.item(0).setCheckState(0)
    assert ui.structuresButton.text == "Structures: 1 of 2"
    picture("4_structures")
    ui.structuresAllButton.click()
    ui.structuresButton.collapsed = True
    ui.applyButton.click()
    host.wait(lambda: ui.progressBar.value > 0 or panel._run is None)
    picture("5_running")
    host.wait(lambda: panel._run is None)
    picture("6_result")
    assert len(panel._cards.shown) == 1
    ui.structuresButton.collapsed = False
    window.resize(400, 1200)
    host.process_events()
    for section in map(pythonqt.unwrap, (ui.structuresButton, panel._cards.shown[0].widget)):
        assert section.height() <= section.sizeHint().height(), "a tall panel pulls its controls apart"
    ui.structuresButton.collapsed = True
    ui.structuresList.item(0).setCheckState(0)
    ui.applyButton.click()
    host.wait(lambda: panel._run is None)
    assert [s.widget.collapsed for s in panel._cards.shown] == [False, True]
    pythonqt.unwrap(window).activateWindow()
    ui.applyButton.setFocus()
    host.process_events()
    QTest.keyClick(pythonqt.unwrap(ui.applyButton), Qt.Key_Tab)
    assert QApplication.focusWidget() is pythonqt.unwrap(
        panel._cards.shown[0].widget
    )  # as the eye goes: the newest first
    picture("7_second_result")
    ui.checkupButton.click()
    host.wait(lambda: panel._run is None)
    assert panel._selfTest.report.startswith("UNetSegment self-test: all well"), panel._selfTest.report
    host.screenshot(panel._paper.dialog, tmp_path / "self_test.png")
    picture("8_checked")
    panel._paper.dialog.hide()
    ui.structuresAllButton.click()


def test_of_two_volumes_with_one_name_the_picked_one_is_taken(panel):
    """Names are not unique in Slicer: whoever picks the other one must not have the first one segmented."""
    first, second = (slicer.util.loadVolume(str(SAMPLE)) for _ in range(2))
    first.SetName("T1")
    second.SetName("T1")
    selector = panel.ui.inputSelector1
    selector.setCurrentNode(first)
    combo = pythonqt.unwrap(selector)._combo
    for node in (second, first):
        index = combo.findData(node.GetID())
        combo.setCurrentIndex(index)  # as a click in the list
        combo.activated.emit(index)
        assert selector.currentNode() is node
        assert panel.inputs() == [node]

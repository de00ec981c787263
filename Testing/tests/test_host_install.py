"""Apply where something must be installed first, on the stand-in host: a real pip, a throw-away folder, a ticking window."""

import dataclasses
import logging
import os
import socket
import sys
import threading
import time
import types
from pathlib import Path

import host
import pytest
import qt
import slicer
from host import pythonqt
from PySide6.QtCore import QEventLoop
from PySide6.QtWidgets import QApplication, QMessageBox
from synthetic.wheels import build_wheel
from UNetSegmentLib import package
from UNetSegmentLib.package.lock import locked
from UNetSegmentLib.panel import dependencies, needs, pip
from UNetSegmentLib.predict.backends.installed import State, state

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "Resources" / "SampleData" / "hippocampus" / "hippocampus_084_image.nii.gz"
MODEL = "hippocampus-mr-t1"
SMALL = needs.Library("small", "Small", "1.0", "1 kB", "is good for this test")

pytestmark = [
    pytest.mark.skipif(not SAMPLE.exists(), reason="the sample is not here"),
    pytest.mark.skipif(sys.platform == "win32", reason="its launcher is a shell script"),
]


class Ticker:
    """Measures the longest time in which the window could do nothing."""

    def __init__(self):
        self.worst, self._last = 0.0, time.perf_counter()
        self.timer = qt.QTimer()
        self.timer.interval = 1
        self.timer.connect("timeout()", self.tick)
        self.timer.start()

    def tick(self):
        now = time.perf_counter()
        self.worst, self._last = max(self.worst, now - self._last), now

    def forget(self):
        self.worst, self._last = 0.0, time.perf_counter()


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A folder that pip installs into, on the path of this process and of the worker; wheels are taken from another."""
    folder, wheels, programs = tmp_path / "packages", tmp_path / "wheels", tmp_path / "programs"
    for made in (folder, wheels, programs):
        made.mkdir()
    launcher = programs / "PythonSlicer"  # as in Slicer, a program that starts the real Python
    launcher.write_text(f'#!/bin/sh\n"{sys.executable}" "$@"\n')
    launcher.chmod(0o755)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_TARGET", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.syspath_prepend(folder)

    def wanted(manifest, device):
        there = state("small")
        return [] if there.is_whole else [needs.Need(SMALL, there)]

    monkeypatch.setattr(needs, "needs", wanted)
    build_wheel(wheels, "small")
    return folder


@pytest.fixture
def panel(packages, monkeypatch):
    slicer.mrmlScene.Clear(0)
    pythonqt.slot_errors.clear()
    panel = host.load_module(ROOT / "UNetSegment" / "UNetSegment.py")
    panel.logic.stop()
    panel.logic._worker = None  # the next one is started by this test's PythonSlicer
    panel.enter()
    panel.ui.inputSelector1.setCurrentNode(slicer.util.loadVolume(str(SAMPLE)))
    panel.model.select(MODEL)
    panel.questions = []
    monkeypatch.setattr(panel.dependencies, "ask", lambda question, details: panel.questions.append(question) or True)
    yield panel
    if panel.isRunning and panel._run is not panel.dependencies:
        panel.ui.applyButton.click()
        host.wait(lambda: not panel.isRunning)
    panel.dependencies.stop()
    panel.end()
    panel.logic.stop()
    panel.logic._worker = None
    slicer.mrmlScene.Clear(0)
    assert not pythonqt.slot_errors


def test_apply_asks_installs_and_goes_on_by_itself(panel, tmp_path):
    pytest.importorskip("openvino")
    ui, worker = panel.ui, panel.logic.worker()
    worker.start()  # one that runs before: it does not see what comes
    host.wait(lambda: worker.poll() or worker.has_answered)
    before = worker._process.pid
    assert "Small (1 kB)" in ui.installHint.text and not ui.installHint.isHidden()
    ticker = Ticker()
    ui.applyButton.click()
    assert len(panel.questions) == 1 and "Small (1 kB): is good for this test" in panel.questions[0]
    assert panel.isRunning and ui.applyButton.text == "Cancel" and not ui.inputSelector1.enabled
    ticker.forget()
    lines = set()
    host.wait(lambda: lines.add(ui.statusLabel.text) or panel._run is not panel.dependencies)
    assert any(line.startswith("Installing Small\n") for line in lines), lines
    print(f"worst gap while pip ran: {1000 * ticker.worst:.0f} ms")
    host.wait(lambda: not panel.isRunning)
    assert len(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")) == 1, ui.statusLabel.text
    assert worker._process.pid != before
    assert state("small").is_whole and ui.installHint.isHidden() and ui.progressBar.maximum == 1000
    ui.applyButton.click()  # all is there: nobody is asked again
    host.wait(lambda: not panel.isRunning)
    assert len(panel.questions) == 1


def test_who_declines_is_told_and_may_try_again(panel, monkeypatch):
    monkeypatch.setattr(panel.dependencies, "ask", lambda question, details: False)
    panel.ui.applyButton.click()
    assert not panel.isRunning and panel.ui.applyButton.text == "Apply"
    assert "Small is not installed" in panel.ui.statusLabel.text and "Apply again" in panel.ui.statusLabel.text
    assert not state("small").version


def test_cancel_ends_a_pip_that_hangs(panel, packages, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/simple")
        monkeypatch.setenv("PIP_TIMEOUT", "600")
        answered = threading.Event()
        threading.Thread(target=lambda: (silent.accept(), answered.set()), daemon=True).start()
        panel.ui.applyButton.click()
        host.wait(answered.is_set)
        slicer.mrmlScene.Clear(0)  # has nothing to do with it
        assert panel._run is panel.dependencies
        ticker = Ticker()
        began = time.monotonic()
        panel.ui.applyButton.click()
        assert panel.ui.statusLabel.text == "Stopping"
        host.wait(lambda: not panel.isRunning)
        print(f"stopped after {time.monotonic() - began:.1f} s, worst gap {1000 * ticker.worst:.0f} ms")
    assert "Cancelled" in panel.ui.statusLabel.text and panel.ui.applyButton.text == "Apply"
    assert not state("small").version


def test_a_failure_is_one_sentence_and_the_rest_is_in_the_log(panel, monkeypatch, caplog):
    monkeypatch.setenv("PIP_FIND_LINKS", str(ROOT / "no such folder"))
    with caplog.at_level(logging.ERROR):
        panel.ui.applyButton.click()
        host.wait(lambda: not panel.isRunning)
    words = panel.ui.statusLabel.text
    assert words.startswith("Small could not be installed: there is no version") and words.count("\n") == 0
    assert "No matching distribution found for small" in caplog.text
    panel.ui.logButton.click()
    assert panel.ui.logButton.visible and "No matching distribution found" in panel._paper.text.plainText
    panel._paper.dialog.hide()
    assert not panel.ui.progressBar.visible and panel.ui.applyButton.text == "Apply"


def test_the_volume_is_gone_when_the_installation_is_done(panel):
    name = panel.inputs()[0].GetName()
    panel.ui.applyButton.click()
    slicer.mrmlScene.RemoveNode(panel.inputs()[0])
    host.wait(lambda: not panel.isRunning)
    assert f"'{name}' is not in the scene any more" in panel.ui.statusLabel.text
    assert state("small").is_whole


def test_the_module_goes_away_during_an_installation(panel):
    panel.ui.applyButton.click()
    panel.dependencies.stop()
    assert not panel.dependencies._lookout.is_busy


def test_another_slicer_that_installs_is_waited_for(panel):
    with locked(package.cache_folder() / "install.lock"):
        panel.ui.applyButton.click()
        host.wait(lambda: "Waiting for another Slicer" in panel.ui.statusLabel.text)
        assert not state("small").version
    host.wait(lambda: panel._run is not panel.dependencies)
    assert state("small").is_whole


def test_what_this_process_uses_stays_as_it_is(panel, packages, monkeypatch):
    """Its NumPy is in use: a library that wants another one is not installed over it."""
    build_wheel(Path(os.environ["PIP_FIND_LINKS"]), "small", requires=("numpy<1.0",))
    panel.ui.applyButton.click()
    host.wait(lambda: not panel.isRunning)
    assert "no version fits the libraries that this Slicer comes with" in panel.ui.statusLabel.text
    assert not list(packages.iterdir())


def test_what_is_enough_alone_comes_without_another_numpy(panel, packages, monkeypatch):
    """As OpenVINO for Macs with Intel processors, which asks for an older NumPy than Slicer's and runs with that one."""
    build_wheel(Path(os.environ["PIP_FIND_LINKS"]), "small", requires=("numpy<1.0",))
    small = dataclasses.replace(SMALL, is_enough_alone=True)
    monkeypatch.setattr(
        needs, "needs", lambda *_: [] if state("small").is_whole else [needs.Need(small, state("small"))]
    )
    panel.ui.applyButton.click()
    host.wait(lambda: panel._run is not panel.dependencies)
    assert state("small").is_whole
    assert not [path for path in packages.iterdir() if "numpy" in path.name]


def test_pytorch_comes_by_its_extension_and_before_what_needs_it(panel, monkeypatch):
    """The extension is not here; it has this function, and runs the command in the same way."""
    extension = types.ModuleType("PyTorchUtils")

    class PyTorchUtilsLogic:
        @staticmethod
        def _getPipInstallArguments():
            return ["install", "torch", "torchvision"]

    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    torch = needs.Need(needs.LIBRARIES["torch"], State("2.4.0", "2 of its files are missing, such as libtorch.so"))
    monai = needs.Need(needs.LIBRARIES["monai"], State())
    monkeypatch.setattr(needs, "needs", lambda manifest, device: [torch, monai])
    panel.ui.applyButton.click()
    assert "install that in the Extensions Manager" in panel.ui.statusLabel.text and not panel.questions

    extension.PyTorchUtilsLogic = PyTorchUtilsLogic
    monkeypatch.setitem(sys.modules, "PyTorchUtils", extension)
    ran = []
    monkeypatch.setattr(pip, "run", lambda python, commands, *rest: ran.extend(commands) or [])
    panel.ui.applyButton.click()
    host.wait(lambda: not panel.isRunning)
    assert "PyTorch (" in panel.questions[0] and "MONAI (" in panel.questions[0]
    assert ran[0] == ["-m", "pip", "uninstall", "--yes", "torch"]
    assert ran[1][:3] == ["-m", "pip", "install"] and ran[1][-1].startswith("light-the-torch")
    assert ran[2] == ["-m", "light_the_torch", "install", "torch", "torchvision"]
    assert "monai>=1.4" in ran[3] and len(ran) == 4
    assert "was installed, but this Slicer does not find it" in panel.ui.statusLabel.text  # nothing was, here


def test_what_pytorch_replaced_while_slicer_uses_it_is_told(panel, packages, monkeypatch):
    """As its older NumPy on Macs: with files of two versions, Slicer may fail later, and nobody would know why."""
    wheels = Path(os.environ["PIP_FIND_LINKS"])
    build_wheel(wheels, "iniconfig", "0.0.1")  # pytest has a newer one in use
    build_wheel(wheels, "small", requires=("iniconfig<1",))
    torch = dataclasses.replace(SMALL, name="torch")
    monkeypatch.setattr(dependencies, "_pytorch_utils", lambda: None)
    monkeypatch.setattr(dependencies, "_pytorch_commands", lambda: [pip.arguments(["small"])])
    monkeypatch.setattr(
        needs, "needs", lambda *_: [] if state("small").is_whole else [needs.Need(torch, state("small"))]
    )
    told = []
    monkeypatch.setattr(slicer.util, "warningDisplay", lambda text, title: told.append(text))
    panel.ui.applyButton.click()
    host.wait(lambda: panel._run is not panel.dependencies)
    assert len(told) == 1 and told[0].startswith("iniconfig 0.0.1 came with PyTorch") and "restart Slicer" in told[0]


def test_the_real_dialog(panel, monkeypatch, tmp_path):
    monkeypatch.undo()
    wanted = [needs.Need(SMALL, state("small"))]
    question = needs.question(wanted, "Hippocampus (anterior, posterior)", "auto", True)
    answers, texts = [], []
    monkeypatch.setattr(pythonqt.unwrap(slicer.app), "_testing", False)

    def answer():
        box = QApplication.activeModalWidget()
        if box is None:
            qt.QTimer.singleShot(50, answer)
            return
        box.grab().save(str(tmp_path / "question.png"))
        texts.append(box.text())
        box.button(QMessageBox.Ok if answers else QMessageBox.Cancel).click()

    def ask():
        qt.QTimer.singleShot(50, answer)
        try:
            answers.append(panel.dependencies.ask(question, "pip install small>=1.0"))
        finally:
            loop.quit()

    loop = QEventLoop()  # as in Slicer, where a button is pressed within the application's own
    for _count in range(2):
        qt.QTimer.singleShot(0, ask)
        loop.exec()
    assert answers == [False, True] and len(texts) == 2
    assert "'Hippocampus (anterior, posterior)' needs" in texts[0] and "Small (1 kB)" in texts[0]

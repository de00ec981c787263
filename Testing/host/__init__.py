"""A stand-in for Slicer's application, for tests without Slicer: real MRML (``slicer-core``), real Qt (PySide6).

``start()`` makes ``import slicer, vtk, qt, ctk`` work as inside Slicer; ``load_module(path)`` loads a scripted module
unmodified and builds its panel. What ships never imports this. Where this and Slicer differ, this is wrong: see
``UNetSegment/Testing/Python/test_host_recorded.py`` and ``test_host_manners.py``, which run in both.
"""

import atexit
import os
import sys
import time
import types
from pathlib import Path

__all__ = ["load_module", "process_events", "screenshot", "start", "wait"]


def start(testing: bool = True) -> None:
    """Bring up the application (off screen unless QT_QPA_PLATFORM says otherwise) and the modules scripts import."""
    if "qt" in sys.modules:
        return
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    import slicer
    import slicer.util

    from . import qtmodules, widgets_mrml

    qtmodules.install()
    from . import application, hierarchy, pythonqt

    slicer.modules, slicer.moduleNames = types.ModuleType("slicer.modules"), types.ModuleType("slicer.moduleNames")
    slicer.selfTests = {}
    for name, native in {**widgets_mrml.CLASSES, **application.CLASSES, **hierarchy.CLASSES}.items():
        setattr(slicer, name, pythonqt.wrapper_class(native))
    native_app = application.qSlicerApplication(testing)
    slicer.app = pythonqt.proxy_of(native_app)
    native_app.open_scene()
    slicer.i18n = _submodule("i18n", tr=lambda text: text, translate=lambda context, text: text)
    slicer.packaging = _submodule("packaging", isPipInstallInProgress=lambda: False, pip_install=_pip_install)
    from . import parameters, sampledata, scripted

    names = {n: v for n, v in vars(parameters).items() if not n.startswith("_")}
    slicer.parameterNodeWrapper = _submodule("parameterNodeWrapper", **names)
    classes = {n: v for n, v in vars(scripted).items() if n.startswith("ScriptedLoadableModule")}
    slicer.ScriptedLoadableModule = _submodule("ScriptedLoadableModule", __all__=list(classes), **classes)
    slicer.testing = _submodule("testing", runUnitTest=_run_unit_test)
    sys.modules["SampleData"] = sampledata
    atexit.register(lambda: slicer.mrmlScene.Clear(0))  # while Qt and VTK still live: nodes that outlast them crash
    sys.modules["slicer.modules"] = slicer.modules


def _submodule(name: str, **content) -> types.ModuleType:
    module = types.ModuleType("slicer." + name)
    vars(module).update(content)
    sys.modules["slicer." + name] = module
    return module


def _pip_install(requirements, *args, **kwargs):
    raise RuntimeError(f"the stand-in host does not install packages: {requirements}")


def _run_unit_test(path, testname):
    import unittest

    sys.path.extend([path] if isinstance(path, str) else path)
    result = unittest.TextTestRunner(verbosity=2).run(unittest.TestLoader().loadTestsFromName(testname))
    if not result.wasSuccessful():
        raise Exception("")


def load_module(path: str | Path, width: int = 400):
    """Load a scripted module (once) and return the Python object of its panel, shown in a window of that width."""
    import slicer

    from . import scripted

    name = Path(path).stem
    module = getattr(slicer.modules, name.lower(), None)
    if module is None:
        module = scripted.load(path)
        slicer.app.startupCompleted()  # in Slicer, once every module is there
    window = module.widgetRepresentation()
    slicer.util.selectModule(name)
    window.resize(width, max(500, window.sizeHint.height()))
    window.show()
    process_events()
    return window.self()


def process_events() -> None:
    """Let Qt do what is due."""
    import slicer

    slicer.app.processEvents()


def wait(condition, seconds: float = 180.0) -> None:
    """Let Qt live until ``condition()`` holds.

    Raises:
        TimeoutError: It did not come to that.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"it takes longer than {seconds:g} s")
        process_events()
        time.sleep(0.005)


def screenshot(widget, png: str | Path) -> Path:
    """A picture of a widget as it is drawn now."""
    process_events()
    pixmap = widget.grab()
    if not pixmap.save(str(png)):
        raise OSError(f"cannot write {png}")
    return Path(png)

"""Threads beside Slicer's window, whose event loop holds Python's lock between two looks at their work."""

import ctypes
import sys
import threading
import time

from UNetSegmentLib.panel.errand import Errand
from UNetSegmentLib.worker import Job, Worker

STEPS = 200


def hold_python(seconds: float) -> None:
    """Do nothing as Slicer's event loop does it: without giving up Python's lock."""
    if sys.platform == "win32":
        ctypes.PyDLL("kernel32").Sleep(round(1000 * seconds))
    else:
        ctypes.PyDLL(None).usleep(round(1e6 * seconds))


def test_many_small_steps_do_not_wait_for_as_many_looks():
    def work(tell, cancelled):
        for step in range(STEPS):
            time.sleep(0.0005)  # a block of a download: each one lets go of Python and must get it back
            tell(step)
        return "done"

    errand, looks = Errand(work), 0
    while not errand.finished and looks < STEPS:
        hold_python(0.05)
        looks += 1
    assert errand.result == "done"
    assert looks < STEPS / 5


def test_an_engine_inside_of_slicer_works_while_the_worker_is_polled():
    worker, looks = Worker(inside=True), 0
    worker.start()
    worker._enter(Job())  # something is under way
    engine = threading.Thread(target=lambda: [time.sleep(0.0005) for _step in range(STEPS)], daemon=True)
    engine.start()
    while engine.is_alive() and looks < STEPS:
        hold_python(0.03)
        worker.poll()
        looks += 1
    worker.stop()
    assert looks < STEPS / 5

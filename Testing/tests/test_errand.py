"""Work in a thread beside Slicer's window, whose event loop holds Python's lock between two looks at the work."""

import ctypes
import sys
import time

from UNetSegmentLib.panel.errand import Errand

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

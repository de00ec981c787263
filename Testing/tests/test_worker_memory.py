"""Memory that two processes share: no name of it stays, however they end."""

import gc
import json
import os
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
from synthetic.processes import SHARED, shared_names, wait_until
from synthetic.workers import NUMBERS, image
from UNetSegmentLib.errors import WorkerError
from UNetSegmentLib.predict import passes
from UNetSegmentLib.predict.backends import is_installed
from UNetSegmentLib.worker import client, memory
from UNetSegmentLib.worker.memory import SharedArray

ROOT = Path(__file__).resolve().parents[2]
needs_engine = pytest.mark.skipif(
    not (is_installed("openvino") and is_installed("onnx")), reason="openvino or onnx is not installed"
)
listed = pytest.mark.skipif(not SHARED.is_dir(), reason="the system does not list shared memory")


def test_shared_arrays_share_and_leave_no_name(capfd):
    before = shared_names(os.getpid())
    first = SharedArray.create((3, 4), np.int16)
    second = SharedArray.attach(json.loads(json.dumps(first.describe())))
    second.array[1] = 7
    assert first.array.sum() == 28
    first.forget_name()
    assert shared_names(os.getpid()) == before
    with pytest.raises(WorkerError, match="run it again"):
        SharedArray.attach(first.describe())
    view = second.array[1]
    second.close()
    first.close()
    assert view.sum() == 28  # somebody still looks: the memory stays
    del view, first, second
    gc.collect()
    assert "Exception ignored" not in capfd.readouterr().err


@pytest.mark.parametrize("is_closed", [True, False])
def test_large_memory_is_given_back_in_a_thread(is_closed):
    """It takes the system some 40 ms for a large CT, which the window would stand still."""
    threads = []
    for size in (memory.LARGE - 1, memory.LARGE):
        shared = SharedArray.create((size,), np.uint8)
        weakref.finalize(shared.array, lambda: threads.append(threading.current_thread()))
        shared.forget_name()
        if is_closed:
            shared.close()
            assert shared.array.size == 0
        del shared
        assert wait_until(lambda: len(threads) == 1, 5)
        assert (threads.pop() is threading.main_thread()) == (size < memory.LARGE)


@needs_engine
def test_a_job_that_ended_does_not_hold_who_waited_for_it(worker, model):
    """Else the result of each run would stay in memory until Python looks for circles."""

    class Waiting:
        def __init__(self):
            self.job = worker.predict(model, [image()], NUMBERS, on_slab=lambda *_: self, on_done=self.done)

        def done(self, outcome):
            pass

    waiting = Waiting()
    worker.wait(waiting.job)
    gone = weakref.ref(waiting)
    gc.disable()
    try:
        del waiting
        assert gone() is None
    finally:
        gc.enable()


@listed
def test_memory_that_is_not_there_is_refused_before_somebody_writes_to_it():
    before, here = shared_names(os.getpid()), os.statvfs(SHARED)
    with pytest.raises(WorkerError, match="There is no room for .* MB of shared memory"):
        SharedArray.create((here.f_bavail * here.f_frsize + (1 << 30),), np.uint8)
    assert shared_names(os.getpid()) == before


@pytest.mark.parametrize("size", [10, memory.LARGE // 4])
def test_memory_is_filled_with_an_array(size):
    values = np.arange(3 * size, dtype=np.float32).reshape(3, 1, size)
    for given in (values, values[..., ::-1], values.astype(">f4")):
        shared = SharedArray.create(values.shape, given.dtype)
        shared.fill(given)
        other = SharedArray.attach(shared.describe())
        np.testing.assert_array_equal(other.array, given)
        for each in (shared, other):
            each.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_memory_that_is_used_up_meanwhile_is_a_sentence(tmp_path, monkeypatch):
    shared = SharedArray.create((memory.LARGE,), np.uint8)
    (tmp_path / shared.describe()["name"]).symlink_to("/dev/full")
    monkeypatch.setattr(memory, "_LISTED", tmp_path)
    with pytest.raises(WorkerError, match="There is no room for 4 MB of shared memory"):
        shared.fill(np.zeros(memory.LARGE, np.uint8))
    shared.close()


@needs_engine
def test_memory_made_after_the_end_of_a_job_is_let_go(worker, model, monkeypatch):
    """A job that ends while its volume is still being copied."""
    before, copying, go_on = shared_names(os.getpid()), threading.Event(), threading.Event()
    copy = passes.transfer

    def slowly(target, source, threads):
        copying.set()
        go_on.wait(20)
        copy(target, source, threads)

    monkeypatch.setattr(passes, "transfer", slowly)
    job = worker.predict(model, [image()], NUMBERS)
    assert copying.wait(20)
    worker.stop()
    assert job.finished
    go_on.set()
    for thread in threading.enumerate():
        if thread.name == client.HANDING_OVER:
            thread.join(60)
    assert shared_names(os.getpid()) <= before, shared_names(os.getpid()) - before


@listed
def test_what_a_crashed_program_left_is_freed_and_what_is_in_use_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_LISTED", tmp_path)
    left, fresh, other = (tmp_path / name for name in (f"{memory.PREFIX}1-ab", f"{memory.PREFIX}2-cd", "psm_ef"))
    for path in (left, fresh, other):
        path.write_bytes(b"voxels")
    for path in (left, other):
        os.utime(path, (time.time() - 2 * memory.FORGOTTEN_AFTER,) * 2)
    memory.sweep()
    assert not left.exists() and fresh.exists() and other.exists()
    monkeypatch.setattr(memory, "_LISTED", tmp_path / "nowhere")
    memory.sweep()


@listed
def test_a_program_that_ends_while_it_hands_over_leaves_no_name():
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1])\n"
        "from UNetSegmentLib.worker.memory import SharedArray\n"
        "shared = SharedArray.create((9,), 'f4')\n"
        "print(os.getpid(), os.path.exists('/dev/shm/' + shared.describe()['name']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, ROOT / "UNetSegment"], stdout=subprocess.PIPE, text=True, timeout=60
    )
    pid, was_there = done.stdout.split()
    assert was_there == "True" and not list(SHARED.glob(f"{memory.PREFIX}{pid}-*"))


def test_no_resource_tracker_is_started():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from UNetSegmentLib.worker.memory import SharedArray\n"
        "from multiprocessing import resource_tracker\n"
        "shared = SharedArray.create((9,), 'f4'); SharedArray.attach(shared.describe()).close(); shared.close()\n"
        "sys.exit(resource_tracker._resource_tracker._fd is not None)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, ROOT / "UNetSegment"], timeout=60).returncode == 0

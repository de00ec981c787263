"""The worker and its client: answers, mistakes, cancelling, and a thread where no process can be started."""

import gc
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from synthetic.processes import shared_names, wait_until
from synthetic.workers import NUMBERS, image, labels_of
from UNetSegmentLib import errors, package
from UNetSegmentLib.errors import Cancelled, PackageError, WorkerError
from UNetSegmentLib.predict import Predictor
from UNetSegmentLib.predict.backends import is_installed
from UNetSegmentLib.predict.sanity import check
from UNetSegmentLib.volume import Grid, Volume
from UNetSegmentLib.worker import Worker

ROOT = Path(__file__).resolve().parents[2]
needs_engine = pytest.mark.skipif(
    not (is_installed("openvino") and is_installed("onnx")), reason="openvino or onnx is not installed"
)
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


@needs_engine
def test_the_answer_is_that_of_the_engine_and_the_model_stays_warm(worker, model):
    volume, told, slabs, warned = image(), [], [], []
    job = worker.predict(
        model,
        [volume],
        NUMBERS,
        on_progress=lambda report, left: told.append(report.fraction),
        on_slab=lambda box, array: slabs.append((box, array[box].copy())),
        on_warnings=lambda warnings: warned.extend([*warnings, len(told)]),
    )
    outcome = worker.wait(job)
    loaded = package.load(model)
    *warnings, when = warned
    assert [warning.code for warning in warnings] == ["no_geometry", "noise"] and when < len(told)
    assert warnings == check([volume], loaded.manifest)
    here = Predictor(loaded).predict(volume, warnings=warnings)
    np.testing.assert_array_equal(outcome.array, np.searchsorted([0, 3, 300], here.labels.array))
    assert outcome.array.dtype == np.uint8
    assert outcome.voxels == {v: int((here.labels.array == v).sum()) for v in NUMBERS}
    skip = {"seconds", "network_seconds", "time"}
    assert {k: v for k, v in outcome.provenance.items() if k not in skip} == {
        k: v for k, v in here.provenance.items() if k not in skip
    }
    assert told == sorted(told) and told[-1] == 1.0
    grown = np.zeros_like(outcome.array)
    for box, part in slabs:
        grown[box] = part
    np.testing.assert_array_equal(grown, outcome.array)
    pid = worker.pid
    assert worker.wait(worker.load(model))["ran"]["backend"] == "openvino"
    assert worker.wait(worker.predict(model, [volume], NUMBERS)).voxels == outcome.voxels and worker.pid == pid


@needs_engine
def test_options_reach_the_engine(worker, model):
    region = [[2, 10], [3, 30], [0, 20]]
    outcome = worker.wait(worker.predict(model, [image()], NUMBERS, {"mode": "parity", "region": region}))
    assert outcome.provenance["mode"] == "parity" and '"region": [[2, 10]' in outcome.provenance["options"]
    outside = np.ones(outcome.array.shape, bool)
    outside[2:10, 3:30, 0:20] = False
    assert outcome.array.any() and not outcome.array[outside].any()


@needs_engine
def test_mistakes_come_back_as_what_they_are(worker, model):
    with pytest.raises(PackageError, match="There is no model 'nothing'"):
        worker.wait(worker.predict("nothing", [image()], NUMBERS))
    with pytest.raises(errors.InputError, match="2 were given"):
        worker.wait(worker.predict(model, [image(), image()], NUMBERS))
    with pytest.raises(errors.BackendError, match="Mode 'best'"):
        worker.wait(worker.predict(model, [image()], NUMBERS, {"mode": "best"}))
    with pytest.raises(WorkerError, match="does not hold plain numbers"):
        complex_one = Volume(np.zeros((1, 2, 2, 2), complex), Grid.from_spacing((2, 2, 2), (1, 1, 1)), ("k-space",))
        worker.wait(worker.predict(model, [complex_one], NUMBERS))
    assert worker.wait(worker.predict(model, [image()], NUMBERS)).array.any()


@needs_engine
def test_cancel_stops_within_a_patch_and_the_worker_goes_on(worker, model):
    worker.wait(worker.load(model))
    pid, big = worker.pid, image((160, 160, 160))
    job = worker.predict(model, [big], NUMBERS, on_progress=lambda report, left: worker.cancel(job))
    with pytest.raises(Cancelled):
        worker.wait(job)
    assert worker.wait(worker.predict(model, [image()], NUMBERS)).array.any() and worker.pid == pid


def test_what_a_callback_raises_is_the_callers(worker, model):
    job = worker.predict(model, [image()], NUMBERS, on_progress=lambda report: None)  # one argument too few
    with pytest.raises(TypeError, match="positional argument"):
        worker.wait(job)
    job.on_progress = None
    assert worker.wait(job).array.any()


def test_signs_of_life_do_not_heap_up_while_nobody_asks(worker, model):
    worker.wait(worker.load(model))
    time.sleep(2.5)
    assert worker._events.qsize() == 0


@needs_engine
def test_where_no_process_can_be_started_a_thread_does_the_work(model):
    before, threads = shared_names(os.getpid()), threading.active_count()
    inside, volume, slabs = Worker(["/no/such/python"], inside=True), image((64, 64, 64)), []
    callbacks = {"on_slab": lambda box, array: slabs.append((box, array[box].copy())), "on_grown": lambda: None}
    outcome = inside.wait(inside.predict(model, [volume], NUMBERS, **callbacks))
    np.testing.assert_array_equal(outcome.array, labels_of(volume.array[0]))
    grown = np.zeros_like(outcome.array)
    for box, part in slabs:
        grown[box] = part
    np.testing.assert_array_equal(grown, outcome.array)
    job = inside.predict(model, [image((160, 160, 160))], NUMBERS, on_progress=lambda *_: inside.cancel(job))
    with pytest.raises(Cancelled):
        inside.wait(job)
    job = inside.predict(model, [image((160, 160, 160))], NUMBERS, on_progress=lambda *_: inside.stop())
    with pytest.raises(WorkerError, match="was stopped"):
        inside.wait(job)
    assert inside.wait(inside.predict(model, [volume], NUMBERS)).voxels == outcome.voxels  # a fresh one
    inside.stop()
    del outcome
    gc.collect()
    assert wait_until(lambda: shared_names(os.getpid()) <= before), shared_names(os.getpid()) - before
    pools = sum(thread.name.startswith(("unetsegment", "ThreadPool")) for thread in threading.enumerate())
    assert wait_until(lambda: threading.active_count() <= threads + pools), threading.enumerate()


@needs_engine
@pytest.mark.parametrize("stop", ["worker.stop()", "pass"])
def test_a_program_ends_well_while_its_own_thread_works(tmp_path, model, stop):
    """Python ends threads where they stand; in OpenVINO that is the end of the program, with a signal."""
    script = tmp_path / "program.py"
    script.write_text(
        "import sys, time, numpy as np\nsys.path.insert(0, sys.argv[1])\n"
        "from UNetSegmentLib.worker import Worker\nfrom UNetSegmentLib.volume import Grid, Volume\n"
        "worker, told = Worker(inside=True), []\nshape = (112, 112, 112)\n"
        "volume = Volume(np.ones((1, *shape), 'f4'), Grid.from_spacing(shape, (1, 1, 1)), ('T1',))\n"
        "job = worker.predict(sys.argv[2], [volume], {0: 0, 3: 1, 300: 2},\n"
        "                     on_progress=lambda report, left: told.append(report.stage))\n"
        "while 'segment' not in told and not job.finished:\n    worker.poll()\n"
        f"assert not job.finished, job.error\n{stop}\nprint(told[-1])\n"
    )
    done = subprocess.run(
        [sys.executable, script, ROOT / "UNetSegment", model], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and "segment" in done.stdout and not done.stderr, (done.returncode, done.stderr)


@posix
@needs_engine
def test_nothing_is_imported_from_the_folder_it_was_started_in(tmp_path, monkeypatch):
    for name in ("queue", "json", "numpy"):  # files that lie about where somebody starts Slicer
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not mine')")
    monkeypatch.chdir(tmp_path)
    worker = Worker()
    worker.start()
    assert wait_until(lambda: worker.poll() or worker.has_answered or not worker.is_busy, 30)
    worker.stop()
    assert worker.has_answered, list(worker.lines)

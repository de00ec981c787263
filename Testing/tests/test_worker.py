"""The worker and its client: answers, faults of every kind, and nothing left behind."""

import gc
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import packages
from UNetSegmentLib import errors, package
from UNetSegmentLib.errors import Cancelled, PackageError, WorkerError
from UNetSegmentLib.predict import Predictor, passes
from UNetSegmentLib.predict.backends import is_installed
from UNetSegmentLib.predict.sanity import check
from UNetSegmentLib.volume import Grid, Volume
from UNetSegmentLib.worker import Job, Outcome, Worker, client, memory, protocol, tree
from UNetSegmentLib.worker.memory import SharedArray

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path("/dev/shm")
needs_engine = pytest.mark.skipif(
    not (is_installed("openvino") and is_installed("onnx")), reason="openvino or onnx is not installed"
)
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
NUMBERS = {0: 0, 3: 1, 300: 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(packages.threshold_package(tmp_path_factory.mktemp("model")))


def image(shape=(40, 36, 30), seed=0):
    array = np.random.default_rng(seed).uniform(0, 3, shape).astype(np.float32)
    return Volume(array[None], Grid.from_spacing(shape, (1, 1, 1)), ("T1",))


def labels(volume):
    return np.where(volume.array[0] > 2, 2, np.where(volume.array[0] > 1, 1, 0))


def names():
    """Of the shared memory that this process made and that has a name, where the system lists it."""
    mine = f"{memory.PREFIX}{os.getpid()}-*"
    return {path.name for path in SHARED.glob(mine)} if SHARED.is_dir() else set()


def is_running(pid):
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z" if Path("/proc").is_dir() else True
    except (OSError, IndexError):
        return False


def wait_until(true, seconds=15):
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.05)
    return true()


@pytest.fixture
def worker():
    before = names()
    made = Worker()
    yield made
    pid = made.pid
    made.stop()
    assert not made.is_alive and (pid is None or wait_until(lambda: not is_running(pid)))
    gc.collect()
    assert wait_until(lambda: names() <= before, 3), names() - before


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


@needs_engine
def test_where_no_process_can_be_started_a_thread_does_the_work(model):
    before, threads = names(), threading.active_count()
    inside, volume, slabs = Worker(["/no/such/python"], inside=True), image((64, 64, 64)), []
    callbacks = {"on_slab": lambda box, array: slabs.append((box, array[box].copy())), "on_grown": lambda: None}
    outcome = inside.wait(inside.predict(model, [volume], NUMBERS, **callbacks))
    np.testing.assert_array_equal(outcome.array, labels(volume))
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
    assert wait_until(lambda: names() <= before), names() - before
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


def faults(worker, model, cancels, kills, seed):
    """Cancel and kill at random moments; every job ends once, with its answer or the right error."""
    rng, volume = random.Random(seed), image((64, 48, 48))
    expected, ends = labels(volume), []
    for action in rng.sample(["cancel"] * cancels + ["kill"] * kills, cancels + kills):
        outcomes = []
        job = worker.predict(model, [volume], NUMBERS, on_done=outcomes.append, on_error=outcomes.append)
        end = time.monotonic() + rng.uniform(0, 0.3)
        while time.monotonic() < end and not job.finished:
            worker.poll()
            time.sleep(0.002)
        if action == "cancel":
            worker.cancel(job)
        elif worker.is_alive and not job.finished:
            os.killpg(worker._process.pid, signal.SIGKILL)
        while not job.finished:
            worker.poll()
            time.sleep(0.002)
        worker.poll()
        assert len(outcomes) == 1
        ends.append(type(outcomes[0]).__name__)
        if isinstance(outcomes[0], Outcome):
            np.testing.assert_array_equal(outcomes[0].array, expected)
        else:
            assert isinstance(outcomes[0], Cancelled if action == "cancel" else WorkerError)
    return ends


@needs_engine
def test_memory_made_after_the_end_of_a_job_is_let_go(worker, model, monkeypatch):
    """A job that ends while its volume is still being copied."""
    before, copying, go_on = names(), threading.Event(), threading.Event()
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
    assert names() <= before, names() - before


@posix
@needs_engine
def test_cancels_and_kills_at_random_moments(worker, model):
    ends = faults(worker, model, cancels=12, kills=4, seed=1)
    assert "Cancelled" in ends and "WorkerError" in ends, ends


@posix
@needs_engine
@pytest.mark.slow
def test_200_cancels_and_50_kills(worker, model):
    tracked = []
    for seed in range(5):
        faults(worker, model, cancels=40, kills=10, seed=seed)
        gc.collect()
        status = Path("/proc/self/status")
        if status.exists():
            tracked.append(int(next(x for x in status.read_text().splitlines() if x.startswith("VmRSS")).split()[1]))
    print("resident kB after each fifth:", tracked)
    if tracked:
        assert tracked[-1] - tracked[1] < 30_000, tracked


@posix
@needs_engine
def test_a_worker_that_was_killed_at_work_says_so_and_the_next_one_is_fresh(worker, model):
    job = worker.predict(model, [image((160, 160, 160))], NUMBERS, on_progress=lambda *_: kill(worker))
    with pytest.raises(WorkerError, match="perhaps because memory was short"):
        worker.wait(job)
    assert worker.wait(worker.predict(model, [image()], NUMBERS)).array.any()


def kill(worker):
    os.killpg(worker._process.pid, signal.SIGKILL)


@posix
@needs_engine
@pytest.mark.parametrize("pause", [0.0, 0.002, 0.02, 0.5])
def test_a_worker_that_was_killed_while_idle_is_not_noticed(worker, model, pause):
    """Neither where the system has not yet told that it is gone, nor where it has."""
    worker.wait(worker.load(model))
    before = worker._process.pid
    kill(worker)
    time.sleep(pause)
    assert worker.wait(worker.predict(model, [image()], NUMBERS)).array.any()
    assert worker._process.pid != before


@posix
@needs_engine
def test_a_worker_that_was_killed_behind_its_launcher_while_idle_is_not_noticed(tmp_path, model):
    launcher = tmp_path / "launcher.sh"
    launcher.write_text(f'#!/bin/sh\n"{sys.executable}" "$@"\ncode=$?\nsleep 0.3\nexit $code\n')
    launcher.chmod(0o755)
    behind = Worker([str(launcher)])
    behind.wait(behind.load(model))
    os.kill(behind.pid, signal.SIGKILL)
    assert behind.wait(behind.predict(model, [image()], NUMBERS)).array.any()
    behind.stop()


@posix
@needs_engine
def test_what_waits_behind_the_request_that_a_worker_dies_of_goes_on(worker, model, tmp_path):
    other = str(packages.threshold_package(tmp_path / "other", name="other"))
    ends = []
    first = worker.predict(model, [image((160, 160, 160))], NUMBERS, on_error=ends.append)
    while not first.was_begun:
        worker.poll()
    kill(worker)
    while worker.is_alive:  # nobody has polled: the next request is the first to see it
        time.sleep(0.002)
    second = worker.predict(other, [image()], NUMBERS)
    assert worker.wait(second).array.any() and second.was_sent_again
    assert [type(end) for end in ends] == [WorkerError] and first.finished


def counted(folder, code):
    """A command that runs ``code``, which may serve, and counts its starts; and the count."""
    starts = folder / "starts"
    lines = [
        "import os, pathlib, sys, time",
        f"sys.path.insert(0, {str(ROOT / 'UNetSegment')!r})",
        f"starts = pathlib.Path({str(starts)!r})",
        "with starts.open('a') as file: file.write('x')",
        "from UNetSegmentLib.worker import server",
        code,
    ]
    return [sys.executable, "-c", "\n".join(lines)], lambda: len(starts.read_text())


@posix
@pytest.mark.parametrize("how", ["os.kill(os.getpid(), 9)", "os._exit(3)", "sys.exit(0)"])
def test_a_worker_that_ends_before_it_begins_is_replaced_once(tmp_path, model, how):
    command, starts = counted(tmp_path, f"{how} if len(starts.read_text()) == 1 else server.main()")
    worker = Worker(command)
    first, second = worker.load(model), worker.predict(model, [image()], NUMBERS)
    assert worker.wait(second).array.any() and first.finished and first.error is None
    assert starts() == 2
    assert any("a fresh one was started" in line for line in worker.lines)
    worker.stop()


def test_a_worker_that_never_begins_is_not_replaced_for_ever(tmp_path, model):
    command, starts = counted(tmp_path, "sys.exit('no module named numpy')")
    worker = Worker(command)
    jobs = worker.load(model), worker.predict(model, [image()], NUMBERS)
    for job in jobs:
        with pytest.raises(WorkerError, match="no module named numpy"):
            worker.wait(job)
    assert starts() == 2 and not worker.is_busy


@posix
def test_a_model_that_kills_the_worker_does_it_once(tmp_path, model):
    command, starts = counted(tmp_path, "server.Predictor = lambda *a, **k: os.kill(os.getpid(), 9)\nserver.main()")
    worker = Worker(command)
    jobs = worker.load(model), worker.predict(model, [image()], NUMBERS)
    for job in jobs:
        with pytest.raises(WorkerError, match="perhaps because memory was short"):
            worker.wait(job)
    assert starts() == 1 and not worker.is_busy


def test_the_last_words_of_a_worker_count(tmp_path, model):
    """It answers and ends while the answer is still being copied."""
    code = (
        "import json; line = json.dumps({'jsonrpc': '2.0', 'id': 2, 'result': {'voxels': {}, 'provenance': {}}})\n"
        "for _ in range(2): sys.stdin.buffer.readline()\n"
        "print(line, flush=True)"
    )
    command, starts = counted(tmp_path, code)
    worker = Worker(command)
    job = worker.predict(model, [image()], NUMBERS, on_answer=lambda array: time.sleep(1))
    assert isinstance(worker.wait(job), Outcome) and starts() == 1


def test_what_a_callback_raises_is_the_callers(worker, model):
    job = worker.predict(model, [image()], NUMBERS, on_progress=lambda report: None)  # one argument too few
    with pytest.raises(TypeError, match="positional argument"):
        worker.wait(job)
    job.on_progress = None
    assert worker.wait(job).array.any()


@posix
def test_a_computer_that_slept_does_not_take_its_worker_for_hung(worker, model, monkeypatch):
    worker.wait(worker.load(model))
    monkeypatch.setattr(client, "SILENCE", 4)
    monkeypatch.setattr(client, "ATTENTION", 0.1)
    job = worker.load(model)
    os.kill(worker.pid, signal.SIGSTOP)
    time.sleep(4.5)
    worker.poll()  # this program wakes up first
    os.kill(worker.pid, signal.SIGCONT)
    assert worker.wait(job)["ran"]


def test_signs_of_life_do_not_heap_up_while_nobody_asks(worker, model):
    worker.wait(worker.load(model))
    time.sleep(2.5)
    assert worker._events.qsize() == 0


def test_a_server_whose_pipe_breaks_ends():
    class Broken:
        def readline(self, most):
            raise OSError(5, "Input/output error")

    left, (up_read, up_write) = [], os.pipe()
    from UNetSegmentLib.worker import server

    with os.fdopen(up_read, "rb"):
        served = server.Server(Broken(), os.fdopen(up_write, "wb"), leave=left.append)
        served.serve()
        assert wait_until(lambda: left == [0], 5)


def pretend(code):
    """A command that runs ``code`` instead of the worker."""
    return [sys.executable, "-c", f"import sys, time\n{code}\n"]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("print('hello there', flush=True); time.sleep(60)", "cannot be read"),
        (
            'print(\'{"jsonrpc":"2.0","method":"slab","params":{"id":2}}\', flush=True); time.sleep(60)',
            "cannot be read",
        ),
        ('print(\'{"jsonrpc":"2.0","id":1,"result":"me"}\', flush=True); time.sleep(60)', "cannot be read"),
        ("sys.stdout.close(); time.sleep(60)", "has not answered"),
        ("time.sleep(60)", "has not answered"),
    ],
)
def test_a_strange_worker_is_ended_with_a_sentence(monkeypatch, code, words):
    monkeypatch.setattr(client, "SILENCE", 1.5 if words == "has not answered" else 30)
    strange = Worker(pretend(code))
    job = strange.load("whatever", on_slab=lambda *_: None)
    pid = strange._process.pid
    with pytest.raises(WorkerError, match=words):
        strange.wait(job)
    assert not strange.is_alive and wait_until(lambda: not is_running(pid))


def test_a_worker_that_cannot_start_is_a_sentence():
    with pytest.raises(WorkerError, match="cannot be started"):
        Worker(["/no/such/python"]).load("whatever")


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


def test_a_hung_worker_is_ended(worker, model, monkeypatch):
    worker.wait(worker.load(model))
    monkeypatch.setattr(client, "SILENCE", 2)
    os.kill(worker.pid, signal.SIGSTOP)
    with pytest.raises(WorkerError, match="has not answered"):
        worker.wait(worker.load(model))


@posix
def test_a_worker_behind_a_launcher_dies_with_it(tmp_path):
    launcher = tmp_path / "launcher.sh"
    launcher.write_text(f'#!/bin/sh\n"{sys.executable}" "$@"\nexit $?\n')
    launcher.chmod(0o755)
    behind = Worker([str(launcher)])
    behind.start()
    assert wait_until(lambda: behind.poll() or behind.pid is not None, 20)
    pid, launched = behind.pid, behind._process.pid
    assert pid != launched
    behind.stop()
    assert wait_until(lambda: not is_running(pid) and not is_running(launched))


@posix
@pytest.mark.parametrize("busy", [False, True])
def test_the_worker_ends_when_its_parent_is_killed(tmp_path, busy):
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys, time\nsys.path.insert(0, sys.argv[1])\nfrom UNetSegmentLib.worker import Worker\n"
        "worker = Worker()\nworker.start()\n"
        "while worker.pid is None:\n    worker.poll()\n    time.sleep(0.01)\n"
        "print(worker.pid, flush=True)\n" + ("worker.load('hippocampus-mr-t1')\n" if busy else "") + "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, script, ROOT / "UNetSegment"], stdout=subprocess.PIPE)
    pid = int(parent.stdout.readline())
    assert is_running(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert wait_until(lambda: not is_running(pid))


def test_shared_arrays_share_and_leave_no_name(capfd):
    before = names()
    first = SharedArray.create((3, 4), np.int16)
    second = SharedArray.attach(json.loads(json.dumps(first.describe())))
    second.array[1] = 7
    assert first.array.sum() == 28
    first.forget_name()
    assert names() == before
    with pytest.raises(FileNotFoundError):
        SharedArray.attach(first.describe())
    view = second.array[1]
    second.close()
    first.close()
    assert view.sum() == 28  # somebody still looks: the memory stays
    del view, first, second
    gc.collect()
    assert "Exception ignored" not in capfd.readouterr().err


def test_large_memory_is_given_back_in_a_thread():
    """It takes the system some 40 ms for a large CT, which the window would stand still."""
    threads = []
    for size in (memory.LARGE - 1, memory.LARGE):
        shared = SharedArray.create((size,), np.uint8)
        weakref.finalize(shared.array, lambda: threads.append(threading.current_thread()))
        shared.close()
        assert shared.array.size == 0 and wait_until(lambda: len(threads) == 1, 5)
        assert (threads.pop() is threading.main_thread()) == (size < memory.LARGE)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the system does not list shared memory")
def test_memory_that_is_not_there_is_refused_before_somebody_writes_to_it():
    before, here = names(), os.statvfs(SHARED)
    with pytest.raises(WorkerError, match="There is no room for .* MB of shared memory"):
        SharedArray.create((here.f_bavail * here.f_frsize + (1 << 30),), np.uint8)
    assert names() == before


@pytest.mark.skipif(not SHARED.is_dir(), reason="the system does not list shared memory")
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


@pytest.mark.skipif(not SHARED.is_dir(), reason="the system does not list shared memory")
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


@posix
def test_nobody_is_ended_in_the_place_of_a_worker_that_is_gone(monkeypatch):
    """Numbers of processes are given again."""
    gone = Worker(pretend("sys.exit(0)"))
    gone.start()
    process, ended = gone._process, []
    assert wait_until(lambda: process.exit_code is not None and process.has_said_all)
    time.sleep(0.1)
    monkeypatch.setattr(tree, "end", lambda *pids: ended.append(pids))
    process.end()
    assert not ended
    kept = Worker(pretend("import subprocess; subprocess.Popen(['sleep', '30']); sys.exit(0)"))  # what it started lives
    kept.start()
    process = kept._process
    assert wait_until(lambda: process.exit_code is not None)
    process.end()
    assert ended == [(process.pid,)]
    monkeypatch.undo()
    process.end()
    assert wait_until(lambda: not any(reader.is_alive() for reader in process._readers))


def test_no_resource_tracker_is_started():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from UNetSegmentLib.worker.memory import SharedArray\n"
        "from multiprocessing import resource_tracker\n"
        "shared = SharedArray.create((9,), 'f4'); SharedArray.attach(shared.describe()).close(); shared.close()\n"
        "sys.exit(resource_tracker._resource_tracker._fd is not None)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, ROOT / "UNetSegment"], timeout=60).returncode == 0


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.binary(max_size=200) | json_values.map(lambda v: json.dumps(v).encode()))
def test_any_line_is_a_message_or_a_value_error(line):
    try:
        message = protocol.decode(line)
    except ValueError:
        return
    assert message["jsonrpc"] == "2.0"


@given(json_values)
def test_any_described_error_is_an_error_for_the_user(described):
    assert isinstance(protocol.restore_error(described), errors.UNetSegmentError)


@pytest.mark.parametrize(
    "error", [Cancelled(), PackageError("a"), errors.InputError("b"), MemoryError(), KeyError("x")]
)
def test_errors_survive_the_pipe(error):
    described = json.loads(json.dumps(protocol.describe_error(error)))
    restored = protocol.restore_error(described)
    if isinstance(error, errors.UNetSegmentError):
        assert type(restored) is type(error) and str(restored) == str(error)
    else:
        assert isinstance(restored, WorkerError)


methods = st.sampled_from(["progress", "slab", "attached", "alive", "other"])
messages = st.fixed_dictionaries(
    {},
    optional={
        "method": methods,
        "id": st.integers(0, 3) | json_values,
        "result": json_values,
        "error": json_values,
        "params": st.dictionaries(
            st.sampled_from(["id", "box", "stage", "fraction", "message"]), json_values, max_size=5
        )
        | st.just({"id": 1}),
    },
)


@settings(max_examples=200, deadline=None)
@given(st.lists(messages, max_size=6))
def test_whatever_a_worker_says_each_job_ends_once_and_nothing_breaks(said):
    """The client alone, fed with what a broken worker might send."""

    class Dead:
        exit_code = worker_pid = None

        def send(self, line=b""):
            pass

        end = send

    ends = []
    fed = Worker()
    fed._process = Dead()
    fed._met = lambda result: None
    nothing = dict.fromkeys(("on_progress", "on_answer", "on_grown"), lambda *_: None)
    job = Job(on_done=ends.append, on_error=ends.append, on_slab=lambda box, array: array[box], **nothing)
    fed._enter(job)
    job.shared.append(SharedArray.create((2, 2, 2), np.uint8))
    for message in said:
        fed._read(fed._process, protocol.encode(message))
    fed.poll()
    fed.stop()
    fed.poll()
    assert len(ends) == 1 and job.finished and not job.shared


@needs_engine
@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.binary(max_size=60).filter(lambda b: b"\n" not in b) | messages.map(lambda m: json.dumps(m).encode()),
        max_size=5,
    )
)
def test_whatever_a_client_says_the_server_answers_the_next_request(lines):
    """The server alone, over real pipes, in this process."""
    from UNetSegmentLib.worker import server

    down_read, down_write = os.pipe()
    up_read, up_write = os.pipe()
    source, sink = os.fdopen(down_read, "rb"), os.fdopen(up_write, "wb")
    served = server.Server(source, sink, leave=lambda code: None)
    thread = threading.Thread(target=served.serve, daemon=True)
    thread.start()
    with os.fdopen(down_write, "wb") as pipe, os.fdopen(up_read, "rb") as answers:
        for line in lines:
            pipe.write(line + b"\n")
        pipe.write(protocol.encode({"id": "last", "method": "hello"}))
        pipe.flush()
        for line in answers:
            message = protocol.decode(line)
            if message.get("id") == "last":
                assert message["result"]["pid"] == os.getpid()
                break
        pipe.write(protocol.encode({"method": "shutdown"}))
        pipe.flush()
        thread.join(timeout=10)
        assert not thread.is_alive()

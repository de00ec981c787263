"""Workers that are killed, hang, never begin or talk nonsense: one sentence, a fresh worker, nothing left behind."""

import gc
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from synthetic import packages
from synthetic.processes import is_running, wait_until
from synthetic.workers import NUMBERS, image, kill, labels_of, pretend
from UNetSegmentLib.errors import Cancelled, WorkerError
from UNetSegmentLib.predict.backends import is_installed
from UNetSegmentLib.worker import Outcome, Worker, client, tree

ROOT = Path(__file__).resolve().parents[2]
needs_engine = pytest.mark.skipif(
    not (is_installed("openvino") and is_installed("onnx")), reason="openvino or onnx is not installed"
)
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


def faults(worker, model, cancels, kills, seed):
    """Cancel and kill at random moments; every job ends once, with its answer or the right error."""
    rng, volume = random.Random(seed), image((64, 48, 48))
    expected, ends = labels_of(volume.array[0]), []
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
            kill(worker)
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
@pytest.mark.parametrize("pause", [0.0, 0.002, 0.02, 0.5])
def test_a_worker_that_was_killed_with_memory_kept_is_not_noticed(worker, model, pause):
    """The next request was given that memory, which no other worker can have: it is handed over once more."""
    volume, answers = image(), []
    ask = lambda: worker.predict(model, [volume], NUMBERS, on_answer=lambda array: answers.append(array.copy()))  # noqa: E731
    for _ in range(3):
        worker.wait(ask())
        before = worker._process.pid
        kill(worker)
        time.sleep(pause)
        worker.wait(ask())
        assert worker._process.pid != before
    np.testing.assert_array_equal(answers, [labels_of(volume.array[0])] * 6)


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
def test_a_worker_that_was_killed_behind_slicers_launcher_says_so_as_well(tmp_path, model):
    launcher = tmp_path / "launcher.sh"
    words = '"error: [python-real] exit abnormally - Report the problem."'
    launcher.write_text(f'#!/bin/sh\n"{sys.executable}" "$@"\n[ $? -lt 128 ] || {{ echo {words} >&2; exit 1; }}\n')
    launcher.chmod(0o755)
    behind = Worker([str(launcher)])
    end = lambda *_: os.kill(behind.pid, signal.SIGKILL)  # noqa: E731
    with pytest.raises(WorkerError, match=r"unexpectedly \(it crashed or was ended from outside, perhaps"):
        behind.wait(behind.predict(model, [image((160, 160, 160))], NUMBERS, on_progress=end))
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


@pytest.mark.parametrize(
    ("code", "words", "count"),
    [
        ("sys.exit('no module named numpy')", "no module named numpy", 2),
        ("os._exit(3)", r"^The model's process stopped unexpectedly \(code 3\)\.", 2),
        pytest.param(  # a model that kills the worker does it once
            "server.Predictor = lambda *a, **k: os.kill(os.getpid(), 9)\nserver.main()",
            "perhaps because memory was short",
            1,
            marks=posix,
        ),
    ],
    ids=["it never begins", "it says nothing", "the model kills it"],
)
def test_a_worker_that_ends_again_is_not_replaced_for_ever(tmp_path, model, code, words, count):
    command, starts = counted(tmp_path, code)
    worker = Worker(command)
    jobs = worker.load(model), worker.predict(model, [image()], NUMBERS)
    for job in jobs:
        with pytest.raises(WorkerError, match=words):
            worker.wait(job)
    assert starts() == count and not worker.is_busy


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
    monkeypatch.setattr(client, "FIRST_SILENCE", 1.5 if words == "has not answered" else 30)
    strange = Worker(pretend(code))
    job = strange.load("whatever", on_slab=lambda *_: None)
    pid = strange._process.pid
    with pytest.raises(WorkerError, match=words):
        strange.wait(job)
    assert not strange.is_alive and wait_until(lambda: not is_running(pid))


def test_a_worker_that_is_slow_to_start_is_waited_for(tmp_path, model, monkeypatch):
    monkeypatch.setattr(client, "SILENCE", 2)
    command, starts = counted(tmp_path, "time.sleep(3); server.protocol.HEARTBEAT = 0.1; server.main()")
    worker = Worker(command)
    assert worker.wait(worker.load(model))["ran"] and starts() == 1
    worker.stop()


def test_a_worker_that_cannot_start_is_a_sentence():
    with pytest.raises(WorkerError, match="cannot be started"):
        Worker(["/no/such/python"]).load("whatever")


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

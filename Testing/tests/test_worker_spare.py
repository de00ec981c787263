"""Memory that client and worker keep for the next request: it is used again, holds nothing of the last one, and goes."""

import collections
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from synthetic import packages
from synthetic.processes import shared_names, wait_until
from synthetic.workers import NUMBERS, image, kill, labels_of
from UNetSegmentLib.errors import Cancelled, WorkerError
from UNetSegmentLib.predict.backends import is_installed
from UNetSegmentLib.worker import Worker, spare
from UNetSegmentLib.worker.memory import PREFIX, SharedArray
from UNetSegmentLib.worker.spare import Spare

needs_engine = pytest.mark.skipif(
    not (is_installed("openvino") and is_installed("onnx")), reason="openvino or onnx is not installed"
)
listed = pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="the system does not list what is in memory")


@pytest.fixture
def told():
    return []


@pytest.fixture
def kept(told):
    made = Spare(lambda names: told.extend(names))
    yield made
    made.drop()


def arrays(*needs):
    made = [SharedArray.create(*need) for need in needs]
    for each in made:
        each.forget_name()
        each.array[...] = 7
    return made


def mapped(pid):
    """Shared memory of ours that a process holds."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {word.rpartition("/")[2] for line in lines for word in line.split() if f"/{PREFIX}" in word}


def segment(worker, model, volume, **changes):
    """The labels, as who copies them gets them; and the names of the memory in use."""
    found, names = [], set()

    def took(array):
        names.update(shared.name for job in worker._jobs.values() for shared in job.shared)
        found.append(array.copy())

    outcome = worker.wait(worker.predict(model, [volume], NUMBERS, changes, on_answer=took))
    assert outcome.array.size == 0  # gone, as is said
    return found[0], names


def test_memory_is_used_again_where_it_fits(kept, told):
    given = arrays(((3, 4), np.int16), ((2, 2), np.uint8), ((5,), np.uint8))
    names, addresses = [each.name for each in given], [each.array.ctypes.data for each in given]
    assert kept.keep(given)
    into = []
    assert kept.room([((3, 4), np.int16), ((6, 6), np.float32), ((2, 2), np.uint8)], into)
    assert [each.name for each in into][::2] == names[:2] and told == names[2:]
    assert [each.array.ctypes.data for each in into][::2] == addresses[:2]
    assert into[1].array.shape == (6, 6) and into[1].name not in names
    assert not into[2].array.any()
    second = []
    assert not kept.room([((3, 4), np.int16)], second)  # nothing is left of it
    for each in (*into, *second):
        each.close()


def test_what_is_kept_is_wiped_at_once(kept):
    given = arrays(((300, 40), np.int16), ((9,), np.float32))
    views = [each.array for each in given]
    kept.keep(given)
    assert wait_until(lambda: not any(view.any() for view in views), 5)


def test_what_is_kept_goes_in_time(kept, told, monkeypatch):
    given = arrays(((3,), np.uint8))
    kept.keep(given)
    kept.tend()
    assert not told
    monkeypatch.setattr(spare, "KEPT", 0.0)
    time.sleep(0.01)
    kept.tend()
    assert told == [given[0].name] and given[0].array.size == 0


def test_too_much_is_not_kept(kept, monkeypatch):
    monkeypatch.setattr(spare, "MOST", 10)
    given = arrays(((6,), np.uint8), ((5,), np.uint8))
    assert not kept.keep(given)
    for each in given:
        each.close()


def test_where_room_is_short_the_worker_gets_a_moment_to_let_go(kept, monkeypatch):
    create, refused = SharedArray.create.__func__, []

    def scarce(cls, shape, dtype):
        if len(refused) < 3:
            refused.append(shape)
            raise WorkerError("There is no room")
        return create(cls, shape, dtype)

    given, into = arrays(((3,), np.uint8)), []
    kept.keep(given)
    monkeypatch.setattr(SharedArray, "create", classmethod(scarce))
    kept.room([((4,), np.uint8)], into)
    assert len(refused) == 3 and len(into) == 1
    refused.clear()
    with pytest.raises(WorkerError, match="no room"):  # nothing to wait for
        kept.room([((4,), np.uint8)], [])
    into[0].close()


@needs_engine
@listed
def test_the_next_image_of_that_size_finds_the_memory_there(worker, model):
    first, second = image(seed=1), image(seed=2)
    labels, names = segment(worker, model, first)
    np.testing.assert_array_equal(labels, labels_of(first.array[0]))
    assert len(names) == 2 and mapped(worker.pid) == mapped(os.getpid()) & names == names
    region = [[4, 20], [3, 30], [5, 9]]
    inside = tuple(slice(*cut) for cut in region)
    part, again = segment(worker, model, second, region=region)
    expected = np.zeros_like(labels)
    expected[inside] = labels_of(second.array[0])[inside]
    np.testing.assert_array_equal(part, expected)  # nothing of the first
    assert again == names
    other = image((20, 31, 17), seed=3)
    labels, third = segment(worker, model, other)
    np.testing.assert_array_equal(labels, labels_of(other.array[0]))
    assert not third & names and wait_until(lambda: mapped(worker.pid) == third and mapped(os.getpid()) == third)
    assert not shared_names(os.getpid())


@needs_engine
@listed
def test_nothing_is_kept_of_what_somebody_looks_at_or_did_not_want(worker, model):
    outcome = worker.wait(worker.predict(model, [image()], NUMBERS))
    held = {outcome.memory.name}
    assert wait_until(lambda: not held & mapped(worker.pid))  # the volume's memory is kept, the result is its owner's
    np.testing.assert_array_equal(outcome.array, labels_of(image().array[0]))
    for _ in range(10):  # one of the three finds memory of the last round, whichever comes first
        jobs = [worker.predict(model, [image()], NUMBERS, on_answer=lambda array: None) for _ in range(3)]
        jobs[1].cancel()
        for job in jobs:
            try:
                worker.wait(job)
            except Cancelled:
                assert job is jobs[1]
    kept = {
        array.name for array in worker._spare._arrays
    }  # of the last one, unless the one that was cancelled ended later
    assert len(kept) in (0, 2) and wait_until(lambda: mapped(worker.pid) == kept)
    del outcome
    worker.stop()
    assert wait_until(lambda: not mapped(os.getpid()))


@needs_engine
@listed
def test_both_sides_let_go_in_time(worker, model, monkeypatch):
    segment(worker, model, image())
    assert len(mapped(worker.pid)) == 2
    monkeypatch.setattr(spare, "KEPT", 0.0)
    assert wait_until(lambda: not mapped(worker.pid) and not mapped(os.getpid()), 20)  # at its next sign of life
    labels, _ = segment(worker, model, image(seed=5))
    np.testing.assert_array_equal(labels, labels_of(image(seed=5).array[0]))


@needs_engine
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_memory_goes_with_the_worker_that_held_it(worker, model):
    segment(worker, model, image())
    old = worker.pid
    kill(worker)
    assert wait_until(lambda: not worker.is_alive)
    labels, _ = segment(worker, model, image(seed=4))
    np.testing.assert_array_equal(labels, labels_of(image(seed=4).array[0]))
    assert worker.pid != old


@needs_engine
def test_a_fresh_worker_that_is_given_the_memory_of_another_says_so(worker, model, monkeypatch):
    """It is handed over once more where the client knows of it; the worker does not rely on that."""
    segment(worker, model, image())
    monkeypatch.setattr(worker._spare, "drop", lambda: None)
    worker.stop()
    with pytest.raises(WorkerError, match="run it again"):
        worker.wait(worker.predict(model, [image()], NUMBERS))
    monkeypatch.undo()
    labels, _ = segment(worker, model, image())
    np.testing.assert_array_equal(labels, labels_of(image().array[0]))


@needs_engine
def test_memory_is_kept_inside_of_this_process_as_well(tmp_path):
    model = str(packages.threshold_package(tmp_path / "m"))
    worker = Worker(inside=True)
    try:
        for seed in range(3):
            labels, _ = segment(worker, model, image(seed=seed))
            np.testing.assert_array_equal(labels, labels_of(image(seed=seed).array[0]))
    finally:
        worker.stop()


@needs_engine
def test_who_copied_all_slabs_is_not_given_the_answer_again(worker, tmp_path):
    plain = str(packages.threshold_package(tmp_path / "plain"))
    step = {"method": "keep_largest_component", "labels": [3]}
    later = str(packages.threshold_package(tmp_path / "later", postprocessing=[step]))
    for model, options, is_given in ((plain, {}, True), (plain, {"region": [[2, 9]] * 3}, False), (later, {}, False)):
        slabs, answers = collections.deque(), collections.deque()
        copies = {"on_slab": lambda *slab, to=slabs: to.append(slab), "on_answer": answers.append}
        worker.wait(worker.predict(model, [image()], NUMBERS, options, **copies))
        assert slabs and len(answers) == (not is_given)

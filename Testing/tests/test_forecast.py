"""How long a run will take: the count of its patches is right, and what was measured here is what is foretold."""

import json
import os
import platform

import numpy as np
import pytest
from synthetic import packages
from UNetSegmentLib import package
from UNetSegmentLib.errors import BackendError, InputError
from UNetSegmentLib.package import cache_folder
from UNetSegmentLib.panel import state
from UNetSegmentLib.predict import Predictor, forecast, speeds
from UNetSegmentLib.predict.backends import is_installed
from UNetSegmentLib.predict.forecast import Measured, Work
from UNetSegmentLib.predict.modes import Configuration
from UNetSegmentLib.volume import Grid, Reorientation, Volume
from UNetSegmentLib.worker import Worker

needs_engine = pytest.mark.skipif(
    not (is_installed("openvino") and is_installed("onnx")), reason="openvino or onnx is not installed"
)
RAN = {"backend": "openvino", "device": "cpu", "precision": "bf16", "reference_dice": "0.9994"}


pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def model(tmp_path):
    window = {"patch_size": [16, 12, 20], "overlap": 0.4, "mirror_axes": [0, 2]}
    return package.load(packages.threshold_package(tmp_path / "model", inference=window))


def image(shape, spacing=(1, 1, 1), turned=False):
    grid = Grid.from_spacing(shape, spacing, (4, -7, 2))
    if turned:
        grid = grid.reoriented(Reorientation((1, 2, 0), (True, False, True)))
    array = np.random.default_rng(0).uniform(0.5, 3, grid.shape).astype(np.float32)
    return Volume(array[None], grid, ("T1",))


def plain(model, mode="auto", mirror=None):
    return Configuration.of(model.manifest, mode, mirror)


@needs_engine
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("mode", ["auto", "fast"])
@pytest.mark.parametrize("shape, region", [((33, 40, 21), None), ((7, 30, 50), None), ((33, 40, 21), (2, 9))])
@pytest.mark.parametrize("changes", [{}, {"orientation": "LPI", "spacing": [1.6, 0.9, 1.2]}])
def test_the_patches_are_those_of_the_run(tmp_path, turned, mode, shape, region, changes):
    how = {"orientation": "RAS", "spacing": [1, 1, 1], **changes}
    window = {"patch_size": [16, 12, 20], "overlap": 0.4, "convention": "nnunet" if changes else "monai"}
    model = package.load(packages.threshold_package(tmp_path / "model", preprocessing=how, inference=window))
    volume = image(shape, (0.8, 1.1, 1.3), turned)
    box = None if region is None else (region,) * 3
    ahead = forecast.work(volume.grid, model.manifest, plain(model, mode), region=box)
    ran = Predictor(model, "cpu", mode=mode).predict(volume, region=box).provenance
    assert ahead == Work(json.loads(ran["options"])["patches"], volume.array.size)
    assert 0 < float(ran["network_seconds"]) < float(ran["seconds"])


def test_mirrors_and_folds_multiply_the_work(tmp_path, model):
    grid = image((20, 20, 20)).grid
    once = forecast.work(grid, model.manifest, plain(model)).networks
    assert forecast.work(grid, model.manifest, plain(model, mirror=True)).networks == 4 * once
    weight, bias = np.ones((3, 1, 1, 1, 1), np.float32), np.zeros(3, np.float32)
    several = package.load(packages.linear_package(tmp_path / "folds", [(weight, bias)] * 3)).manifest
    parts = [
        forecast.work(grid, several, Configuration.of(several), folds).networks for folds in ("first", "0,2", "all")
    ]
    assert parts == [parts[0], 2 * parts[0], 3 * parts[0]]


def test_what_cannot_be_run_is_not_foretold(model):
    grid = image((20, 20, 20)).grid
    with pytest.raises(BackendError, match="no fold '4'"):
        forecast.work(grid, model.manifest, plain(model), "4")
    with pytest.raises(InputError, match="not inside"):
        forecast.work(grid, model.manifest, plain(model), region=((0, 99), (0, 5), (0, 5)))


def run(networks, voxels, network, beside):
    return Measured(Work(networks, voxels), network, beside)


def test_seconds_follow_patches_and_voxels():
    small, large = run(2, 1000, 1.0, 0.1), run(40, 8_000_000, 22.0, 8.0)
    assert forecast.seconds(Work(10, 1000), []) is None
    assert forecast.seconds(Work(10, 1000), [small]) == pytest.approx(10 * 0.5 + 0.1)
    assert forecast.seconds(Work(10, 1000), [small, run(2, 1000, 1.2, 0.1), run(2, 1000, 9.0, 0.1)]) == pytest.approx(
        6.1
    )
    # the network's share is that of runs with as many patches, the image's that of images of its size
    assert forecast.seconds(Work(30, 16_000_000), [small, large]) == pytest.approx(30 * 0.55 + 16.0)
    assert forecast.seconds(Work(3, 500), [small, large]) == pytest.approx(3 * 0.5 + 0.05)
    assert forecast.seconds(Work(0, 500), [small, large]) == pytest.approx(0.05)


def test_before_the_first_run_the_reference_patch_tells():
    assert forecast.seconds(Work(10, 1000), [], proof=0.3) == pytest.approx(3.0)
    other = run(1, 1000, 99.0, 0.2)  # another network's speed says nothing, its image does
    assert forecast.seconds(Work(10, 2000), [], proof=0.3, others=[other]) == pytest.approx(3.4)
    assert forecast.seconds(Work(10, 2000), [], others=[other]) is None


def test_notes_are_kept_by_model_configuration_and_computer(model, monkeypatch, cache):
    manifest, options = model.manifest, {"device": "auto", "mode": "auto"}
    grid = image((20, 20, 20)).grid
    assert speeds.expected(manifest, options, grid) is None and not cache.exists()
    speeds.note_proof(manifest, options, RAN, 0.5)
    one = forecast.work(grid, manifest, plain(model)).networks
    assert speeds.expected(manifest, options, grid, ran=RAN) == pytest.approx(0.5 * one)
    for number in range(speeds.KEPT + 5):
        speeds.note_run(manifest, options, RAN, run(10, 8000, 1.0 + number, 0.4))
    known, proof, ran = speeds.runs(manifest, options)
    assert (len(known), proof, ran) == (speeds.KEPT, 0.5, RAN) and known[-1].network == speeds.KEPT + 5
    assert speeds.expected(manifest, options | {"mode": "fast"}, grid) is None
    assert speeds.expected(manifest, options | {"device": "cuda"}, grid) is None
    mirrored = speeds.expected(manifest, options | {"mirror": True}, grid)
    assert mirrored - 0.4 == pytest.approx(4 * (speeds.expected(manifest, options, grid) - 0.4))
    assert speeds.expected(manifest, options, grid, ran=RAN | {"precision": "fp32"}) is None
    speeds.note_run(manifest, options, RAN | {"precision": "fp32"}, run(1, 8000, 3.0, 0.0))
    assert [each.network for each in speeds.runs(manifest, options)[0]] == [3.0]  # the others are of no use any more
    monkeypatch.setattr(platform, "node", lambda: "another computer")
    assert speeds.expected(manifest, options, grid) is None
    speeds.note_run(manifest, options, RAN, run(1, 8000, 7.0, 0.0))
    monkeypatch.undo()
    os.environ["UNETSEGMENT_CACHE"] = str(cache)
    assert [each.network for each in speeds.runs(manifest, options)[0]] == [3.0]


@pytest.mark.parametrize("content", ["", "[]", '{"x": 1}', '{"COMPUTER": 3}', '{"COMPUTER": {"KEY": 3}}',
                                     '{"COMPUTER": {"KEY": {"ran": 5, "runs": [[1]]}}}',
                                     '{"COMPUTER": {"KEY": {"ran": {}, "runs": 8, "proof": "x"}}}'])  # fmt: skip
def test_notes_that_something_else_wrote_are_passed_over(model, content):
    manifest, options = model.manifest, {"mode": "auto"}
    path = speeds._path(manifest)
    path.parent.mkdir(parents=True)
    key = json.dumps(speeds._key(manifest, options))
    path.write_text(content.replace("COMPUTER", speeds._computer()).replace('"KEY"', key), "utf-8")
    assert speeds.expected(manifest, options, image((20, 20, 20)).grid) is None
    assert speeds.other_runs(manifest) == []
    speeds.note_run(manifest, options, RAN, run(1, 8000, 2.0, 0.0))
    assert len(speeds.runs(manifest, options)[0]) == 1


def test_a_cache_that_cannot_be_written_harms_nothing(model, cache):
    cache.write_text("a file where the folder should be", "utf-8")
    speeds.note_run(model.manifest, {}, RAN, run(1, 8000, 2.0, 0.0))
    assert speeds.expected(model.manifest, {}, image((20, 20, 20)).grid) is None


@needs_engine
def test_the_worker_notes_its_runs(model):
    worker = Worker()
    try:
        options = {"device": "cpu", "mode": "auto"}
        ran = worker.wait(worker.load(str(model.root), options))["ran"]
        volume = image((40, 36, 30))
        assert speeds.expected(model.manifest, options, volume.grid, ran=ran) is None  # it has no reference patch
        numbers = {0: 0, 3: 1, 300: 2}
        told = worker.wait(worker.predict(str(model.root), [volume], numbers, options)).provenance
        foretold = speeds.expected(model.manifest, options, volume.grid, ran=ran)
        ((measured,), _, _) = speeds.runs(model.manifest, options)
        assert foretold == pytest.approx(measured.network + measured.beside)
        assert float(told["network_seconds"]) == pytest.approx(measured.network, abs=1e-3)
        assert foretold >= float(told["seconds"]) - 0.01
        box = [[0, 10], [0, 10], [0, 10]]
        worker.wait(worker.predict(str(model.root), [volume], numbers, options | {"region": box}))
        *_, last = speeds.runs(model.manifest, options)[0]
        assert last.work.networks < measured.work.networks
        worker.wait(worker.predict(str(model.root), [volume], numbers, options | {"skip_background": True}))
        assert len(speeds.runs(model.manifest, options)[0]) == 2  # how much it left out is not known beforehand
    finally:
        worker.stop()
    assert [path.name for path in cache_folder().iterdir() if path.name == "speeds"]


def test_a_usual_image_of_a_model():
    manifest = package.load("hippocampus-mr-t1").manifest
    assert forecast.usual_grid(manifest).shape == (35, 50, 36)


def test_a_model_that_does_not_tell_its_images(model):
    assert forecast.usual_grid(model.manifest) is None


@pytest.mark.parametrize(
    "seconds, words",
    [
        (0.01, "under 1 s"),
        (0.8, "about 1 s"),
        (3.4, "about 3 s"),
        (12.6, "about 15 s"),
        (57, "about 55 s"),
        (58, "about 1 min"),
    ]
    + [(140, "about 2 min"), (3500, "about 58 min"), (3600, "about 1 h"), (9000, "about 2.5 h")],
)
def test_a_forecast_in_words(seconds, words):
    assert state.about(seconds) == words


def test_the_time_left_in_words():
    assert state.remaining(None, 9) == state.remaining(50, 1) == ""
    assert [state.remaining(s, 9) for s in (0.2, 14.4, 1061)] == ["1 s left", "14 s left", "18 min left"]


def test_the_line_about_what_will_happen():
    assert state.plan_line(None, "Automatic", "") == "Automatic"
    assert state.plan_line(None, "Automatic", "about 20 s") == "Automatic, about 20 s"
    assert state.plan_line(RAN, "Automatic", "about 20 s") == "about 20 s on CPU (16-bit, proven here)"
    words = "about 20 s on CPU (16-bit, proven here) · region R"
    assert state.plan_line(RAN, "Automatic", "about 20 s", "R") == words
    assert "on this computer" in state.plan_tip(RAN, "") and "foretold" in state.plan_tip(None, "about 20 s")
    assert "on this computer" not in state.plan_tip(RAN | {"reference_dice": ""}, "")
    ran = RAN | {"precision": "fp32", "reference_dice": ""}
    assert state.plan_line(ran, "CPU", "") == "CPU (32-bit)"

"""The engine: tiles, stitching, export and the whole way, against plain definitions and MONAI."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import packages
from UNetSegmentLib import package
from UNetSegmentLib.errors import BackendError, Cancelled, InputError
from UNetSegmentLib.package import Inference
from UNetSegmentLib.predict import Predictor, gather
from UNetSegmentLib.predict.backends import is_installed
from UNetSegmentLib.predict.postprocess import keep_largest_component
from UNetSegmentLib.predict.stitch import Stitcher
from UNetSegmentLib.predict.tiles import Tiling, weights
from UNetSegmentLib.volume import Grid, Reorientation, Volume

sizes = st.tuples(*[st.integers(1, 20)] * 3)
patches = st.tuples(*[st.integers(1, 9)] * 3)
overlaps = st.sampled_from([0.0, 0.25, 0.5, 0.8])
conventions = st.sampled_from(["monai", "nnunet"])
needs_openvino = pytest.mark.skipif(not is_installed("openvino"), reason="openvino is not installed")


@settings(deadline=None)
@given(sizes, patches, overlaps, conventions)
def test_patches_cover_every_voxel_and_stay_inside(shape, patch, overlap, convention):
    tiling = Tiling.cover(shape, patch, overlap, convention)
    seen = np.zeros(tiling.padded, int)
    for start in itertools.product(*tiling.starts):
        stop = [a + p for a, p in zip(start, patch, strict=True)]
        assert all(e <= n for e, n in zip(stop, tiling.padded, strict=True))
        seen[tuple(slice(a, e) for a, e in zip(start, stop, strict=True))] += 1
    assert seen.min() >= 1
    assert tiling.count == len(list(itertools.product(*tiling.starts)))


@settings(max_examples=30, deadline=None)
@given(sizes, patches, overlaps)
def test_placement_and_weights_are_monais(shape, patch, overlap):
    utils = pytest.importorskip("monai.inferers.utils")
    from monai.data.utils import compute_importance_map, dense_patch_slices

    tiling = Tiling.cover(shape, patch, overlap)
    interval = utils._get_scan_interval(tiling.padded, patch, 3, (overlap,) * 3)
    theirs = {tuple(s.start for s in slices) for slices in dense_patch_slices(tiling.padded, patch, interval)}
    assert theirs == set(itertools.product(*tiling.starts))
    gaussian = compute_importance_map(patch, mode="gaussian", sigma_scale=0.125).numpy()
    gaussian = np.maximum(gaussian, max(gaussian.min(), 1e-3))
    np.testing.assert_allclose(weights(patch, Inference(patch, overlap)), gaussian, rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(sizes, patches, overlaps, conventions, st.integers(1, 3), st.integers(0, 10**6))
def test_slabs_are_the_whole_volume_stitched_at_once(shape, patch, overlap, convention, batch, seed):
    rng = np.random.default_rng(seed)
    image = rng.standard_normal((2, *shape)).astype(np.float32)
    tiling = Tiling.cover(shape, patch, overlap, convention)
    weight = weights(patch, Inference(patch, overlap, convention=convention))
    mixer = rng.standard_normal((3, 2)).astype(np.float32)

    def run(x, _):  # position-dependent, so that overlapping patches disagree as a network's do
        return np.einsum("fc,ncxyz->nfxyz", mixer, x) * np.linspace(0.5, 2, patch[2], dtype=np.float32)

    padded = tiling.pad(image)
    total, norm = np.zeros((3, *tiling.padded), np.float32), np.zeros(tiling.padded, np.float32)
    for start in itertools.product(*tiling.starts):
        cut = tuple(slice(a, a + p) for a, p in zip(start, patch, strict=True))
        total[(slice(None), *cut)] += run(padded[(None, slice(None), *cut)], None)[0] * weight
        norm[cut] += weight
    inner = tuple(slice(b, b + n) for b, n in zip(tiling.before, shape, strict=True))
    expected = total[(slice(None), *inner)] / norm[inner]

    rows = 0
    for start, slab in Stitcher(tiling, weight, run, np.zeros(3, np.float32), batch)(image):
        assert start == rows
        np.testing.assert_array_equal(slab, expected[:, start : start + slab.shape[1]])
        rows += slab.shape[1]
    assert rows == shape[0]


def smooth_image(shape=(22, 26, 20)):
    """Blobs between 0 and about 3, smooth at the scale of a voxel."""
    i, j, k = np.meshgrid(*[np.linspace(0, 1, n) for n in shape], indexing="ij")
    first = 3.2 * np.exp(-(((i - 0.45) / 0.2) ** 2 + ((j - 0.4) / 0.25) ** 2 + ((k - 0.5) / 0.2) ** 2))
    second = 1.6 * np.exp(-(((i - 0.75) / 0.12) ** 2 + ((j - 0.7) / 0.12) ** 2 + ((k - 0.6) / 0.2) ** 2))
    return (first + second).astype(np.float32)


def expected_labels(image):
    return np.where(image > 2, 300, np.where(image > 1, 3, 0))


@pytest.fixture(scope="module")
def threshold(tmp_path_factory):
    pytest.importorskip("onnx")
    pytest.importorskip("openvino")
    return Predictor(package.load(packages.threshold_package(tmp_path_factory.mktemp("threshold"))))


def test_known_answer_with_sparse_values(threshold):
    image = smooth_image()
    grid = Grid.from_spacing(image.shape, (1, 1, 1), (5, -3, 8))
    result = threshold.predict(Volume(image[None], grid, ("T1",))).labels
    assert result.grid is grid and result.array.dtype == np.uint16
    np.testing.assert_array_equal(result.array, expected_labels(image))


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", list(itertools.product((False, True), repeat=3)))
def test_48_orientations_give_the_same_labels_exactly(threshold, axes, flips):
    image = smooth_image()
    grid = Grid.from_spacing(image.shape, (1, 1, 1), (5, -3, 8))
    turn = Reorientation(axes, flips)
    turned = Volume(turn.apply(image)[None], grid.reoriented(turn), ("T1",))
    result = threshold.predict(turned).labels
    np.testing.assert_array_equal(result.array, turn.apply(expected_labels(image)))


@pytest.mark.parametrize("spacing", [(0.5, 0.7, 2.0), (2.0, 1.5, 0.8), (1.0, 1.0, 3.0)])
def test_other_spacings_come_back_to_the_input_grid(threshold, spacing):
    image = smooth_image((40, 36, 32))
    result = threshold.predict(Volume(image[None], Grid.from_spacing(image.shape, spacing), ("T1",))).labels
    wrong = (result.array != expected_labels(image)).mean()
    assert wrong < 0.02, wrong


@pytest.mark.parametrize("shape", [(30, 20, 1), (1, 20, 30), (1, 1, 1)])
def test_single_slices(threshold, shape):
    image = np.full(shape, 1.5, np.float32)
    image[0] = 2.5
    result = threshold.predict(Volume(image[None], Grid.from_spacing(shape, (1, 1, 1)), ("T1",))).labels
    np.testing.assert_array_equal(result.array, expected_labels(image))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float64, ">i2"])
def test_voxel_types(threshold, dtype):
    image = np.round(smooth_image()).astype(dtype)
    result = threshold.predict(Volume(image[None], Grid.from_spacing(image.shape, (1, 1, 1)), ("T1",))).labels
    np.testing.assert_array_equal(result.array, expected_labels(image))


def test_cancel_stops_and_the_predictor_still_works(threshold):
    image = Volume(smooth_image((60, 60, 60))[None], Grid.from_spacing((60, 60, 60), (1, 1, 1)), ("T1",))
    seen = []
    with pytest.raises(Cancelled):
        threshold.predict(image, progress=seen.append, cancel=lambda: len(seen) > 5)
    assert 5 <= len(seen) <= 7
    assert threshold.predict(image).labels.array.any()


def test_progress_rises_to_one(threshold):
    seen = []
    grid = Grid.from_spacing((30, 30, 30), (1, 1, 1))
    threshold.predict(Volume(smooth_image((30, 30, 30))[None], grid, ("T1",)), progress=seen.append)
    fractions = [p.fraction for p in seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0


def two_channels(tmp_path):
    pytest.importorskip("onnx")
    return package.load(packages.threshold_package(tmp_path / "two", channels=2))


@needs_openvino
def test_second_channel_is_resampled_in_patient_space(tmp_path):
    model = two_channels(tmp_path)
    image = smooth_image((30, 30, 30)) / 2
    grid = Grid.from_spacing(image.shape, (1, 1, 1), (4, 5, 6))
    turn = Reorientation((2, 0, 1), (True, False, True))
    bigger = np.pad(image, 3, mode="edge")
    other = Grid.from_spacing(bigger.shape, (1, 1, 1), (1, 2, 3)).reoriented(turn)
    volume = gather(
        [Volume(image[None], grid, ("a",)), Volume(turn.apply(bigger)[None], other, ("b",))], model.manifest
    )
    assert volume.channels == ("T1", "T2")
    np.testing.assert_allclose(volume.array[1], image, atol=1e-5)
    labels = Predictor(model).predict(volume).labels.array
    assert (labels != expected_labels(2 * image)).mean() < 1e-3  # ties only


def test_bad_inputs_are_sentences(tmp_path):
    model = two_channels(tmp_path).manifest
    grid = Grid.from_spacing((4, 4, 4), (1, 1, 1))
    good = Volume(np.zeros((1, 4, 4, 4)), grid, ("mri",))
    far = Volume(np.zeros((1, 4, 4, 4)), Grid.from_spacing((4, 4, 4), (1, 1, 1), (100, 0, 0)), ("other",))
    huge = Volume(np.full((1, 4, 4, 4), -1e300), grid, ("huge",))
    holes = Volume(np.where(np.arange(64).reshape(1, 4, 4, 4) == 9, np.nan, 1.0), grid, ("broken",))
    rgb = Volume(np.zeros((3, 4, 4, 4), np.uint8), grid, ("r", "g", "b"))
    for volumes, words in [
        ([], "needs 2 volumes"),
        ([good], "1 were given; choose the missing"),
        ([good] * 3, "3 were given; remove"),
        ([good, far], "'other' does not overlap"),
        ([good, holes], "'broken' has voxels that are NaN"),
        ([good, huge], "'huge' has voxels beyond 1e38"),
        ([rgb, good], "several channels"),
        ([Volume(np.zeros((1, 4, 4, 4), complex), grid, ("k-space",)), good], "plain numbers"),
    ]:
        with pytest.raises(InputError, match=words):
            gather(volumes, model)


def test_torch_and_openvino_agree_and_torch_alone_is_used_without_onnx(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("monai")
    pytest.importorskip("openvino")
    model = package.load(packages.dynunet_package(tmp_path / "net"))
    rng = np.random.default_rng(0)
    volume = Volume(rng.standard_normal((1, 30, 25, 18)), Grid.from_spacing((30, 25, 18), (1, 1, 1)), ("T1",))
    one, two = (Predictor(model, backend=b).predict(volume) for b in ("openvino", "torch"))
    assert one.provenance["backend"] == "openvino" and two.provenance["backend"] == "torch"
    assert (one.labels.array == two.labels.array).mean() > 0.999
    assert len(np.unique(two.labels.array)) > 1


@needs_openvino
def test_a_backend_that_fails_the_reference_patch_is_refused(tmp_path):
    import io

    pytest.importorskip("onnx")
    root = packages.threshold_package(tmp_path / "good")
    onnx = (root / "models" / "model.onnx").read_bytes()
    image = smooth_image((16, 24, 16))
    for right in (True, False):
        labels = expected_labels(image) if right else np.roll(expected_labels(image), 4)
        arrays = io.BytesIO()
        np.savez_compressed(arrays, input=image[None], labels=labels.astype(np.uint16))
        files = {"onnx": ("models/model.onnx", onnx), "reference": ("models/reference.npz", arrays.getvalue())}
        raw = packages.manifest(reference={"input": "input", "labels": "labels"})
        model = package.load(packages.write(tmp_path / str(right), raw, files))
        if right:
            assert Predictor(model).agreement == 1.0
        else:
            with pytest.raises(BackendError, match="reference patch"):
                Predictor(model)


@needs_openvino
def test_impossible_devices_are_refused(tmp_path):
    pytest.importorskip("onnx")
    model = package.load(packages.threshold_package(tmp_path / "m"))
    with pytest.raises(BackendError, match="not known"):
        Predictor(model, device="quantum")
    with pytest.raises(BackendError, match="does not run on 'cuda'"):
        Predictor(model, device="cuda", backend="openvino")


def test_largest_component():
    array = np.zeros((6, 6, 6), np.uint8)
    array[0:3, 0:3, 0:3], array[1, 1, 1], array[5, 5, 5], array[5, 0, 0] = 1, 2, 1, 3
    kept = keep_largest_component(array, [1, 2])
    assert kept[5, 5, 5] == 0 and kept[5, 0, 0] == 3 and (kept[:3] == array[:3]).all()
    assert keep_largest_component(kept * 0, [1]).sum() == 0


def test_a_predictor_that_ends_in_another_thread_leaves_signals_alone():
    """OpenVINO's plugin takes a stack for signals with it when it is unloaded; the next signal would end the process."""
    pytest.importorskip("openvino")
    model = Path(__file__).parents[2] / "Resources" / "Models" / "hippocampus-mr-t1"
    if not model.is_dir():
        pytest.skip("the bundled model is not here")
    lines = """
import gc, signal, sys, threading
from UNetSegmentLib import package
from UNetSegmentLib.predict import Predictor
held = [Predictor(package.load(sys.argv[1]), device="cpu", backend="openvino")]
end = threading.Thread(target=lambda: (held.clear(), gc.collect()))
end.start()
end.join()
signal.signal(signal.SIGTERM, lambda *_: print("handled", flush=True))
signal.raise_signal(signal.SIGTERM)
"""
    found = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", lines, str(model)], capture_output=True, text=True, env=found)
    assert (done.returncode, done.stdout.strip()) == (0, "handled"), done.stderr

"""Voxels whose labels are settled as soon as they are final, and images that are normalised as they are cut: the same result as
from everything summed, and finished, at once."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from synthetic import packages
from synthetic.images import blobs
from synthetic.packages import labels_for, random_linear
from UNetSegmentLib import package
from UNetSegmentLib.package import Inference, Manifest
from UNetSegmentLib.predict import Predictor, cells, passes, tiles
from UNetSegmentLib.predict import stitch as stitching
from UNetSegmentLib.predict.backends import is_installed
from UNetSegmentLib.predict.export import Decision
from UNetSegmentLib.predict.head import Head
from UNetSegmentLib.predict.preprocess import preprocess
from UNetSegmentLib.predict.stitch import Stitcher
from UNetSegmentLib.predict.tiles import Tiling, weights
from UNetSegmentLib.volume import Grid, Reorientation, Volume

needs_engine = pytest.mark.skipif(
    not (is_installed("openvino") and is_installed("onnx")), reason="openvino or onnx is not installed"
)


@given(st.integers(1, 40), st.integers(1, 12), st.floats(0, 0.9), st.sampled_from(["monai", "nnunet"]))
def test_the_first_and_the_last_patch_of_each_voxel(size, patch, overlap, convention):
    tiling = Tiling.cover((size, 1, 1), (patch, 1, 1), overlap, convention)
    covers = [[s for s in tiling.starts[0] if s <= n < s + patch] for n in range(tiling.padded[0])]
    for start, cuts in tiling.cells(0).items():
        assert [n for cut, _ in cuts for n in range(cut.start, cut.stop)] == list(range(start, start + patch))
        for cut, is_last in cuts:
            (patches,) = {tuple(c) for c in covers[cut]}
            assert is_last == (patches[-1] == start)
    assert tiling.redundancy == pytest.approx(np.mean([len(c) for c in covers]))


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(*[st.integers(3, 22)] * 3),
    patch=st.tuples(*[st.integers(2, 9)] * 3),
    overlap=st.sampled_from([0.0, 0.2, 0.5, 0.75]),
    order=st.permutations(range(3)),
    way=st.sampled_from(["plain", "scale free", "head", "some", "torch"]),
    batch=st.integers(1, 3),
    threads=st.sampled_from([1, 3]),
)
def test_each_voxel_is_settled_once_with_the_outputs_of_everything_at_once(
    shape, patch, overlap, order, way, batch, threads
):
    if way == "torch":
        torch = pytest.importorskip("torch")
    rng = np.random.default_rng(sum(shape))
    image = rng.standard_normal((1, *shape)).astype(np.float32)
    tiling = Tiling.cover(shape, patch, overlap)
    assume(tiling.count <= 3000)
    weight = weights(patch, Inference(patch, overlap))
    weight = np.ascontiguousarray(weight.transpose(order)).transpose(np.argsort(order))
    mixer = rng.standard_normal((3, 1, 1, 1)).astype(np.float32)
    head = (
        Head(rng.standard_normal((5, 3)).astype(np.float32), np.arange(5, dtype=np.float32)) if way == "head" else None
    )
    unwanted = {start for start in itertools.product(*tiling.starts) if rng.random() < 0.4} if way == "some" else set()

    def run(patches, _):
        answer = patches * mixer * np.linspace(0.5, 2, patch[2], dtype=np.float32)
        return torch.from_numpy(answer) if way == "torch" else answer

    stitch = Stitcher(
        *(tiling, weight, run, np.full(5 if head else 3, -7, np.float32), batch, head),
        wanted=(lambda *start: start not in unwanted) if unwanted else None,
        threads=threads,
    )
    plain = np.concatenate([np.asarray(piece) for _, piece in stitch(image)], axis=1)
    found, times = np.full_like(plain, np.nan), np.zeros(shape, int)

    def put(box, decided):
        found[(slice(None), *box)] = np.moveaxis(np.ascontiguousarray(decided)[..., None].view(np.float32), -1, 0)
        times[box] += 1

    def decide(outputs):  # their bytes
        return np.ascontiguousarray(np.moveaxis(np.asarray(outputs), 0, -1)).view(f"V{4 * len(outputs)}")[..., 0]

    rows = 0
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(passes, "THREADED_FROM", 1)
        patched.setattr(passes, "BLOCK", 20)
        patched.setattr(stitching, "PART", 60)
        patched.setattr(stitching, "LEAST", 1)
        list(stitch.settle(image + 1, decide, lambda box, decided: None, way == "scale free"))  # memory is left of it
        for start, stop in stitch.settle(image, decide, put, way == "scale free"):
            assert start == rows and (times[start:stop] == 1).all() and not times[stop + patch[0] :].any()
            rows = stop
    assert rows == shape[0] and (times == 1).all()
    if way == "scale free":
        scale = found / plain
        np.testing.assert_allclose(scale, np.broadcast_to(scale[:1], scale.shape), rtol=1e-3)
        assert (scale > 0).all()
    else:
        np.testing.assert_allclose(found, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("values", [[0, 1, 2], [0, 7, 3], [0, *range(300, 600)]])
def test_labels_of_tensors_are_those_of_arrays(values, regions):
    torch = pytest.importorskip("torch")
    table = np.array(values, np.uint16 if max(values) > 255 else np.uint8)
    order = np.random.default_rng(1).permutation(len(values) - regions)
    decision = Decision(table, order if regions else np.arange(len(values)), regions)
    outputs = np.random.default_rng(0).standard_normal((len(order), 6, 5, 4)).astype(np.float32)
    winner = outputs.argmax(0)
    if regions:
        winner = np.zeros(outputs.shape[1:], int)
        for position, c in enumerate(order):
            winner[outputs[c] > 0] = position + 1
    for each in (outputs, torch.from_numpy(outputs)):
        np.testing.assert_array_equal(decision.settle(each), winner)


HOW = {
    "zscore": {"method": "zscore"},
    "clip_zscore": {"method": "clip_zscore", "clip": [-50, 60], "mean": 3, "std": 21},
    "range": {"method": "range", "window": [-40, 80], "output": [-1, 1], "clamp": True},
    "minmax of clip": {"method": "minmax", "clip": [-30, 90]},
    "none": {"method": "none"},
}


def described(how, **changes):
    raw = packages.manifest(channels=[{"name": "CT", "modality": "CT", "normalization": how}], **changes)
    return Manifest.from_dict(raw)


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.uint8, np.float32])
@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
def test_what_is_left_to_do_gives_the_finished_image(how, dtype):
    rng = np.random.default_rng(2)
    array = rng.integers(0 if np.dtype(dtype).kind == "u" else -100, 200, (1, 21, 18, 25)).astype(dtype)
    manifest = described(how)
    grid = Grid.from_spacing(array.shape[1:], (1, 1, 1))
    expected = preprocess(Volume(array, grid, ("CT",)), manifest)
    assert not expected.left and expected.finished() is expected
    images = []
    for order in itertools.permutations(range(3)):  # the same voxels, stored in another order
        turn = Reorientation(order, (True, False, True))
        stored = np.ascontiguousarray(turn.apply(array))
        image = preprocess(Volume(stored, grid.reoriented(turn), ("CT",)), manifest, leave=True)
        is_exact = how["method"] != "zscore" or np.dtype(dtype).kind != "f"
        assert bool(image.left) == is_exact and np.shares_memory(image.array, stored) == is_exact
        finished = image.finished(2)
        assert (
            not finished.left
            and finished.array.dtype == np.float32
            and np.allclose(finished.grid.ijk_to_ras, expected.grid.ijk_to_ras)
        )
        images.append(finished.array)
        np.testing.assert_array_equal(finished.array, images[0])
    np.testing.assert_allclose(images[0], expected.array, atol=1e-6)


@pytest.mark.parametrize(
    ("how", "changes"),
    [
        ({"method": "zscore", "mask": "nonzero"}, {}),
        ({"method": "zscore", "clip": [-10, 30]}, {}),
        ({"method": "percentiles", "window": [1, 99]}, {}),
        ({"method": "minmax"}, {}),
        ({"method": "none"}, {"preprocessing": {"orientation": "RAS", "spacing": [2, 1, 1]}}),
    ],
)
def test_nothing_is_left_where_the_whole_image_is_needed(how, changes):
    array = np.random.default_rng(2).integers(-100, 200, (1, 9, 8, 7)).astype(np.int16)
    image = Volume(array, Grid.from_spacing(array.shape[1:], (1, 1, 1)), ("CT",))
    assert not preprocess(image, described(how, **changes), leave=True).left


@needs_engine
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("size", [(40, 33, 27), (9, 33, 27)])
def test_labels_are_those_of_the_image_finished_first(tmp_path, monkeypatch, overlap, size):
    model = package.load(
        packages.linear_package(
            tmp_path / "m",
            [random_linear(3)],
            labels=labels_for(3),
            inference={"patch_size": [16, 16, 16], "overlap": overlap},
        )
    )
    grid = Grid.from_spacing(size, (1, 1, 1)).reoriented(Reorientation((2, 0, 1), (True, False, False)))
    array = (300 * blobs(grid.shape, 4)).astype(np.int16)
    engine, image = Predictor(model), Volume(array, grid, ("T1",))
    expected = engine.predict(replace(image, array=array.astype(np.float64))).labels.array
    assert len(np.unique(expected)) > 1
    into, boxes = np.zeros(grid.shape[::-1], np.uint8).T, []
    for often in (0.0, 100.0):
        monkeypatch.setattr(tiles, "OFTEN", often)
        into[...] = 0
        found = engine.predict(image, on_slab=boxes.append, into=into).labels.array
        assert found is into and all(np.shares_memory(slab.labels, into) for slab in boxes)
        np.testing.assert_array_equal(into, expected)


@needs_engine
def test_labels_with_something_left_to_do_are_not_written_at_once(tmp_path):
    steps = [{"method": "keep_largest_component", "labels": [1]}]
    plain, cleaned = (
        Predictor(
            package.load(
                packages.linear_package(
                    tmp_path / str(n),
                    [random_linear(3)],
                    labels=labels_for(3),
                    inference={"patch_size": [16] * 3, "overlap": 0.0},
                    **more,
                )
            )
        )
        for n, more in enumerate(({}, {"postprocessing": steps}))
    )
    grid = Grid.from_spacing((30, 33, 27), (1, 1, 1))
    image = Volume(blobs(grid.shape, 4), grid, ("T1",))
    for engine, options in ((cleaned, {}), (plain, {"region": ((0, 20), (3, 30), (0, 27))})):
        into = np.zeros(grid.shape, np.uint8)
        assert engine.predict(image, into=into, **options).labels.array is not into and not into.any()
    assert plain.predict(image, into=np.zeros(grid.shape, np.uint16)).labels.array.dtype == np.uint8


def test_memory_for_sums_serves_the_next_image_unless_it_is_much(monkeypatch):
    free, image = {}, np.random.default_rng(0).standard_normal((1, 20, 20, 20)).astype(np.float32)
    tiling, found = Tiling.cover(image.shape[1:], (8, 8, 8), 0.25), []
    for order in ((0, 1, 2), (0, 1, 2), (2, 1, 0), (0, 1, 2)):
        weight = np.ascontiguousarray(weights(tiling.patch, Inference(tiling.patch, 0.25)).transpose(order))
        weight = weight.transpose(np.argsort(order))
        stitch = Stitcher(
            tiling, weight, lambda x, _: np.concatenate([x, -x], axis=1), np.zeros(2, np.float32), free=free
        )
        labels = np.zeros(tiling.shape, np.uint8)
        list(stitch.settle(image, lambda x: x.argmax(0), labels.__setitem__, True))
        np.testing.assert_array_equal(labels, image[0] < 0)
        found.append({id(array) for arrays in free.values() for array in arrays})
    assert found[0] and found[1] == found[0]
    monkeypatch.setattr(stitching, "FREE_BYTES", 1000)
    list(stitch.settle(image, lambda x: x.argmax(0), lambda box, part: None, True))
    assert not free


@pytest.mark.parametrize("why", ["relieved", "no room", "the processor takes over"])
@pytest.mark.parametrize("is_scale_free", [True, False])
def test_sums_of_cells_on_a_device_move_to_main_memory_without_loss(why, is_scale_free, monkeypatch):
    torch = pytest.importorskip("torch")
    image = np.random.default_rng(0).standard_normal((1, 30, 21, 21)).astype(np.float32)
    tiling = Tiling.cover(image.shape[1:], (12, 12, 12), 0.25)
    assert not tiling.is_dense
    weight = np.random.default_rng(0).random(tiling.patch).astype(np.float32) + 0.1
    calls, kinds = 0, set()

    def run(patches, relieve):
        nonlocal calls
        calls += 1
        if calls == 8 and why == "relieved":
            assert relieve() and not relieve()
        answer = torch.from_numpy(np.concatenate([patches * 2, patches**2 + 1], axis=1))
        return answer.numpy() if calls >= 8 and why == "the processor takes over" else answer

    def decide(outputs):
        kinds.add(type(outputs))
        return np.asarray(outputs[0] / outputs[1])

    if why == "no room":
        make, made = cells.Cells._new, []

        def new(self, shape, answer):
            made.append(answer)
            if len(made) > 5 and not isinstance(answer, np.ndarray):
                raise RuntimeError("CUDA out of memory")
            return make(self, shape, answer)

        monkeypatch.setattr(cells.Cells, "_new", new)
    stitch = Stitcher(tiling, weight, run, np.zeros(2, np.float32), free={})
    got = np.full(tiling.shape, np.nan, np.float32)
    list(stitch.settle(image, decide, got.__setitem__, is_scale_free))
    np.testing.assert_allclose(got, image[0] * 2 / (image[0] ** 2 + 1), rtol=1e-4, atol=1e-5)
    assert kinds == {torch.Tensor, np.ndarray}


@pytest.mark.parametrize("kind", ["array", "tensor"])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
@pytest.mark.parametrize("head", [None, Head(np.ones((3, 2), np.float32), np.zeros(3, np.float32))])
def test_an_answer_that_is_not_finite_is_found_wherever_it_is(overlap, head, kind):
    torch = pytest.importorskip("torch") if kind == "tensor" else None
    rng = np.random.default_rng(0)
    image = rng.standard_normal((1, 13, 12, 14)).astype(np.float32)
    tiling = Tiling.cover(image.shape[1:], (6, 5, 7), overlap)

    def run(patches, _):
        answer = np.concatenate([patches, patches], axis=1)
        return torch.from_numpy(answer) if torch else answer

    weight = weights(tiling.patch, Inference(tiling.patch, overlap))
    stitch = Stitcher(tiling, weight, run, np.zeros(3 if head else 2, np.float32), head=head, is_checked=True)
    for value in (0, np.nan, np.inf, -np.inf):
        image[0, 12, 3, 8] = value
        for work in (
            lambda: list(stitch(image)),
            lambda: list(stitch.settle(image, lambda x: np.asarray(x).argmax(0), lambda *_: None, True)),
        ):
            if value == 0:
                work()
                continue
            with pytest.raises(FloatingPointError), np.errstate(invalid="ignore"):
                work()

"""Passes over arrays in blocks and threads give what NumPy's plain form gives, in whatever order the axes lie in memory."""

import itertools
import os
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from UNetSegmentLib.package import Inference, Normalization
from UNetSegmentLib.predict import head, passes, stitch
from UNetSegmentLib.predict.head import Head
from UNetSegmentLib.predict.intensities import normalized
from UNetSegmentLib.predict.stitch import Stitcher
from UNetSegmentLib.predict.tiles import Tiling, weights

orders = st.permutations(range(3))


@settings(deadline=None)
@given(
    st.tuples(*[st.integers(1, 40)] * 3),
    *(orders, orders, st.tuples(*[st.sampled_from([1, -1])] * 3)),
    *(st.sampled_from([np.uint8, np.int16, ">i2"]), st.sampled_from([np.uint8, np.float32]), st.sampled_from([1, 3])),
)
def test_a_copy_between_orders_of_axes(shape, order, other, flips, given_type, wanted, threads):
    rng = np.random.default_rng(0)
    source = rng.integers(0, 3, shape).astype(given_type).transpose(order)
    source = source[tuple(slice(None, None, step) for step in flips)]
    target = np.empty([source.shape[axis] for axis in other], wanted).transpose(np.argsort(other))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "THREADED_FROM", 1)
        passes.transfer(target, source, threads)
        np.testing.assert_array_equal(target, source)
        for table in (np.array([7, 0, 200], wanted), np.arange(3, dtype=wanted)):
            passes.transfer(target, source, threads, table)
            np.testing.assert_array_equal(target, table[source.astype(int)])
        np.testing.assert_array_equal(
            passes.counts(source.astype(np.uint8), 2, threads), [(source == 0).sum(), (source == 1).sum()]
        )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (131, 96, 97)])
def test_voxels_are_counted_by_value(monkeypatch, shape, dtype):
    array = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    expected = np.bincount(array.ravel(), minlength=300)
    monkeypatch.setattr(passes, "THREADED_FROM", 1)
    for size, threads, turned in ((1, 1, array), (4, 3, array.T), (256, 2, array[::-1]), (300, 1, array[:, :, ::-1])):
        np.testing.assert_array_equal(passes.counts(turned, size, threads), expected[:size])


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32])
@pytest.mark.parametrize("values", [[], [3], [0, 5, 200], list(range(10, 40))])
def test_values_are_erased(monkeypatch, dtype, values):
    monkeypatch.setattr(passes, "THREADED_FROM", 1)
    array = np.random.default_rng(0).integers(0, 256, (9, 40, 30)).astype(dtype)
    array[0, 0] -= 7  # some below zero, where there can be
    expected = np.where(np.isin(array, values), 0, array)
    passes.erase(array, values, 3)
    np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize(
    "how",
    [
        {"method": "zscore"},
        {"method": "zscore", "mask": "nonzero"},
        {"method": "clip_zscore", "clip": (-100, 200), "mean": 7, "std": 31},
        {"method": "minmax"},
        {"method": "range", "window": (-50, 150), "output": (-1, 1), "clamp": True},
    ],
    ids=lambda how: " ".join(map(str, how.values())),
)
def test_intensities_are_the_same_to_the_last_bit_whatever_the_threads(monkeypatch, how):
    image = np.random.default_rng(1).normal(20, 90, (97, 111, 101)).astype(np.float32)
    image[:30] = 0
    alone = normalized(image.copy(), Normalization(**how))
    monkeypatch.setattr(passes, "THREADED_FROM", 1)
    np.testing.assert_array_equal(normalized(image.copy(), Normalization(**how), threads=3), alone)
    if how == {"method": "zscore"}:
        shift, squares = image.mean(dtype=np.float64), 0.0
        for start in range(0, image.size, 1 << 20):
            part = image.reshape(-1)[start : start + (1 << 20)] - shift
            squares += float(np.einsum("n,n->", part, part))
        plain = (image - np.float32(shift)) / np.float32((squares / image.size) ** 0.5)
        np.testing.assert_array_equal(alone, plain)


@given(st.tuples(*[st.integers(0, 12)] * 3), st.permutations(range(3)), st.integers(1, 2000))
def test_parts_cover_an_array_once(shape, axes, voxels):
    for parts in (passes.rows(shape, axes, voxels), passes.bricks(shape)):
        marks = np.zeros(shape, int)
        for part in parts:
            marks[part] += 1
        assert (marks == 1).all()
    turned = np.empty([shape[axis] for axis in axes]).transpose(np.argsort(axes))
    for part in passes.rows(shape, axes, voxels):
        assert turned[part].size <= max(voxels, shape[axes[2]])


def test_an_array_whose_rows_lie_apart_is_copied():
    array = np.random.default_rng(0).random((2, 6, 5, 4)).astype(np.float32).transpose(0, 2, 3, 1)
    assert passes.together(array) is array
    assert np.shares_memory(passes.together(array[:, :, :, 1:3]), array)  # along the slowest axis
    copy = passes.together(array[:, :, 1:3])
    assert copy.strides[1:] == (8, 4, 40) and passes.together(copy) is copy
    np.testing.assert_array_equal(copy, array[:, :, 1:3])


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_rows_are_shared_once_and_nobody_waits_for_a_thread_that_sleeps(threads):
    busy, go_on = threading.Barrier(3), threading.Event()
    taken = np.zeros(100, int)

    def occupy():
        busy.wait(20)
        go_on.wait(20)

    pool = passes._pool(os.getpid(), 2)
    held = [pool.submit(occupy) for _ in range(2)]  # no thread of the pool is to be had
    busy.wait(20)
    try:
        passes.share(lambda cut: taken.__setitem__(cut, taken[cut] + 1), 100, 2)
    finally:
        go_on.set()
    assert (taken == 1).all()
    for each in held:
        each.result(20)
    passes.share(lambda cut: taken.__setitem__(cut, taken[cut] + 1), 100, threads)
    assert (taken == 2).all()


@pytest.mark.parametrize("size", [10, 1 << 22, 9_000_001])
def test_asking_for_large_pages_changes_nothing(size):
    array = np.zeros(size, np.uint8)[1:]
    array[-1] = 7
    passes.in_large_pages(array)
    assert array[-1] == 7 and array.sum() == 7


def test_an_error_in_a_thread_comes_through():
    def work(cut):
        raise ValueError(f"rows {cut.start}")

    for threads in (1, 4):
        with pytest.raises(ValueError, match="rows"):
            passes.share(work, 8, threads)
    passes.share(work, 0, 4)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("features", [False, True])
def test_sums_are_the_same_in_every_order_of_axes_and_number_of_threads(order, features, monkeypatch):
    rng = np.random.default_rng(1)
    image = rng.standard_normal((1, 21, 18, 25)).astype(np.float32)
    tiling = Tiling.cover(image.shape[1:], (10, 8, 12), 0.5)
    weight = weights(tiling.patch, Inference(tiling.patch, 0.5))
    head = Head(rng.standard_normal((4, 3)).astype(np.float32), np.float32([0, 1, 2, 3])) if features else None
    mixer, outputs = rng.standard_normal((3, 1, 1, 1)).astype(np.float32), 4 if features else 3

    def run(patches, _):
        return patches * mixer

    def stitched(weight, **choices):
        stitcher = Stitcher(tiling, weight, run, np.zeros(outputs, np.float32), 1, head, **choices)
        return np.concatenate([piece.copy() for _, piece in stitcher(image)], axis=-3)

    plain = stitched(weight)
    monkeypatch.setattr(passes, "THREADED_FROM", 1)
    monkeypatch.setattr(passes, "BLOCK", 50)
    monkeypatch.setattr(stitch, "PART", 150)
    monkeypatch.setattr(stitch, "LEAST", 1)
    turned = np.ascontiguousarray(weight.transpose(order)).transpose(np.argsort(order))
    compare = (
        np.testing.assert_allclose if features else np.testing.assert_array_equal
    )  # a product of other length rounds
    compare(stitched(turned, threads=3), plain, **({"rtol": 1e-5, "atol": 1e-6} if features else {}))


@settings(deadline=None)
@given(orders, st.tuples(*[st.integers(1, 9)] * 3), st.integers(1, 4), st.integers(1, 6), st.integers(1, 60))
def test_the_last_layer_is_the_product_however_it_is_cut(order, shape, features, outputs, alone):
    rng = np.random.default_rng(0)
    layer = Head(rng.standard_normal((outputs, features)).astype(np.float32), rng.random(outputs).astype(np.float32))
    values = rng.standard_normal((features, *shape)).astype(np.float32).transpose(0, *(1 + axis for axis in order))
    expected = np.einsum("kf,fxyz->kxyz", layer.weight, values) + layer.bias[:, None, None, None]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "ALONE", alone)
        found = layer(values)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert passes.order(found) == passes.order(values)

"""The export against its definition: dense interpolation and argmax, or painting, of every voxel."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from UNetSegmentLib.predict.backends import is_installed
from UNetSegmentLib.predict.export import Decision, activated, export
from UNetSegmentLib.predict.interpolate import Lerp, cubic

sizes = st.tuples(*[st.integers(1, 20)] * 3)
needs_numba = pytest.mark.skipif(not is_installed("numba"), reason="numba is not installed")


@st.composite
def cases(draw):
    """Outputs on a network's grid, the way to another grid, and how to decide."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    shape, target = draw(sizes), draw(sizes)
    order = draw(st.sampled_from([1, 1, 1, 0]))
    if draw(st.booleans()):
        ways = [
            Lerp.edges(n, m, order if axis == 0 else 1) for axis, (n, m) in enumerate(zip(shape, target, strict=True))
        ]
    else:
        ratio = [draw(st.floats(0.2, 3)) for _ in range(3)]
        ways = [Lerp.between(n, m, 1.0, r) for n, m, r in zip(shape, target, ratio, strict=True)]
    classes = draw(st.integers(2, 6))
    # Smooth and rough parts, so that there are cells of both kinds.
    outputs = rng.standard_normal((classes, *shape)).astype(np.float32) * np.float32(draw(st.sampled_from([0.01, 1])))
    outputs += np.linspace(-2, 2, shape[2], dtype=np.float32) * rng.standard_normal((classes, 1, 1, 1)).astype("f4")
    values = rng.choice(np.arange(1, 400), classes, replace=False)
    regions = draw(st.booleans())
    if regions:
        paint = rng.permutation(classes)
        table = np.array([0, *values[paint]], np.uint16)
        decision = Decision(table, paint.astype(np.int64), True)
    else:
        decision = Decision(np.array([0, *values[1:]], np.uint16), np.arange(classes))
    cuts = sorted({0, shape[0], *rng.integers(0, shape[0] + 1, 3).tolist()})
    return outputs, ways, decision, [(a, outputs[:, a:b]) for a, b in itertools.pairwise(cuts)]


def dense(outputs, ways, decision):
    for axis, way in enumerate(ways):
        outputs = way.apply(outputs, axis + 1)
    if not decision.regions:
        return decision.table[outputs.argmax(axis=0)]
    labels = np.zeros(outputs.shape[1:], np.uint16)
    for n, c in enumerate(decision.order):
        labels[outputs[c] > 0] = decision.table[n + 1]
    return labels


@settings(max_examples=150, deadline=None)
@given(cases())
def test_export_is_dense_interpolation_and_argmax(case):
    outputs, ways, decision, slabs = case
    told = []
    result = export(slabs, ways, decision, lambda a, b, rows: told.append((a, b)), threads=2, compiled=False)
    np.testing.assert_array_equal(result, dense(outputs, ways, decision))
    assert told[0][0] == 0 and told[-1][1] == result.shape[0]
    assert all(x[1] == y[0] for x, y in itertools.pairwise(told))


def test_a_spacing_that_is_the_same_but_for_rounding_keeps_every_row():
    outputs = np.random.default_rng(0).standard_normal((3, 5, 4, 3)).astype(np.float32)
    ways = [Lerp.between(n, n, 1.0, 1 - 5e-9) for n in outputs.shape[1:]]
    assert all(way.is_identity for way in ways) and ways[0].lower[-1] == 3
    decision = Decision(np.arange(3, dtype=np.uint8), np.arange(3))
    np.testing.assert_array_equal(export([(0, outputs)], ways, decision), outputs.argmax(axis=0))


@needs_numba
@settings(max_examples=150, deadline=None)
@given(cases())
def test_compiled_and_plain_export_give_the_same_labels(case):
    outputs, ways, decision, slabs = case
    plain = export(slabs, ways, decision, compiled=False)
    np.testing.assert_array_equal(export(slabs, ways, decision, compiled=True), plain)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_export_of_torch_tensors_is_the_same(case):
    torch = pytest.importorskip("torch")
    outputs, ways, decision, slabs = case
    on_device = [(start, torch.from_numpy(slab)) for start, slab in slabs]
    wrong = export(on_device, ways, decision) != export(slabs, ways, decision)
    assert wrong.mean() < 0.02  # ties in rounding


@settings(max_examples=40, deadline=None)
@given(cases())
def test_probabilities_are_interpolated_where_the_model_wants_it(case):
    outputs, ways, decision, slabs = case
    probable = Decision(decision.table, decision.order, decision.regions, 0.5, True)
    values = activated(outputs, decision.regions)
    for axis, way in enumerate(ways):
        values = way.apply(values, axis + 1)
    if decision.regions:
        expected = np.zeros(values.shape[1:], np.uint16)
        for n, c in enumerate(decision.order):
            expected[values[c] > 0.5] = decision.table[n + 1]
    else:
        expected = decision.table[values.argmax(axis=0)]
    assert (export(slabs, ways, probable) != expected).mean() < 0.02  # ties in rounding


def test_numba_and_numpy_at_size():
    """Large enough for the compiled form by default; surfaces between 12 blobs."""
    rng = np.random.default_rng(3)
    shape, target = (24, 60, 60), (50, 150, 150)
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, n) for n in shape], indexing="ij")).astype(np.float32)
    centres = rng.random((12, 3)).astype(np.float32)
    outputs = np.stack([-((grid - c[:, None, None, None]) ** 2).sum(axis=0) for c in centres])
    ways = [Lerp.edges(n, m) for n, m in zip(shape, target, strict=True)]
    decision = Decision(np.arange(12, dtype=np.uint8), np.arange(12))
    plain = export([(0, outputs)], ways, decision, compiled=False)
    assert len(np.unique(plain)) == 12
    wrong = (plain != dense(outputs, ways, decision)).mean()
    assert wrong < 1e-5, wrong
    if is_installed("numba"):
        np.testing.assert_array_equal(export([(0, outputs)], ways, decision, compiled=True), plain)


@given(st.integers(1, 30), st.integers(1, 30))
def test_lerp_with_edges_aligned_is_torchs(size, new_size):
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    ours = Lerp.edges(size, new_size).apply(values, 0)
    theirs = torch.nn.functional.interpolate(torch.from_numpy(values)[None, None], new_size, mode="linear")[0, 0]
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.tuples(*[st.integers(1, 9)] * 3), st.tuples(*[st.integers(1, 12)] * 3))
def test_cubic_is_scikit_images_resize(shape, target):
    resize = pytest.importorskip("skimage.transform").resize
    image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    theirs = resize(image.astype(float), target, order=3, mode="edge", anti_aliasing=False)
    np.testing.assert_allclose(cubic(image, target), theirs, atol=1e-6)


def test_cubic_meets_samples_and_stays_in_range():
    image = np.random.default_rng(1).standard_normal((6, 5, 7)).astype(np.float32)
    bigger = cubic(image, (18, 15, 21))
    np.testing.assert_allclose(bigger[1::3, 1::3, 1::3], image, atol=1e-4)  # sample centres coincide
    assert bigger.min() >= image.min() and bigger.max() <= image.max()

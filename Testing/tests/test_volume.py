"""Grids keep voxels where they are, whatever the orientation."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from UNetSegmentLib.errors import InputError
from UNetSegmentLib.labels import Label
from UNetSegmentLib.volume import Grid, LabelMap, Reorientation, Volume

TURNS = [
    Reorientation(axes, flips)
    for axes in itertools.permutations(range(3))
    for flips in itertools.product((False, True), repeat=3)
]
sizes = st.tuples(*[st.integers(1, 6)] * 3)
spacings = st.tuples(*[st.floats(0.1, 8)] * 3)


@st.composite
def grids(draw):
    q = np.array(draw(st.tuples(*[st.floats(-1, 1)] * 4)))
    q = q / np.linalg.norm(q) if np.linalg.norm(q) > 0.1 else np.array([1.0, 0, 0, 0])
    w, x, y, z = q
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    if draw(st.booleans()):
        rotation[:, 0] *= -1  # left-handed
    origin = draw(st.tuples(*[st.floats(-200, 200)] * 3))
    return Grid.from_spacing(draw(sizes), draw(spacings), origin, rotation)


@given(grids(), st.sampled_from(["RAS", "LPS", "LAI", "RPI"]))
def test_reorientation_moves_no_voxel(grid, orientation):
    turn = grid.reorientation_to(orientation)
    turned = grid.reoriented(turn)
    ijk = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"))
    places = np.einsum("ab,bijk->aijk", grid.ijk_to_ras[:3, :3], ijk) + grid.ijk_to_ras[:3, 3, None, None, None]
    moved_ijk = np.stack(np.meshgrid(*[np.arange(n) for n in turned.shape], indexing="ij"))
    moved = (
        np.einsum("ab,bijk->aijk", turned.ijk_to_ras[:3, :3], moved_ijk) + turned.ijk_to_ras[:3, 3, None, None, None]
    )
    np.testing.assert_allclose(turn.apply(places), moved, atol=1e-6)
    assert turned.reoriented(turn.inverse()).is_close(grid)


@given(sizes, spacings)
def test_all_48_orientations_are_named_and_undone(shape, spacing):
    grid = Grid.from_spacing(shape, spacing, (1, 2, 3))
    names = set()
    for turn in TURNS:
        turned = grid.reoriented(turn)
        names.add(turned.orientation)
        assert turned.reoriented(turned.reorientation_to("RAS")).is_close(grid)
    assert len(names) == 48


@given(grids())
def test_handedness_survives_48_turns(grid):
    for turn in TURNS:
        parity = (np.linalg.det(np.eye(3)[list(turn.axes)]) < 0) ^ (sum(turn.flips) % 2 == 1)
        before, after = (np.linalg.det(each.direction) < 0 for each in (grid, grid.reoriented(turn)))
        assert after == before ^ parity


@given(grids(), spacings)
def test_with_spacing_keeps_the_first_voxel_and_the_field_of_view(grid, spacing):
    other = grid.with_spacing(spacing)
    np.testing.assert_allclose(other.origin, grid.origin, atol=1e-9)
    span = (np.array(grid.shape) - 1) * grid.spacing
    np.testing.assert_array_less(
        np.abs((np.array(other.shape) - 1) * other.spacing - span), np.array(other.spacing) * 0.51 + 0.01
    )


def test_with_spacing_agrees_with_monai():
    transforms = pytest.importorskip("monai.transforms")
    from monai.data import MetaTensor

    rng = np.random.default_rng(0)
    for _ in range(20):
        grid = Grid.from_spacing(rng.integers(5, 30, 3), rng.uniform(0.4, 4, 3), rng.uniform(-50, 50, 3))
        spacing = rng.uniform(0.5, 3, 3)
        near = rng.random(3) < 0.4
        spacing[near] = np.array(grid.spacing)[near] + rng.uniform(-9e-4, 9e-4, near.sum())
        image = MetaTensor(np.zeros((1, *grid.shape), np.float32), affine=grid.ijk_to_ras)
        theirs = transforms.Spacing(spacing)(image)
        ours = grid.with_spacing(spacing)
        assert tuple(theirs.shape[1:]) == ours.shape
        np.testing.assert_allclose(np.asarray(theirs.affine), ours.ijk_to_ras, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "matrix", "words"),
    [
        ((0, 4, 4), np.eye(4), "no voxels"),
        ((4, 4, 4), np.diag([1.0, 0, 1, 1]), "spacing of zero"),
        ((4, 4, 4), np.full((4, 4), np.nan), "not finite"),
        ((4, 4, 4), np.eye(4) + 0.5 * np.eye(4, k=1), "right angles"),
    ],
)
def test_impossible_grids_are_refused_with_a_sentence(shape, matrix, words):
    with pytest.raises(InputError, match=words):
        Grid(shape, matrix)


def test_boxes_overlap_or_not():
    here = Grid.from_spacing((10, 10, 10), (1, 1, 1))
    assert here.overlaps(here)
    assert here.overlaps(Grid.from_spacing((2, 2, 2), (1, 1, 1), (9, 9, 9)))
    assert not here.overlaps(Grid.from_spacing((10, 10, 10), (1, 1, 1), (10.5, 0, 0)))
    turned = np.array([[np.cos(0.8), -np.sin(0.8), 0], [np.sin(0.8), np.cos(0.8), 0], [0, 0, 1]])
    assert not here.overlaps(Grid.from_spacing((10, 10, 10), (1, 1, 1), (17.0, -2.0, 0), turned))


def test_volumes_in_millilitres_count_sparse_labels():
    array = np.zeros((4, 4, 4), np.uint16)
    array[:2], array[3] = 300, 7
    grid = Grid.from_spacing((4, 4, 4), (2, 2, 5))
    labels = tuple(Label(v, str(v)) for v in (0, 7, 300, 12))
    assert LabelMap(array, grid, labels).volumes_ml() == pytest.approx({7: 0.32, 300: 0.64, 12: 0.0})


def test_stack_refuses_other_grids():
    one = Volume(np.zeros((1, 2, 3, 4)), Grid.from_spacing((2, 3, 4), (1, 1, 1)), ("T1",))
    two = Volume(np.zeros((1, 2, 3, 4)), Grid.from_spacing((2, 3, 4), (1, 1, 2)), ("T2",))
    assert Volume.stack([one, one]).array.shape == (2, 2, 3, 4)
    with pytest.raises(InputError, match="T2"):
        Volume.stack([one, two])

"""Probabilities on the image's grid: beyond their box is background, beyond the network's grid its border goes on."""

import numpy as np
from unetsegment_training.averaged import on_grid
from UNetSegmentLib.predict.probabilities import Probabilities
from UNetSegmentLib.volume import Grid


def shares(grid, box):
    """A structure that fills its box, so that nothing fades out inside of it."""
    cropped = grid.cropped([slice(*ends) for ends in box])
    inside = np.ones(cropped.shape, np.float16)
    return Probabilities(np.stack([1 - inside, inside]), cropped, (0, 2))


def test_a_structure_ends_where_its_box_ends():
    grid = Grid((12, 10, 8), np.diag([1.5, 1.0, 2.0, 1.0]))
    found = on_grid(shares(grid, ((3, 7), (2, 6), (1, 4))), grid, grid)
    expected = np.zeros(grid.shape, np.float32)
    expected[3:7, 2:6, 1:4] = 1
    np.testing.assert_array_equal(found, np.stack([1 - expected, expected]))


def test_on_a_finer_grid_it_fades_out_over_one_voxel_and_goes_on_at_the_border():
    network = Grid((6, 6, 6), np.diag([2.0, 2.0, 2.0, 1.0]))
    fine = np.diag([1.0, 1.0, 1.0, 1.0])
    fine[:3, 3] = -0.5  # voxels half the size that fill the same space
    found = on_grid(shares(network, ((0, 3), (0, 6), (0, 6))), network, Grid((12, 12, 12), fine))[1]
    np.testing.assert_allclose(found[:, 5, 5], [1, 1, 1, 1, 1, 0.75, 0.25, 0, 0, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(found[0], 1)  # outside of the outermost voxel centres, too


def test_axes_of_the_network_may_lie_otherwise():
    grid = Grid((5, 6, 7), np.eye(4))
    turned = np.eye(4)[[2, 0, 1, 3]].T  # network axes: k, i, j of the image
    network = Grid((7, 5, 6), turned)
    found = on_grid(shares(network, ((1, 3), (0, 2), (4, 6))), network, grid)[1]
    where = network.ras_to_ijk @ grid.ijk_to_ras
    for index in np.ndindex(*grid.shape):
        i, j, k = np.rint(where @ [*index, 1])[:3]
        assert found[index] == (1 <= i < 3 and 0 <= j < 2 and 4 <= k < 6)

"""The shipped model on the sample MRI: however the image is stored or placed, the same segmentation in the patient."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from UNetSegmentLib import io, package
from UNetSegmentLib.predict import Predictor
from UNetSegmentLib.predict.backends import is_installed
from UNetSegmentLib.predict.interpolate import Lerp
from UNetSegmentLib.volume import Grid, Reorientation, Volume, dice

SAMPLE = Path(__file__).resolve().parents[2] / "Resources" / "SampleData" / "hippocampus"
pytestmark = pytest.mark.skipif(not is_installed("openvino"), reason="openvino is not installed")


@pytest.fixture(scope="module")
def image():
    return io.read_volume(next(SAMPLE.glob("*image*.nii.gz")))


@pytest.fixture(scope="module")
def predictor():
    return Predictor(package.load("hippocampus-mr-t1"))


@pytest.fixture(scope="module")
def plain(predictor, image):
    return predictor.predict(image).labels.array


def test_the_answer_is_the_experts(plain):
    expert = io.read_labelmap(next(SAMPLE.glob("*label*.nii.gz"))).array
    for value in (1, 2):
        assert dice(plain == value, expert == value) > 0.8


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
def test_permutations_and_flips_are_exact(predictor, image, plain, axes):
    for flips in itertools.product((False, True), repeat=3):
        turn = Reorientation(axes, flips)
        turned = Volume(turn.apply(image.array), image.grid.reoriented(turn), image.channels)
        np.testing.assert_array_equal(predictor.predict(turned).labels.array, turn.apply(plain))


@pytest.mark.parametrize("degrees", [10, 30, 44])
def test_oblique_and_shifted_acquisition(predictor, image, plain, degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    rigid = np.array([[c, -s, 0, 40], [s, c, 0, -7], [0, 0, 1, 11], [0, 0, 0, 1.0]])
    moved = Volume(image.array, image.grid.transformed(rigid), image.channels)
    np.testing.assert_array_equal(predictor.predict(moved).labels.array, plain)


@pytest.mark.parametrize("factors", [(1, 1, 2), (2, 1, 3), (2, 2, 2)])
def test_finer_and_anisotropic_sampling(predictor, image, plain, factors):
    array, spacing = image.array[0].astype(np.float32), list(image.grid.spacing)
    for axis, factor in enumerate(factors):
        size = array.shape[axis]
        array = Lerp.between(size, (size - 1) * factor + 1, 1.0, 1.0 / factor).apply(array, axis)
        spacing[axis] /= factor
    grid = Grid.from_spacing(array.shape, spacing, image.grid.origin, image.grid.direction)
    result = predictor.predict(Volume(array[None], grid, image.channels)).labels.array
    same_places = result[tuple(slice(None, None, f) for f in factors)]
    for value in (1, 2):
        assert dice(same_places == value, plain == value) >= 0.99

"""Each loss against numbers worked out by hand."""

import numpy as np
import pytest
import torch
from unetsegment_training.config import FitConfig
from unetsegment_training.losses import balanced_weights, border_weights, make

HALF = torch.zeros(1, 2, 2, 2, 2)
"""Probability 1/2 for both classes in 8 voxels."""
TARGET = torch.zeros(1, 2, 2, 2, dtype=torch.long)
TARGET[0, 0] = 1  # 4 of 8 voxels
SURE = torch.stack([1.0 - 2 * TARGET, 2.0 * TARGET - 1], 1) * 50
DICE = 1 - (2 * 4 * 0.5) / (8 * 0.5 + 4)


def loss(name, weights=None, **more):
    return make(FitConfig(loss=name, **more), weights)


@pytest.mark.parametrize(
    ("name", "more", "expected"),
    [
        ("bce", {}, np.log(2)),
        ("ce", {}, np.log(2)),
        ("dice", {}, DICE),
        ("dice_ce", {}, DICE + np.log(2)),
        ("dice_focal", {"focal_gamma": 2.0}, DICE + 0.25 * np.log(2)),
        ("dice_focal", {"focal_gamma": 0.0}, DICE + np.log(2)),
        ("tversky", {"tversky_alpha": 0.3, "tversky_beta": 0.7}, 1 - 2 / (2 + 0.3 * 2 + 0.7 * 2)),
        ("tversky", {"tversky_alpha": 0.5, "tversky_beta": 0.5}, DICE),
        ("border_ce", {"border_w0": 0.0}, np.log(2)),
    ],
)
def test_half_sure_and_sure(name, more, expected):
    logits = torch.zeros_like(HALF) if name != "bce" else HALF
    assert float(loss(name, **more)(logits, TARGET)) == pytest.approx(expected, abs=1e-4)
    assert float(loss(name, **more)(SURE, TARGET)) == pytest.approx(0, abs=1e-4)


def test_class_weights():
    logits = torch.zeros(1, 2, 1, 1, 4)
    logits[0, 1] = np.log(3)  # probabilities 1/4 and 3/4
    target = torch.tensor([[[[0, 1, 1, 1]]]])
    first, second = np.log(4), np.log(4 / 3)
    assert float(loss("ce", [2.0, 1.0])(logits, target)) == pytest.approx((2 * first + 3 * second) / 5, abs=1e-5)
    plain = float(loss("border_ce", [2.0, 1.0], border_w0=0.0)(logits, target))
    assert plain == pytest.approx((2 * first + 3 * second) / 4, abs=1e-5)
    assert balanced_weights(np.array([90, 9, 0, 1])) == pytest.approx(
        [3 * w / (1 / 90 + 1 / 9 + 1) for w in (1 / 90, 1 / 9, 0, 1)]
    )


def test_heads_weigh_1_half_quarter_and_sum_to_1():
    both = torch.stack([SURE, HALF], 1)
    assert float(loss("dice_ce")(both, TARGET)) == pytest.approx((np.log(2) + DICE) / 3, abs=1e-4)


def test_smaller_answers_are_compared_with_the_centre():
    target = torch.zeros(1, 6, 6, dtype=torch.long)
    target[0, 2:4, 2:4] = 1
    sure = torch.tensor([-50.0, 50.0])[None, :, None, None].expand(1, 2, 2, 2)
    for name in ("ce", "dice_ce", "border_ce"):
        assert float(loss(name)(sure, target)) == pytest.approx(0, abs=1e-4)


def test_border_weights_by_hand():
    classes = np.zeros((5, 9), np.uint8)
    classes[:, :3], classes[:, 5:] = 1, 1  # columns 3 and 4 lie between two objects
    weights = border_weights(classes, w0=10, sigma=5)
    between = 1 + 10 * np.exp(-((1 + 2) ** 2) / (2 * 25))  # distances 1 and 2
    np.testing.assert_allclose(weights[:, 3:5], between, rtol=1e-6)
    np.testing.assert_array_equal(weights[:, [0, 2, 5, 8]], 1)  # inside of objects nothing is added
    wide = border_weights(np.pad(classes, ((0, 0), (0, 6))), w0=10, sigma=5)
    assert wide[2, 9] == pytest.approx(
        1 + 10 * np.exp(-((1 + 7) ** 2) / 50), rel=1e-6
    )  # 1 to the second, 7 to the first
    np.testing.assert_array_equal(border_weights(classes[:, :4]), 1)  # one object has no gap
    assert border_weights(classes, class_weights=np.array([0.5, 3.0]))[0, 0] == 3
    weighted = loss("border_ce")(torch.zeros(1, 2, 5, 9), torch.from_numpy(classes.astype(np.int64))[None])
    assert float(weighted) == pytest.approx(np.log(2) * weights.mean(), rel=1e-5)


def test_border_weights_of_many_objects_are_those_of_the_formula():
    rng = np.random.default_rng(0)
    classes = (rng.random((24, 40)) > 0.93).astype(np.uint8)
    from scipy import ndimage

    objects, count = ndimage.label(classes)
    distances = np.sort([ndimage.distance_transform_edt(objects != n) for n in range(1, count + 1)], axis=0)
    expected = 1 + 10 * np.exp(-((distances[0] + distances[1]) ** 2) / 50) * (classes == 0)
    np.testing.assert_allclose(border_weights(classes), expected, atol=4e-3)  # what is further than 4 sigma is left out

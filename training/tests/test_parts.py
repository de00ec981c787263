"""Augmentation, patches, loss and metrics against what they should be."""

import numpy as np
import pytest
import torch
from unetsegment_training.augment import augment
from unetsegment_training.metrics import measure, summarize
from unetsegment_training.network import DeepSupervisionLoss, build, dynunet_arguments, inference_state
from unetsegment_training.patches import Patches, Prepared


def prepared(shape=(20, 12, 9)):
    rng = np.random.default_rng(0)
    classes = np.zeros(shape, np.uint8)
    classes[-3:, 2:5, 2:5] = 1
    return Prepared("a", rng.standard_normal((1, *shape)).astype(np.float32), classes, (1.0, 1.0, 1.0))


def test_patches_have_the_asked_size_and_repeat_with_the_seed():
    cases = [prepared(), prepared((8, 30, 16))]
    first, again = (list(Patches(cases, (16, 16, 8), 2, 3, 5)) for _ in range(2))
    assert first[0][0].shape == (2, 1, 16, 16, 8) and first[0][1].shape == (2, 16, 16, 8)
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) and a[2] == b[2] for a, b in zip(first, again))
    other = next(iter(Patches(cases, (16, 16, 8), 2, 3, 6)))
    assert not torch.equal(first[0][0], other[0])


def test_augmentation_moves_image_and_labels_together():
    rng = np.random.default_rng(1)
    y = torch.zeros(6, 24, 24, 24, dtype=torch.long)
    y[:, 4:16, 8:20, 6:14] = 1
    for _ in range(5):
        x, moved = augment(y[:, None].float(), y, rng)
        for image, mask in zip(x[:, 0], moved.bool(), strict=True):
            assert image[mask].mean() > image[~mask].mean() + 0.3


def test_augmentation_keeps_the_right_handedness_of_rotations():
    from unetsegment_training.augment import _rotation

    for angles in np.random.default_rng(0).uniform(-1, 1, (20, 3)):
        matrix = _rotation(angles)
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(matrix) == pytest.approx(1)


def test_loss_by_hand():
    target = torch.zeros(1, 2, 2, 2, dtype=torch.long)
    target[0, 0] = 1
    logits = torch.zeros(1, 1, 2, 2, 2, 2)  # probability 1/2 everywhere
    dice = 1 - (2 * 4 * 0.5) / (8 * 0.5 + 4)
    assert float(DeepSupervisionLoss()(logits, target)) == pytest.approx(np.log(2) + dice, abs=1e-4)
    sure = torch.stack([1.0 - 2 * target, 2.0 * target - 1], 1)[:, None] * 50
    assert float(DeepSupervisionLoss()(sure, target)) == pytest.approx(0, abs=1e-4)
    both = torch.cat([sure, logits], 1)
    assert float(DeepSupervisionLoss()(both, target)) == pytest.approx((np.log(2) + dice) / 3, abs=1e-4)


def test_inference_weights_give_the_training_networks_first_head():
    arguments = dynunet_arguments(1, 3, (4, 8, 8, 8))
    deep, plain = build(arguments, deep_supervision=True), build(arguments)
    plain.load_state_dict(inference_state(deep.state_dict(), arguments))
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        assert torch.allclose(deep.train()(x)[:, 0], plain.eval()(x), atol=1e-5)


def test_metrics_by_hand():
    a, b = np.zeros((12, 12, 12), bool), np.zeros((12, 12, 12), bool)
    a[2:8, 2:8, 2:8], b[4:10, 2:8, 2:8] = True, True
    result = measure(a, b, (2.0, 1.0, 1.0))
    assert result["dice"] == pytest.approx(2 * 4 * 36 / (2 * 216))
    assert result["iou"] == pytest.approx(4 * 36 / (8 * 36))
    assert result["hd95_mm"] == pytest.approx(4.0)
    assert result["volume_ml"] == pytest.approx(0.432)
    assert measure(a, a, (1, 1, 1))["surface_dice"] == 1.0
    empty = measure(a & False, a, (1, 1, 1))
    assert empty["dice"] == 0 and np.isnan(empty["hd95_mm"]) and empty["surface_dice"] == 0
    assert measure(a & False, a & False, (1, 1, 1))["dice"] == 1.0


def test_structures_that_touch_the_border_have_surfaces():
    a = np.ones((4, 4, 4), bool)
    assert measure(a, a, (1, 1, 1))["hd95_mm"] == 0.0


def test_summary_interval_holds_the_mean():
    rows = [
        {
            "label": 1,
            "name": "x",
            **measure(np.eye(4, dtype=bool)[:, :, None], np.roll(np.eye(4, dtype=bool), n, 0)[:, :, None], (1, 1, 1)),
        }
        for n in (0, 0, 0, 1)
    ]
    entry = summarize(rows)[0]
    assert entry["dice_ci95"][0] <= entry["dice"] == 0.75 <= entry["dice_ci95"][1]

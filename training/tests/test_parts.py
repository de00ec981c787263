"""Patches and metrics against what they should be."""

import numpy as np
import pytest
import torch
from unetsegment_training.config import FitConfig
from unetsegment_training.metrics import measure, summarize
from unetsegment_training.patches import Patches, Prepared


def prepared(shape=(20, 12, 9)):
    rng = np.random.default_rng(0)
    classes = np.zeros(shape, np.uint8)
    classes[-3:, 2:5, 2:5] = 1
    return Prepared("a", rng.standard_normal((1, *shape)).astype(np.float32), classes, (1.0, 1.0, 1.0))


def test_patches_have_the_asked_size_and_repeat_with_the_seed():
    cases = [prepared(), prepared((8, 30, 16))]
    config = FitConfig(filters=(4, 4, 4), patch=(16, 16, 8), batch=2, seed=3)
    patches = Patches(cases, config)
    first, again = ([Patches(cases, config)[5, step] for step in range(len(patches))] for _ in range(2))
    assert first[0][0].shape == (2, 1, 16, 16, 8) and first[0][1].shape == (2, 16, 16, 8)
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) and a[2] == b[2] for a, b in zip(first, again))
    other = patches[6, 0]
    assert not torch.equal(first[0][0], other[0])


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


def test_volume_errors_and_accuracy_by_hand():
    answer, expert = np.zeros((2, 5, 10), bool), np.zeros((2, 5, 10), bool)
    answer[0, :3, :4], expert[0, :2, :4] = True, True
    result = measure(answer, expert, (1.0, 1.0, 2.0))
    assert result["accuracy"] == pytest.approx(0.96) and result["volume_error_percent"] == pytest.approx(50)
    assert result["volume_error_ml"] == pytest.approx(4 * 2 / 1000)
    assert np.isnan(measure(answer, expert & False, (1, 1, 1))["volume_error_percent"])


def test_a_picture_has_outlines_and_not_surfaces():
    answer, expert = np.zeros((30, 30, 1), bool), np.zeros((30, 30, 1), bool)
    answer[5:25, 5:25], expert[5:25, 5:21] = True, True  # one side is 4 off
    result = measure(answer, expert, (1.0, 1.0, 1.0))
    assert result["hd95_mm"] == pytest.approx(4.0) and 0.6 < result["surface_dice"] < 0.9
    turned = measure(answer.transpose(2, 0, 1), expert.transpose(2, 0, 1), (1.0, 1.0, 1.0))
    assert turned["hd95_mm"] == pytest.approx(4.0)


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
    assert entry["iou_ci95"][0] <= entry["iou"] <= entry["iou_ci95"][1]
    nothing = summarize(
        [{"label": 1, "name": "x", **measure(np.zeros((3, 3, 3), bool), np.zeros((3, 3, 3), bool), (1, 1, 1))}]
    )
    assert nothing[0]["hd95_mm"] is None and nothing[0]["hd95_mm_ci95"] is None
    assert summarize(rows[:1])[0]["dice_ci95"] is None  # one case tells nothing about others
    assert entry["dice_ci95"][0] <= entry["dice"] == 0.75 <= entry["dice_ci95"][1]

"""Augmentation and sampling: images and labels move together, shares are as asked, everything follows from the seed."""

import numpy as np
import pytest
import torch
from unetsegment_training.augment import Augmenter, rotation
from unetsegment_training.config import FitConfig
from unetsegment_training.patches import Patches, Prepared, cut, rare_shares


@pytest.mark.parametrize("preset", ["none", "light", "nnunet"])
@pytest.mark.parametrize("patch", [(24, 24, 24), (24, 32)])
@pytest.mark.parametrize("elastic", [0.0, 1.0])
def test_images_and_labels_move_together(preset, patch, elastic):
    change = Augmenter(patch, preset, elastic=elastic, spacing=12, sigma=1.5)
    rng = np.random.default_rng(1)
    middle = tuple(slice(n // 2 - 6, n // 2 + 5) for n in change.crop)
    y = torch.zeros(6, *change.crop, dtype=torch.long)
    y[(slice(None), *middle)] = 1
    for _ in range(4):
        x, moved = change(y[:, None].float(), y, rng)
        assert x.shape == (6, 1, *patch) and moved.shape == (6, *patch)
        for image, mask in zip(x[:, 0], moved.bool(), strict=True):
            assert image[mask].mean() > image[~mask].mean() + 0.3
    same = [change(y[:, None].float(), y, np.random.default_rng(2)) for _ in range(2)]
    assert torch.equal(same[0][0], same[1][0]) and torch.equal(same[0][1], same[1][1])


def test_rotations_keep_their_handedness():
    for axes, count in ((3, 3), (2, 1)):
        for angles in np.random.default_rng(0).uniform(-1, 1, (20, count)):
            matrix = rotation(angles, axes)
            np.testing.assert_allclose(matrix @ matrix.T, np.eye(axes), atol=1e-12)
            assert np.linalg.det(matrix) == pytest.approx(1)


def test_no_change_is_the_centre_and_mirroring_is_exact():
    y = torch.arange(2 * 6 * 7 * 8).reshape(2, 6, 7, 8) % 3
    x = torch.randn(2, 1, 6, 7, 8)
    plain = Augmenter((6, 7, 8), "none")(x, y, np.random.default_rng(0))
    assert torch.equal(plain[0], x) and torch.equal(plain[1], y)
    light = Augmenter((6, 7, 8), "nnunet", mirror=())
    assert light.crop == (9, 11, 12) and light.slices is None
    flat = Augmenter((4, 32, 32), "nnunet")
    assert flat.slices == 0 and flat.crop == (4, 46, 46)


def test_nnunet_has_its_probabilities():
    change, rng = Augmenter((8, 8, 8), "nnunet", mirror=()), np.random.default_rng(0)
    moved = np.mean([change._grid(change.crop, rng) is not None for _ in range(3000)])
    assert moved == pytest.approx(1 - 0.8 * 0.8, abs=0.03)
    from unetsegment_training.augment import _nnunet

    image = torch.randn(1, 6, 6, 6)
    untouched = np.mean([torch.equal(_nnunet(image, rng), image) for _ in range(2000)])
    expected = 0.9 * (1 - 0.2 / 2) * 0.85 * 0.85 * (1 - 0.25 / 2) * 0.9 * 0.7
    assert untouched == pytest.approx(expected, abs=0.04)


def case(name, classes):
    rng = np.random.default_rng(0)
    return Prepared(name, rng.standard_normal((1, *classes.shape)).astype(np.float32), classes, (1.0, 1.0, 1.0))


def sparse():
    classes = np.zeros((24, 24, 24), np.uint8)
    classes[1, 1, 1], classes[15:20, 15:20, 15:20] = 2, 1
    return classes


def batches(**settings):
    wanted = {"filters": (4, 4, 4), "patch": (8, 8, 8), "batch": 4, "augmentation": "none", "steps_per_epoch": 60}
    patches = Patches([case("a", sparse())], FitConfig(**wanted | settings))
    return [patches[0, step] for step in range(len(patches))]


def test_forced_foreground():
    for x, y, _ in batches(foreground_rule="nnunet", foreground_share=0.33):
        assert x.shape == (4, 1, 8, 8, 8) and y[3].any()  # round(4 * 0.67) = 3 free, the last forced
    share = np.mean([bool(one.any()) for _, y, _ in batches(foreground_share=1.0) for one in y])
    assert share == 1.0
    rare = [np.mean([(one == 2).any() for _, y, _ in batches(foreground_share=1.0, foreground_classes=how) for one in y])
            for how in ("voxel", "class")]  # fmt: skip
    assert rare[0] < 0.1 and rare[1] == pytest.approx(0.5, abs=0.1)


def test_a_larger_crop_keeps_the_forced_voxel_in_the_patch():
    config = FitConfig(
        filters=(4, 4, 4), patch=(8, 8, 8), batch=2, augmentation="nnunet", foreground_share=1.0, mirror_axes=()
    )
    patches = Patches([case("a", sparse())], config)
    rng = np.random.default_rng(0)
    for _ in range(50):
        _, classes = patches._crop(patches.cases[0], True, rng)
        margin = [(n - 8) // 2 for n in classes.shape]
        assert classes[tuple(slice(m, m + 8) for m in margin)].any()


def test_rare_cases_are_drawn_more_often():
    common, both = np.zeros((8, 8, 8), np.uint8), np.zeros((8, 8, 8), np.uint8)
    common[0], both[0], both[1] = 1, 1, 2
    cases = [case(str(n), common) for n in range(3)] + [case("rare", both)]
    np.testing.assert_allclose(rare_shares(cases), np.array([1, 1, 1, 4]) / 7)


def test_two_dimensional_patches_are_slices():
    config = FitConfig(dimensions=2, filters=(4, 4, 4), patch=(8, 12), batch=3)
    x, y, _ = Patches([case("a", sparse())], config)[0, 0]
    assert x.shape == (3, 1, 8, 12) and y.shape == (3, 8, 12)


def test_pieces_over_the_border():
    array = np.arange(5.0)
    assert cut(array, [-2], [4], "constant").tolist() == [0, 0, 0, 1]
    assert cut(array, [3], [4], "constant").tolist() == [3, 4, 0, 0]
    assert cut(array, [-2], [9], "reflect").tolist() == [2, 1, 0, 1, 2, 3, 4, 3, 2]
    assert cut(array, [1], [3], "reflect").tolist() == [1, 2, 3]


def test_a_patch_without_padding_has_its_answer_inside_of_the_image():
    config = FitConfig(
        network="unet2015-valid", dimensions=2, filters=(2,) * 5, norm="none", patch=(188, 188), batch=1,
        augmentation="none", foreground_share=0,
    )  # fmt: skip
    image = np.random.default_rng(0).standard_normal((1, 1, 120, 120)).astype(np.float32)
    cases = [Prepared("a", image, np.zeros((1, 120, 120), np.uint8), (1, 1, 1))]
    x, y, _ = Patches(cases, config)[0, 0]
    assert x.shape == (1, 1, 188, 188) and (x != 0).all()  # mirrored, not zero, around

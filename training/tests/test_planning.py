"""Plans by nnU-Net's rules: equal to its own planner's, within the budget, and refused when they are damaged."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import run_peer
from unetsegment_training import cli, cli_data
from unetsegment_training.config import FitConfig
from unetsegment_training.dataset import DatasetError
from unetsegment_training.fingerprint import CaseFacts, Fingerprint, Intensities
from unetsegment_training.plan_file import Plan
from unetsegment_training.planning import Budget, feature_values, features, make_plan, target_spacing, topology

RECORDED = json.loads(Path(__file__).with_name("nnunet_plans.json").read_text())
"""Made with nnunetv2 2.8.1 by Testing/peers/nnunet_planner.py."""
SHARED = Path(os.environ.get("UNETSEGMENT_SHARED", Path(__file__).resolve().parents[3] / "shared"))
NOTHING = Intensities(mean=0, std=1, min=0, p00_5=0, median=0, p99_5=1, max=1)


def fingerprint_of(raw, channels=("MRI",), relative=1.0):
    """A fingerprint of cases given with nnU-Net's axes (k, j, i)."""
    cases = [
        CaseFacts(
            name=f"c{n}", orientation="RAS", shape=tuple(shape[::-1]), cropped_shape=tuple(shape[::-1]),
            spacing=tuple(spacing[::-1]), image=(NOTHING,) * len(channels), foreground=None, labels={}, content=str(n),
        )
        for n, (spacing, shape) in enumerate(zip(raw["spacings"], raw["shapes"], strict=True))
    ]  # fmt: skip
    return Fingerprint(
        name="x", channels=channels, labels={n: str(n) for n in range(raw["labels"])}, cases=tuple(cases),
        foreground=(NOTHING,) * len(channels), median_relative_size_after_cropping=relative, findings=(),
    )  # fmt: skip


def compare(plan, theirs):
    assert set(plan.configurations) == set(theirs["configurations"])
    for name, c in theirs["configurations"].items():
        mine = plan.configurations[name]
        order = [2 - a for a in theirs["transpose"][-len(c["patch"]) :]]
        back = np.argsort(order)

        def turn(row, back=back):
            return tuple(row[b] for b in back)

        assert mine.axes == tuple("ijk"[a] for a in sorted(order))
        assert mine.spacing == pytest.approx(turn(c["spacing"]), abs=1e-5)
        assert (mine.patch, mine.batch, mine.filters) == (turn(c["patch"]), c["batch"], tuple(c["filters"]))
        assert mine.strides == tuple(map(turn, c["strides"])) and mine.kernels == tuple(map(turn, c["kernels"]))
        assert mine.batch_dice == c["batch_dice"]


@pytest.mark.parametrize("number", range(len(RECORDED)))
def test_plans_equal_nnunets(number):
    raw = RECORDED[number]["fingerprint"]
    compare(make_plan(fingerprint_of(raw), Budget(raw["memory"])), RECORDED[number]["plans"])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_plans_equal_those_of_an_installed_nnunet(seed, tmp_path):
    rng = np.random.default_rng(seed)
    spacing, size = np.exp(rng.uniform(-0.7, 1.6, 3)), np.exp(rng.uniform(2.5, 6.2, 3))
    raw = {
        "spacings": (spacing * np.exp(rng.normal(0, 0.1, (6, 3)))).tolist(),
        "shapes": np.maximum(size * np.exp(rng.normal(0, 0.1, (6, 3))), 4).astype(int).tolist(),
        "labels": 3,
        "memory": 8,
    }
    (tmp_path / "asked.json").write_text(json.dumps([raw]))
    run_peer("nnunet_planner", "nnunetv2", tmp_path / "asked.json", tmp_path / "plans.json")
    compare(make_plan(fingerprint_of(raw)), json.loads((tmp_path / "plans.json").read_text())[0])


def test_hippocampus_equals_nnunets_plan():
    """Its 220 cases have a median of 36 x 50 x 35 voxels of 1 mm (k, j, i)."""
    raw = {"spacings": [[1, 1, 1]] * 220, "shapes": [[36, 50, 35]] * 220, "labels": 3}
    plan = make_plan(fingerprint_of(raw))
    full = plan.choose()
    assert (full.patch, full.batch, full.filters) == ((40, 56, 40), 8, (32, 64, 128, 256))
    assert full.kernels == ((3, 3, 3),) * 4 and full.spacing == (1, 1, 1) and not full.batch_dice
    assert plan.normalization[0].method == "zscore" and not plan.normalization[0].nonzero_only
    peer = SHARED / "models/nnunet_hippocampus/plans.json"
    if peer.is_file():
        theirs = json.loads(peer.read_text())["configurations"]
        for name in ("2d", "3d_fullres"):
            network = theirs[name]["architecture"]["arch_kwargs"]
            mine = plan.choose(name)
            assert list(mine.patch[::-1]) == theirs[name]["patch_size"] and mine.batch == theirs[name]["batch_size"]
            assert list(mine.filters) == network["features_per_stage"]
            assert [list(r) for r in mine.kernels] == network["kernel_sizes"]
            assert [list(r) for r in mine.strides] == network["strides"]


def test_coarse_axes_wait_until_the_others_are_as_coarse():
    found = topology((5.0, 0.7, 0.7), (20, 320, 256))
    assert found.strides[:4] == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2))
    assert found.kernels[:3] == ((1, 3, 3), (1, 3, 3), (3, 3, 3)) and found.kernels[-1] == (3, 3, 3)
    assert found.patch == (20, 320, 256) and found.step == (4, 64, 64)


def test_target_spacing_of_thick_slices():
    spacings = np.array([[0.8, 0.8, z] for z in (3.0, 5.0, 5.0, 6.0, 10.0)])
    shapes = np.array([[320, 320, 20]] * 5)
    assert target_spacing(spacings, shapes) == pytest.approx((0.8, 0.8, np.percentile([3, 5, 5, 6, 10], 10)))
    assert target_spacing(spacings, np.array([[320, 320, 200]] * 5)) == pytest.approx((0.8, 0.8, 5.0))


def test_feature_values_of_a_small_network_by_hand():
    # 8 x 8: two maps of 32, then 4 x 4: two of 64; up: one transposed and two more of 32; two classes
    expected = 2 * 32 * 64 + 2 * 64 * 16 + 3 * 32 * 64 + 2 * 64
    assert feature_values((8, 8), ((1, 1), (2, 2)), features(2, 2), 2) == expected


@settings(max_examples=40, deadline=None)
@given(
    spacing=st.tuples(*[st.floats(0.3, 8)] * 3),
    shape=st.tuples(*[st.integers(32, 500)] * 3),
    memory=st.sampled_from([1.0, 4.0, 8.0, 24.0]),
    device=st.sampled_from(["cuda", "cpu"]),
)
def test_plans_are_whole_and_within_the_budget(spacing, shape, memory, device):
    raw = {"spacings": [list(spacing)] * 6, "shapes": [list(shape)] * 6, "labels": 2}
    plan = make_plan(fingerprint_of(raw), Budget(memory, device))
    again = Plan.model_validate_json(plan.model_dump_json())
    assert again == plan
    for chosen in plan.configurations.values():
        assert chosen.batch >= 2 and chosen.step_gigabytes <= memory * 1.3  # the batch is rounded
        if len(chosen.filters) > 2:  # MONAI's DynUNet has three stages or more
            FitConfig(**FitConfig.of_plan(plan, chosen.name))


def test_less_memory_makes_smaller_patches():
    raw = {"spacings": [[1, 1, 1]] * 50, "shapes": [[200, 200, 200]] * 50, "labels": 3}
    patches = [np.prod(make_plan(fingerprint_of(raw), Budget(gb)).choose().patch) for gb in (2, 4, 8, 24)]
    assert patches == sorted(patches) and patches[0] < patches[-1]
    on_cpu = np.prod(make_plan(fingerprint_of(raw), Budget(8, "cpu")).choose().patch)
    assert on_cpu < patches[2]


def test_normalisation_follows_the_channels_name():
    raw = {"spacings": [[1, 1, 1]] * 5, "shapes": [[64, 64, 64]] * 5, "labels": 2}
    ct, mr, raw_values = make_plan(fingerprint_of(raw, ("CT", "T1", "noNorm"), relative=0.5)).normalization
    assert (ct.method, ct.low, ct.high, ct.mean, ct.std) == ("ct", 0, 1, 0, 1)
    assert (mr.method, mr.nonzero_only) == ("zscore", True) and raw_values.method == "nonorm"


def test_plan_and_fit_on_the_command_line(balls, tmp_path, capsys):
    out = tmp_path / "plan.json"
    assert cli.main(["inspect", str(balls), "--out", str(tmp_path)]) == 0
    assert (
        cli.main(["plan", str(tmp_path / "fingerprint.json"), "--memory", "2GB", "--device", "cpu", "--out", str(out)])
        == 0
    )
    assert "3d_fullres" in capsys.readouterr().out
    assert (
        cli.main(["plan", str(balls), "--memory", "2GB", "--device", "cpu", "--out", str(tmp_path / "again.json")]) == 0
    )
    assert (tmp_path / "again.json").read_text() == out.read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--memory", "much"], "'much' is no amount of memory"),
        (["--memory", "1MB"], "makes no plan"),
        (["--device", "tpu"], "no plans for the device 'tpu'"),
    ],
)
def test_budgets_that_make_no_sense(balls, arguments, words, capsys):
    assert cli.main(["plan", str(balls), *arguments]) == 1
    assert words in capsys.readouterr().err


def test_amounts_of_memory():
    assert [cli_data.gigabytes(x) for x in ("8GB", "8", "800MB", "1.5 GiB", "2tb")] == [8, 8, 0.8, 1.5, 2000]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"patch": [41, 56, 40]}, "patch's 41 voxels along i must be a multiple of 8"),
        ({"filters": [32, 64]}, "one entry per stage"),
        ({"kernels": [[2, 3, 3]] * 4}, "kernels must be odd"),
        ({"batch": 0}, "batch"),
        ({"spacing": [1, 1]}, "one number for each of the 3 axes"),
        ({"patchs": 1}, "patchs"),
    ],
)
def test_a_damaged_plan_is_refused_in_one_sentence(tmp_path, change, words):
    raw = {"spacings": [[1, 1, 1]] * 220, "shapes": [[36, 50, 35]] * 220, "labels": 3}
    plan = json.loads(make_plan(fingerprint_of(raw)).model_dump_json())
    plan["configurations"]["3d_fullres"] |= change
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(DatasetError, match=words) as caught:
        Plan.load(tmp_path / "plan.json")
    assert "\n" not in str(caught.value)
    with pytest.raises(DatasetError, match="no configuration '3d_lowres'"):
        make_plan(fingerprint_of(raw)).choose("3d_lowres")

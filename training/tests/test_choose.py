"""The best of several cross-validations: by hand-made answers of which the best is known."""

import json

import numpy as np
import pytest
from unetsegment_training.choose import choose
from unetsegment_training.cli import main
from unetsegment_training.dataset import DatasetError
from unetsegment_training.metrics import NAMES

BASE = np.random.default_rng(0).uniform(0.6, 0.9, (12, 2))


def validated(path, scores, split="five"):
    """What ``cross-validate`` leaves behind, for Dice (cases, labels)."""
    (path / "evaluation").mkdir(parents=True)
    rows = [
        dict.fromkeys(NAMES, 0.5) | {"case": f"c{n}", "label": value, "name": name, "dice": float(row[value - 1])}
        for n, row in enumerate(scores)
        for value, name in ((1, "Shell"), (2, "Core"))
    ]
    (path / "evaluation" / "cases.json").write_text(json.dumps(rows))
    (path / "decisions.json").write_text("{}")
    (path / "split.json").write_text(json.dumps(split))
    return path


def test_the_highest_mean_wins_and_its_lead_is_tested(tmp_path, capsys):
    noise = np.random.default_rng(1).normal(0, 0.002, BASE.shape)
    flat, full = validated(tmp_path / "2d", BASE), validated(tmp_path / "3d", BASE + 0.03 + noise)
    told = choose([flat, full], tmp_path / "out")
    assert told["chosen"] == str(full) and "+0.03" in told["why"] and told["why"].endswith("more than chance.")
    assert [entry["dice"] for entry in told["candidates"]] == pytest.approx(
        [BASE.mean(), (BASE + 0.03 + noise).mean()], abs=1e-5
    )
    assert told["candidates"][0]["labels"]["Core"] == pytest.approx(BASE[:, 1].mean(), abs=1e-5)
    (difference,) = told["differences"]
    assert difference["difference"] == pytest.approx((0.03 + noise).mean()) and difference["better"] == 12
    assert main(["choose", str(full), str(flat), "--out", str(tmp_path / "more")]) == 0
    assert json.loads((tmp_path / "more" / "decisions.json").read_text())["chosen"] == str(full)
    assert f"best: {full}" in capsys.readouterr().out


def test_a_lead_by_chance_is_called_so_and_of_equals_the_first_wins(tmp_path):
    noise = np.random.default_rng(2).normal(0, 0.03, BASE.shape)
    a, b = validated(tmp_path / "a", BASE), validated(tmp_path / "b", BASE + noise - noise.mean() + 0.001)
    told = choose([a, b], tmp_path / "out")
    assert told["chosen"] == str(b) and "no more than chance" in told["why"]
    again = validated(tmp_path / "c", BASE)
    assert choose([a, again], tmp_path)["chosen"] == str(a)
    assert choose([again, a], tmp_path)["chosen"] == str(again)


def test_several_comparisons_are_corrected_for(tmp_path):
    places = [validated(tmp_path / name, BASE + gain) for name, gain in (("a", 0.0), ("b", 0.01), ("c", 0.02))]
    told = choose(places, tmp_path / "out")
    assert told["chosen"] == str(places[2]) and len(told["differences"]) == 2
    assert all(entry["p_holm"] == pytest.approx(2 * entry["p"]) for entry in told["differences"])


def test_only_what_was_measured_alike_is_compared(tmp_path, capsys):
    a = validated(tmp_path / "a", BASE)
    for other in (validated(tmp_path / "b", BASE, "other"), validated(tmp_path / "c", BASE[:-1])):
        with pytest.raises(DatasetError, match="not measured on the same cases"):
            choose([a, other], tmp_path / "out")
    assert main(["choose", str(a), "--out", str(tmp_path / "out")]) == 1 and "two or more" in capsys.readouterr().err
    assert main(["choose", str(a), str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    assert "has no decisions.json" in message and message.count("\n") == 1
    assert not (tmp_path / "out").exists()

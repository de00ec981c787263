"""The report and the paired comparison: what they say is what the numbers say."""

import json
import re

import numpy as np
import pytest
from scipy import stats
from unetsegment_training.cli import main
from unetsegment_training.compare import compare
from unetsegment_training.dataset import DatasetError
from unetsegment_training.metrics import NAMES, summarize
from unetsegment_training.report import failures, write_report
from unetsegment_training.report_pictures import overlay
from UNetSegmentLib.labels import Label
from UNetSegmentLib.volume import Grid, LabelMap, Volume


def row(case, name, dice, volume=1.0, expert=1.0, hd=2.0):
    values = dict.fromkeys(NAMES, 0.5) | {"dice": dice, "volume_ml": volume, "expert_ml": expert, "hd95_mm": hd}
    return {"case": case, "label": {"Shell": 1, "Core": 2}[name], "name": name, **values}


def folder(path, rows):
    path.mkdir()
    (path / "cases.json").write_text(json.dumps(rows))
    return path


def two(tmp_path, gains, noise=0.0, names=("Shell",)):
    rng = np.random.default_rng(0)
    base = rng.uniform(0.7, 0.9, (len(names), 12))
    more = base + np.array(gains)[:, None] + rng.normal(0, noise, base.shape)
    tables = [
        [row(f"c{i}", n, d) for n, ds in zip(names, x, strict=True) for i, d in enumerate(ds)] for x in (base, more)
    ]
    return folder(tmp_path / "a", tables[0]), folder(tmp_path / "b", tables[1]), base, more


def test_a_steady_gain_is_more_than_chance(tmp_path):
    a, b, base, more = two(tmp_path, [0.02], 0.005)
    (told,), odd = compare(a, b)
    assert odd == [] and told.cases == 12 and "higher, by more than chance" in told.verdict
    assert told.difference == pytest.approx((more - base).mean())
    assert told.interval[0] < told.difference < told.interval[1] and told.interval[0] > 0
    assert told.p == pytest.approx(stats.wilcoxon(more[0] - base[0]).pvalue) and told.p_holm == told.p
    assert told.better == int((more > base).sum()) and told.better + told.worse == 12


def test_noise_is_not_and_several_structures_are_corrected_for(tmp_path):
    a, b, _, _ = two(tmp_path, [0.0, 0.05], 0.02, ("Shell", "Core"))
    told = {entry.label: entry for entry in compare(a, b)[0]}
    assert told["Shell"].verdict == "no difference beyond chance" and "more than chance" in told["Core"].verdict
    assert told["Core"].p_holm == pytest.approx(2 * told["Core"].p) and told["Shell"].p_holm >= told["Core"].p_holm
    assert set(told) == {"Shell", "Core", "mean of all"}
    same = compare(a, a)[0]
    assert all(entry.p == 1 and entry.verdict == "no difference beyond chance" for entry in same)


def test_cases_are_paired_by_name_and_gaps_left_out(tmp_path):
    a = folder(tmp_path / "a", [row(f"c{n}", "Shell", 0.5 + n / 100, hd=None if n == 1 else 2.0) for n in range(6)])
    b = folder(tmp_path / "b", [row(f"c{n}", "Shell", 0.6 + n / 100, hd=1.0) for n in (7, 5, 4, 3, 2, 1)])
    (told,), odd = compare(a, b)
    assert told.cases == 5 and told.difference == pytest.approx(0.1) and odd == ["c0", "c7"]
    (distance,), _ = compare(a, b, "hd95_mm")
    assert distance.cases == 4 and distance.better == 4  # smaller is better


def test_volume_errors_are_compared_by_their_size(tmp_path):
    signs = [1, -1] * 4
    a = folder(tmp_path / "a", [row(f"c{n}", "Shell", 0.8) | {"volume_error_ml": 0.5 * s} for n, s in enumerate(signs)])
    b = folder(
        tmp_path / "b", [row(f"c{n}", "Shell", 0.8) | {"volume_error_ml": -0.2 * s} for n, s in enumerate(signs)]
    )
    (told,), _ = compare(a, b, "volume_error_ml")
    assert told.first == pytest.approx(0.5) and told.second == pytest.approx(0.2) and told.better == 8
    with pytest.raises(DatasetError, match="no metric 'volume_ml' to compare"):
        compare(a, b, "volume_ml")


def test_five_cases_cannot_tell(tmp_path):
    a = folder(tmp_path / "a", [row(f"c{n}", "Shell", 0.5 + n / 100) for n in range(5)])
    b = folder(tmp_path / "b", [row(f"c{n}", "Shell", 0.7 + n / 100) for n in range(5)])
    (told,), _ = compare(a, b)
    assert told.better == 5 and told.p == pytest.approx(2 / 2**5) and "too few cases to tell" in told.verdict


def test_what_a_mean_leaves_out_is_told(tmp_path):
    """A missed structure has no HD95; where nobody has it, Dice is 1 and says nothing."""
    nothing, nan = {"volume_ml": 0.0, "expert_ml": 0.0}, float("nan")
    rows = [row(f"c{n}", "Shell", 0.8) for n in range(5)]
    rows += [row("missed", "Shell", 0.0, volume=0.0, hd=nan), row("none", "Shell", 1.0, hd=nan) | nothing]
    (entry,) = summarize(rows)
    assert (entry["cases"], entry["hd95_mm_cases"], entry["absent"]) == (7, 5, 1) and "dice_cases" not in entry
    write_report(tmp_path / "report.html", "Model", "7 cases.", rows, [entry], {}, [])
    page = (tmp_path / "report.html").read_text()
    assert "2.00 to 2.00, 5 cases" in page
    assert "Shell: neither answer nor expert has it in 1 of 7 cases, which count as Dice 1." in page


def test_what_cannot_be_compared(tmp_path, capsys):
    a = folder(tmp_path / "a", [row("x", "Shell", 0.5), row("y", "Shell", 0.5)])
    b = folder(tmp_path / "b", [row("z", "Shell", 0.5)])
    c = folder(tmp_path / "c", [row("x", "Core", 0.5), row("y", "Core", 0.5)])
    for other, metric, words in [
        (b, "dice", "share 0 cases"),
        (c, "dice", "no label value in common"),
        (tmp_path, "dice", "holds no cases.json"),
        (a, "jaccard", "no metric 'jaccard'"),
    ]:
        with pytest.raises(DatasetError, match=words):
            compare(a, other, metric)
    assert main(["compare", str(a), str(a), "--out", str(tmp_path / "x.json")]) == 0
    assert "no difference beyond chance" in capsys.readouterr().out
    assert json.loads((tmp_path / "x.json").read_text())["structures"][0]["cases"] == 2


def test_failures_are_named():
    rows = [row(f"c{n}", "Shell", 0.9 + n / 1000) for n in range(8)]
    assert failures(rows) == []
    rows += [row("lost", "Shell", 0.0, volume=0.0), row("far", "Shell", 0.7), row("made", "Core", 0.0, expert=0.0)]
    text = " ".join(failures(rows))
    assert "Case lost, Shell: not found at all" in text and "Case far, Shell: Dice 0.700, far below" in text
    assert "Case made, Core: 1 ml where the expert has none" in text and text.count("Case") == 3


def volumes(shape):
    rng = np.random.default_rng(0)
    labels = (Label(0, "background"), Label(1, "Shell"))
    grid = Grid(shape, np.eye(4))
    masks = [np.zeros(shape, np.uint8) for _ in range(2)]
    for n, mask in enumerate(masks):
        mask[3 + n : 9, 3:9] = 1
    image = Volume(rng.normal(size=(1, *shape)).astype(np.float32), grid, ("MRI",))
    return image, *(LabelMap(mask, grid, labels) for mask in masks)


@pytest.mark.parametrize("shape", [(14, 15, 16), (20, 20, 1)])
def test_the_report_is_one_file_with_everything(tmp_path, shape):
    picture = overlay(*volumes(shape))
    assert picture.startswith("data:image/jpeg;base64,")
    rows = [row(f"<c{n}>", name, 0.6 + n / 50) for n in range(12) for name in ("Shell", "Core")]
    run = tmp_path / "run"
    (run / "log" / "version_0").mkdir(parents=True)
    (run / "log" / "version_0" / "metrics.csv").write_text("epoch,loss,dice/Shell,dice\n0,1.0,,\n1,0.5,0.7,0.7\n")
    earlier = folder(tmp_path / "a", [r | {"dice": r["dice"] - 0.05} for r in rows])
    differences = compare(earlier, folder(tmp_path / "b", rows))[0]
    pictures = {f"<c{n}>": picture for n in range(12)}
    path = tmp_path / "report.html"
    write_report(path, "Model", "12 cases.", rows, summarize(rows), pictures, [run], "earlier", differences)
    page = path.read_text()
    assert all(words in page for words in ("Learning curves", "Agreement of volumes", "Compared with earlier", "Worst"))
    assert page.count("data:image/jpeg") == 10 and page.count("data:image/svg") == 3
    assert "<c1>" not in page and "&lt;c1&gt;" in page
    assert not re.search(r'(src|href)="(?!data:)', page)  # nothing is fetched

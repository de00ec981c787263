"""What inspect finds: every fault named by case, the numbers that plans are made from, and a report in one file."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from unetsegment_training import cli
from unetsegment_training.dataset import DatasetError, list_cases, read_dataset
from unetsegment_training.fingerprint import Fingerprint, cropped_shape, take
from UNetSegmentLib import io
from UNetSegmentLib.labels import Label
from UNetSegmentLib.volume import Grid, LabelMap

SHARED = Path(os.environ.get("UNETSEGMENT_SHARED", Path(__file__).resolve().parents[3] / "shared"))


def found(root):
    return take(*list_cases(root))


def told(root, case, kind):
    return [f.text for f in found(root).findings if f.case == case and f.kind == kind]


def test_a_good_folder_has_no_findings(balls):
    fingerprint = found(balls)
    assert fingerprint.findings == () and len(fingerprint.cases) == 10
    case = fingerprint.cases[0]
    assert case.shape == case.cropped_shape == (20, 18, 23) and case.spacing == (1.0, 1.0, 1.0)
    assert fingerprint.median_relative_size_after_cropping == 1.0


def test_foreground_intensities_weigh_cases_alike(ball_writer):
    rng = np.random.default_rng(3)
    values = []
    for n, size in enumerate((4, 9)):
        label = np.zeros((12, 12, 12), np.uint8)
        label[1 : 1 + size, 2:8, 2:8] = 1
        image = rng.gamma(2, 50 * (n + 1), label.shape).astype(np.float32)
        ball_writer.write(f"case_{n}", image, label)
        values.append(image[label > 0].astype(float))
    described = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "x"}}
    (ball_writer.root / "dataset.json").write_text(json.dumps(described))
    (got,) = found(ball_writer.root).foreground
    # the same as drawing equally many voxels from either case
    many = np.concatenate([np.random.default_rng(0).choice(v, 400_000) for v in values])
    assert got.mean == pytest.approx(np.mean([v.mean() for v in values]), rel=1e-6)
    assert got.std == pytest.approx(many.std(), rel=5e-3)
    assert (got.p00_5, got.median, got.p99_5) == pytest.approx(np.percentile(many, (0.5, 50, 99.5)), rel=0.1)
    assert (got.min, got.max) == (min(v.min() for v in values), max(v.max() for v in values))


def test_cropping_to_what_is_not_zero():
    image = np.zeros((2, 9, 8, 7))
    image[0, 2:5, 1, 1] = 1
    image[1, 3, 1:4, 6] = -1
    assert cropped_shape(image) == (3, 3, 6)
    assert cropped_shape(np.zeros((1, 4, 5, 6))) == (4, 5, 6)


@pytest.fixture
def write(balls, ball_writer):
    def again(change, name="ball_04"):
        image, label = ball_writer.draw(np.random.default_rng(1))
        ball_writer.write(name, *change(image, label))
        return balls

    return again


def keep(image, label, where):
    return np.where(where, label, 0).astype(np.uint8)


FAULTS = {
    "empty": (lambda i, x: (i, x * 0), "nothing is labelled"),
    "absent": (lambda i, x: (i, np.where(x == 2, 1, x).astype(np.uint8)), "has no 'Core'"),
    "scale": (lambda i, x: (i * 1000, x), "99\\d times larger"),
    "flat": (lambda i, x: (i * 0 + 5, x), "is 5 everywhere"),
    "border": (lambda i, x: (i, np.pad(x[6:], ((0, 6), (0, 0), (0, 0)))), "'Shell' touches the right"),
    "volume": (lambda i, x: (i, np.where(np.cumsum(x.ravel() == 2).reshape(x.shape) > 12, x * (x == 1), x).astype(np.uint8)), "'Core' has"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FAULTS)
def test_faults_are_named_by_case(write, kind):
    change, words = FAULTS[kind]
    (text,) = told(write(change), "ball_04", kind)
    assert text.startswith("Case 'ball_04': ") and re.search(words, text) and text.endswith(".")


def test_unusual_spacing(balls, ball_writer):
    ball_writer.write("ball_04", *ball_writer.draw(np.random.default_rng(1)), spacing=(0.001, 0.001, 0.001))
    assert "is the unit right?" in told(balls, "ball_04", "spacing")[0]


def test_a_label_that_lies_elsewhere(balls):
    path = str(balls / "labelsTr/ball_04.nii.gz")
    label = sitk.ReadImage(path)
    label.SetOrigin((0, 0, 4))
    sitk.WriteImage(label, path)
    assert "the same size, but corners 4 mm apart" in told(balls, "ball_04", "unusable")[0]


def test_copies_are_found_under_other_names_and_scales(balls, ball_writer):
    for folder in ("imagesTr", "labelsTr"):
        (balls / folder / "ball_99.nii.gz").write_bytes((balls / folder / "ball_03.nii.gz").read_bytes())
    assert "voxel for voxel, as that of case 'ball_03'" in told(balls, "ball_99", "duplicate")[0]
    image = sitk.GetArrayFromImage(sitk.ReadImage(str(balls / "imagesTr/ball_03.nii.gz"))).T
    label = sitk.GetArrayFromImage(sitk.ReadImage(str(balls / "labelsTr/ball_03.nii.gz"))).T
    ball_writer.write("ball_99", image * 3 + 7, label)
    assert "looks like that of case 'ball_03' with other intensities" in told(balls, "ball_99", "duplicate")[0]


def test_a_case_twice_in_a_folder(balls):
    image = sitk.ReadImage(str(balls / "imagesTr/ball_03.nii.gz"))
    sitk.WriteImage(image, str(balls / "imagesTr/ball_03.nrrd"))
    assert "has it twice, 'ball_03.nii.gz' and 'ball_03.nrrd'" in told(balls, "ball_03", "files")[0]


def test_what_dataset_json_lists_must_be_there(balls):
    described = json.loads((balls / "dataset.json").read_text())
    described["training"] = [{"image": "./imagesTr/gone.nii.gz", "label": "./labelsTr/gone.nii.gz"}]
    described["numTraining"] = 11
    (balls / "dataset.json").write_text(json.dumps(described))
    assert "dataset.json lists it" in told(balls, "gone", "files")[0]
    assert "says 11 training cases; 10 can be used" in told(balls, "", "files")[0]


def slicer_case(folder, name, order, crop=False, seed=0, suffix="-segmentation"):
    """An image and its .seg.nrrd with segments numbered in ``order``."""
    i, j, k = np.mgrid[:20, :18, :23]
    centre = np.random.default_rng(seed).uniform(7, 12, 3)
    distance = np.sqrt((i - centre[0]) ** 2 + (j - centre[1]) ** 2 + (k - centre[2]) ** 2)
    label = np.where(distance < 3, 2, np.where(distance < 6, 1, 0)).astype(np.uint8)
    image = (label * 50 + np.random.default_rng(seed).normal(100, 10, label.shape)).astype(np.float32)
    grid = Grid.from_spacing(image.shape, (0.9, 0.9, 1.2), (5, -7, 3), np.diag([-1.0, -1.0, 1.0]))
    picture = sitk.GetImageFromArray(image.T)
    picture.SetSpacing(grid.spacing)
    picture.SetOrigin((-5, 7, 3))
    folder.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(picture, str(folder / f"{name}.nrrd"))
    numbers = {"Shell": 1, "Core": 2}
    array = np.zeros_like(label)
    labels = []
    for value, text in enumerate(order, start=1):
        array[label == numbers[text.strip().title()]] = value
        labels.append(Label(value, text))
    if crop:
        corner = [int(x.min()) for x in np.nonzero(array)]
        stop = [int(x.max()) + 1 for x in np.nonzero(array)]
        array = array[tuple(slice(a, b) for a, b in zip(corner, stop))]
        matrix = grid.ijk_to_ras.copy()
        matrix[:3, 3] = (matrix @ [*corner, 1])[:3]
        grid = Grid(array.shape, matrix)
    io.write_labelmap(folder / f"{name}{suffix}.seg.nrrd", LabelMap(np.ascontiguousarray(array), grid, tuple(labels)))
    return label


def test_slicer_pairs_are_mapped_by_name(tmp_path):
    root = tmp_path / "saved"
    expected = {
        "a": slicer_case(root, "a", ("Shell", "Core"), seed=1),
        "b": slicer_case(root, "b", ("Core", "Shell"), seed=2, crop=True),
        "c": slicer_case(root / "c", "MRHead", (" core ", "SHELL"), seed=3, suffix=""),
    }
    (root / "c" / "MRHead.seg.nrrd").rename(root / "c" / "Segmentation.seg.nrrd")
    dataset, problems = read_dataset(root)
    assert problems == [] and [c.name for c in dataset.cases] == ["a", "b", "c"]
    assert dataset.labels == {0: "background", 1: "Shell", 2: "Core"}
    for case in dataset.cases:
        image, label = case.load()
        assert np.array_equal(label.array, expected[case.name]), case.name
        assert image.grid.is_close(label.grid)
    assert {f.kind for f in found(root).findings} <= {"border"}


def test_slicer_pairs_with_faults(tmp_path):
    root = tmp_path / "saved"
    for n in range(5):
        slicer_case(root, f"case{n}", ("Shell", "Core"), seed=n)
    (root / "case1.nrrd").rename(root / "other.nrrd")
    (root / "case2-segmentation.seg.nrrd").unlink()
    slicer_case(root, "case3", ("Shell", "Core"), seed=3)
    path = root / "case3-segmentation.seg.nrrd"
    path.write_bytes(path.read_bytes().replace(b"Name:=Core", b"Name:=Corr").replace(b"_Name=Core", b"_Name=Corr"))
    texts = [f.text for f in found(root).findings]
    assert any("'case1-segmentation': there is no image beside" in t for t in texts)
    assert any("'case2': there is no segmentation" in t for t in texts)
    assert any("'other': there is no segmentation" in t for t in texts)
    (root / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "Core": 1, "Shell": 4}}))
    fingerprint = found(root)
    assert fingerprint.labels == {0: "background", 1: "Core", 4: "Shell"}
    assert any("'case3': its segment 'Corr' is none of the dataset's labels" in f.text for f in fingerprint.findings)


def test_a_folder_without_segmentation_and_one_whose_segmentation_lies_beside_the_voxels(tmp_path):
    for n in range(4):
        slicer_case(tmp_path / f"patient_{n}", "T1", ("Shell", "Core"), seed=n, crop=True)
    (tmp_path / "patient_1" / "T1-segmentation.seg.nrrd").unlink()
    path = tmp_path / "patient_2" / "T1-segmentation.seg.nrrd"
    segments = io.read_labelmap(path)
    moved = segments.grid.ijk_to_ras.copy()
    moved[:3, 3] += 0.4 * moved[:3, 2]
    io.write_labelmap(path, LabelMap(segments.array, Grid(segments.grid.shape, moved), segments.labels))
    fingerprint = found(tmp_path)
    assert fingerprint.channels == ("T1",)  # as the files are called
    texts = [f.text for f in fingerprint.findings if f.severity == "error"]
    assert any("'patient_1': there is no segmentation (.seg.nrrd) beside 'T1.nrrd'" in t for t in texts)
    assert any(
        "'patient_2'" in t and "0.4 voxels beside" in t and "set the segmentation's geometry" in t for t in texts
    )


def test_an_image_saved_with_two_segmentations(tmp_path):
    slicer_case(tmp_path, "a", ("Shell", "Core"))
    slicer_case(tmp_path, "a", ("Shell", "Core"), suffix="_by-hand")
    assert any("has two segmentations" in f.text for f in found(tmp_path).findings)


def test_inspect_writes_a_report_that_needs_nothing_else(balls, tmp_path, capsys):
    (balls / "labelsTr" / "ball_04.nii.gz").unlink()
    out = tmp_path / "out"
    assert cli.main(["inspect", str(balls), "--out", str(out)]) == 1  # a case cannot be used
    printed = capsys.readouterr().out
    assert "Case 'ball_04': the image has no label in labelsTr." in printed and "9 usable cases; 1 error" in printed
    page = (out / "report.html").read_text("utf-8")
    assert not re.search(r"(src|href)=\"(?!data:|#)", page) and "ball_04" in page
    assert page.count("data:image/jpeg") == 9 and page.count("<svg") == 4
    assert Fingerprint.load(out / "fingerprint.json").cases[0].name == "ball_00"
    (balls / "imagesTr" / "ball_04.nii.gz").unlink()
    assert cli.main(["inspect", str(balls), "--out", str(out)]) == 0


def test_names_in_the_report_are_text(balls, tmp_path):
    described = json.loads((balls / "dataset.json").read_text())
    described["name"] = "<script>alert(1)</script>"
    (balls / "dataset.json").write_text(json.dumps(described))
    assert cli.main(["inspect", str(balls), "--out", str(tmp_path)]) == 0
    assert "<script>" not in (tmp_path / "report.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "not a fingerprint"), ('{"version": 1}', "name: Field required"), ('{"version": 2}', "version")],
)
def test_a_file_that_is_no_fingerprint(tmp_path, text, words):
    (tmp_path / "f.json").write_text(text)
    with pytest.raises(DatasetError, match=words):
        Fingerprint.load(tmp_path / "f.json")


@pytest.mark.slow
def test_hippocampus_against_nnunets_fingerprint():
    data, peer = SHARED / "data/hippocampus", SHARED / "models/nnunet_hippocampus/dataset_fingerprint.json"
    if not data.is_dir() or not peer.is_file():
        pytest.skip(f"needs data/hippocampus and models/nnunet_hippocampus in {SHARED.name} (see UNETSEGMENT_SHARED)")
    fingerprint, theirs = found(data), json.loads(peer.read_text())
    mine = [list(f.cropped_shape[::-1]) for f in fingerprint.cases]
    assert sorted(mine) == sorted(theirs["shapes_after_crop"])
    expected = theirs["foreground_intensity_properties_per_channel"]["0"]
    (got,) = fingerprint.foreground
    assert (got.min, got.max, got.median) == pytest.approx((expected["min"], expected["max"], expected["median"]))
    for a, b in ((got.mean, "mean"), (got.std, "std"), (got.p00_5, "percentile_00_5"), (got.p99_5, "percentile_99_5")):
        assert a == pytest.approx(expected[b], rel=2e-3)  # theirs are drawn at random
    wild = [f.case for f in fingerprint.findings if f.kind == "scale"]
    assert len(wild) == 30 and "hippocampus_205" in wild

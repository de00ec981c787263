"""Training folders: what is wrong is said by case name, before training."""

import json

import numpy as np
import pytest
from unetsegment_training.dataset import DatasetError, read_dataset
from unetsegment_training.split import five_folds, stored_split


def test_a_good_folder(balls):
    dataset, problems = read_dataset(balls)
    assert problems == [] and len(dataset.cases) == 10
    assert dataset.labels == {0: "background", 1: "Shell", 2: "Core"} and dataset.channels == ("MRI",)
    image, label = dataset.cases[3].load()
    assert image.array.shape == (1, 20, 18, 23) and set(np.unique(label.array)) == {0, 1, 2}


def test_nnunet_names_and_several_channels(balls):
    for image in sorted((balls / "imagesTr").glob("*.nii.gz")):
        stem = image.name.removesuffix(".nii.gz")
        (balls / "imagesTr" / f"{stem}_0001.nii.gz").write_bytes(image.read_bytes())
        image.rename(balls / "imagesTr" / f"{stem}_0000.nii.gz")
    raw = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "Shell": 1, "Core": 2}}
    (balls / "dataset.json").write_text(json.dumps(raw))
    dataset, _ = read_dataset(balls)
    assert dataset.channels == ("T1", "T2") and dataset.labels[2] == "Core"
    assert dataset.cases[0].load()[0].array.shape[0] == 2


def spoil_grid(writer):
    image, label = writer.draw(np.random.default_rng(1))
    writer.write("ball_04", image, label[:, :, :-2])


def spoil_values(writer):
    image, label = writer.draw(np.random.default_rng(1))
    label[0, 0, 0] = 7
    writer.write("ball_04", image, label)


def spoil_partner(writer):
    (writer.root / "imagesTr" / "ball_04.nii.gz").unlink()


def spoil_label(writer):
    (writer.root / "labelsTr" / "ball_04.nii.gz").unlink()


def spoil_bytes(writer):
    (writer.root / "imagesTr" / "ball_04.nii.gz").write_bytes(b"not an image")


@pytest.mark.parametrize(
    ("spoil", "words", "left"),
    [
        (spoil_grid, "'ball_04': image and label differ in grid", 9),
        (spoil_values, "'ball_04': its label has the value 7", 9),
        (spoil_partner, "'ball_04': the label has no image", 9),
        (spoil_label, "'ball_04': the image has no label", 9),
        (spoil_bytes, "'ball_04': .*cannot be read", 9),
    ],
)
def test_faulty_cases_are_named_or_left_out(balls, ball_writer, spoil, words, left):
    spoil(ball_writer)
    with pytest.raises(DatasetError, match=words):
        read_dataset(balls)
    dataset, problems = read_dataset(balls, skip_bad=True)
    assert len(dataset.cases) == left and len(problems) == 1


def test_folders_that_are_no_datasets(tmp_path):
    with pytest.raises(DatasetError, match="no readable dataset.json"):
        read_dataset(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DatasetError, match="not JSON"):
        read_dataset(tmp_path)
    (tmp_path / "dataset.json").write_text('{"modality": {"0": "MRI"}, "labels": {"0": "b", "1": "x"}}')
    with pytest.raises(DatasetError, match="no usable case"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"modality": ["MRI"]}, "must name channels by number"),
        ({"labels": {"0": "background", "1": "Shell", "2": "shell"}}, "gives the name 'Shell' to two labels"),
        ({"labels": {"background": 0, "Shell": 1, "Core": 1}}, "gives a value to two labels"),
        ({"labels": {"background": 0, "Shell": 1, "Core": -2}}, "label value -2"),
        ({"labels": {"background": 0, "Shell": 1, "Ignore": 2}}, "nnU-Net's label 'ignore'"),
    ],
)
def test_what_dataset_json_may_not_say(balls, change, words):
    path = balls / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DatasetError, match=words):
        read_dataset(balls)


def test_one_case_may_be_empty_but_not_all(balls, ball_writer):
    rng = np.random.default_rng(1)
    for n in range(10):
        image, label = ball_writer.draw(rng)
        ball_writer.write(f"ball_{n:02d}", image, label * 0)
        if n < 9:
            assert len(read_dataset(balls)[0].cases) == 10
    with pytest.raises(DatasetError, match="Nothing is labelled in any case"):
        read_dataset(balls)


def test_five_folds_are_stored_and_hold(tmp_path):
    names = [f"case_{n:03d}" for n in range(23)]
    folds = stored_split(tmp_path / "split.json", names)
    assert folds == five_folds(names) == stored_split(tmp_path / "split.json", names)
    assert sorted(sum((f["val"] for f in folds), [])) == names
    assert all(not set(f["val"]) & set(f["train"]) for f in folds)
    with pytest.raises(DatasetError, match="changed since"):
        stored_split(tmp_path / "split.json", [*names, "new"])

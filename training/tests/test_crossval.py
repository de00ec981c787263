"""Cross-validation from three small folds to one package: who answered what, what was decided, and what the model is."""

import contextlib
import json
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.special import softmax
from unetsegment_training.cli import main
from unetsegment_training.config import FitConfig
from unetsegment_training.crossval import finished, validate_mean
from unetsegment_training.dataset import DatasetError, read_dataset
from unetsegment_training.infer import logits
from unetsegment_training.patches import prepare
from unetsegment_training.split import five_folds
from UNetSegmentLib import io, package
from UNetSegmentLib.errors import PackageError
from UNetSegmentLib.labels import Label
from UNetSegmentLib.package import Manifest
from UNetSegmentLib.predict import Predictor
from UNetSegmentLib.predict.backends.torch_backend import build_network, load_network
from UNetSegmentLib.predict.postprocess import postprocess
from UNetSegmentLib.volume import LabelMap, dice

TOY = ["filters=[8, 16, 16]", "patch=[16, 16, 16]", "batch=2", "learning_rate=0.02", "augmentation='none'"]
OPTIONS = [word for setting in TOY for word in ("--set", setting)] + ["--epochs", "12", "--device", "cpu"]
CARD = {"name": "balls", "title": "Balls", "version": "1.0.0", "description": "Balls.", "intended_use": "Tests."}
SPACING = (1.0, 1.2, 0.9)


def cross_validate(balls, runs, *more):
    return main(["cross-validate", str(balls), str(runs), *OPTIONS, "--backend", "torch", *more])


@pytest.fixture(scope="module")
def work(tmp_path_factory, make_balls):
    """Ten balls, and folds 0, 1 and 2 of five, as two machines would train them."""
    root = tmp_path_factory.mktemp("crossval")
    # one case is unlike the others: which fold has it must not matter for the spacing that all share
    make_balls(root / "balls", 10, lambda n: SPACING if n else (2.0, 2.0, 2.0))
    (root / "card.json").write_text(json.dumps(CARD))
    assert cross_validate(root / "balls", root / "runs", "--folds", "1") == 0
    assert cross_validate(root / "balls", root / "runs", "--folds", "0,2") == 0
    return root


@pytest.fixture
def runs(work, tmp_path):
    """A copy to change."""
    return shutil.copytree(work / "runs", tmp_path / "runs")


@pytest.fixture(scope="module")
def model(work):
    """The package of all three."""
    packed = ["pack", str(work / "balls"), str(work / "runs"), str(work / "model"), "--card", str(work / "card.json")]
    assert main(packed) == 0
    return package.load(work / "model")


def test_every_case_is_answered_by_the_fold_that_did_not_see_it(work):
    dataset = read_dataset(work / "balls")[0]
    expected = five_folds([case.name for case in dataset.cases])
    for number in range(3):
        run = work / "runs" / f"fold_{number}"
        split, config = json.loads((run / "split.json").read_text()), FitConfig.load(run / "config.json")
        answered = {path.name.removesuffix(".seg.nrrd") for path in (run / "answers").glob("*.seg.nrrd")}
        assert split == expected and config.fold == number and config.spacing == SPACING
        assert answered == set(split[number]["val"]) and not answered & set(split[number]["train"])
    rows = json.loads((work / "runs" / "evaluation" / "cases.json").read_text())
    told = json.loads((work / "runs" / "decisions.json").read_text())
    assert {row["case"] for row in rows} == {name for fold in expected[:3] for name in fold["val"]}
    assert told["cases"] == 6 and told["measured_on"] == "5-fold cross-validation, folds 0, 1, 2"
    assert [fold["cases"] for fold in told["folds"]] == [2, 2, 2]
    assert "Learning curves, fold_1" in (work / "runs" / "evaluation" / "report.html").read_text()


def test_an_answer_is_that_of_the_folds_own_network_and_no_other(work, model):
    told = json.loads((work / "runs" / "split.json").read_text())
    case = next(case for case in read_dataset(work / "balls")[0].cases if case.name == told[0]["val"][0])
    stored = io.read_labelmap(work / "runs" / "fold_0" / "answers" / f"{case.name}.seg.nrrd")
    image = io.read_volume(case.images[0])
    answers = [Predictor(model, backend="torch", folds=n).predict(image).labels.array for n in ("0", "1")]
    np.testing.assert_array_equal(stored.array, answers[0])
    assert (stored.array != answers[1]).any() and stored.array.any()
    rows = json.loads((work / "runs" / "evaluation" / "cases.json").read_text())
    (measured,) = [row["dice"] for row in rows if row["case"] == case.name and row["name"] == "Shell"]
    assert measured == pytest.approx(dice(stored.array == 1, case.load()[1].array == 1))


def test_the_package_is_the_mean_of_its_networks_to_the_last_voxel(work, model):
    assert {"torch", "torch.1", "torch.2", "onnx", "onnx.1", "onnx.2"} < set(model.manifest.files)
    assert model.manifest.folds == ("0", "1", "2")
    model.verify()
    case = read_dataset(work / "balls")[0].cases[3]
    image = io.read_volume(case.images[0])
    config = FitConfig.load(work / "runs" / "config.json")
    prepared = prepare(case, model.manifest).image
    each = [logits(load_network(model, n), prepared, model.manifest, config) for n in range(3)]
    turn = image.reoriented("RAS")[1].inverse()  # the network sees RAS
    expected = turn.apply(np.mean(each, axis=0).argmax(0))
    answer = Predictor(model, device="cpu", backend="torch").predict(image)
    np.testing.assert_array_equal(answer.labels.array, expected)
    assert all((one.argmax(0) != expected).any() for one in each) and json.loads(answer.provenance["options"])[
        "folds"
    ] == ["0", "1", "2"]
    onnx = Predictor(model, device="cpu", backend="openvino", mode="parity").predict(image)
    assert np.mean(onnx.labels.array == expected) > 0.999


def test_manifest_and_card_carry_the_figures_of_the_cross_validation(work, model):
    told = json.loads((work / "runs" / "decisions.json").read_text())
    for metric, entry in zip(model.manifest.metrics, told["summary"], strict=True):
        assert metric["dice"] == entry["dice"] and metric["dice_ci95"] == entry["dice_ci95"] and metric["cases"] == 6
        assert metric["split"] == "5-fold cross-validation, folds 0, 1, 2, one network per case"
    card = (model.root / "docs" / "README.md").read_text()
    assert "mean of 3 networks" in card and "their mean was not measured" in card
    assert model.manifest.raw["training_data"]["cases"] == 10


def test_the_figures_can_be_repeated_with_the_package(work, model, tmp_path):
    """Each of its networks on the cases that it did not see."""
    told = json.loads((work / "runs" / "decisions.json").read_text())
    fold = next(fold for fold in told["folds"] if fold["fold"] == 2)
    options = ["--run", str(work / "runs" / "fold_2"), "--folds", "2", "--backend", "torch"]
    assert main(["evaluate", str(work / "balls"), str(model.root), str(tmp_path), *options]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert {entry["name"]: entry["dice"] for entry in summary} == pytest.approx(fold["dice"], abs=1e-5)
    assert "folds 2" in (tmp_path / "report.html").read_text()


def test_a_network_of_all_cases_takes_the_figures_of_the_cross_validation(work, runs, tmp_path, capsys):
    told = json.loads((runs / "decisions.json").read_text())
    told["postprocessing"] = [
        {"method": "keep_largest_component", "labels": [1], "connectivity": "corners", "reason": "Tested."}
    ]
    (runs / "decisions.json").write_text(json.dumps(told))
    whole, output = tmp_path / "whole", tmp_path / "model"
    assert main(["fit", str(work / "balls"), str(whole), *OPTIONS, "--fold", "-1"]) == 0
    pack = ["pack", str(work / "balls"), str(whole), str(output), "--card", str(work / "card.json")]
    assert main(pack) == 0 and package.load(output).manifest.metrics == []
    assert main([*pack, "--cross-validated", str(runs)]) == 0
    packed = package.load(output)
    assert [metric["dice"] for metric in packed.manifest.metrics] == [entry["dice"] for entry in told["summary"]]
    assert packed.folds == 1 and packed.manifest.postprocessing == told["postprocessing"]
    assert "it was not measured itself" in (output / "docs" / "README.md").read_text()
    kept = packed.content_hash
    capsys.readouterr()

    def refused(words, run=whole):
        assert main([*pack[:2], str(run), *pack[3:], "--cross-validated", str(runs)]) == 1
        message = capsys.readouterr().err
        assert words in message and message.count("\n") == 1 and package.load(output).content_hash == kept

    refused("held cases out and is measured on them", runs / "fold_0")
    config = json.loads((runs / "config.json").read_text())
    (runs / "config.json").write_text(json.dumps(config | {"learning_rate": 0.5}))
    refused("was trained with learning_rate = 0.02, the cross-validation")
    (runs / "decisions.json").unlink()
    refused("has no decisions.json")


def test_a_damaged_member_is_found_and_a_missing_one_too(model, tmp_path):
    broken = shutil.copytree(model.root, tmp_path / "broken")
    weights = broken / "models" / "fold_2.pt"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(PackageError, match="checksum of models/fold_2.pt"):
        Predictor(package.load(broken), backend="torch")
    weights.unlink()
    with pytest.raises(PackageError, match="models/fold_2.pt .torch.2. is missing"):
        package.load(broken)


def test_published_it_arrives_whole(model, tmp_path):
    assert main(["publish", str(model.root), str(tmp_path / "web")]) == 0
    (zipped,) = (tmp_path / "web").glob("*.zip")
    arrived = package.load(zipped)
    arrived.verify()
    assert arrived.folds == 3 and arrived.content_hash == model.content_hash


def test_specks_in_the_answers_are_seen_decided_on_and_removed_by_the_model(work, runs, tmp_path, capsys):
    """The folds' answers get a speck each: what the evaluation measures, and the packed model does, is without them."""
    spoilt = {}
    for path in runs.glob("fold_*/answers/*.seg.nrrd"):
        answer = io.read_labelmap(path)
        array = spoilt[path.name.partition(".")[0]] = answer.array.copy()
        array[0:2, 0:2, -3:] = 1
        io.write_labelmap(path, LabelMap(array, answer.grid, (Label(0, "background"), *answer.labels)))
    assert cross_validate(work / "balls", runs, "--folds", "0") == 0
    told = json.loads((runs / "decisions.json").read_text())
    (step,) = told["postprocessing"]
    assert (
        step["labels"] == [1, 2] and step["connectivity"] == "corners" and "6 cases better, 0 worse" in step["reason"]
    )
    assert told["components"][0]["kept"] and told["components"][0]["labels"] == [1, 2]
    experts = {case.name: case.load()[1].array for case in read_dataset(work / "balls")[0].cases}
    expected = [dice(postprocess(array, [step]) == 1, experts[name] == 1) for name, array in spoilt.items()]
    assert told["summary"][0]["dice"] == pytest.approx(np.mean(expected), abs=1e-5)
    assert "Largest component of Shell + Core: kept" in capsys.readouterr().out
    output = tmp_path / "model"
    assert main(["pack", str(work / "balls"), str(runs), str(output), "--card", str(work / "card.json")]) == 0
    packed = package.load(output)
    assert packed.manifest.postprocessing == [step]
    assert "Of Shell and Core the largest connected component is kept" in (output / "docs" / "README.md").read_text()
    case = read_dataset(work / "balls")[0].cases[0]
    image = io.read_volume(case.images[0])
    array = image.array.copy()
    array[0, :6, :6, -6:] = image.array.max()  # what looks like a second ball
    second = type(image)(array, image.grid, image.channels)
    answer = Predictor(packed, backend="torch").predict(second).labels.array
    plain = Predictor(package.load(work / "model"), backend="torch").predict(second).labels.array
    np.testing.assert_array_equal(answer, postprocess(plain, [step]))
    assert (answer != plain).any()


def test_what_is_finished_is_left_alone(work, runs):
    weights = {path: path.stat().st_mtime_ns for path in runs.glob("fold_*/weights.pt")}
    answers = {path: path.stat().st_mtime_ns for path in runs.glob("fold_*/answers/*")}
    assert cross_validate(work / "balls", runs, "--folds", "0,1,2") == 0
    assert len(weights) == 3 and len(answers) == 9
    assert all(path.stat().st_mtime_ns == when for path, when in (weights | answers).items())


def test_a_fold_that_was_to_go_on_and_failed_is_not_finished(work, runs):
    """Its old weights, of fewer epochs, must not pass for the end of the longer run."""
    (runs / "fold_0" / "checkpoints" / "last.ckpt").write_bytes(b"a disk that filled")
    with contextlib.suppress(pickle.UnpicklingError, RuntimeError, EOFError):
        assert cross_validate(work / "balls", runs, "--folds", "0", "--epochs", "13") == 1
    assert FitConfig.load(runs / "fold_0" / "config.json").epochs == 13
    assert [fold.number for fold in finished(runs)] == [1, 2]


def test_new_weights_answer_anew(work, runs):
    path = runs / "fold_1" / "weights.pt"
    state = torch.load(path, weights_only=True)
    torch.save({key: value * 0 for key, value in state.items()}, path)
    with pytest.raises(AssertionError):
        assert main(["pack", str(work / "balls"), str(runs), "x", "--card", str(work / "card.json")]) == 0
    assert cross_validate(work / "balls", runs, "--folds", "0") == 0
    empty = [io.read_labelmap(path).array.any() for path in (runs / "fold_1" / "answers").glob("*.nrrd")]
    assert empty == [False, False]  # all logits are equal: background


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("weights", "was made without the weights of"),
        ("decisions", "has no decisions.json; run 'unetsegment-train cross-validate' first"),
        ("network", "differ in network"),
        ("elsewhere", "have trained on every case"),
        ("no run", "is not a run folder"),
    ],
)
def test_what_cannot_be_packed_is_refused_in_one_sentence(work, runs, tmp_path, capsys, change, words):
    places = [runs / "fold_0", runs / "fold_1"]
    if change == "weights":
        state = torch.load(places[1] / "weights.pt", weights_only=True)
        torch.save({key: value + 1 for key, value in state.items()}, places[1] / "weights.pt")
    elif change == "decisions":
        (runs / "decisions.json").unlink()
    elif change == "network":
        path = places[1] / "manifest.json"
        raw = json.loads(path.read_text())
        raw["network"]["arguments"]["dropout"] = 0.5
        path.write_text(json.dumps(raw))
    elif change == "elsewhere":
        places[1] = shutil.move(places[1], tmp_path / "other")
    else:
        places[1] = tmp_path / "nothing"
    output = tmp_path / "model"
    packed = ["pack", str(work / "balls"), *map(str, places), str(output), "--card", str(work / "card.json")]
    assert main(packed) == 1
    message = capsys.readouterr().err
    assert words in message and message.count("\n") == 1 and not output.exists()


def test_two_runs_of_one_fold_are_measured_as_one_model(work, runs, tmp_path):
    """Their validation cases are new to both, so the mean itself is measured."""
    twin = shutil.copytree(runs / "fold_0", tmp_path / "twin")
    state = torch.load(twin / "weights.pt", weights_only=True)
    torch.save({key: value * 1.02 for key, value in state.items()}, twin / "weights.pt")
    places = [str(runs / "fold_0"), str(twin), str(tmp_path / "model")]
    assert main(["pack", str(work / "balls"), *places, "--card", str(work / "card.json")]) == 0
    packed = package.load(tmp_path / "model")
    assert packed.folds == 2 and {m["split"] for m in packed.manifest.metrics} == {"fold 0 validation"}
    assert "was not measured" not in (packed.root / "docs" / "README.md").read_text()


def test_leaks_and_mix_ups_are_refused(work, runs, tmp_path, capsys):
    path = runs / "fold_1" / "split.json"
    split = json.loads(path.read_text())
    path.write_text(json.dumps(split[1:] + split[:1]))  # trained on what it would answer
    assert cross_validate(work / "balls", runs, "--folds", "0") == 1
    assert "it trained on other cases" in capsys.readouterr().err
    assert cross_validate(work / "balls", runs, "--folds", "7") == 1
    assert "There is no fold 7" in capsys.readouterr().err
    assert cross_validate(work / "balls", runs, "--folds", "0", "--set", "loss=dice") == 1
    assert "holds a run with loss = dice_ce, now dice is asked for" in capsys.readouterr().err
    leaky = tmp_path / "leaky"
    leaky.mkdir()
    split[2]["train"].append(split[2]["val"][0])
    (leaky / "split.json").write_text(json.dumps(split))
    assert cross_validate(work / "balls", leaky, "--folds", "0") == 1
    assert f"Fold 2 of '{leaky / 'split.json'}' both trains and validates on case" in capsys.readouterr().err
    assert [path.name for path in leaky.iterdir()] == ["split.json"]


def test_the_mean_of_two_configurations_is_that_of_their_probabilities(work, runs, tmp_path):
    """The same networks with other patches and other weights, on cases that neither has seen."""
    for path in (runs / "manifest.json", *runs.glob("fold_*/manifest.json")):
        raw = json.loads(path.read_text())
        raw["inference"]["patch_size"] = [24, 24, 24]
        path.write_text(json.dumps(raw))
    for path in runs.glob("fold_*/weights.pt"):
        state = torch.load(path, weights_only=True)
        torch.save({key: value * 1.1 for key, value in state.items()}, path)
    dataset, second = read_dataset(work / "balls")[0], FitConfig.load(runs / "config.json")
    told = validate_mean(dataset, [work / "runs", runs], tmp_path / "mean", "torch")
    assert told["cases"] == 6 and told["measured_on"] == "5-fold cross-validation, folds 0, 1, 2"
    name = json.loads((runs / "split.json").read_text())[1]["val"][0]
    case = next(case for case in dataset.cases if case.name == name)
    shares = []
    for folder in (work / "runs", runs):
        manifest = Manifest.from_dict(json.loads((folder / "manifest.json").read_text()))
        network = build_network(manifest)
        network.load_state_dict(torch.load(folder / "fold_1" / "weights.pt", weights_only=True))
        network.half().float().eval()
        shares.append(softmax(logits(network, prepare(case, manifest).image, manifest, second), axis=0))
    expected, alone = (np.flip(x.argmax(0), (0, 1)) for x in (shares[0] + shares[1], shares[0]))
    answer = io.read_labelmap(tmp_path / "mean" / "fold_1" / "answers" / f"{name}.seg.nrrd").array
    assert np.mean(answer == expected) > 0.999 and np.mean(answer == alone) < 0.999
    rows = json.loads((tmp_path / "mean" / "evaluation" / "cases.json").read_text())
    assert {row["case"] for row in rows} == {name for fold in told["folds"] for name in _validating(runs, fold)}
    second_split = runs / "split.json"
    second_split.write_text("[]")
    with pytest.raises(DatasetError, match="cannot be averaged|is not fold|trained on other cases"):
        validate_mean(dataset, [work / "runs", runs], tmp_path / "other", "torch")
    assert not (tmp_path / "other").exists()


def _validating(runs, fold):
    return json.loads((runs / "split.json").read_text())[fold["fold"]]["val"]


@pytest.mark.slow
def test_stock_monai_runs_the_ensemble(work, model, tmp_path):
    pytest.importorskip("fire")
    pytest.importorskip("ignite")
    case = read_dataset(work / "balls")[0].cases[3]
    bundle = ["-m", "monai.bundle", "run", "--config_file", "configs/inference.json", "--bundle_root", "."]
    keys = ["--datalist", f"$['{case.images[0]}']", "--output_dir", str(tmp_path / "stock")]
    subprocess.run([sys.executable, *bundle, *keys], cwd=model.root, check=True, capture_output=True)
    theirs = io.read_labelmap(next((tmp_path / "stock").rglob("*.nii.gz"))).array
    ours = Predictor(model, backend="torch").predict(io.read_volume(case.images[0])).labels.array
    assert np.mean(ours == theirs) >= 0.999
    single = load_network(model, 0)
    alone = logits(
        single, prepare(case, model.manifest).image, model.manifest, FitConfig.load(work / "runs" / "config.json")
    )
    assert (np.flip(alone.argmax(0), (0, 1)) != theirs).any()  # it is the mean, not the first network

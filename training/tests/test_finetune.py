"""A run that starts from a model: where it begins, whose labels are whose, and what it leaves behind."""

import json
from io import BytesIO

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.networks.nets import UNet
from synthetic import bundles, packages
from unetsegment_training import finetune
from unetsegment_training.cli import main
from unetsegment_training.config import FitConfig
from unetsegment_training.dataset import DatasetError, read_dataset
from unetsegment_training.evaluate import evaluate
from unetsegment_training.fit import fit
from unetsegment_training.network import build_for_training, inference_state
from unetsegment_training.parent import Parent, by_name
from unetsegment_training.patches import Prepared, prepare
from UNetSegmentLib import io, package
from UNetSegmentLib.labels import Label
from UNetSegmentLib.predict import Predictor
from UNetSegmentLib.predict.backends.torch_backend import build_network, load_network
from UNetSegmentLib.volume import Grid, LabelMap, Volume

SHELL, CORE = "Dim structure", "Bright structure"
LICENCE = {"name": "CC-BY-SA-4.0", "url": "https://creativecommons.org/licenses/by-sa/4.0/", "commercial_use": True}
ZSCORE = [{"name": "T1", "title": "T1 MRI", "modality": "MR", "normalization": {"method": "zscore"}}]
FAST = ["--epochs", "1", "--set", "steps_per_epoch=2", "--device", "cpu"]


@pytest.fixture
def model(tmp_path):
    return packages.dynunet_package(tmp_path / "model", licence=LICENCE, channels=ZSCORE)


def settings(model, **changes):
    return FitConfig(**(finetune.defaults(Parent.open(model)) | changes))


def begun(model, dataset, **changes):
    """Network, manifest, matched dataset and start of a run on all cases."""
    config = settings(model, **changes)
    matched, start = finetune.begin(Parent.open(model), dataset, config)
    manifest = start.manifest(matched, config, matched.cases)
    network = build_for_training(manifest, config)
    start.parent.begin(network, manifest)
    return network, manifest, matched, start


def renamed(root, *names):
    """The balls with other names for their labels 1, 2."""
    path = root / "dataset.json"
    table = {"0": "background"} | {str(n): name for n, name in enumerate(names, 1)}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"labels": table}))
    return read_dataset(root)[0]


@pytest.mark.parametrize("supervised", [False, True])
def test_before_the_first_step_it_answers_as_the_model(model, balls, supervised):
    network, manifest, *_ = begun(model, renamed(balls, SHELL, CORE), deep_supervision=supervised)
    x = torch.randn(2, 1, 16, 24, 16)
    wanted = load_network(package.load(model))(x)
    assert torch.equal(network.eval()(x), wanted)
    if supervised:  # coarser heads say nothing yet, and pull at nothing
        heads = network.train()(x)
        assert torch.equal(heads[:, 0], wanted) and not heads[:, 1:].any()
    packed = build_network(manifest)
    packed.load_state_dict(inference_state(network.state_dict(), manifest))
    assert torch.equal(packed.eval()(x), wanted)


def saved(state):
    content = BytesIO()
    torch.save(state, content)
    return content.getvalue()


def monai_bundle(root):
    arguments = {k: v for k, v in bundles.INFERENCE["network_def"].items() if k != "_target_"}
    return bundles.write(root, weights=saved(UNet(**arguments).state_dict())), (32, 32, 16)


def nnunet_package(root):
    """What an nnU-Net folder becomes in the cache: its own network, axes, crop and resampling."""
    arguments = {
        "features_per_stage": [2, 3], "kernel_sizes": [[3, 3, 3]] * 2, "strides": [[1, 1, 1], [2, 2, 2]],
        "n_conv_per_stage": [1, 1], "n_conv_per_stage_decoder": [1], "conv_bias": True,
    }  # fmt: skip
    how = {"orientation": "stored", "axes": [2, 1, 0], "spacing": [1.0, 1.0, 1.0], "crop": "nonzero"}
    raw = packages.manifest(
        network={"name": "PlainConvUNet", "arguments": arguments}, outputs=[0, 3, 300],
        preprocessing=how | {"resampling": {"alignment": "edges", "image_order": 3}},
    )  # fmt: skip
    state = build_network(package.Manifest.from_dict(raw)).state_dict()
    return packages.write(root, raw, {"torch": ("models/model.pt", saved(state))}), (16, 24, 16)


@pytest.mark.parametrize("kind", [monai_bundle, nnunet_package])
def test_models_of_other_kinds_are_trained_on(kind, balls, tmp_path, monkeypatch):
    monkeypatch.setenv("UNETSEGMENT_CACHE", str(tmp_path / "cache"))
    other, patch = kind(tmp_path / "other")
    names = [label.name for label in package.load(other).manifest.segments]
    network, manifest, matched, _ = begun(other, renamed(balls, *names))
    x = torch.randn(1, 1, *patch)
    assert torch.equal(network.eval()(x), load_network(package.load(other))(x))
    ready = prepare(matched.cases[0], manifest)
    assert ready.classes.shape == ready.image.shape[1:] and set(np.unique(ready.classes)) == {0, 1, 2}
    if kind is nnunet_package:
        network, *_ = begun(other, renamed(balls, names[0], "Cyst"), same_labels=("Cyst=+",))
        assert network(x).shape[1] == 4


def test_a_new_label_shares_the_background_and_changes_nothing_else(model, balls):
    network, manifest, matched, start = begun(model, renamed(balls, CORE, "Cyst"), same_labels=("cyst=+",))
    assert [label.name for label in manifest.labels] == ["background", SHELL, CORE, "Cyst"]
    assert manifest.inference.mirror_axes == ()  # as the model: left and right may be two labels
    assert [label.value for label in manifest.labels] == [0, 3, 300, 301]
    assert matched.labels == {0: "background", 300: CORE, 301: "Cyst"}
    case = read_dataset(balls)[0].cases[0]
    file, label = io.read_labelmap(case.label).array, matched.cases[0].load()[1].array
    assert np.array_equal(
        label, np.select([file == 1, file == 2], [300, 301])
    )  # the file's numbers, in the model's words
    x = torch.randn(1, 1, 16, 24, 16)
    before, after = (net.eval()(x).softmax(1) for net in (load_network(package.load(model)), network))
    torch.testing.assert_close(after[:, 1:3], before[:, 1:])
    torch.testing.assert_close(after[:, 0], before[:, 0] / 2)
    torch.testing.assert_close(after[:, 3], before[:, 0] / 2)


@pytest.mark.parametrize(
    ("names", "same", "words"),
    [
        (("Brite structure", SHELL), (), f"'Brite structure' is none of the structures of model 'synthetic' ({SHELL}, {CORE})"),
        (("Brite structure", SHELL), (), f'--label "Brite structure={CORE}"'),
        (("a", SHELL), ("a=Liver",), "'Liver', which 'a' is said to be, is none of"),
        (("a", SHELL), ("a",), "not of the form NAME=STRUCTURE"),
    ],
)  # fmt: skip
def test_a_label_that_the_model_does_not_have_must_be_said_to_be_new(model, balls, names, same, words):
    with pytest.raises(DatasetError) as caught:
        begun(model, renamed(balls, *names), same_labels=same)
    assert words in str(caught.value)


def test_names_are_matched_without_case_and_spaces(model, balls):
    _, _, matched, start = begun(model, renamed(balls, "x", " bright  STRUCTURE"), same_labels=("x=dim Structure",))
    assert matched.labels == {0: "background", 3: SHELL, 300: CORE} and not start.new


def test_channels_must_fit(model, balls, tmp_path):
    two = [dict(ZSCORE[0]), dict(ZSCORE[0], name="T2")]
    network = {"name": "DynUNet", "arguments": packages.DYNUNET | {"in_channels": 2}}
    other = packages.dynunet_package(tmp_path / "two", channels=two, network=network)
    with pytest.raises(DatasetError, match="'synthetic' sees the channels T1, T2; the dataset has MRI"):
        begun(other, renamed(balls, SHELL, CORE))


def test_channels_come_in_the_order_of_the_model(tmp_path, balls):
    two = [dict(ZSCORE[0]), dict(ZSCORE[0], name="T2")]
    network = {"name": "DynUNet", "arguments": packages.DYNUNET | {"in_channels": 2}}
    other = packages.dynunet_package(tmp_path / "two", channels=two, network=network)
    for path in sorted((balls / "imagesTr").glob("*.nii.gz")):
        stem = path.name[: -len(".nii.gz")]
        image = sitk.ReadImage(str(path))
        sitk.WriteImage(image + 1000, str(path.with_name(f"{stem}_0001.nii.gz")))
        path.rename(path.with_name(f"{stem}_0000.nii.gz"))
    described = json.loads((balls / "dataset.json").read_text())
    (balls / "dataset.json").write_text(json.dumps(described | {"modality": {"0": "t2", "1": "t1"}}))
    _, _, matched, _ = begun(other, renamed(balls, SHELL, CORE))
    image = matched.cases[0].load()[0]
    assert np.allclose(image.array[0], image.array[1] + 1000)


def test_what_the_model_decides_cannot_be_set(model, balls, capsys):
    renamed(balls, SHELL, CORE)
    for more, words in (
        (["--filters", "8,16,32"], "decides filters"),
        (["--network", "vnet", "--filters", "16"], "leave network = vnet out"),
    ):
        assert main(["fit", str(balls), "run", "--from", str(model), *more]) == 1
        told = capsys.readouterr().err
        assert words in told and told.count("\n") == 1
    assert main(["fit", str(balls), "run", "--rehearse", str(balls)]) == 1
    assert "belong to --from" in capsys.readouterr().err


def test_overlapping_regions_are_refused(tmp_path):
    regions = packages.dynunet_package(
        tmp_path / "regions", activation="sigmoid", outputs=[3, 300],
        network={"name": "DynUNet", "arguments": packages.DYNUNET | {"out_channels": 2}},
    )  # fmt: skip
    with pytest.raises(DatasetError, match="regions that may overlap"):
        Parent.open(regions)


def test_a_network_that_mixes_its_outputs_takes_no_new_label(tmp_path, balls):
    arguments = {
        "spatial_dims": 3, "in_channels": 1, "out_channels": 3, "channels": [4, 8], "strides": [2], "num_res_units": 1,
    }  # fmt: skip
    raw = packages.manifest(network={"name": "UNet", "arguments": arguments})
    files = {"torch": ("models/model.pt", saved(UNet(**arguments).state_dict()))}
    other = packages.write(tmp_path / "unet", raw, files)
    begun(other, renamed(balls, SHELL, CORE))
    with pytest.raises(DatasetError, match="a label cannot be added"):
        begun(other, renamed(balls, SHELL, "Cyst"), same_labels=("Cyst=+",))


def test_structures_that_nobody_drew_are_completed_by_the_model_where_a_label_says_background(model):
    parent = Parent.open(model)
    network = build_network(parent.manifest)
    network.load_state_dict(parent.state)
    image = np.random.default_rng(0).normal(0, 1, (1, 16, 24, 16)).astype(np.float32)
    with torch.inference_mode():
        answer = network.eval()(torch.from_numpy(image)[None])[0].argmax(0).numpy()
    assert {1, 2} <= set(np.unique(answer))
    drawn = np.zeros(answer.shape, np.uint8)
    drawn[:8] = 2
    case = Prepared("a", image, drawn, (1.0, 1.0, 1.0))
    done = finetune.completed(case, network, parent.manifest, {0, 300}).classes
    assert np.array_equal(done, np.where(drawn == 2, 2, np.where(answer == 1, 1, 0)))
    assert finetune.completed(case, network, parent.manifest, {0, 3, 300}) is case


class Says(torch.nn.Module):
    """A network that gives every voxel the same probabilities."""

    def __init__(self, *shares):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor(shares).log())

    def forward(self, x):
        return self.logits[None, :, None, None, None].expand(len(x), -1, *x.shape[2:])


@pytest.mark.parametrize("now", [(0.25, 0.75), (0.125, 0.75, 0.125), (0.05, 0.75, 0.1, 0.1)])
def test_what_is_forgotten_costs_its_divergence_and_new_labels_were_background(model, now):
    config = settings(model, keep=3.0, patch=(16, 16, 16))
    memory = finetune.Memory(Says(0.5, 0.5), np.zeros((1, 16, 24, 16), np.float32), config)
    loss = memory.loss(network := Says(*now), 0, torch.device("cpu"))
    assert float(loss) == pytest.approx(3 * (0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)), rel=1e-4)
    loss.backward()
    assert network.logits.grad.abs().sum() > 0 and memory.model.logits.grad is None
    assert float(memory.loss(Says(0.4, 0.5, 0.1), 0, torch.device("cpu"))) == pytest.approx(0, abs=1e-6)


def referenced(root, model):
    """The model with a reference patch."""
    image = np.random.default_rng(1).normal(0, 1, (1, 16, 24, 16)).astype(np.float16)
    with torch.inference_mode():
        seen = torch.from_numpy(image.astype(np.float32))[None]
        classes = load_network(package.load(model))(seen)[0].argmax(0).numpy()
    content = BytesIO()
    np.savez(content, input=image, labels=np.array([0, 3, 300], np.uint16)[classes])
    raw = json.loads((model / "configs" / "manifest.json").read_text("utf-8"))
    files = {role: (file["path"], (model / file["path"]).read_bytes()) for role, file in raw["files"].items()}
    return packages.write(root, raw | {"files": {}}, files | {"reference": ("reference.npz", content.getvalue())})


def test_a_run_keeps_what_the_reference_patch_shows(model, balls, tmp_path):
    dataset, known = renamed(balls, SHELL, CORE), referenced(tmp_path / "known", model)
    patch = torch.from_numpy(Parent.open(known).reference)[None]
    before, change = load_network(package.load(known))(patch).softmax(1), {}
    for keep in (0.0, 100.0):
        config = settings(known, keep=keep, steps_per_epoch=8, epochs=1, warmup_steps=0, ema_decay=0.0, fold=-1)
        matched, start = finetune.begin(Parent.open(known), dataset, config)
        weights = torch.load(fit(matched, tmp_path / f"keep-{keep}", config, "cpu", start), weights_only=True)
        network = start.parent.network()
        network.load_state_dict(weights)
        with torch.inference_mode():
            change[keep] = float((network(patch).softmax(1) - before).abs().mean())
    assert change[100.0] < 0.5 * change[0.0]


def test_old_and_new_cases_are_seen_equally_often(model, balls):
    assert sorted(finetune.mixed("ab", "uvwxy")) == sorted("aabbuvwxy")
    assert sorted(finetune.mixed("abcdef", "xy")) == sorted("abcdefxxxyyy")


def test_old_cases_must_have_the_new_labels_and_other_names(model, balls):
    dataset = renamed(balls, SHELL, "Cyst")
    config = settings(model, same_labels=("Cyst=+",))
    old = renamed(balls, SHELL, CORE)
    with pytest.raises(DatasetError, match="do not have the new label 'Cyst'"):
        finetune.begin(Parent.open(model), dataset, config, old)
    with pytest.raises(DatasetError, match="Case 'ball_00' is among the new and the old cases"):
        finetune.begin(Parent.open(model), dataset, config, dataset)


def test_labels_follow_a_crop_and_another_spacing(tmp_path):
    """A model that crops to what is not zero and resamples by edges: labels must lie where the image lies."""
    how = {"orientation": "stored", "axes": [2, 0, 1], "spacing": [1.0, 1.0, 1.0], "crop": "nonzero"}
    raw = packages.manifest(preprocessing=how | {"resampling": {"alignment": "edges"}})
    image = np.zeros((20, 24, 18), np.float32)
    image[4:16, 6:20, 2:14] = 1
    image[8:12, 10:16, 5:9] = 5
    grid = Grid.from_spacing(image.shape, (2.0, 1.0, 1.5), (7, -3, 5), np.diag([-1.0, 1.0, 1.0]))
    label = np.where(image == 5, 3, 0).astype(np.uint16)
    names = tuple(Label(entry["value"], entry["name"]) for entry in packages.LABELS)

    class Box:
        name = "box"

        @staticmethod
        def load():
            return Volume(image[None], grid, ("T1",)), LabelMap(label, grid, names)

    ready = prepare(Box, package.Manifest.from_dict(raw))
    assert ready.classes.shape == ready.image.shape[1:] == (18, 24, 14)  # 12 x 1.5, 12 x 2, 14 x 1 mm
    inside = ready.image[0] > 3  # halfway between 1 and 5
    assert np.mean(inside == (ready.classes == 1)) > 0.99 and inside.any()


def saved_by_slicer(folder, count):
    """Images with a ball and .seg.nrrd files whose segments bear the model's names, in changing order."""
    folder.mkdir()
    grid = Grid.from_spacing((18, 24, 18), (1.0, 1.0, 1.0), (3, 2, 1), np.eye(3))
    i, j, k = np.mgrid[:18, :24, :18]
    for n in range(count):
        rng = np.random.default_rng(n)
        distance = np.sqrt((i - rng.uniform(7, 11)) ** 2 + (j - 12) ** 2 + (k - 9) ** 2)
        image = (50 * (distance < 6) + 50 * (distance < 3) + rng.normal(100, 5, distance.shape)).astype(np.float32)
        first, second = ((1, 2), (2, 1))[n % 2]
        array = np.where(distance < 3, first, np.where(distance < 6, second, 0)).astype(np.uint8)
        labels = (Label(first, CORE), Label(second, SHELL))
        picture = sitk.GetImageFromArray(image.T)
        picture.SetOrigin((-3, -2, 1))
        picture.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
        sitk.WriteImage(picture, str(folder / f"case_{n}.nrrd"))
        io.write_labelmap(folder / f"case_{n}-segmentation.seg.nrrd", LabelMap(array, grid, labels))
    return folder


def test_from_corrected_cases_saved_by_slicer_to_a_packed_model(model, tmp_path, capsys):
    cases, run, packed = saved_by_slicer(tmp_path / "corrected", 3), tmp_path / "run", tmp_path / "tuned"
    line = ["fit", str(cases), str(run), "--from", str(model), *FAST]
    assert main(line) == 1
    assert "Train on all of them with 'fit --fold -1'" in capsys.readouterr().err and not run.exists()
    line += ["--fold", "-1"]
    assert main(line) == 0
    assert main(["pack", str(cases), str(run), str(packed)]) == 0
    loaded = package.load(packed)
    raw = loaded.manifest.raw
    assert raw["title"] == "Synthetic, tuned"
    assert (raw["name"], raw["version"], raw["licence"]) == ("synthetic-tuned", "1.1.0", LICENCE)
    ancestor = raw["ancestors"][0]
    assert (ancestor["name"], ancestor["version"], ancestor["licence"]) == ("synthetic", "1.0.0", LICENCE)
    assert ancestor["sha256"] == package.load(model).content_hash
    assert "synthetic 1.0.0" in (packed / "docs" / "README.md").read_text("utf-8")
    answer = Predictor(loaded).predict(io.read_volume(cases / "case_0.nrrd")).labels
    assert {label.name for label in answer.segments} == {SHELL, CORE}

    other = packages.dynunet_package(tmp_path / "other", seed=1, channels=ZSCORE)
    line[line.index(str(model))] = str(other)
    assert main(line) == 1
    assert "started from another model than 'synthetic'" in capsys.readouterr().err


def test_only_structures_that_the_dataset_names_are_measured(model, balls, tmp_path):
    _, _, matched, _ = begun(model, renamed(balls, SHELL, "Cyst"), same_labels=("Cyst=" + SHELL,))
    summary = evaluate(matched.cases[:1], model, tmp_path / "out")
    assert [(row["label"], row["name"]) for row in summary] == [(3, SHELL)]
    same = by_name(renamed(balls, CORE, SHELL), package.load(model).manifest)
    assert same.labels == {0: "background", 300: CORE, 3: SHELL} and same.cases[0].renumber == (
        (0, 0),
        (1, 300),
        (2, 3),
    )
    other = renamed(balls, CORE, "Cyst")
    assert by_name(other, package.load(model).manifest) is other


def test_a_run_goes_on_after_an_interruption_and_rehearses(model, balls, tmp_path, capsys):
    renamed(balls, SHELL, CORE)
    old = saved_by_slicer(tmp_path / "old", 2)
    line = ["fit", str(balls), "--from", str(model), "--rehearse", str(old), "--set", "steps_per_epoch=2"]
    line += ["--device", "cpu", "--set", "schedule=constant", "--validate-every", "1"]
    assert main([*line[:2], str(tmp_path / "whole"), *line[2:], "--epochs", "2"]) == 0
    assert main([*line[:2], str(tmp_path / "broken"), *line[2:], "--epochs", "1"]) == 0
    assert main([*line[:2], str(tmp_path / "broken"), *line[2:], "--epochs", "2"]) == 0
    whole, broken = (torch.load(tmp_path / run / "weights.pt", weights_only=True) for run in ("whole", "broken"))
    start = load_network(package.load(model)).state_dict()
    for key, value in whole.items():
        torch.testing.assert_close(value, broken[key])
    assert any(not torch.equal(value, start[key]) for key, value in whole.items())
    told = json.loads((tmp_path / "whole" / "parent.json").read_text("utf-8"))
    assert told["sha256"] == package.load(model).content_hash and len(told["rehearsed"]) == 2


def test_folds_that_start_from_a_model_are_cross_validated_and_packed(balls, tmp_path, capsys):
    """One structure is matched, one is new, and one of the model's is in no case: it is neither measured nor changed."""
    step = {"method": "keep_largest_component", "labels": [300]}
    model = packages.dynunet_package(tmp_path / "model", licence=LICENCE, channels=ZSCORE, postprocessing=[step])
    renamed(balls, SHELL, "Cyst")
    runs, packed = tmp_path / "runs", tmp_path / "tuned"
    line = ["cross-validate", str(balls), str(runs), "--from", str(model), "--folds", "0,1", *FAST]
    assert main(line) == 1
    assert "say which it is" in capsys.readouterr().err and not runs.exists()
    line += ["--label", "Cyst=+"]
    assert main(line) == 0
    told = json.loads((runs / "decisions.json").read_text("utf-8"))
    names = [SHELL, "Cyst"]
    assert [row["name"] for row in told["summary"]] == names and told["cases"] == 4
    assert {name for trial in told["components"] for name in trial["names"]} == set(names)
    assert told["postprocessing"][0] == step
    assert Parent.noted(runs / "fold_1").sha256 == Parent.noted(runs).sha256 == package.load(model).content_hash
    expected = [row["dice"] for row in told["summary"]]
    assert main(["pack", str(balls), str(runs), str(packed)]) == 0
    manifest = package.load(packed).manifest
    assert [metric["dice"] for metric in manifest.metrics] == expected and manifest.postprocessing[0] == step
    assert {label.name for label in manifest.segments} == {CORE, SHELL, "Cyst"}

    line[4] = str(packages.dynunet_package(tmp_path / "other", seed=1, licence=LICENCE, channels=ZSCORE))
    assert main(line) == 1
    assert "started from another model than 'synthetic'" in capsys.readouterr().err

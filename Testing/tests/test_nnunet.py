"""nnU-Net v2 folders: what is read from them, what is refused, and that our labels are nnU-Net's."""

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peers import run_peer
from UNetSegmentLib import io, package
from UNetSegmentLib.errors import OutputError, PackageError
from UNetSegmentLib.package import nnunet, nnunet_plans
from UNetSegmentLib.package.tensors import read_tensors
from UNetSegmentLib.predict.postprocess import keep_largest_component
from UNetSegmentLib.predict.tiles import Tiling
from UNetSegmentLib.volume import Volume

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("UNETSEGMENT_SHARED", ROOT.parent / "shared"))
REAL = SHARED / "models" / "nnunet_hippocampus"
IMAGES = SHARED / "data" / "hippocampus" / "imagesTr"
CASES = ("001", "088", "175", "205", "394")
KINDS = ("flat", "two_channels", "regions", "anisotropic", "residual", "masked", "old_plans", "batch_norm")

RESAMPLING = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
ARGUMENTS = {
    "n_stages": 2,
    "features_per_stage": [2, 3],
    "conv_op": "torch.nn.modules.conv.Conv3d",
    "kernel_sizes": [[3, 3, 3], [3, 3, 3]],
    "strides": [[1, 1, 1], [2, 2, 2]],
    "n_conv_per_stage": [1, 1],
    "n_conv_per_stage_decoder": [1],
    "conv_bias": True,
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "norm_op_kwargs": {"eps": 1e-05, "affine": True},
    "dropout_op": None,
    "dropout_op_kwargs": None,
    "nonlin": "torch.nn.LeakyReLU",
    "nonlin_kwargs": {"inplace": True},
}
CONFIGURATION = {
    "preprocessor_name": "DefaultPreprocessor",
    "patch_size": [8, 16, 16],
    "spacing": [3.0, 1.0, 0.5],
    "normalization_schemes": ["CTNormalization"],
    "use_mask_for_norm": [False],
    "resampling_fn_data": "resample_data_or_seg_to_shape",
    "resampling_fn_data_kwargs": RESAMPLING,
    "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
    "resampling_fn_probabilities_kwargs": {**RESAMPLING, "order": 1},
    "architecture": {"network_class_name": "x.unet.PlainConvUNet", "arch_kwargs": ARGUMENTS},
}
SEEN = {"mean": 10.0, "std": 20.0, "median": 9.0, "percentile_00_5": -50.0, "percentile_99_5": 90.0}
PLANS = {
    "dataset_name": "Dataset001_Test",
    "image_reader_writer": "SimpleITKIO",
    "transpose_forward": [1, 0, 2],
    "label_manager": "LabelManager",
    "original_median_spacing_after_transp": [3.0, 1.0, 0.5],
    "foreground_intensity_properties_per_channel": {"0": SEEN},
    "configurations": {"3d_fullres": CONFIGURATION},
}
DATASET = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1, "b": 2}, "numTraining": 5}
HEADS = 3


def changed(table, **entries):
    """A copy with entries at ``a__b__c`` paths set, or removed where the value is ``...``."""
    table = copy.deepcopy(table)
    for path, value in entries.items():
        *parts, last = path.split("__")
        place = table
        for part in parts:
            place = place[part]
        if value is ...:
            del place[last]
        else:
            place[last] = value
    return table


def configured(**entries):
    return changed(PLANS, **{f"configurations__3d_fullres__{key}": value for key, value in entries.items()})


def read(plans=PLANS, dataset=DATASET, name="3d_fullres"):
    return nnunet_plans.read(plans, dataset, name)


def weights(plans=PLANS, dataset=DATASET):
    """A state dict in nnU-Net's form, with its doubles and its other heads."""
    torch = pytest.importorskip("torch")
    of = read(plans, dataset).architecture
    rng = np.random.default_rng(0)
    state = {key: torch.from_numpy(rng.normal(size=shape).astype(np.float32)) for key, shape in of.shapes().items()}
    for key, value in list(state.items()):
        if key.startswith("encoder."):
            state[f"decoder.{key}"] = value
        if ".conv." in key:
            state[key.replace(".conv.", ".all_modules.0.")] = value
    return state


def write(folder, plans=PLANS, dataset=DATASET, folds=("all",), name="checkpoint_final.pth", **content):
    torch = pytest.importorskip("torch")
    folder.mkdir(parents=True, exist_ok=True)
    for file, table in (("plans.json", plans), ("dataset.json", dataset)):
        (folder / file).write_text(table if isinstance(table, str) else json.dumps(table))
    for fold in folds:
        saved = {
            "network_weights": weights(),
            "optimizer_state": {},
            "logging": {"dice": [np.float64(0.5), np.float32(0.25)]},
            "_best_ema": np.float64(0.1),
            "init_args": {"configuration": "3d_fullres", "plans": {}, "device": torch.device("cpu")},
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": (0, 2),
        } | content
        (folder / f"fold_{fold}").mkdir(exist_ok=True)
        torch.save({k: v for k, v in saved.items() if v is not ...}, folder / f"fold_{fold}" / name)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("UNETSEGMENT_CACHE", str(folder))
    return folder


def test_folder_becomes_a_package_once(tmp_path, cache):
    folder = write(tmp_path / "model")
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    loaded = package.load(folder)
    loaded.verify()
    manifest = loaded.manifest
    assert loaded.root.parent == (cache / "converted").resolve() and loaded.folds == 1
    assert manifest.name == "dataset001_test-3d_fullres" and manifest.licence == "unknown"
    pre = manifest.preprocessing
    assert (pre.orientation, pre.axes, pre.spacing, pre.crop) == ("stored", (1, 2, 0), (3.0, 1.0, 0.5), "nonzero")
    assert (pre.resampling.alignment, pre.resampling.image_order, pre.resampling.separate_axis) == ("edges", 3, "auto")
    window = manifest.inference
    assert (window.patch_size, window.overlap, window.convention) == ((8, 16, 16), 0.5, "nnunet")
    assert window.mirror_axes == (0, 2)
    norm = manifest.channels[0].normalization
    assert (norm.method, norm.clip, norm.mean, norm.std) == ("clip_zscore", (-50.0, 90.0), 10.0, 20.0)
    assert [(x.value, x.name) for x in manifest.labels] == [(0, "background"), (1, "a"), (2, "b")]
    tensors = read_tensors(loaded.verified_bytes("safetensors"))
    assert set(tensors) == set(manifest.architecture.shapes())
    assert np.array_equal(
        tensors["encoder.stages.0.0.convs.0.conv.weight"], weights()["encoder.stages.0.0.convs.0.conv.weight"]
    )
    stamp = (loaded.root / "configs/manifest.json").stat().st_mtime_ns
    assert package.load(folder).root == loaded.root
    assert (loaded.root / "configs/manifest.json").stat().st_mtime_ns == stamp
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    assert [p.name for p in (cache / "converted").iterdir()] == [loaded.root.name]


def test_folds_configurations_and_results_layout(tmp_path):
    results = tmp_path / "Dataset001_Test"
    first = write(results / "nnUNetTrainer__nnUNetPlans__3d_fullres", folds=("0", "3", "all"))
    loaded = package.load(results)
    assert loaded.folds == 2 and set(loaded.manifest.files) == {"safetensors", "safetensors.1"}
    assert "fold_3" in loaded.manifest.files["safetensors.1"].path
    assert loaded.manifest.folds == ("0", "3")
    write(results / "nnUNetTrainer__nnUNetPlans__2d")
    with pytest.raises(
        PackageError, match="several nnU-Net models; give one of its folders 'nnUNetTrainer__nnUNetPlans__2d'"
    ):
        package.load(results)
    write(first, folds=("1",), init_args={"configuration": "3d_lowres"})
    with pytest.raises(PackageError, match="different configurations, '3d_fullres' and '3d_lowres'"):
        package.load(first)


def test_best_checkpoint_stands_in_for_the_final_one(tmp_path):
    folder = write(tmp_path / "model", name="checkpoint_best.pth")
    assert package.load(folder).folds == 1
    shutil.rmtree(folder / "fold_all")
    with pytest.raises(PackageError, match="has no weights"):
        package.load(folder)


def test_zip_is_opened_and_what_it_was_made_from_does_not_stay(tmp_path, cache):
    write(tmp_path / "zip" / "Dataset001_Test" / "nnUNetTrainer__nnUNetPlans__3d_fullres")
    archive = shutil.make_archive(str(tmp_path / "model"), "zip", tmp_path / "zip")
    loaded = package.load(archive)
    assert package.load(archive).root == loaded.root and loaded.manifest.name == "dataset001_test-3d_fullres"
    assert not list(cache.rglob("*.pth"))


def test_unfinished_conversion_is_made_again(tmp_path, cache):
    loaded = package.load(write(tmp_path / "model"))
    (loaded.root / "configs/manifest.json").unlink()
    assert package.load(tmp_path / "model").root == loaded.root


def test_cache_that_cannot_be_written_is_named(tmp_path, cache):
    folder = write(tmp_path / "model")
    cache.write_text("a file where the folder should be")
    with pytest.raises(OutputError, match="cannot be kept in"):
        package.load(folder)


def test_flat_configuration_keeps_slice_spacing(tmp_path):
    flat = {key: [size[1:] for size in ARGUMENTS[key]] for key in ("kernel_sizes", "strides")}
    flat |= {"conv_op": "torch.nn.Conv2d", "norm_op": "torch.nn.InstanceNorm2d"}
    how = configured(
        patch_size=[16, 16],
        spacing=[1.0, 0.5],
        architecture={"network_class_name": "PlainConvUNet", "arch_kwargs": {**ARGUMENTS, **flat}},
    )
    entries = read(how).entries
    assert entries["preprocessing"]["spacing"] == [None, 1.0, 0.5]
    assert entries["inference"]["patch_size"] == [1, 16, 16] and entries["network"]["dimensions"] == 2
    assert read(how).mirrored == (1, 2)


def test_regions_are_painted_in_their_order():
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "inner": 3, "ignore": 4}
    entries = read(dataset=changed(DATASET, labels=labels, regions_class_order=[1, 3, 2])).entries
    assert entries["activation"] == "sigmoid" and entries["outputs"] == entries["paint_order"] == [1, 3, 2]
    assert {x["value"]: x["name"] for x in entries["labels"]} == {0: "background", 1: "whole", 3: "core", 2: "inner"}


def test_normalisations_and_names():
    schemes = ["ZScoreNormalization", "ZScoreNormalization", "RescaleTo01Normalization", "RGBTo01Normalization"]
    schemes.append("NoNormalization")
    names = dict(enumerate(["T1", "PET", "CBCT", "", "T1"]))
    plans = configured(normalization_schemes=schemes, use_mask_for_norm=[True, False, False, False, False])
    channels = read(plans, changed(DATASET, channel_names={str(k): v for k, v in names.items()})).entries["channels"]
    assert [c["name"] for c in channels] == ["T1 1", "PET", "CBCT", "channel 4", "T1 5"]
    assert [c["modality"] for c in channels] == ["MR", "PT", "CT", "OT", "MR"]
    assert [c["normalization"].get("mask") for c in channels] == ["filled", "all", None, None, None]
    assert channels[3]["normalization"] == {"method": "range", "window": [0.0, 255.0], "output": [0.0, 1.0]}


def test_old_plans_are_rebuilt():
    old = {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 4,
        "unet_max_num_features": 6,
        "n_conv_per_stage_encoder": [1, 2],
        "n_conv_per_stage_decoder": [1],
        "pool_op_kernel_sizes": [[1, 1, 1], [2, 2, 2]],
        "conv_kernel_sizes": [[3, 3, 3], [3, 3, 3]],
    }
    plans = changed(configured(architecture=...), foreground_intensity_properties_per_channel=...)
    plans["foreground_intensity_properties_by_modality"] = {"0": SEEN}
    plans["configurations"]["3d_fullres"] |= old
    dataset = changed(DATASET, channel_names=..., modality={"0": "CT"})
    of = read(plans, dataset).architecture
    assert (of.features, of.repeats, of.norm, of.bias, of.slope) == ((4, 6), (1, 2), "instance", True, 0.01)
    plans["configurations"]["3d_fullres"]["UNet_class_name"] = "ResidualEncoderUNet"
    assert read(plans, dataset).architecture.name == "ResidualEncoderUNet"


def test_inherited_configuration():
    plans = changed(PLANS, configurations__child={"inherits_from": "3d_fullres", "spacing": [1, 1, 1]})
    assert read(plans, name="child").entries["preprocessing"]["spacing"] == [1.0, 1.0, 1.0]
    plans["configurations"]["3d_fullres"]["inherits_from"] = "child"
    with pytest.raises(PackageError, match="inherits from itself"):
        read(plans, name="child")


@pytest.mark.parametrize(
    "function, options, expected",
    [
        ("resample_torch_fornnunet", {"is_seg": False, "force_separate_z": False, "num_threads": 4}, (1, "never")),
        ("resample_torch_fornnunet", {"mode": "linear"}, (1, "auto")),
        ("resample_torch_simple", {}, (1, "never")),
        ("resample_data_or_seg_to_shape", {**RESAMPLING, "order": 1, "force_separate_z": True}, (1, "always")),
    ],
)
def test_resampling_functions(function, options, expected):
    names = {"resampling_fn_data": function, "resampling_fn_probabilities": function}
    names |= {f"{name}_kwargs": options for name in list(names)}
    how = read(configured(**names)).entries["preprocessing"]["resampling"]
    assert (how["image_order"], how["separate_axis"]) == expected and how["alignment"] == "edges"


def test_no_resampling_keeps_the_images_spacing():
    names = {f"resampling_fn_{part}": "no_resampling_hack" for part in ("data", "probabilities")}
    names |= {f"{name}_kwargs": {} for name in list(names)}
    assert read(configured(**names)).entries["preprocessing"]["spacing"] == [None] * 3


def arch(**entries):
    return {"network_class_name": "a.PlainConvUNet", "arch_kwargs": {**ARGUMENTS, **entries}}


REFUSED = [
    (configured(previous_stage="3d_lowres"), {}, "second stage of a cascade"),
    (configured(preprocessor_name="Own"), {}, "preprocessor 'Own'"),
    (changed(PLANS, label_manager="Own"), {}, "label manager 'Own'"),
    (changed(PLANS, image_reader_writer="NaturalImage2DIO"), {}, "reads its images with 'NaturalImage2DIO'"),
    (changed(PLANS, image_reader_writer=...), {}, "lack the entry 'image_reader_writer'"),
    (changed(PLANS, transpose_forward=[0, 0, 1]), {}, "no order of three axes"),
    (changed(PLANS, transpose_forward="012x"), {}, "not what nnU-Net v2 writes"),
    (changed(PLANS, configurations={}), {}, "no configuration '3d_fullres'"),
    (configured(patch_size=[8, 16, 17]), {}, "cannot be halved"),
    (configured(patch_size=[8, 16, 4096]), {}, "numbers of 1 to 1024"),
    (configured(spacing=[1, 1]), {}, "different numbers of axes"),
    (configured(spacing=[1, 1, -1]), {}, "spacing that no image has"),
    (configured(spacing=[1, 1, 1e999]), {}, "no finite number"),
    (configured(normalization_schemes=["Own"]), {}, "normalises 'CT' by 'Own'"),
    (configured(normalization_schemes=[]), {}, "number of channels"),
    (configured(resampling_fn_data="own"), {}, "resamples by 'own'"),
    (configured(resampling_fn_data="no_resampling_hack"), {}, "only one of image and answer"),
    (configured(resampling_fn_probabilities_kwargs=RESAMPLING), {}, "answer with order 3"),
    (configured(resampling_fn_data_kwargs={**RESAMPLING, "order_z": 1}), {}, "with order_z = 1"),
    (configured(resampling_fn_data_kwargs={**RESAMPLING, "force_separate_z": True}), {}, "thick slices"),
    (configured(architecture=arch() | {"network_class_name": "os.system"}), {}, "network is 'system'"),
    (configured(architecture=arch(norm_op="torch.nn.GroupNorm")), {}, "norm 'torch.nn.GroupNorm'"),
    (configured(architecture=arch(nonlin="torch.nn.GELU")), {}, "activation 'torch.nn.GELU'"),
    (configured(architecture=arch(conv_op="torch.nn.Conv2d")), {}, "'torch.nn.Conv2d' for 3D"),
    (configured(architecture=arch(bottleneck_channels=[2, 2])), {}, "bottleneck blocks"),
    (configured(architecture=arch(n_stages=1e9)), {}, "2 to 16 stages"),
    (PLANS, {"labels": {"background": 0, "a": 2}}, "without a gap"),
    (PLANS, {"labels": {"background": 0, "a": 1, "b": 1}}, "two names to one label"),
    (PLANS, {"labels": {"a": 1}}, "background the label 0"),
    (PLANS, {"labels": {"background": 0, "a": "1"}}, "no whole number"),
    (PLANS, {"labels": {"background": 0, "a": [1, 2]}}, "lack the entry 'regions_class_order'"),
    (PLANS, {"labels": {"background": 0, "a": [1, 2]}, "regions_class_order": [1, 2]}, "as many entries"),
    (PLANS, {"channel_names": {}}, "names no channels"),
    (PLANS, {"channel_names": {"x": "CT"}}, "not what nnU-Net v2 writes"),
]


@pytest.mark.parametrize("plans, dataset, words", REFUSED, ids=[words for *_, words in REFUSED])
def test_what_cannot_be_done_is_refused_with_a_sentence(plans, dataset, words):
    with pytest.raises(PackageError, match=words) as caught:
        read(plans, {**DATASET, **dataset})
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text and len(text) < 300


def bent(key, value):
    state = weights()
    state[key] = value
    return state


def refused_checkpoints():
    first = "encoder.stages.0.0.convs.0.conv.weight"
    value = weights()[first]
    return [
        ({"network_weights": ...}, "not a checkpoint of nnU-Net v2"),
        ({"trainer_name": 3}, "not a checkpoint of nnU-Net v2"),
        ({"init_args": {"configuration": "3d_highres"}}, "no configuration '3d_highres'"),
        ({"inference_allowed_mirroring_axes": (0, 7)}, "not a checkpoint of nnU-Net v2"),
        ({"network_weights": bent(first, value[:1])}, "has the shape 1 x 1 x 3 x 3 x 3 instead of 2 x 1 x 3 x 3 x 3"),
        ({"network_weights": bent("attention.weight", value)}, "no place for 'attention.weight'"),
        ({"network_weights": {}}, "is missing"),
        ({"network_weights": bent(first, value * float("nan"))}, "is not finite"),
        ({"network_weights": bent(first, value.long())}, "is of type int64"),
        ({"network_weights": bent(first, "text")}, "is no tensor"),
    ]


@pytest.mark.parametrize("index", range(10))
def test_wrong_checkpoints_are_refused(tmp_path, cache, index):
    content, words = refused_checkpoints()[index]
    with pytest.raises(PackageError, match=words):
        package.load(write(tmp_path / "model", **content))
    assert not list((cache / "converted").glob("*"))


def test_weights_in_half_precision_or_wrapped_are_read(tmp_path):
    expected = read_tensors(package.load(write(tmp_path / "a")).verified_bytes("safetensors"))
    wrapped = {f"module.{key}": value for key, value in weights().items()}
    for name, state in (("b", wrapped), ("c", {k: v.half() for k, v in weights().items()})):
        found = read_tensors(package.load(write(tmp_path / name, network_weights=state)).verified_bytes("safetensors"))
        assert all(np.allclose(found[key], expected[key], atol=2e-3) for key in expected)


@pytest.mark.parametrize(
    "text, words",
    [
        ('{"a": 1, "a": 2}', "names 'a' twice"),
        ("[" * 100_000, "nested too deeply|not JSON"),
        ('{"configurations": NaN}', "holds NaN"),
        ("[]", "is no table"),
        ("\x00", "not JSON"),
    ],
)
def test_broken_json_is_refused(tmp_path, text, words):
    with pytest.raises(PackageError, match=words):
        package.load(write(tmp_path / "model", plans=text))


def test_postprocessing_is_read_from_json(tmp_path):
    folder = write(tmp_path / "model", folds=("0", "1"))
    place = folder / "crossval_results_folds_0_1" / "postprocessing.json"
    place.parent.mkdir()
    name = "remove_all_but_largest_component_from_segmentation"
    table = {
        "postprocessing_fns": [name] * 2,
        "postprocessing_kwargs": [{"labels_or_regions": [1, [2, 5]]}, {"labels_or_regions": 2}],
    }
    place.write_text(json.dumps({**table, "input_folder": {"mean": float("nan")}}))
    (place.parent / "postprocessing.pkl").write_bytes(b"cos\nsystem\n(S'touch /tmp/owned'\ntR.")
    steps = package.load(folder).manifest.postprocessing
    assert [(s["labels"], s["connectivity"]) for s in steps] == [([1, 2], "corners"), ([2], "corners")]
    place.write_text(json.dumps({**table, "postprocessing_fns": [name, "os.system"]}))
    with pytest.raises(PackageError, match="post-processing 'os.system' is unknown"):
        package.load(folder)
    place.write_text("{")
    with pytest.raises(PackageError, match="postprocessing.json' of the nnU-Net model cannot be read"):
        package.load(folder)


def test_components_are_connected_as_nnunet_has_it():
    array = np.zeros((4, 4, 4), np.uint8)
    array[0, 0, 0] = array[1, 1, 1] = 1
    array[3, 3, 2:] = array[3, 2, 3] = 2
    assert (keep_largest_component(array, [1, 2], corners=True) > 0).sum() == 3
    assert keep_largest_component(array, [1], corners=True)[0, 0, 0] == 1
    assert (keep_largest_component(array, [1]) == 1).sum() == 1


def test_single_slices_are_visited_once():
    tiling = Tiling.cover((7, 40, 30), (1, 32, 32), 0.5, "nnunet")
    assert tiling.starts == (tuple(range(7)), (0, 8), (0,))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def places(table, at=()):
    """Paths of every entry in nested tables and lists."""
    entries = table.items() if isinstance(table, dict) else enumerate(table)
    for key, value in entries:
        yield (*at, key)
        if isinstance(value, dict | list):
            yield from places(value, (*at, key))


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_plans_are_read_or_refused(data):
    tables = copy.deepcopy({"plans": PLANS, "dataset": DATASET})
    for _ in range(data.draw(st.integers(1, 3))):
        *path, last = data.draw(st.sampled_from(list(places(tables))))
        place = tables
        for part in path:
            place = place[part]
        if data.draw(st.booleans()):
            place[last] = data.draw(JSON)
        elif isinstance(place, dict) and path:
            place.pop(last)
        if not isinstance(tables["plans"], dict) or not isinstance(tables["dataset"], dict):
            return
    try:
        made = nnunet_plans.read(tables["plans"], tables["dataset"], "3d_fullres")
    except PackageError as error:
        assert str(error).endswith(".")
        return
    files = {"safetensors": {"path": "models/a.safetensors", "sha256": "0" * 64, "size": 1}}
    about = {"axes": (), "configuration": "3d_fullres", "trainer_name": "nnUNetTrainer"}
    folder = nnunet.Folder(Path("/nowhere"), (), ("0",))
    manifest = nnunet._manifest(folder, tables["plans"], tables["dataset"], about, made, "0" * 64)
    try:
        package.Manifest.from_dict({**manifest, "files": files})
    except PackageError as error:
        assert str(error).endswith(".")


def labels_of(model, volume, mirror):
    pytest.importorskip("openvino")
    from UNetSegmentLib.predict import Predictor

    predictor = Predictor(package.load(model), device="cpu", mode="parity", mirror=mirror)
    return predictor.predict(volume).labels.array


def test_neither_torch_nor_monai_is_needed(tmp_path):
    pytest.importorskip("openvino")
    folder = write(tmp_path / "model")
    program = f"""
import sys
for name in ("torch", "monai", "safetensors", "onnx"):
    sys.modules[name] = None  # importing it fails
import numpy as np
from UNetSegmentLib import package
from UNetSegmentLib.predict import Predictor
from UNetSegmentLib.volume import Grid, Volume
image = np.random.default_rng(0).normal(20, 30, (1, 20, 18, 12)).astype(np.float32)
volume = Volume(image, Grid.from_spacing((20, 18, 12), (0.6, 2.5, 1.1)), ("CT",))
predictor = Predictor(package.load({str(folder)!r}), device="cpu", backend="openvino", threads=1)
print(predictor.predict(volume).labels.array.shape)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "UNetSegment")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(20, 18, 12)"


def agreement(array, path):
    return (array == io.read_labelmap(path).array).mean()


@pytest.fixture(scope="module")
def real():
    if not REAL.is_dir() or not IMAGES.is_dir():
        pytest.skip(f"needs models/nnunet_hippocampus and data/hippocampus in {SHARED.name} (see UNETSEGMENT_SHARED)")
    return REAL


@pytest.mark.parametrize(
    "mirror, case", [(False, c) for c in CASES] + [pytest.param(True, c, marks=pytest.mark.slow) for c in CASES]
)
def test_labels_are_those_of_nnunet_for_a_real_model(real, mirror, case):
    name = f"hippocampus_{case}.nii.gz"
    expected = real / f"predictions_{'mirrored' if mirror else 'plain'}" / name
    assert agreement(labels_of(real, io.read_volume(IMAGES / name), mirror), expected) >= 0.9999


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_those_of_nnunet_for_every_kind_of_model(tmp_path, kind):
    run_peer("nnunet_folders.py", "nnunetv2", tmp_path, kind)
    folder = tmp_path / kind
    parts = [io.read_volume(path) for path in sorted((folder / "image").glob("*.nii.gz"))]
    model = package.load(folder / "model")
    names = tuple(channel.name for channel in model.manifest.channels)
    volume = Volume(np.concatenate([part.array for part in parts]), parts[0].grid, names)
    assert model.folds == len(list((folder / "model").glob("fold_*")))
    for name in ("plain", "mirrored"):
        expected = folder / name / "case.nii.gz"
        if expected.is_file():
            assert agreement(labels_of(folder / "model", volume, name == "mirrored"), expected) >= 0.9999, name

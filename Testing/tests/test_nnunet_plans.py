"""What is read from nnU-Net v2's plans.json and dataset.json, and what is refused."""

import copy
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic.nnunet import DATASET, FULL, PLANS, changed, configured, network, old_form, resampling
from UNetSegmentLib import package
from UNetSegmentLib.errors import PackageError
from UNetSegmentLib.package import nnunet, nnunet_plans


def read(plans=PLANS, dataset=DATASET, name=FULL):
    return nnunet_plans.read(plans, dataset, name)


def test_flat_configuration_keeps_slice_spacing():
    flat = network(
        kernel_sizes=[[3, 3]] * 2,
        strides=[[1, 1], [2, 2]],
        conv_op="torch.nn.Conv2d",
        norm_op="torch.nn.InstanceNorm2d",
    )
    how = configured(patch_size=[16, 16], spacing=[1.0, 0.5], architecture=flat)
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
    plans = changed(PLANS)
    plans["foreground_intensity_properties_by_modality"] = plans.pop("foreground_intensity_properties_per_channel")
    old = old_form(plans["configurations"][FULL], 4, 6) | {"n_conv_per_stage_encoder": [1, 2]}
    plans["configurations"][FULL] = old
    dataset = changed(DATASET, channel_names=..., modality={"0": "CT"})
    of = read(plans, dataset).architecture
    assert (of.features, of.repeats, of.norm, of.bias, of.slope) == ((4, 6), (1, 2), "instance", True, 0.01)
    old["UNet_class_name"] = "ResidualEncoderUNet"
    assert read(plans, dataset).architecture.name == "ResidualEncoderUNet"


def test_inherited_configuration():
    plans = changed(PLANS, configurations__child={"inherits_from": FULL, "spacing": [1, 1, 1]})
    assert read(plans, name="child").entries["preprocessing"]["spacing"] == [1.0, 1.0, 1.0]
    plans["configurations"][FULL]["inherits_from"] = "child"
    with pytest.raises(PackageError, match="inherits from itself"):
        read(plans, name="child")


@pytest.mark.parametrize(
    "function, options, expected",
    [
        ("resample_torch_fornnunet", {"is_seg": False, "force_separate_z": False, "num_threads": 4}, (1, "never")),
        ("resample_torch_fornnunet", {"mode": "linear"}, (1, "auto")),
        ("resample_torch_simple", {}, (1, "never")),
        ("resample_data_or_seg_to_shape", {"order": 1, "force_separate_z": True}, (1, "always")),
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


RESAMPLING = resampling()["resampling_fn_data_kwargs"]
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
    (configured(architecture=network() | {"network_class_name": "os.system"}), {}, "network is 'system'"),
    (configured(architecture=network(norm_op="torch.nn.GroupNorm")), {}, "norm 'torch.nn.GroupNorm'"),
    (configured(architecture=network(nonlin="torch.nn.GELU")), {}, "activation 'torch.nn.GELU'"),
    (configured(architecture=network(conv_op="torch.nn.Conv2d")), {}, "'torch.nn.Conv2d' for 3D"),
    (configured(architecture=network(bottleneck_channels=[2, 2])), {}, "bottleneck blocks"),
    (configured(architecture=network(n_stages=1e9)), {}, "2 to 16 stages"),
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
        made = nnunet_plans.read(tables["plans"], tables["dataset"], FULL)
    except PackageError as error:
        assert str(error).endswith(".")
        return
    files = {"safetensors": {"path": "models/a.safetensors", "sha256": "0" * 64, "size": 1}}
    about = {"axes": (), "configuration": FULL, "trainer_name": "nnUNetTrainer"}
    folder = nnunet.Folder(Path("/nowhere"), (), ("0",))
    manifest = nnunet._manifest(folder, tables["plans"], tables["dataset"], about, made, "0" * 64)
    try:
        package.Manifest.from_dict({**manifest, "files": files})
    except PackageError as error:
        assert str(error).endswith(".")

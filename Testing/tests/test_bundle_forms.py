"""MONAI bundles are read as data: known forms become packages, everything else is one sentence that names the place."""

import json
import sys

import pytest
from synthetic import bundles
from synthetic.bundles import ARGMAX, HALF, INVERT, LAST, NEAREST, SIGMOID, SOFTMAX, SPACING, TRANSFORMS, pre, read, t
from UNetSegmentLib import package
from UNetSegmentLib.errors import PackageError
from UNetSegmentLib.package import bundle

pytestmark = pytest.mark.usefixtures("cache")


def test_the_usual_form(tmp_path):
    manifest = read(tmp_path / "b")
    assert (manifest.name, manifest.title, manifest.version) == ("pebble-ct", "Pebble CT", "1.2.3")
    assert [(c.name, c.modality) for c in manifest.channels] == [("image", "CT")]
    how = manifest.channels[0].normalization
    assert (how.method, how.window, how.output, how.clamp) == ("range", (-100.0, 200.0), (0.0, 1.0), True)
    steps = manifest.preprocessing
    assert (steps.orientation, steps.axes, steps.spacing) == ("RAS", (0, 1, 2), (1.5, 1.5, 2.0))
    assert not steps.normalize_first and steps.resampling.output == "probabilities"
    window = manifest.inference
    assert (window.patch_size, window.overlap, window.blending) == ((32, 32, 16), 0.5, "constant")
    assert (manifest.network, manifest.activation, manifest.outputs) == ("UNet", "softmax", (0, 1, 2))
    assert [(x.value, x.name) for x in manifest.labels] == [(0, "background"), (1, "pebble"), (2, "sand")]
    assert manifest.licence == "Apache-2.0" and manifest.raw["intended_use"] == "Tests only."
    assert manifest.raw["citation"] == ["A. Nobody, On pebbles, 2026."]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("patch", "$[32, 32] + [16]"),
        ("patch", "$[32, 32, 16] if @deep else [1, 1, 1]"),
        ("inferer__roi_size", "@numbers::1"),
        ("inferer__roi_size", "@numbers#1"),
        ("inferer__roi_size", "%numbers::1"),
        ("inferer__roi_size", "$@numbers#1"),
        ("inferer__roi_size", "$(@numbers::1::0, 2 * [16][0])"),
    ],
)
def test_references_are_followed(tmp_path, path, value):
    config = bundles.inference(**{path: value}) | {"numbers": [1, [32, 32, 16]], "deep": True}
    if "2 *" in value:
        with pytest.raises(PackageError, match="run as code"):
            read(tmp_path / "b", config)
    else:
        assert read(tmp_path / "b", config).inference.patch_size == (32, 32, 16)


def test_counts_and_names_are_known_expressions(tmp_path):
    config = bundles.inference(network_def__out_channels="$len(@names) + 1", image_key="$monai.utils.CommonKeys.IMAGE")
    assert len(read(tmp_path / "b", config | {"names": {"a": 1, "b": 2}}).outputs) == 3


@pytest.mark.parametrize("target", ["monai.networks.nets.UNet", "monai.networks.nets.unet.UNet", "Unet"])
def test_a_network_has_several_names(tmp_path, target):
    assert read(tmp_path / "b", network_def___target_=target).network == "UNet" if "__" in target else True
    config = bundles.inference()
    config["network_def"]["_target_"] = target
    assert read(tmp_path / "c", config).network == "UNet"


def test_lists_of_transforms_may_be_added(tmp_path):
    config = bundles.inference(**{TRANSFORMS: "$@first + @second"})
    config |= {"first": [t("LoadImaged"), t("EnsureChannelFirstd")], "second": [t("ScaleIntensityd")]}
    assert read(tmp_path / "b", config).channels[0].normalization.method == "minmax"


def test_disabled_transforms_do_nothing(tmp_path):
    config = pre({"_target_": "scripts.Anything", "_disabled_": True}, t("ScaleIntensityd"))
    assert read(tmp_path / "b", config).channels[0].normalization.method == "minmax"


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([], {"method": "none"}),
        ([t("NormalizeIntensityd")], {"method": "zscore", "mask": "all"}),
        ([t("NormalizeIntensityd", nonzero=True, channel_wise=True)], {"method": "zscore", "mask": "nonzero"}),
        ([t("NormalizeIntensityd", nonzero="True")], {"method": "zscore", "mask": "nonzero"}),
        (
            [t("NormalizeIntensityd", subtrahend=100, divisor=50)],
            {"method": "range", "mask": "all", "window": [100.0, 150.0], "output": [0.0, 1.0]},
        ),
        (
            [t("ScaleIntensityd", minv=-1, maxv=1)],
            {"method": "percentiles", "window": [0.0, 100.0], "output": [-1.0, 1.0]},
        ),
        (
            [t("ScaleIntensityRangePercentilesd", lower=1, upper=99, b_min=0, b_max=1, clip=True)],
            {"method": "percentiles", "window": [1.0, 99.0], "output": [0.0, 1.0], "clamp": True},
        ),
        ([t("ScaleIntensityd", minv=0, maxv=5), t("NormalizeIntensityd")], {"method": "zscore", "mask": "all"}),
        (
            [t("NormalizeIntensityd", nonzero=True), t("ScaleIntensityd")],
            {"method": "zscore", "mask": "nonzero", "then": {"method": "minmax"}},
        ),
        (
            [t("ToTensord"), t("CastToTyped", dtype="$torch.float32"), t("EnsureTyped", dtype="float32")],
            {"method": "none"},
        ),
    ],
)
def test_intensities(tmp_path, steps, expected):
    folder = bundles.write(tmp_path / "b", pre(*steps))
    assert bundle.read(folder).manifest["channels"][0]["normalization"] == expected
    package.load(folder)


@pytest.mark.parametrize(
    ("codes", "orientation", "axes"),
    [("RAS", "RAS", (0, 1, 2)), ("LPI", "LPI", (0, 1, 2)), ("SRA", "RAS", (2, 0, 1)), ("PLS", "LPS", (1, 0, 2))],
)
def test_axes_in_any_order(tmp_path, codes, orientation, axes):
    steps = read(tmp_path / "b", pre(t("Orientationd", axcodes=codes), SPACING)).preprocessing
    assert (steps.orientation, steps.axes) == (orientation, axes)


def test_a_crop_first_or_last(tmp_path):
    crop = t("CropForegroundd", source_key="image", select_fn="$lambda x: x != 0")
    first = read(tmp_path / "b", pre(crop, SPACING, t("ScaleIntensityd"))).preprocessing
    assert (first.crop, first.crop_on) == ("nonzero", "image")
    crop = t("CropForegroundd", source_key="image", mode=["minimum"])
    last = read(tmp_path / "c", pre(SPACING, t("ScaleIntensityd"), crop)).preprocessing
    assert (last.crop, last.crop_on) == ("positive", "network_image")


def test_channels_of_several_files(tmp_path):
    keys = ["t1", "t2"]
    config = pre()
    config["preprocessing"]["transforms"] = [
        {"_target_": "LoadImaged", "keys": keys},
        {"_target_": "Spacingd", "keys": keys, "pixdim": [1, 1, 1], "mode": ["bilinear", "bilinear"]},
        {"_target_": "NormalizeIntensityd", "keys": "t1"},
        {"_target_": "ScaleIntensityd", "keys": ["t2"]},
        {"_target_": "ConcatItemsd", "keys": keys, "name": "image"},
    ]
    config["network_def"]["in_channels"] = 2
    metadata = json.loads(json.dumps(bundles.METADATA))
    metadata["network_data_format"]["inputs"]["image"]["channel_def"] = {"0": "T1", "1": "T2"}
    folder = bundles.write(tmp_path / "b", config, metadata)
    channels = package.load(folder).manifest.channels
    assert [(c.name, c.normalization.method) for c in channels] == [("T1", "zscore"), ("T2", "minmax")]


@pytest.mark.parametrize(
    ("steps", "activation", "output"),
    [
        ([SOFTMAX, INVERT, ARGMAX], "softmax", "probabilities"),
        ([INVERT, ARGMAX], "softmax", "logits"),
        ([INVERT, SOFTMAX, ARGMAX], "softmax", "logits"),
        ([SOFTMAX, ARGMAX, NEAREST], "softmax", "labels"),
        ([SIGMOID, INVERT, HALF], "sigmoid", "probabilities"),
        ([SIGMOID, HALF, NEAREST], "sigmoid", "labels"),
        ([SOFTMAX, ARGMAX, t("SaveImaged", keys="pred")], "softmax", "labels"),
    ],
)
def test_the_way_back(tmp_path, steps, activation, output):
    manifest = read(tmp_path / "b", **{LAST: steps})
    assert (manifest.activation, manifest.preprocessing.resampling.output) == (activation, output)
    assert manifest.outputs == ((0, 1, 2) if activation == "softmax" else (1, 2, 3))


def test_regions_painted_by_a_nested_choice(tmp_path):
    choice = "$lambda x: torch.where(x[[2]] > 0, 4, torch.where(x[[0]] > 0, 1, torch.where(x[[1]] > 0, 2, 0)))"
    manifest = read(tmp_path / "b", **{LAST: [SIGMOID, INVERT, HALF, t("Lambdad", keys="pred", func=choice)]})
    assert manifest.outputs == (1, 2, 4) and manifest.paint_order == (2, 1, 4)


def test_largest_components(tmp_path):
    keep = t("KeepLargestConnectedComponentd", keys="pred", applied_labels=[1, 2])
    manifest = read(tmp_path / "b", **{LAST: [SOFTMAX, INVERT, ARGMAX, keep]})
    assert [step["labels"] for step in manifest.postprocessing] == [[1], [2]]
    together = keep | {"independent": False}
    assert [s["labels"] for s in read(tmp_path / "c", **{LAST: [INVERT, ARGMAX, together]}).postprocessing] == [[1, 2]]


def test_labels_interpolated_linearly_are_taken_from_the_nearest_voxel_and_it_says_so(tmp_path):
    manifest = read(tmp_path / "b", **{LAST: [ARGMAX, INVERT]})
    assert manifest.preprocessing.resampling.output == "labels"
    assert "nearest one" in manifest.raw["limits"]


def test_slices(tmp_path):
    config = pre(t("Orientationd", axcodes="RAS"))
    config["network_def"]["spatial_dims"] = 2
    config["inferer"] = {"_target_": "SliceInferer", "roi_size": [64, 48], "spatial_dim": 2}
    manifest = read(tmp_path / "b", config)
    assert manifest.dimensions == 2 and manifest.inference.patch_size == (1, 64, 48)
    assert manifest.preprocessing.axes == (2, 0, 1)


def test_yaml(tmp_path):
    yaml = pytest.importorskip("yaml")
    folder = bundles.write(tmp_path / "b", yaml.safe_dump(bundles.INFERENCE), ending="yaml")
    assert package.load(folder).manifest.network == "UNet"


def test_yaml_without_pyyaml_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    folder = bundles.write(tmp_path / "b", "a: 1", ending="yaml")
    with pytest.raises(PackageError, match="pip install pyyaml"):
        package.load(folder)


@pytest.mark.parametrize(
    ("changes", "place", "what"),
    [
        ({"network_def": {"_target_": "scripts.net.MyNet"}}, "network_def", "scripts.net.MyNet"),
        ({"network_def": {"_target_": "DiNTS"}}, "network_def", "DiNTS"),
        ({"network_def": {"_target_": "os.system", "command": "true"}}, "network_def", "os.system"),
        ({"network_def": "$monai.networks.nets.UNet(3)"}, "network_def", "run as code"),
        ({"network_def__out_channels": "$int('3')"}, "network_def::out_channels", r"int\('3'\)"),
        ({"network_def__channels": [10**9]}, "network_def::channels", "1000000000"),
        ({"network_def__out_channels": True}, "network_def", "True"),
        ({"network_def__norm": {"_target_": "torch.nn.Identity"}}, "network_def::norm", "torch.nn.Identity"),
        ({f"{TRANSFORMS}__3": t("Resized", spatial_size=[9, 9, 9])}, "preprocessing::transforms::3", "Resized"),
        ({f"{TRANSFORMS}__3": t("mine.Spacingd")}, "preprocessing::transforms::3", "mine.Spacingd"),
        ({f"{TRANSFORMS}__3__mode": "bicubic"}, "preprocessing::transforms::3", "bicubic"),
        ({f"{TRANSFORMS}__3__diagonal": True}, "preprocessing::transforms::3", "diagonal"),
        ({f"{TRANSFORMS}__3__padding_mode": "zeros"}, "preprocessing::transforms::3", "padding_mode"),
        ({f"{TRANSFORMS}__3__new_thing": 1}, "preprocessing::transforms::3::new_thing", "new_thing"),
        ({f"{TRANSFORMS}__3__pixdim": [0, 0, 0]}, "preprocessing::transforms::3", "pixdim"),
        ({f"{TRANSFORMS}__2__axcodes": "RAL"}, "preprocessing::transforms::2", "RAL"),
        ({f"{TRANSFORMS}__4__a_max": -100}, "preprocessing::transforms::4", "a_min"),
        ({f"{TRANSFORMS}__0__reader": "PILReader"}, "preprocessing::transforms::0", "PILReader"),
        ({"inferer": {"_target_": "SimpleInferer"}}, "inferer", "SimpleInferer"),
        ({"inferer__roi_size": [32, 32]}, "inferer", "roi_size"),
        ({"inferer__overlap": 1.5}, "inferer", "overlap"),
        ({"inferer__with_coord": True}, "inferer", "with_coord"),
        ({f"{LAST}__2": HALF}, "postprocessing::transforms::2", "threshold"),
        ({f"{LAST}__1__nearest_interp": True}, "postprocessing::transforms::1", "nearest"),
        (
            {f"{LAST}__2": t("Lambdad", keys="pred", func="$lambda x: x + 1")},
            "postprocessing::transforms::2",
            "Lambdad",
        ),
        (
            {LAST: [SIGMOID, INVERT, HALF, t("Lambdad", keys="pred", func="$lambda x: x")]},
            "postprocessing",
            "lambda x: x",
        ),
        ({LAST: [SOFTMAX, INVERT]}, "postprocessing", "AsDiscreted"),
        (
            {LAST: [t("MeanEnsembled", keys=["pred_0", "pred_1"], output_key="pred"), SOFTMAX, INVERT, ARGMAX]},
            "postprocessing::transforms::0",
            "several networks",
        ),
        ({LAST: [SOFTMAX, ARGMAX]}, "postprocessing", "Invertd"),
        ({"inferer__roi_size": "@nowhere::at::all"}, "nowhere::at::all", "no such entry"),
        ({"inferer__roi_size": "%other.json::patch"}, "inferer::roi_size", "other.json"),
    ],
)
def test_what_cannot_be_said_is_refused_by_place(tmp_path, changes, place, what):
    folder = bundles.write(tmp_path / "b", bundles.inference(**changes))
    with pytest.raises(PackageError, match=what) as caught:
        package.load(folder)
    text = str(caught.value)
    assert "configs/inference.json" in text and f"'{place}" in text and text.count("\n") == 0 and len(text) < 400


def test_orders_that_the_manifest_cannot_say(tmp_path):
    crop, scale = t("CropForegroundd", source_key="image"), t("ScaleIntensityd")
    for number, steps in enumerate(
        [
            [SPACING, t("Orientationd", axcodes="RAS")],
            [scale, SPACING, scale],
            [SPACING, crop, scale],
            [scale, crop, SPACING],
            [SPACING, SPACING],
        ]
    ):
        with pytest.raises(PackageError, match="supported|before and after"):
            read(tmp_path / str(number), pre(*steps))


@pytest.mark.parametrize("entry", ["network_def", "preprocessing", "inferer", "postprocessing"])
def test_a_missing_entry(tmp_path, entry):
    with pytest.raises(PackageError, match=f"no entry '{entry}'"):
        read(tmp_path / "b", **{entry: None})


def test_statistics_over_all_channels(tmp_path):
    config = pre(t("NormalizeIntensityd"))
    config["network_def"]["in_channels"] = 2
    with pytest.raises(PackageError, match="all channels together"):
        read(tmp_path / "b", config)

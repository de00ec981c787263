"""MONAI bundles are read as data: known forms become packages, everything else is one sentence; nothing is run."""

import json
import os
import re
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic import bundles
from UNetSegmentLib import package
from UNetSegmentLib.errors import OutputError, PackageError
from UNetSegmentLib.package import Manifest, bundle

TRANSFORMS = "preprocessing__transforms"
LAST = "postprocessing__transforms"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("UNETSEGMENT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def read(folder, config=None, **changes) -> Manifest:
    """The manifest of a bundle with these changes."""
    folder = bundles.write(folder, config if config is not None else bundles.inference(**changes))
    return package.load(folder).manifest


def pre(*transforms):
    """A configuration with these transforms after loading."""
    first = bundles.INFERENCE["preprocessing"]["transforms"][:2]
    return bundles.inference(**{TRANSFORMS: [*first, *transforms]})


def t(name, **arguments):
    return {"_target_": name, "keys": "image", **arguments}


SOFTMAX, SIGMOID = t("Activationsd", keys="pred", softmax=True), t("Activationsd", keys="pred", sigmoid=True)
INVERT = bundles.INFERENCE["postprocessing"]["transforms"][1]
NEAREST = INVERT | {"nearest_interp": True}
ARGMAX, HALF = t("AsDiscreted", keys="pred", argmax=True), t("AsDiscreted", keys="pred", threshold=0.5)
SPACING = t("Spacingd", pixdim=[1, 1, 2])


# --- known forms ------------------------------------------------------------------------------------------------------


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


# --- refusals ---------------------------------------------------------------------------------------------------------


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


# --- malicious --------------------------------------------------------------------------------------------------------

BOMB = ["$__import__('os').system('touch {mark}')", "$open('{mark}', 'w')", "$exec('open(chr(120))')"]
BOMB += ["$(lambda: open('{mark}', 'w'))()", "$[open('{mark}', 'w') for _ in [1]]", "$@bundle_root.__class__.__mro__"]
BOMB += [
    "$torch.load('{mark}')",
    "$'a' * 10**10",
    "$os.path.join(open('{mark}', 'w').name)",
    "$len(open('{mark}', 'w'))",
]
BOMB += ['$f\'{{open("{mark}", "w")}}\'', "$x", "$", "$ @", "$" + "(" * 900, "$" + "-" * 900 + "1", "$\x00"]


@pytest.mark.parametrize("text", BOMB)
@pytest.mark.parametrize(
    "place", ["network_def__in_channels", "inferer__roi_size", f"{TRANSFORMS}__3__pixdim", TRANSFORMS]
)
def test_expressions_are_never_run(tmp_path, text, place):
    mark = tmp_path / "mark"
    folder = bundles.write(tmp_path / "b", bundles.inference(**{place: text.replace("{mark}", str(mark))}))
    with pytest.raises(PackageError):
        package.load(folder)
    assert not mark.exists()


@pytest.mark.parametrize(
    "target",
    ["os.system", "builtins.exec", "subprocess.Popen", "monai.bundle.run", "torch.load", "pydoc.locate", "..x"],
)
@pytest.mark.parametrize("place", ["network_def", f"{TRANSFORMS}__2", "inferer", f"{LAST}__1", "preprocessing"])
def test_targets_are_never_imported(tmp_path, target, place):
    folder = bundles.write(tmp_path / "b", bundles.inference(**{place: {"_target_": target, "command": "true"}}))
    with pytest.raises(PackageError):
        package.load(folder)


@pytest.mark.parametrize(
    "path",
    ["../../etc/passwd.pt", "/etc/passwd.pt", "models/../../x.pt", "C:\\x.pt", "models\\..\\..\\x.pt", "\x00.pt"],
)
def test_weights_stay_inside(tmp_path, path):
    (tmp_path / "x.pt").write_bytes(b"x")
    with pytest.raises(PackageError, match="outside of it|missing"):
        read(tmp_path / "b", checkpointloader__load_path=path)


def test_weights_may_not_be_a_link_out_or_a_program(tmp_path):
    (tmp_path / "secret.pt").write_bytes(b"x")
    folder = bundles.write(tmp_path / "b", weights=None)
    (folder / "models").mkdir()
    (folder / "models" / "model.pt").symlink_to(tmp_path / "secret.pt")
    with pytest.raises(PackageError, match="link out of it"):
        package.load(folder)
    with pytest.raises(PackageError, match="not a state dict"):
        read(tmp_path / "c", checkpointloader__load_path="models/model.ts")
    (folder / "models" / "model.pt").unlink()
    with pytest.raises(PackageError, match="weights models/model.pt are missing"):
        package.load(folder)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"network_def": 1, "network_def": 2}', "twice"),
        ('{"a": NaN}', "NaN"),
        ("[" * 100_000, "nested too deeply"),
        ("[1, 2]", "not a table"),
        ("{", "not JSON"),
        ('{"a": "' + "x" * (5 << 20) + '"}', "larger than 4 MiB"),
        ('{"a": ' + "9" * 5000 + "}", "digits"),
        ("\ud800".encode("utf-8", "surrogatepass").decode("latin-1"), "not JSON"),
    ],
)
@pytest.mark.parametrize("which", ["config", "metadata"])
def test_files_that_are_no_configuration(tmp_path, text, what, which):
    folder = bundles.write(tmp_path / "b", **{which: text})
    with pytest.raises(PackageError, match=what):
        package.load(folder)


def test_references_without_end(tmp_path):
    config = bundles.inference(inferer__roi_size="@a")
    with pytest.raises(PackageError, match="refers to itself"):
        read(tmp_path / "b", config | {"a": "@b", "b": "$@a"})
    with pytest.raises(PackageError, match="lead too far"):
        read(tmp_path / "c", config | {"a": "@a0"} | {f"a{n}": f"@a{n + 1}" for n in range(2000)})
    swell = {"a": "@a0", "a40": [1]} | {f"a{n}": [f"@a{n + 1}", f"@a{n + 1}"] for n in range(40)}
    with pytest.raises(PackageError, match="lead too far|nested too deeply"):
        read(tmp_path / "d", config | swell)
    double = {"a": "@a0", "a40": [1]} | {f"a{n}": f"$@a{n + 1} + @a{n + 1}" for n in range(40)}
    with pytest.raises(PackageError, match="run as code|lead too far"):
        read(tmp_path / "e", config | double)
    inside = {"a": ["@a"]}
    with pytest.raises(PackageError, match="lead too far|nested too deeply|refers to itself"):
        read(tmp_path / "f", config | inside)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a: &x [1]\nb: *x\n", "anchors"),
        ("a: 1\na: 2\n", "twice"),
        ("a: !!python/object/apply:os.system ['true']\n", "no entry|not YAML"),
        ("a: !!python/name:os.system\n", "not YAML"),
        ("a: 2020-01-01\n", "neither text nor a number"),
        ("[" * 5000, "nested|not YAML"),
        ("a: 1\n" * 60_000, "larger than"),
        ("a: [\n", "not YAML"),
    ],
)
def test_yaml_is_plain_data(tmp_path, text, what):
    pytest.importorskip("yaml")
    folder = bundles.write(tmp_path / "b", text, ending="yaml")
    with pytest.raises(PackageError, match=what):
        package.load(folder)


class Bomb:
    """What a pickle would run."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return open, (self.mark, "w")


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda state, mark: {"model": {"a": Bomb(mark)}}, "code or objects"),
        (lambda state, mark: Bomb(mark), "code or objects"),
        (lambda state, mark: [1, 2], "not a plain table"),
        (lambda state, mark: {"state_dict": {"a": 1}}, "not a plain table"),
        (lambda state, mark: {key: value * float("nan") for key, value in state.items()}, "not finite"),
        (lambda state, mark: {key: value[:1] for key, value in state.items()}, "do not fit"),
        (lambda state, mark: dict(list(state.items())[1:]), "do not fit"),
        (lambda state, mark: state | {"more": state["model.0.conv.bias"]}, "do not fit"),
    ],
)
def test_weights_that_are_no_weights(tmp_path, spoil, what):
    torch = pytest.importorskip("torch")
    nets = pytest.importorskip("monai.networks.nets")
    from UNetSegmentLib.predict.backends import torch_backend

    arguments = {key: value for key, value in bundles.INFERENCE["network_def"].items() if key != "_target_"}
    folder = bundles.write(tmp_path / "b")
    (folder / "models" / "model.pt").unlink()
    torch.save(spoil(nets.UNet(**arguments).state_dict(), tmp_path / "mark"), folder / "models" / "model.pt")
    with pytest.raises(PackageError, match=what):
        torch_backend.load_network(package.load(folder))
    assert not (tmp_path / "mark").exists()


def test_a_network_without_end_takes_no_memory(tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("monai")
    from UNetSegmentLib.predict.backends import torch_backend

    folder = bundles.write(tmp_path / "b", bundles.inference(network_def__channels=[8192] * 2))
    torch.save({"a": torch.zeros(1)}, folder / "models" / "model.pt")
    with pytest.raises(PackageError, match="do not fit"):
        torch_backend.load_network(package.load(folder))


# --- fuzzing: only clean refusals --------------------------------------------------------------------------------------

words = st.sampled_from(
    [
        "@a",
        "@patch",
        "@network_def",
        "$@patch",
        "$1",
        "$[1,2]",
        "%patch",
        "@::x",
        "UNet",
        "image",
        "pred",
        "RAS",
        "$@a+@a",
    ]
)
texts = words | st.text(max_size=12) | st.text("@$%:#abc()[]+', 1.", max_size=20)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["_target_", "keys", "a", "transforms", "_disabled_"]) | texts, inner, max_size=3
        )
    ),
    max_leaves=8,
)


def places(value, path=()):
    """The path of everything in a configuration."""
    yield path
    for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(part, (*path, key))


PLACES = [path for path in places(bundles.INFERENCE) if path]
METADATA_PLACES = [path for path in places(bundles.METADATA) if path]


def changed(original, path, value):
    result = json.loads(json.dumps(original))
    place = result
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    return result


def clean(folder, config=None, metadata=None):
    """Load a bundle; only a clean refusal may come out, and what loads is a manifest that holds."""
    bundles.write(folder, config, metadata)
    try:
        package.load(folder)
    except PackageError as error:
        assert str(error) and "\n" not in str(error) and len(str(error)) < 1000


fuzz = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fuzz
@given(st.sampled_from(PLACES), values)
def test_any_value_anywhere(tmp_path, path, value):
    clean(tmp_path / "b", changed(bundles.INFERENCE, path, value))


@fuzz
@given(st.sampled_from(PLACES), st.sampled_from(PLACES), values, texts)
def test_two_changes_and_references_between_them(tmp_path, path, other, value, text):
    once = changed(bundles.INFERENCE, path, value)
    try:
        clean(tmp_path / "b", changed(once, other, text))
    except (KeyError, IndexError, TypeError):
        clean(tmp_path / "b", once)


@fuzz
@given(st.sampled_from(METADATA_PLACES), values)
def test_any_metadata(tmp_path, path, value):
    clean(tmp_path / "b", metadata=changed(bundles.METADATA, path, value))


@fuzz
@given(st.dictionaries(st.sampled_from(sorted(bundles.INFERENCE)) | texts, values, max_size=6))
def test_any_table(tmp_path, config):
    clean(tmp_path / "b", config)


@fuzz
@given(st.text(max_size=60) | st.text("@$%:#lambda x.[](){}+-*/', 0123if else", max_size=60))
def test_any_expression(tmp_path, text):
    clean(tmp_path / "b", bundles.inference(inferer__roi_size="$" + text))
    clean(
        tmp_path / "b", bundles.inference(**{LAST: [SIGMOID, HALF, t("Lambdad", keys="pred", func="$lambda " + text)]})
    )


# --- conversion -------------------------------------------------------------------------------------------------------


def test_conversion_leaves_the_bundle_alone_and_is_done_once(tmp_path, cache):
    folder = bundles.write(tmp_path / "b")
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}
    first, second = package.load(folder), package.load(folder)
    assert first.root == second.root and first.root.parent == cache / "converted"
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()} == before
    first.verify()
    assert first.path("torch").read_bytes() == b"weights"
    assert len(list((cache / "converted").iterdir())) == 1


def test_other_weights_are_another_model(tmp_path, cache):
    folder = bundles.write(tmp_path / "b")
    first = package.load(folder)
    os.replace(bundles.write(tmp_path / "c", weights=b"others!") / "models/model.pt", folder / "models/model.pt")
    second = package.load(folder)
    assert first.root != second.root and first.content_hash != second.content_hash
    second.verify()


def test_a_half_written_conversion_is_made_anew(tmp_path):
    folder = bundles.write(tmp_path / "b")
    first = package.load(folder)
    first.path("torch").unlink()
    assert package.load(folder).path("torch").read_bytes() == b"weights"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_cannot_be_written(tmp_path, cache):
    cache.mkdir()
    cache.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            package.load(bundles.write(tmp_path / "b"))
    finally:
        cache.chmod(0o700)


def test_a_bundle_of_our_own_stays_ours(tmp_path):
    folder = bundles.write(tmp_path / "b")
    (folder / "configs" / "manifest.json").write_text("{}", "utf-8")
    with pytest.raises(PackageError, match="manifest is not valid"):
        package.load(folder)


def test_nothing_of_the_bundles_own_code_is_looked_at(tmp_path):
    folder = bundles.write(tmp_path / "b")
    (folder / "scripts").mkdir()
    (folder / "scripts" / "__init__.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')", "utf-8")
    package.load(folder)
    assert not (tmp_path / "mark").exists()


# --- the same labels as stock MONAI -------------------------------------------------------------------------------------


def agreement(folder, config, values=1, size=(40, 25, 33)) -> float:
    """Share of equal voxels with MONAI running the configuration's own objects on the same random weights and image."""
    torch = pytest.importorskip("torch")
    monai_bundle = pytest.importorskip("monai.bundle")
    nibabel = pytest.importorskip("nibabel")
    from scipy import ndimage
    from UNetSegmentLib.io import read_volume
    from UNetSegmentLib.predict import Predictor, gather

    config["postprocessing"]["transforms"] = [
        step for step in config["postprocessing"]["transforms"] if step["_target_"] != "SaveImaged"
    ]
    bundles.write(folder, config)
    rng = np.random.default_rng(7)
    affine = np.array([[0, 0, 1.9, 5], [-1.1, 0, 0, 9], [0, -1.4, 0, 3], [0, 0, 0, 1.0]])
    files = []
    for number in range(values):
        image = ndimage.gaussian_filter(rng.standard_normal(size), 2)
        image = np.where(np.indices(size)[0] < 6, 0, image / image.std() * 90 + 60).astype(np.float32)
        files.append(folder / f"{number}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(image, affine), files[-1])
    torch.manual_seed(3)
    parser = monai_bundle.ConfigParser(json.loads(json.dumps(config)))
    network = parser.get_parsed_content("network_def").eval()
    names = [str(file) for file in files]
    data = parser.get_parsed_content("preprocessing")({"image": names if values > 1 else names[0]})
    with torch.inference_mode():
        answer = parser.get_parsed_content("inferer")(data["image"][None], network)
        last = [m for m in network.modules() if hasattr(m, "out_channels") and m.out_channels == answer.shape[1]][-1]
        last.bias -= answer.mean([0, *range(2, answer.ndim)]).as_tensor()
        answer = parser.get_parsed_content("inferer")(data["image"][None], network)
    torch.save({"model": network.state_dict(), "epoch": 3}, folder / "models" / "model.pt")
    data["pred"] = answer[0]
    steps = parser.get_parsed_content("postprocessing")
    theirs = np.rint(np.asarray(steps(data)["pred"])).astype(int)[0]
    loaded = package.load(folder)
    ours = Predictor(loaded, device="cpu", backend="torch").predict(
        gather([read_volume(file) for file in files], loaded.manifest)
    )
    assert len(np.unique(theirs)) > 1
    return float((ours.labels.array == theirs).mean())


def test_probabilities_then_labels_as_monai_has_them(tmp_path):
    assert agreement(tmp_path / "b", bundles.inference(inferer__mode="gaussian")) > 0.999


def test_labels_then_nearest_with_a_chain_and_edge_padding_as_monai_has_them(tmp_path):
    config = bundles.inference(**{LAST: [SOFTMAX, ARGMAX, NEAREST]}, inferer__padding_mode="replicate")
    config["patch"] = [48, 48, 32]
    config["preprocessing"]["transforms"][4] = t("NormalizeIntensityd", nonzero=True)
    config["preprocessing"]["transforms"].append(t("ScaleIntensityd", minv=-1.0, maxv=1.0))
    assert agreement(tmp_path / "b", config) > 0.999


def test_a_late_crop_as_monai_has_it(tmp_path):
    config = bundles.inference()
    config["preprocessing"]["transforms"].insert(5, t("CropForegroundd", source_key="image"))
    config["preprocessing"]["transforms"][4]["a_min"] = 30
    assert agreement(tmp_path / "b", config) > 0.999


def test_regions_as_monai_has_them(tmp_path):
    choice = "$lambda x: torch.where(x[[2]] > 0, 4, torch.where(x[[0]] > 0, 1, torch.where(x[[1]] > 0, 2, 0)))"
    config = bundles.inference(**{LAST: [SIGMOID, INVERT, HALF, t("Lambdad", keys="pred", func=choice)]})
    config["network_def"]["in_channels"] = 2
    config["preprocessing"]["transforms"] = [t("LoadImaged"), t("NormalizeIntensityd", nonzero=True, channel_wise=True)]
    assert agreement(tmp_path / "b", config, values=2) > 0.999


def test_slices_as_monai_has_them(tmp_path):
    config = pre(t("ScaleIntensityd"))
    config["network_def"]["spatial_dims"] = 2
    config["inferer"] = {"_target_": "SliceInferer", "roi_size": [32, 16], "spatial_dim": 2}
    assert agreement(tmp_path / "b", config) > 0.999


def test_components_on_the_networks_grid_as_monai_has_them(tmp_path):
    keep = t("KeepLargestConnectedComponentd", keys="pred", applied_labels=[1, 2])
    assert agreement(tmp_path / "b", bundles.inference(**{LAST: [ARGMAX, keep, NEAREST]})) > 0.999


def test_messages_name_no_more_than_a_line():
    assert not re.search(r"[\n\r]", bundle.shown("a\nb\rc")) and len(bundle.shown("x" * 1000)) < 120


@pytest.mark.parametrize("config", [bundles.inference(image_key={"\n": "@::x"}), '{"a\\nb": 1, "a\\nb": 2}'])
def test_names_in_messages_stay_on_one_line(tmp_path, config):
    clean(tmp_path / "b", config)

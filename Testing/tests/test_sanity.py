"""Warnings before a run: right inputs pass in silence, wrong ones are named, and nothing is ever stopped."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from synthetic import packages
from UNetSegmentLib import cli, io
from UNetSegmentLib.errors import InputError
from UNetSegmentLib.package import Manifest, nnunet_plans
from UNetSegmentLib.predict import Predictor, gather
from UNetSegmentLib.predict.appearance import Appearance, summary
from UNetSegmentLib.predict.backends import is_installed
from UNetSegmentLib.predict.reports import SEVERE, InputWarning
from UNetSegmentLib.predict.sanity import check
from UNetSegmentLib.volume import Grid, LabelMap, Volume

ROOT = Path(__file__).resolve().parents[2]
needs_engine = pytest.mark.skipif(
    not (is_installed("openvino") and is_installed("onnx")), reason="openvino or onnx is not installed"
)
SHAPE = (48, 40, 36)
PLACE = (10.0, -20.0, 30.0)


def blobs(seed=0, shape=SHAPE, size=4.0):
    """Smooth random structures, standard deviation 1."""
    random = np.random.default_rng(seed)
    spectrum = np.fft.rfftn(random.normal(size=shape))
    waves = np.meshgrid(*map(np.fft.fftfreq, shape[:2]), np.fft.rfftfreq(shape[2]), indexing="ij")
    smooth = np.fft.irfftn(
        spectrum * np.exp(-2 * (np.pi * size) ** 2 * sum(w * w for w in waves) / 2), shape, (0, 1, 2)
    )
    return (smooth - smooth.mean()) / smooth.std() + random.normal(0, 0.05, shape)


def mr(seed=0, shape=SHAPE, spacing=(1, 1, 1), scale=100.0):
    """As a magnitude image: nothing negative, darker and brighter tissue, a dark rim and few bright vessels."""
    tissue = np.abs(5 + blobs(seed, shape)) + 4 * (blobs(seed + 99, shape, 2.0) > 3)
    return volume(np.round(scale * tissue), spacing, "brain")


def ct(seed=0, shape=SHAPE, spacing=(3, 3, 3)):
    """Hounsfield units: a body of 40 with fat of -100 and bone of 700 in air of -1000."""
    structure = blobs(seed, shape)
    axes = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]
    inside = sum(a * a for a in axes) < 0.9
    body = np.where(structure < -1, -100, np.where(structure > 1.7, 700, 40)) + 15 * blobs(seed + 1, shape, 1.0)
    air = -1000 + np.random.default_rng(seed).normal(0, 10, shape)
    return volume(np.round(np.where(inside, body, air)).astype(np.int16), spacing, "body")


def volume(array, spacing=(1, 1, 1), name="image", place=PLACE):
    return Volume(np.asarray(array)[None], Grid.from_spacing(np.shape(array), spacing, place), (name,))


def changed(image, change):
    return Volume(change(image.array.astype(float)), image.grid, image.channels)


def fingerprint(*channels):
    """Of training images, a list per channel, as ``unetsegment-train`` writes it."""
    spacings = np.array([v.grid.spacing for v in channels[0]])
    sizes = np.array([v.grid.shape for v in channels[0]]) * spacings
    ways = {"min": np.min, "median": np.median, "max": np.max}
    return {
        "spacing": {way: f(spacings, axis=0).tolist() for way, f in ways.items()},
        "size_mm": {way: f(sizes, axis=0).tolist() for way, f in ways.items()},
        "intensity": [{"cases": summary([Appearance.of(v.array[0]).statistics() for v in each])} for each in channels],
    }


def model(*names, spacing=(1, 1, 1), patch=(32, 32, 32), known=None, norm=None, **changes):
    norm = norm or {"method": "zscore"}
    channels = [{"name": name, "modality": name.split()[0], "normalization": norm} for name in names]
    raw = packages.manifest(
        channels=channels,
        preprocessing={"orientation": "RAS", "spacing": list(spacing)},
        inference={"patch_size": list(patch), "overlap": 0.5, "blending": "gaussian", "sigma_scale": 0.125},
        **({"fingerprint": known} if known is not None else {}),
        **changes,
    )
    raw["network"] = {"name": "DynUNet", "arguments": packages.DYNUNET | {"in_channels": len(names)}}
    return Manifest.from_dict(raw)


def codes(volumes, manifest):
    return [warning.code for warning in check(volumes, manifest)]


TRAINED = fingerprint([mr(seed, (48 - seed, 40 + seed, 36)) for seed in range(1, 8)])
MR = model("MR", known=TRAINED)
CT = model("CT", spacing=(3, 3, 3), known=fingerprint([ct(seed) for seed in range(1, 5)]))


@pytest.mark.parametrize("spacing", [(1, 1, 1), (0.8, 0.8, 1.2), (1, 1, 2)])
def test_images_like_those_of_training_pass(spacing):
    assert codes([mr(20, spacing=spacing)], MR) == []


@pytest.mark.parametrize("orientation", ["LPI", "PIR", "SAL"])
def test_however_they_are_turned_and_scaled(orientation):
    turned, _ = mr(21).reoriented(orientation)
    assert codes([turned], MR) == []
    assert codes([changed(turned, lambda a: 1e-3 * a)], MR) == []
    assert codes([changed(turned, lambda a: (a - a.mean()) / a.std())], MR) == []  # the model standardises, too


@pytest.mark.parametrize("manifest", [CT, model("CT", spacing=(3, 3, 3))], ids=["fingerprint", "none"])
def test_a_ct_passes_for_a_ct(manifest):
    assert codes([ct(20)], manifest) == []
    assert codes([changed(ct(20), lambda a: np.where(a < -900, -2048, a))], manifest) == []


@pytest.mark.parametrize("known", [TRAINED, None])
def test_a_ct_for_an_mr_model(known):
    (warning,) = check([ct(spacing=(1, 1, 1))], model("MR", known=known))
    assert warning.code == "ct_for_mr" and warning.channel == "MR"
    assert "'body'" in warning.message and warning.message.endswith("it can be run anyway.")
    raised = changed(ct(spacing=(1, 1, 1)), lambda a: a + 1024)
    assert codes([raised], model("MR", known=known)) == ["ct_for_mr"]
    tissue = changed(ct(spacing=(1, 1, 1)), lambda a: np.where(a < -500, 30, a))
    assert codes([tissue], model("MR", known=known)) == ["ct_for_mr"]


@pytest.mark.parametrize("manifest", [CT, model("CT", spacing=(3, 3, 3))], ids=["fingerprint", "none"])
@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("ct_offset", lambda a: a + 1024),
        ("ct_offset", lambda a: np.maximum(a + 1024, 0)),
        ("ct_8bit", lambda a: np.clip((a + 1000) / 2000 * 255, 0, 255)),
        ("ct_scale", lambda a: a - 1024),
        ("ct_scale", lambda a: np.clip(a / 1000, -1, 1)),
        ("ct_scale", lambda a: a * 10),
        ("ct_window", lambda a: np.clip(a, -160, 240)),
        ("ct_inverted", lambda a: -a),
        ("not_ct", lambda a: 3000 + 0.5 * a),
    ],
)
def test_a_ct_that_is_not_in_hounsfield_units(manifest, code, change):
    assert codes([changed(ct(20), change)], manifest) == [code]


def test_an_mr_for_a_ct_model():
    assert codes([mr(spacing=(3, 3, 3))], CT) == ["not_ct"]


def test_a_window_that_the_model_clips_to_is_no_fault():
    clip = {"method": "clip_zscore", "clip": [-160, 240], "mean": 40, "std": 100}
    windowed = changed(ct(20), lambda a: np.clip(a, -160, 240))
    assert codes([windowed], model("CT", spacing=(3, 3, 3), norm=clip)) == []


def test_a_model_of_stripped_heads_expects_no_air():
    stripped = [changed(ct(seed), lambda a: np.where(a < -200, 0, np.abs(a))) for seed in range(6)]
    assert codes(stripped[:1], model("CT", spacing=(3, 3, 3), known=fingerprint(stripped[1:]))) == []


@pytest.mark.parametrize(
    ("code", "spacing"),
    [("spacing", (0.1, 0.1, 0.1)), ("spacing", (0.001,) * 3), ("spacing", (10, 10, 10)), ("spacing", (1, 5, 1)),
     ("field_of_view_large", (2, 2, 2)), ("field_of_view_small", (0.5, 0.5, 0.5))],
)  # fmt: skip
def test_a_header_that_cannot_be_right(code, spacing):
    assert codes([mr(20, spacing=spacing)], MR) == [code]


def test_fields_of_view():
    assert codes([mr(20, (160, 160, 160))], MR) == ["field_of_view_large"]
    assert codes([mr(20, (12, 12, 12))], MR) == ["field_of_view_small"]
    assert codes([mr(20, (48, 40, 1))], MR) == ["field_of_view_small"]
    assert codes([mr(20, (40, 36, 30))], MR) == []
    assert codes([mr(20, (160, 160, 160))], model("MR")) == []  # nothing is known of its training images
    assert codes([mr(20, (160, 160, 160))], model("MR", known={"size_mm": {"median": [48, 40, 36]}})) == [
        "field_of_view_large"
    ]


def test_a_2d_network_needs_no_thickness():
    raw = packages.manifest(fingerprint={"spacing": {"median": [1, 1, 1]}})
    arguments = {
        "features_per_stage": [4, 8], "kernel_sizes": [[3, 3]] * 2, "strides": [[1, 1], [2, 2]],
        "n_conv_per_stage": [1, 1], "n_conv_per_stage_decoder": [1],
    }  # fmt: skip
    raw["network"] = {"name": "PlainConvUNet", "arguments": arguments, "dimensions": 2}
    raw["inference"]["patch_size"] = [1, 32, 32]
    raw["preprocessing"] = {"orientation": "RAS", "axes": [2, 1, 0], "spacing": [None, 1.0, 1.0]}
    manifest = Manifest.from_dict(raw)
    assert codes([mr(20, (48, 40, 1))], manifest) == []
    assert codes([mr(20, (48, 8, 1))], manifest) == ["field_of_view_small"]


def test_a_lost_header():
    for signs in ((1, 1), (-1, -1)):
        lost = Volume(mr(20).array, Grid(SHAPE, np.diag([*signs, 1.0, 1.0])), ("x",))
        assert codes([lost], MR) == ["no_geometry"]
        assert codes([lost], model("MR", known=TRAINED | {"unplaced": 0.1})) == []  # so had the training images
    stored = MR.raw | {"preprocessing": {"orientation": "stored", "spacing": [1.0, 1.0, 1.0]}}
    assert codes([lost], Manifest.from_dict(stored)) == []  # nothing that it lacks would be used


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("constant", lambda a: a * 0 + 7),
        ("labels", lambda a: np.digitize(a, [430, 560]) * 1.0),
        ("labels", lambda a: (a > 500) * 1.0),
        ("noise", lambda a: np.random.default_rng(0).normal(500, 100, a.shape)),
        ("intensity", lambda a: np.where(np.cumsum(np.ones_like(a), 1) < 18, 0, a)),
        ("intensity", lambda a: (a / 500) ** 9),
    ],
)
def test_what_no_image_of_training_looked_like(code, change):
    assert codes([changed(mr(20), change)], MR) == [code]


def two_channels():
    dark = [changed(mr(seed), lambda a: 5 * np.maximum(900 - a, 0) ** 1.5) for seed in range(8)]
    manifest = model("MR one", "MR two", known=fingerprint([mr(seed) for seed in range(1, 8)], dark[1:]))
    return manifest, mr(0), dark[0]


def test_channels_of_different_places():
    manifest, one, two = two_channels()
    width = one.grid.shape[0] * one.grid.spacing[0]
    away = np.eye(4)
    for part, expected in ((0.2, []), (0.7, ["apart"]), (2.0, ["refused"])):
        away[:3, 3] = part * width * one.grid.direction[:, 0]
        moved = Volume(two.array, two.grid.transformed(away), two.channels)
        assert codes([one, moved], manifest) == expected
    (warning,) = check([one, moved], manifest)
    with pytest.raises(InputError) as refused:
        gather([one, moved], manifest)
    assert warning.stops and warning.message == str(refused.value)
    away[:3, 3] = 0.7 * width * one.grid.direction[:, 0]
    (warning,) = check([one, Volume(two.array, two.grid.transformed(away), two.channels)], manifest)
    assert warning.is_severe and "shows only 33 % of what" in warning.message


def test_channels_that_are_swapped_or_the_same():
    manifest, one, two = two_channels()
    assert codes([one, two], manifest) == []
    assert codes([two, one], manifest) == ["swapped"]
    assert "same_image" in codes([one, one], manifest)
    assert "same_image" in codes([one, changed(one, lambda a: 3 * a + 1)], manifest)
    both = Volume(np.concatenate([two.array, one.array]), one.grid, ("a", "b"))
    (warning,) = check([both], manifest)
    assert "'a' given for MR one looks like MR two" in warning.message
    pair = model("MR", "CT")
    assert codes([mr(), ct(spacing=(1, 1, 1))], pair) == []
    assert codes([ct(spacing=(1, 1, 1)), mr()], pair) == ["swapped"]


def test_inputs_are_not_changed_and_their_number_does_not_matter():
    image = mr()
    before = image.array.copy()
    image.array.setflags(write=False)
    check([image], MR)
    np.testing.assert_array_equal(image.array, before)
    assert check([], MR) == [] and codes([image, image], MR) == []


def test_large_images_take_no_time_and_few_looks():
    large = np.zeros((300, 512, 512), np.int16).T
    large[::3] = 5
    image = volume(large, (0.7, 0.7, 1))
    check([image], MR)
    began = time.process_time()
    check([image], MR)
    assert time.process_time() - began < 0.5
    assert Appearance.of(large).values.size <= 150_000


def test_statistics_do_not_depend_on_scale_and_the_summary_covers_all():
    one, two = (Appearance.of(mr(0, scale=scale).array[0]).statistics() for scale in (100.0, 1000.0))
    for name in ("least", "below", "high", "middle", "roughness"):
        assert one[name] == pytest.approx(two[name], abs=0.02)
    both = summary([one, two])
    assert both["min"]["p50"] == round(one["p50"], 4) and both["max"]["p50"] == round(two["p50"], 4)
    assert set(both["median"]) == set(one)
    assert set(Appearance.of(np.full((4, 4, 4), 3)).statistics()) == {"p00_5", "p50", "p99_5", "zero"}


values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=True) | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["spacing", "size", "size_mm", "intensity", "cases", "min", "median", "max", "p99_5", "zero", "least", "middle"]
    ), inner, max_size=6),
    max_leaves=20,
)  # fmt: skip
positive = st.lists(st.floats(1e-12, 1e12), min_size=3, max_size=3)
ranges = st.fixed_dictionaries({}, optional={way: positive | values for way in ("min", "median", "max")})
rows = st.dictionaries(st.sampled_from(["p00_5", "p99_5", "zero", "least", "roughness"]), st.floats() | values)
shown = st.fixed_dictionaries({}, optional={way: rows for way in ("min", "max")})
prints = st.fixed_dictionaries(
    {},
    optional={name: ranges for name in ("spacing", "size", "size_mm")}
    | {"unplaced": values, "intensity": st.lists(st.fixed_dictionaries({"cases": shown}) | rows | values, max_size=3)},
)
kinds = st.sampled_from(
    [np.bool_, np.uint8, np.int16, np.uint16, np.int32, np.int64, np.float16, np.float32, np.float64]
)
images = kinds.flatmap(
    lambda kind: arrays.arrays(
        kind,
        st.tuples(*[st.integers(1, 7)] * 3),
        elements={"allow_nan": False, "allow_infinity": False} if np.dtype(kind).kind == "f" else None,
    )
)


@settings(max_examples=400, deadline=None)
@given(st.lists(images, min_size=1, max_size=2), prints | values, st.floats(1e-6, 1e6), st.data())
def test_nothing_makes_it_fail(voxels, known, spacing, data):
    modality = [data.draw(st.sampled_from(["MR", "CT", "PT", "US", "OT"])) for _ in voxels]
    manifest = model(*(f"{kind} {index}" for index, kind in enumerate(modality)))
    manifest.raw["fingerprint"] = known  # also what the schema would refuse
    with np.errstate(all="raise"):
        found = check([volume(array, (spacing, 1, 1)) for array in voxels], manifest)
    assert all(isinstance(warning, InputWarning) and warning.message.endswith(".") for warning in found)
    json.dumps([warning.to_dict() for warning in found])


def test_not_even_values_that_are_not_finite():
    array = mr().array[0].astype(float)
    array[3] = np.nan
    check([volume(array)], MR)
    check([volume(np.full(SHAPE, np.inf))], MR)


def test_nnunet_tells_the_ranges_of_its_training_images():
    table = {
        "spacings": [[3.0, 0.5, 0.5], [5.0, 1.0, 1.0], [4.0, 0.7, 0.7]],
        "shapes_after_crop": [[20, 512, 400], [10, 256, 256], [15, 300, 300]],
        "median_relative_size_after_cropping": 0.99,
    }
    told = nnunet_plans.trained_on(table, {"transpose_forward": [1, 0, 2]})
    assert told["spacing"] == {"min": [0.5, 3.0, 0.5], "median": [0.7, 4.0, 0.7], "max": [1.0, 5.0, 1.0]}
    assert told["size_mm"]["max"] == [256.0, 60.0, 256.0]
    cropped = nnunet_plans.trained_on(
        table | {"median_relative_size_after_cropping": 0.4}, {"transpose_forward": [0, 1, 2]}
    )
    assert set(cropped) == {"spacing"}
    for odd in (
        {},
        {"spacings": 3, "shapes_after_crop": []},
        table | {"spacings": [[1, 2]]},
        table | {"spacings": [[0, 1, 1]] * 3},
    ):
        assert nnunet_plans.trained_on(odd, {"transpose_forward": [0, 1, 2]}) == {}


def test_the_shipped_model_knows_its_sample_and_no_label_map_or_head():
    raw = json.loads((ROOT / "Resources/Models/hippocampus-mr-t1/configs/manifest.json").read_text("utf-8"))
    manifest = Manifest.from_dict(raw)
    folder = ROOT / "Resources/SampleData/hippocampus"
    sample = io.read_volume(folder / "hippocampus_084_image.nii.gz")
    labels = io.read_labelmap(folder / "hippocampus_084_label.nii.gz")
    assert check([sample], manifest) == []
    assert codes([Volume(labels.array[None], labels.grid)], manifest) == ["labels"]
    assert "field_of_view_large" in codes([mr(0, (180, 200, 180))], manifest)


@needs_engine
def test_the_command_line_says_it_and_the_result_remembers_it(tmp_path, capsys):
    root = packages.threshold_package(tmp_path / "model")
    image = volume(np.random.default_rng(0).uniform(0, 3, (20, 24, 18)).astype(np.float32), (9, 9, 9))
    io.write_labelmap(tmp_path / "image.nii.gz", LabelMap((image.array[0] * 50).astype(np.uint8), image.grid))
    out = tmp_path / "out.seg.nrrd"
    assert cli.main(["segment", str(tmp_path / "image.nii.gz"), "-m", str(root), "-o", str(out), "--quiet"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(line.startswith("warning: Volume 'image' ") for line in lines)
    kept = json.loads(io.read_provenance(out)["warnings"])
    assert [entry["code"] for entry in kept] == ["spacing", "noise"]
    assert "warnings" not in Predictor(io_package(root)).predict(image).provenance


def io_package(root):
    from UNetSegmentLib import package

    return package.load(root)


def test_looking_imports_nothing_but_numpy():
    code = (
        "import sys; before = set(sys.modules); from UNetSegmentLib.predict import sanity; "
        "heavy = {'scipy', 'torch', 'openvino', 'SimpleITK', 'onnx'}; print(sorted(heavy & set(sys.modules)))"
    )
    path = str(ROOT / "UNetSegment")
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {path!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_the_documentation_names_every_severe_code():
    page = (ROOT / "docs" / "sanity.md").read_text("utf-8")
    assert set(re.findall(r"\*\*`(\w+)`\*\*", page)) == set(SEVERE)

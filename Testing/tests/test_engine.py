"""The whole engine against a naive form of itself: everything in memory at once, one plain step after the other."""

import io
import itertools
import json
import re

import numpy as np
import pytest
from synthetic import packages
from synthetic.images import blobs
from synthetic.packages import labels_for, random_linear
from UNetSegmentLib import package
from UNetSegmentLib.errors import BackendError, Cancelled, InputError
from UNetSegmentLib.predict import Predictor
from UNetSegmentLib.predict.backends import choose, is_installed
from UNetSegmentLib.predict.export import Decision
from UNetSegmentLib.predict.modes import Configuration
from UNetSegmentLib.predict.preprocess import body, preprocess
from UNetSegmentLib.predict.tiles import Tiling, weights
from UNetSegmentLib.volume import Grid, Reorientation, Volume

pytestmark = pytest.mark.skipif(
    not (is_installed("openvino") and is_installed("onnx")), reason="openvino or onnx is not installed"
)
WINDOW = {"patch_size": [16, 24, 16], "overlap": 0.5}


def volume(shape=(30, 41, 22), spacing=(1, 1, 1), seed=0, channels=1):
    grid = Grid.from_spacing(shape, spacing, (4, -7, 2)).reoriented(Reorientation((1, 0, 2), (True, False, True)))
    return Volume(blobs(grid.shape, seed, channels), grid, tuple(f"c{n}" for n in range(channels)))


def naive(model, image, mirror_axes=(), folds=None):
    """Labels by definition: every fold and flip over the whole volume, dense interpolation, argmax or painting."""
    manifest = model.manifest
    ready = preprocess(image, manifest)
    window = manifest.inference
    tiling = Tiling.cover(ready.grid.shape, window.patch_size, window.overlap, window.convention)
    padded, weight = tiling.pad(ready.array), weights(tiling.patch, window)
    place = choose(model, "cpu", "openvino")
    flips = [f for n in range(len(mirror_axes) + 1) for f in itertools.combinations([a + 2 for a in mirror_axes], n)]
    total, norm = 0.0, np.zeros(tiling.padded)
    folds = range(model.folds) if folds is None else folds
    for fold in folds:
        network = place.open(model, "fp32", fold)
        for start in itertools.product(*tiling.starts):
            cut = tuple(slice(a, a + p) for a, p in zip(start, tiling.patch, strict=True))
            patch = padded[(None, slice(None), *cut)]
            for flip in flips:
                answer = np.flip(network.run(np.flip(patch, flip), lambda: None), flip)[0].astype(np.float64)
                if np.isscalar(total):
                    total = np.zeros((len(answer), *tiling.padded))
                total[(slice(None), *cut)] += answer * weight / len(flips) / len(folds)
            if fold == folds[0]:
                norm[cut] += weight
    inner = tuple(slice(b, b + n) for b, n in zip(tiling.before, tiling.shape, strict=True))
    outputs = total[(slice(None), *inner)] / norm[inner]
    for axis, lerp in enumerate(ready.lerps):
        outputs = lerp.apply(outputs, axis + 1)
    decision = Decision.of(manifest)
    if decision.regions:
        labels = np.zeros(outputs.shape[1:], np.uint16)
        for n, c in enumerate(decision.order):
            labels[outputs[c] > 0] = decision.table[n + 1]
    else:
        labels = decision.table[outputs.argmax(axis=0)]
    return ready.restored(labels, image.grid.shape)


def same(labels, expected, share=0.9999):
    """Equal but for ties in rounding, and not empty."""
    assert len(np.unique(expected)) > 1
    assert (labels == expected).mean() >= share, (labels != expected).sum()


@pytest.fixture(scope="module")
def folds(tmp_path_factory):
    """Three folds, five classes, two channels, mirroring along two axes, nnU-Net's patches, cubic images."""
    return package.load(
        packages.linear_package(
            tmp_path_factory.mktemp("folds"),
            [random_linear(5, 2, seed) for seed in range(3)],
            channels=[{"name": n, "modality": "MR", "normalization": {"method": "zscore"}} for n in ("T1", "T2")],
            labels=labels_for(5),
            inference=WINDOW | {"convention": "nnunet", "mirror_axes": [0, 2]},
            preprocessing={
                "orientation": "stored",
                "axes": [2, 1, 0],
                "spacing": [1.2, 0.8, 1.0],
                "crop": "nonzero",
                "resampling": {"alignment": "edges", "image_order": 3, "separate_axis": "auto"},
            },
        )
    )


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("spacing", [(1, 1, 1), (0.7, 0.7, 3.1)])
def test_folds_and_mirrors_share_one_sum(folds, mirror, spacing):
    image = volume(spacing=spacing, channels=2)
    result = Predictor(folds, mode="parity", mirror=mirror).predict(image)
    same(result.labels.array, naive(folds, image, (0, 2) if mirror else ()))
    assert f'"mirror_axes": {[0, 2] if mirror else []}' in result.provenance["options"]
    assert '"folds": ["0", "1", "2"]' in result.provenance["options"]


@pytest.mark.parametrize(("asked", "chosen"), [("first", [0]), ("1", [1]), ("2, 0", [0, 2])])
def test_some_of_the_folds(folds, asked, chosen):
    image = volume(channels=2)
    result = Predictor(folds, mode="parity", mirror=False, folds=asked).predict(image)
    same(result.labels.array, naive(folds, image, folds=chosen))
    assert json.loads(result.provenance["options"])["folds"] == [str(n) for n in chosen]


def test_a_fold_that_is_not_there(folds):
    with pytest.raises(BackendError, match="no fold '3'; choose all, first, or of 0, 1, 2"):
        Predictor(folds, folds="0,3")


def test_what_all_folds_answer_proves_nothing_about_one(tmp_path):
    """A reference patch belongs to the mean: one fold alone is run as trained, and not refused for differing."""
    slopes = np.float32([[0, 2, 4], [0, 1, 6]]), np.float32([[0, -2, -6], [0, 1, -1]])
    folds = [(slope.reshape(3, 1, 1, 1, 1), bias) for slope, bias in zip(*slopes, strict=True)]
    patch = np.random.default_rng(2).uniform(0, 3, (1, *WINDOW["patch_size"])).astype(np.float32)
    answers = sum(slope * patch + bias[:, None, None, None] for slope, bias in [(w[:, 0], b) for w, b in folds])
    reference = io.BytesIO()
    np.savez(reference, input=patch, labels=np.array([0, 3, 300], np.uint16)[answers.argmax(axis=0)])
    files = {f"onnx.{n}" if n else "onnx": (f"models/fold_{n}.onnx", packages.linear_onnx(*folds[n])) for n in (0, 1)}
    files["reference"] = ("models/reference.npz", reference.getvalue())
    model = package.load(packages.write(tmp_path, packages.manifest(inference=WINDOW), files))
    assert Predictor(model).agreement > 0.99
    alone = Predictor(model, folds="1")
    assert alone.agreement is None and alone.description()["precision"] == "fp32"
    kept = {path.parent for path in model.compiled_folder.rglob("*.blob")}
    assert len(kept) == len(folds)  # else OpenVINO 2025.4 reads the first fold's form for the second


def test_mirroring_follows_mode_and_model(folds, tmp_path):
    assert Configuration.of(folds.manifest, "parity").mirror_axes == (0, 2)
    assert Configuration.of(folds.manifest, "parity", mirror=False).mirror_axes == ()
    assert Configuration.of(folds.manifest, "auto").mirror_axes == ()
    assert Configuration.of(folds.manifest, "auto", mirror=True).mirror_axes == (0, 2)
    fast = Configuration.of(folds.manifest, "fast")
    assert fast.mirror_axes == () and fast.overlap == 0.2
    plain = package.load(packages.threshold_package(tmp_path / "plain")).manifest
    monai = package.Manifest.from_dict(folds.manifest.raw | {"inference": WINDOW | {"mirror_axes": [0]}})
    assert Configuration.of(monai, "parity").mirror_axes == ()  # MONAI's bundles do not mirror
    with pytest.raises(BackendError, match="not trained with mirrored"):
        Configuration.of(plain, "parity", mirror=True)
    with pytest.raises(BackendError, match="Mode 'best' is not known"):
        Configuration.of(plain, "best")


def test_regions_are_painted_in_order(tmp_path):
    model = package.load(
        packages.linear_package(
            tmp_path / "regions",
            [(np.float32([1, -1, 1, 1]).reshape(4, 1, 1, 1, 1), np.float32([-2, 0.3, -1.5, -0.8]))],
            activation="sigmoid",
            labels=labels_for(4, regions=True),
            outputs=[4, 2, 1, 3],
            paint_order=[2, 3, 1, 4],
            inference=WINDOW,
            preprocessing={"orientation": "LPS", "spacing": [1.3, 0.9, 1.0]},
        )
    )
    image = volume()
    labels = Predictor(model, mode="parity").predict(image).labels.array
    same(labels, naive(model, image))
    assert set(np.unique(labels)) >= {1, 2, 3, 4}


@pytest.mark.parametrize("backend", ["openvino", "torch"])
def test_the_head_after_stitching_is_the_head_before(tmp_path, backend):
    if backend == "torch":
        pytest.importorskip("monai")
    model = package.load(
        packages.dynunet_package(
            tmp_path / "many",
            network={"name": "DynUNet", "arguments": packages.DYNUNET | {"out_channels": 30}},
            labels=labels_for(30),
            inference=WINDOW,
            preprocessing={"orientation": "RAS", "spacing": [1.5, 1.5, 1.5]},
        )
    )
    image = volume()
    predictor = Predictor(model, mode="parity", device="cpu", backend=backend)
    assert predictor._members[0].head.weight.shape == (30, 4)
    same(predictor.predict(image).labels.array, naive(model, image), 0.999)


@pytest.mark.parametrize("outputs", [3, 30])
def test_sums_and_export_on_the_device_give_the_same_labels(tmp_path, outputs):
    """What runs on a GPU, with torch on the processor in its place: several patches at once, sums, head and export."""
    pytest.importorskip("monai")
    model = package.load(
        packages.dynunet_package(
            tmp_path / "m",
            network={"name": "DynUNet", "arguments": packages.DYNUNET | {"out_channels": outputs}},
            labels=labels_for(outputs),
            inference=WINDOW,
            preprocessing={"orientation": "RAS", "spacing": [1.4, 0.8, 1.1]},
        )
    )
    image = volume()
    predictor = Predictor(model, mode="parity", device="cpu", backend="torch")
    here = predictor.predict(image, probabilities="float16")
    (member,) = predictor._members
    member._stays = True
    assert not isinstance(member.run(np.zeros((1, 1, 16, 24, 16), np.float32), lambda: None), np.ndarray)
    ladder = predictor._ladder

    def four_at_once(tick):
        made = ladder(tick)
        made.batch = 4
        return made

    predictor._ladder = four_at_once
    there = predictor.predict(image, probabilities="float16")
    same(there.labels.array, here.labels.array, 0.999)
    np.testing.assert_allclose(there.probabilities.array, here.probabilities.array, atol=2e-3)


def test_2d_networks_see_slices(tmp_path):
    weight, bias = random_linear(3, seed=4)
    bias -= bias.mean() + weight.sum(axis=(1, 2, 3, 4)) - weight.sum(axis=(1, 2, 3, 4)).mean()
    model = package.load(
        packages.linear_package(
            tmp_path / "flat",
            [(weight[:, :, 0], bias)],
            labels=labels_for(3),
            network={"name": "DynUNet", "arguments": packages.DYNUNET, "dimensions": 2},
            inference={"patch_size": [1, 16, 24], "overlap": 0.5, "convention": "nnunet", "mirror_axes": [1, 2]},
            preprocessing={
                "orientation": "stored",
                "axes": [2, 1, 0],
                "spacing": [None, 1.5, 0.9],
                "resampling": {"alignment": "edges", "image_order": 3, "separate_axis": "auto"},
            },
        )
    )
    image = volume((21, 30, 33), (1, 1, 4))
    same(Predictor(model, mode="parity").predict(image).labels.array, naive(model, image, (1, 2)))


@pytest.fixture(scope="module")
def threshold(tmp_path_factory):
    return Predictor(
        package.load(packages.threshold_package(tmp_path_factory.mktemp("threshold"), inference=WINDOW)), mode="parity"
    )


@pytest.mark.parametrize(
    "region", [((3, 9), (11, 30), (0, 4)), ((0, 41), (0, 30), (0, 22)), ((40, 41), (29, 30), (21, 22))]
)
def test_a_region_has_the_labels_of_a_whole_run(folds, region):
    predictor = Predictor(folds, mode="parity", mirror=False)
    image = volume((60, 41, 50), channels=2)
    region = tuple((a, min(b, n)) for (a, b), n in zip(region, image.grid.shape, strict=True))
    whole = predictor.predict(image).labels.array
    slabs = []
    part = predictor.predict(image, region=region, on_slab=slabs.append)
    box = tuple(slice(*r) for r in region)
    np.testing.assert_array_equal(part.labels.array[box], whole[box])
    outside = np.ones(whole.shape, bool)
    outside[box] = False
    assert not part.labels.array[outside].any()
    grown = np.zeros_like(whole)
    for slab in slabs:
        grown[slab.box] = slab.labels
    np.testing.assert_array_equal(grown, part.labels.array)


def test_regions_outside_of_the_image_are_refused(threshold):
    for region in [((0, 99), (0, 1), (0, 1)), ((3, 3), (0, 1), (0, 1)), ((-1, 3), (0, 1), (0, 1))]:
        with pytest.raises(InputError, match=r"region of interest .* along i"):
            threshold.predict(volume(), region=region)


def test_finished_slabs_grow_into_the_result(threshold):
    image, seen = volume((80, 33, 40)), []
    labels = threshold.predict(image, on_slab=lambda slab: seen.append((slab.box, slab.labels.copy()))).labels.array
    grown = np.full_like(labels, 999)
    for box, part in seen:
        assert (grown[box] == 999).all()  # every voxel once
        grown[box] = part
    assert len(seen) > 2
    np.testing.assert_array_equal(grown, labels)


def test_air_is_skipped_and_said(threshold):
    inside = blobs((30, 30, 30))[0]
    air = np.random.default_rng(0).normal(0, 0.01, (90, 80, 70)).astype(np.float32)
    air[30:60, 25:55, 20:50] += inside + 0.5
    image = Volume(air[None], Grid.from_spacing(air.shape, (1, 1, 1)), ("T1",))
    whole = threshold.predict(image).labels.array
    for option in ("skip_background", "crop_to_body"):
        result = threshold.predict(image, **{option: True})
        same(result.labels.array, whole)
        assert f'"{option}": true' in result.provenance["options"]
    left, of = re.fullmatch(
        r"(\d+) of (\d+) patches were left out\.", threshold.predict(image, skip_background=True).provenance["notes"]
    ).groups()
    assert int(left) > int(of) / 2  # the body fills a twentieth of the image
    assert not threshold.predict(image).provenance["notes"]


def test_body_is_all_of_an_image_without_air():
    assert body(np.full((1, 5, 6, 7), 3, np.int16)).all()
    image = np.zeros((2, 10, 9, 8), np.float32)
    image[0, 2:6, 3:5] = 100
    image[1, 5:9, 1:3] = -50  # in some channel; what is bright in this one is all but these
    np.testing.assert_array_equal(body(image[:1]), image[0] > 0)
    np.testing.assert_array_equal(body(image), (image[0] > 0) | (image[1] == 0))


def test_compact_probabilities(folds):
    image = volume(channels=2)
    predictor = Predictor(folds, mode="parity", mirror=False)
    fine, coarse = (predictor.predict(image, probabilities=kind).probabilities for kind in ("float16", "uint8"))
    assert fine.array.dtype == np.float16 and coarse.array.dtype == np.uint8
    assert fine.values == tuple(range(5)) and fine.array.shape[1:] == fine.grid.shape
    np.testing.assert_allclose(fine.array.astype(float).sum(axis=0), 1, atol=0.01)
    np.testing.assert_allclose(coarse.array / 255, fine.array, atol=0.01)
    with pytest.raises(InputError, match="'int3' are not known"):
        predictor.predict(image, probabilities="int3")


def test_an_answer_that_is_not_finite_is_refused(tmp_path):
    bias = np.float32([0, np.inf, 0])
    model = package.load(packages.linear_package(tmp_path / "m", [(random_linear(3)[0], bias)], labels=labels_for(3)))
    with pytest.raises(BackendError, match="not finite"):
        Predictor(model, mode="parity").predict(volume())


def test_reduced_precision_that_fails_its_proof_is_not_used(tmp_path):
    """Thresholds at 1001 and 1002 on values near 1000, which bf16 cannot tell apart."""
    import io

    weight = np.zeros((3, 1, 3, 3, 3), np.float32)
    weight[:, 0, 1, 1, 1] = 0, 2, 4
    image = blobs((16, 24, 16), 3) + 1000
    labels = np.where(image[0] > 1002, 300, np.where(image[0] > 1001, 3, 0)).astype(np.uint16)
    assert len(np.unique(labels)) == 3
    arrays = io.BytesIO()
    np.savez(arrays, input=image, labels=labels)
    bias = np.float32([0, -2002, -4006])
    raw = packages.manifest(reference={"input": "input", "labels": "labels"})
    files = {
        "onnx": ("models/model.onnx", packages.linear_onnx(weight, bias)),
        "reference": ("models/reference.npz", arrays.getvalue()),
    }
    model = package.load(packages.write(tmp_path / "m", raw, files))
    if "bf16" not in choose(model, "cpu", "openvino").precisions:
        pytest.skip("this processor has no bf16")
    predictor = Predictor(model)
    result = predictor.predict(Volume(image, Grid.from_spacing(image.shape[1:], (1, 1, 1)), ("T1",)))
    assert result.provenance["precision"] == "fp32" and "bf16 on cpu was not used" in result.provenance["notes"]
    np.testing.assert_array_equal(result.labels.array, labels)


def test_cancelled_within_a_patch_is_cancelled_and_no_error_of_the_library(tmp_path):
    network = packages.linear_package(tmp_path / "m", [random_linear(32, size=7)], labels=labels_for(32))
    place, patch = choose(package.load(network), "cpu", "openvino"), (80, 80, 80)
    backend = place.open(package.load(network), "fp32", patch=patch)
    image = np.zeros((1, 1, *patch), np.float32)

    def tick():
        raise Cancelled()

    with pytest.raises(Cancelled):
        backend.run(image, tick)
    assert backend.run(image, lambda: None).shape == (1, 32, *patch)


def test_a_network_without_onnx_is_converted_once(tmp_path, monkeypatch):
    pytest.importorskip("monai")
    from UNetSegmentLib.predict.backends import torch_backend

    monkeypatch.setenv("UNETSEGMENT_CACHE", str(tmp_path / "cache"))
    root = packages.dynunet_package(tmp_path / "both")
    both = package.load(root)
    files = {"torch": ("models/model.pt", (root / "models" / "model.pt").read_bytes())}
    model = package.load(packages.write(tmp_path / "plain", packages.manifest(), files))
    image = volume()
    first = Predictor(model).predict(image)
    assert first.provenance["backend"] == "openvino" and first.provenance["precision"] == "fp32"
    same(first.labels.array, Predictor(both, mode="parity").predict(image).labels.array, 0.999)
    kept = sorted(path.name for path in model.compiled_folder.glob("converted-*"))
    assert kept == ["converted-0.bin", "converted-0.xml"]
    monkeypatch.setattr(torch_backend, "convert", None)  # a second time would fail
    np.testing.assert_array_equal(Predictor(model).predict(image).labels.array, first.labels.array)

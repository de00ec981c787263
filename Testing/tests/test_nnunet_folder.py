"""nnU-Net v2 folders become packages of ours, once; what is wrong with one is a sentence."""

import json
import shutil

import numpy as np
import pytest
from synthetic.nnunet import weights, write
from UNetSegmentLib import package
from UNetSegmentLib.errors import OutputError, PackageError
from UNetSegmentLib.package.tensors import read_tensors

pytestmark = pytest.mark.usefixtures("cache")


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

"""A package is what its manifest says, or it is refused with one sentence; nothing in it is run."""

import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import packages
from UNetSegmentLib import package
from UNetSegmentLib.errors import PackageError
from UNetSegmentLib.package import Manifest, schema
from UNetSegmentLib.package.recipe import Channel

SCHEMA = json.loads((Path(package.__file__).with_name("manifest.schema.json")).read_text("utf-8"))


def edited(root: Path, **changes) -> Path:
    path = root / "configs" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")
    return root


@pytest.fixture
def root(tmp_path):
    pytest.importorskip("onnx")
    return packages.threshold_package(tmp_path / "model")


def test_a_good_package_loads_and_verifies(root):
    loaded = package.load(root)
    loaded.verify()
    assert [label.value for label in loaded.manifest.segments] == [3, 300]
    described = [Channel("T1", None, modality=kind).described(name) for kind, name in
                 (("MR", "T1"), ("MR", "MRI"), ("CT", "CT"), ("PT", "FDG PET"), ("OT", "red"), ("CT", "contrast"))]  # fmt: skip
    assert described == ["MR T1", "MRI", "CT", "FDG PET", "red", "CT contrast"]  # what the name tells is not said twice
    assert loaded.manifest.summary == "MR T1 · 2 structures · CC0-1.0 · not for diagnosis"
    assert package.load(loaded.root).content_hash == loaded.content_hash


def test_a_manifest_is_checked_once_for_each_content(root, monkeypatch):
    first, path = package.load(root).manifest, root / "configs" / "manifest.json"
    times, before = path.stat(), path.read_text("utf-8")
    asked: list[int] = []
    check = schema.problems
    monkeypatch.setattr(schema, "problems", lambda *given: asked.append(1) or check(*given))
    assert package.load(root).manifest is first and not asked
    path.write_text(before.replace(first.title, first.title[::-1]), "utf-8")  # as long, and as old, as it was
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert package.load(root).manifest.title == first.title[::-1] and asked


def test_unknown_name_lists_what_is_installed(monkeypatch, tmp_path):
    monkeypatch.setenv("UNETSEGMENT_CACHE", str(tmp_path))
    with pytest.raises(PackageError, match="no model 'nonsense'"):
        package.load("nonsense")


def test_a_name_is_an_installed_model_whatever_lies_in_the_current_folder(monkeypatch, tmp_path, root):
    cache, here = tmp_path / "cache", tmp_path / "here"
    monkeypatch.setenv("UNETSEGMENT_CACHE", str(cache))
    installed = shutil.copytree(root, cache / "models" / "liver").resolve()
    other = shutil.copytree(root, here / "liver").resolve()
    alone = shutil.copytree(root, here / "kidney").resolve()
    zipped = Path(shutil.make_archive(str(here / "spleen"), "zip", root))
    monkeypatch.chdir(here)
    assert package.load("liver").root == installed
    for path in (f".{os.sep}liver", str(other), Path("liver"), f"..{os.sep}here{os.sep}liver"):
        assert package.load(path).root == other
    for name in ("kidney", zipped.name):
        with pytest.raises(PackageError, match=f"no model '{name}' among those installed .*given by its path"):
            package.load(name)
    assert (
        package.load(f".{os.sep}kidney").root == alone and package.load(Path(zipped.name)).manifest.name == "synthetic"
    )
    with pytest.raises(PackageError, match="no model at .*nowhere"):
        package.load(here / "nowhere")
    monkeypatch.chdir(alone)
    assert package.load(os.curdir).root == alone
    assert package.load("liver").root == installed


def test_a_command_line_means_what_lies_in_its_folder_first(monkeypatch, tmp_path, root):
    monkeypatch.setenv("UNETSEGMENT_CACHE", str(tmp_path / "cache"))
    installed = shutil.copytree(root, tmp_path / "cache" / "models" / "liver").resolve()
    monkeypatch.chdir(tmp_path)
    assert package.load(package.from_shell("liver")).root == installed
    shutil.copytree(root, tmp_path / "liver")
    assert package.load(package.from_shell("liver")).root == (tmp_path / "liver").resolve()


def test_missing_manifest(tmp_path):
    with pytest.raises(PackageError, match="is not a model package"):
        package.load(tmp_path)


def test_missing_file(root):
    (root / "models" / "model.onnx").unlink()
    with pytest.raises(PackageError, match="incomplete: models/model.onnx"):
        package.load(root)


def test_wrong_checksum(root):
    with (root / "models" / "model.onnx").open("r+b") as file:
        file.write(b"\x00")
    with pytest.raises(PackageError, match="checksum of models/model.onnx is wrong"):
        package.load(root).verify()


def test_unknown_network(root):
    edited(root, network={"name": "os.system", "arguments": {}})
    with pytest.raises(PackageError, match="network 'os.system'"):
        package.load(root)


def test_newer_major_version(root):
    edited(root, manifest_version="2.0", something_new=1)
    with pytest.raises(PackageError, match="version 2.0, newer than this program"):
        package.load(root)


def test_newer_program_needed(root):
    edited(root, requires={"unetsegment": "99.0.0"})
    with pytest.raises(PackageError, match="needs UNetSegment 99.0.0"):
        package.load(root)


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "models/../../x", "a\\b", "C:/x"])
def test_paths_outside_the_package(root, path):
    edited(root, files={"onnx": {"path": path, "sha256": "0" * 64, "size": 1}})
    with pytest.raises(PackageError, match="not valid"):
        package.load(root)


def test_a_link_out_of_the_package(root, tmp_path):
    (tmp_path / "secret").write_bytes(b"x")
    (root / "models" / "model.onnx").unlink()
    try:
        (root / "models" / "model.onnx").symlink_to(tmp_path / "secret")
    except OSError:
        pytest.skip("this system does not let us make links")
    with pytest.raises(PackageError, match="outside its own folder"):
        package.load(root)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ('{"a": 1, "a": 2}', "'a' twice"),
        ('{"a": NaN}', "NaN"),
        ("[" * 100000, "nested too deeply|not JSON"),
    ],
)
def test_broken_json(root, text, words):
    (root / "configs" / "manifest.json").write_text(text, "utf-8")
    with pytest.raises(PackageError, match=words):
        package.load(root)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": packages.LABELS + [packages.LABELS[1]]}, "two labels the same value"),
        ({"surprise": 1}, "'surprise' is not a known entry"),
        ({"channels": []}, "fewer than 1"),
        ({"inference": {"patch_size": [0, 8, 8], "overlap": 0.5}}, r"patch_size\[0\]"),
        ({"preprocessing": {"orientation": "XYZ", "spacing": [1, 1, 1]}}, "orientation"),
    ],
)
def test_contradictions_are_named(changes, words):
    with pytest.raises(PackageError, match=words):
        Manifest.from_dict(packages.manifest(**changes))


class Bomb:
    """Pickles to a call that would create a file."""

    def __reduce__(self):
        return (exec, ("import pathlib; pathlib.Path('exploded').touch()",))


def test_pickled_code_is_refused_and_not_run(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    pytest.importorskip("monai")
    from UNetSegmentLib.predict.backends.torch_backend import read_weights

    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Bomb()}, "bomb.pt")
    for content in (Path("bomb.pt").read_bytes(), pickle.dumps(Bomb())):
        root = packages.write(tmp_path / "bad", packages.manifest(), {"torch": ("models/model.pt", content)})
        with pytest.raises(PackageError, match="code or objects|cannot be read"):
            read_weights(package.load(root))
    assert not Path("exploded").exists()


def test_weights_that_do_not_fit_are_refused(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("monai")
    from UNetSegmentLib.predict import Predictor

    root = packages.dynunet_package(tmp_path / "model")
    raw = json.loads((root / "configs" / "manifest.json").read_text())
    edited(root, network={"name": "DynUNet", "arguments": raw["network"]["arguments"] | {"filters": [4, 8, 16]}})
    with pytest.raises(PackageError, match="do not fit"):
        Predictor(package.load(root), backend="torch")


def test_safetensors_give_the_same_network_as_the_state_dict(tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("monai")
    save = pytest.importorskip("safetensors.torch").save
    from UNetSegmentLib.predict.backends.torch_backend import read_weights

    plain = package.load(packages.dynunet_package(tmp_path / "plain"))
    state = read_weights(plain)
    content = save({key: value.clone() for key, value in state.items()})
    root = packages.write(
        tmp_path / "safe", packages.manifest(), {"safetensors": ("models/model.safetensors", content)}
    )
    again = read_weights(package.load(root))
    assert set(again) == set(state) and all(torch.equal(again[key], state[key]) for key in state)
    broken = packages.write(
        tmp_path / "broken", packages.manifest(), {"safetensors": ("models/m.safetensors", b"x" * 99)}
    )
    with pytest.raises(PackageError, match="safetensors file cannot be read"):
        read_weights(package.load(broken))


def test_random_bytes_as_onnx_are_refused(tmp_path):
    pytest.importorskip("openvino")
    from UNetSegmentLib.predict import Predictor

    content = np.random.default_rng(0).bytes(1000)
    root = packages.write(tmp_path / "bad", packages.manifest(), {"onnx": ("models/model.onnx", content)})
    with pytest.raises(PackageError, match="ONNX"):
        Predictor(package.load(root), backend="openvino")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 400) | st.floats(-2, 2) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def mutated_manifests(draw):
    raw = json.loads(json.dumps(packages.manifest()))
    node, path = raw, []
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = draw(st.sampled_from(keys))
        path.append(key)
        if isinstance(node[key], dict | list) and node[key] and draw(st.booleans()):
            node = node[key]
        else:
            break
    if draw(st.booleans()):
        node[key] = draw(json_values)
    elif isinstance(node, dict):
        del node[key]
    return raw


@settings(max_examples=300, deadline=None)
@given(mutated_manifests())
def test_our_schema_checker_agrees_with_jsonschema(raw):
    jsonschema = pytest.importorskip("jsonschema")
    theirs = jsonschema.Draft202012Validator(SCHEMA).is_valid(raw)
    assert (not list(schema.problems(raw, SCHEMA))) == theirs


@settings(max_examples=300, deadline=None)
@given(mutated_manifests() | json_values)
def test_any_json_is_read_or_refused_with_a_sentence(raw):
    try:
        Manifest.from_dict(raw)
    except PackageError as error:
        assert "\n" not in str(error) and len(str(error)) < 500


def test_installed_models_load_and_verify():
    for folder in package.installed().values():
        package.load(folder).verify()


def test_large_files_are_hashed_once_and_again_when_they_change(tmp_path, monkeypatch):
    from UNetSegmentLib.package import hashes

    notes, path = tmp_path / "cache" / "hashes.json", tmp_path / "weights"
    path.write_bytes(b"a" * hashes.WORTH_A_NOTE)
    first = hashes.noted_sha256(path, notes)
    assert first == hashlib.sha256(path.read_bytes()).hexdigest() == hashes.sha256(path)
    with monkeypatch.context() as patch:
        patch.setattr(hashes, "sha256", None)  # a second reading would fail
        assert hashes.noted_sha256(path, notes) == first
    path.write_bytes(b"b" * hashes.WORTH_A_NOTE)
    os.utime(path, ns=(1, 1))
    second = hashes.noted_sha256(path, notes)
    assert second == hashes.sha256(path) != first and len(json.loads(notes.read_text())) == 1
    for broken in ("{", '{"x": "y"}', "[]", f'{{"{path.resolve()}|{path.stat().st_size}|1": "no hash"}}'):
        notes.write_text(broken)
        assert hashes.noted_sha256(path, notes) == second

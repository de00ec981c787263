"""MONAI bundles made to do harm, broken or random: nothing is run, and only clean refusals come out."""

import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic import bundles
from synthetic.bundles import HALF, LAST, SIGMOID, TRANSFORMS, read, t
from UNetSegmentLib import package
from UNetSegmentLib.errors import PackageError
from UNetSegmentLib.package import bundle

pytestmark = pytest.mark.usefixtures("cache")


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


def test_messages_name_no_more_than_a_line():
    assert not re.search(r"[\n\r]", bundle.shown("a\nb\rc")) and len(bundle.shown("x" * 1000)) < 120


@pytest.mark.parametrize("config", [bundles.inference(image_key={"\n": "@::x"}), '{"a\\nb": 1, "a\\nb": 2}'])
def test_names_in_messages_stay_on_one_line(tmp_path, config):
    clean(tmp_path / "b", config)

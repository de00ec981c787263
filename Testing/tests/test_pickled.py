"""Checkpoints are read without torch and never executed: malicious and broken ones are refused with a sentence."""

import collections
import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from UNetSegmentLib.errors import PackageError
from UNetSegmentLib.package.pickled import OPAQUE, Checkpoint, Tensor
from UNetSegmentLib.package.tensors import read_tensors, write_tensors

FLOAT = b"ctorch\nFloatStorage\n"


def zipped(program, *, data=None, compression=zipfile.ZIP_STORED, root="model", more=(), names=("data.pkl",)):
    """A checkpoint's zip around a pickle."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", compression) as file:
        for name in names:
            file.writestr(f"{root}/{name}", program)
        file.writestr(f"{root}/data/0", np.arange(6, dtype="<f4").tobytes() if data is None else data)
        for name, content in more:
            file.writestr(name, content)
    return sink.getvalue()


def opened(content):
    return Checkpoint(io.BytesIO(content), "model.pth")


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value):
    return b"\x8a\x08" + struct.pack("<q", value)


def storage(kind=FLOAT, key="0", size=6, tag="storage"):
    return b"(" + text(tag) + kind + text(key) + text("cpu") + number(size) + b"tQ"


def tensor(place=None, offset=0, shape=(2, 3), strides=(3, 1)):
    """A table with one tensor under ``w``, as torch writes it."""
    numbers = [b"(" + b"".join(number(n) for n in entry) + b"t" for entry in (shape, strides)]
    arguments = b"(" + (storage() if place is None else place) + number(offset) + numbers[0] + numbers[1] + b"\x89Nt"
    return b"\x80\x02}" + text("w") + b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"Rs."


class Bomb:
    def __init__(self, call, *arguments):
        self.what = call, arguments

    def __reduce__(self):
        return self.what


def test_tensor_is_read():
    with opened(zipped(tensor())) as checkpoint:
        found = checkpoint.content["w"]
        assert isinstance(found, Tensor) and found.shape == (2, 3)
        assert np.array_equal(checkpoint.array(found), np.arange(6, dtype=np.float32).reshape(2, 3))
    with opened(zipped(tensor(shape=(3, 2), strides=(1, 3)))) as checkpoint:
        assert np.array_equal(checkpoint.array(checkpoint.content["w"]), np.arange(6).reshape(2, 3).T)
    with opened(zipped(tensor(shape=(), strides=(), offset=5))) as checkpoint:
        assert checkpoint.array(checkpoint.content["w"]) == 5
    with opened(zipped(tensor(shape=(0, 3)))) as checkpoint:
        assert checkpoint.array(checkpoint.content["w"]).shape == (0, 3)


def test_all_that_torch_saves_is_read_as_torch_reads_it(tmp_path):
    torch = pytest.importorskip("torch")
    whole = torch.randn(4, 6)
    tensors = {
        "view": whole[1:3, ::2].T,
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
        **{
            str(dtype): torch.arange(5).to(dtype)
            for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.bool)
        },
        **{str(dtype): torch.arange(5).to(dtype) for dtype in (torch.int8, torch.uint8, torch.int16, torch.int32)},
        "long": torch.tensor([2**40]),
    }
    content = {"tensors": collections.OrderedDict(tensors), "module": torch.nn.Linear(2, 3).state_dict()}
    content |= {
        "log": [np.float64(1), np.float32(2), np.arange(3)],
        "device": torch.device("cpu"),
        "dtype": torch.float32,
    }
    content |= {
        "shape": torch.Size((2, 3)),
        "plain": [1, -2, 2**70, 1.5, None, True, "é", b"\x00", (1, (2, 3)), {4: "x"}],
    }
    content |= {"many": {str(n): n for n in range(2000)}}
    for protocol in (2, 4):
        path = tmp_path / f"{protocol}.pth"
        torch.save(content, path, pickle_protocol=protocol)
        with Checkpoint(path) as checkpoint:
            found = checkpoint.content
            for key, value in tensors.items():
                assert np.array_equal(checkpoint.array(found["tensors"][key]), value.detach().float().numpy()), key
            assert checkpoint.array(found["module"]["weight"]).shape == (3, 2)
            assert found["shape"] == (2, 3) and found["many"] == content["many"]
            plain = found["plain"]
            assert plain[:7] == content["plain"][:7] and plain[8:] == content["plain"][8:]
            assert found["log"] == [OPAQUE] * 3 and found["device"] is OPAQUE and found["dtype"] is OPAQUE


BOMBS = {
    "os.system": pickle.dumps(Bomb(os.system, "echo owned"), 2),
    "builtins.eval": pickle.dumps({"network_weights": [Bomb(eval, "1+1")]}, 2),
    "builtins.exec, protocol 4": pickle.dumps(Bomb(exec, "raise SystemExit"), 4),
    "subprocess": b"csubprocess\nPopen\n(X\x02\x00\x00\x00idtR.",
    "nested in a tensor": tensor(place=b"cbuiltins\ngetattr\n(U\x01aU\x01btR"),
    "numpy.load": b"cnumpy\nload\n(X\x01\x00\x00\x00xtR.",
    "torch.load": b"ctorch\nload\n(X\x01\x00\x00\x00xtR.",
    "torch.hub": b"ctorch.hub\nload\n)R.",
    "name with dots": b"ctorch\n_utils.os.system\n)R.",
    "name in two parts": b"\x80\x04\x8c\x02os\x8c\x06system\x93)R.",
    "collections.abc": b"ccollections\nabc\n)R.",
    "old instruction INST": b"(X\x02\x00\x00\x00idios\nsystem\n.",
    "old instruction OBJ": b"(cos\nsystem\nX\x02\x00\x00\x00ido.",
    "extension registry": b"\x82\x01)R.",
    "bytearray of terabytes": b"\x80\x05\x96" + struct.pack("<Q", 1 << 42) + b".",
    "attribute of a class": b"ctorch\nFloatStorage\n}U\x01aU\x01bsb.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_pickle_bombs_are_refused(name, capfd):
    with pytest.raises(PackageError) as caught:
        opened(zipped(BOMBS[name]))
    sentence = str(caught.value)
    assert sentence.startswith("'model.pth' is ") and sentence.endswith(".") and "\n" not in sentence
    assert capfd.readouterr() == ("", "")


def test_refusal_names_what_was_asked_for():
    with pytest.raises(PackageError, match="'posix.system', which no weights need|'nt.system', which no weights need"):
        opened(zipped(BOMBS["os.system"]))


BROKEN = {
    "beyond the storage": (tensor(shape=(2, 4), strides=(4, 1)), "reaches beyond the numbers of its storage 0"),
    "offset beyond": (tensor(offset=1), "reaches beyond"),
    "stride beyond": (tensor(strides=(100, 1)), "reaches beyond"),
    "more numbers than stored": (tensor(shape=(1000, 1000), strides=(0, 0)), "reaches beyond"),
    "negative offset": (tensor(offset=-1), "cannot be followed"),
    "negative stride": (tensor(strides=(-3, 1)), "cannot be followed"),
    "shape too large": (tensor(shape=(1 << 50, 1 << 50), strides=(0, 0)), "cannot be followed"),
    "other strides": (tensor(strides=(1,)), "cannot be followed"),
    "unknown type": (tensor(storage(kind=b"ctorch\nQuantizedStorage\n")), "torch.QuantizedStorage"),
    "no type": (tensor(storage(kind=b"N")), "cannot be followed"),
    "path as key": (tensor(storage(key="../../0")), "cannot be followed"),
    "size of millions": (tensor(storage(size=1 << 62)), "not 4611686018427387904 of FloatStorage"),
    "missing storage": (tensor(storage(key="7")), "data/7 is missing"),
    "not a storage": (tensor(storage(tag="module")), "cannot be followed"),
    "empty": (b"", "cannot be followed"),
    "cut off": (tensor()[:-20], "cannot be followed"),
    "nothing on the stack": (b"R.", "cannot be followed"),
    "unknown memo": (b"h\x05.", "cannot be followed"),
    "ordered table of a list": (b"ccollections\nOrderedDict\n(]tR.", "cannot be followed"),
    "too large": (b"N" * (9 << 20) + b".", "larger than 8 MiB"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_pickles_are_refused(name):
    program, words = BROKEN[name]
    with pytest.raises(PackageError, match=words):
        with opened(zipped(program)) as checkpoint:
            checkpoint.array(checkpoint.content["w"])


def test_costly_programs_cost_nothing():
    deep = b"\x80\x02)" + b"\x85" * 1_000_000 + b"."
    with opened(zipped(deep)) as checkpoint:
        assert isinstance(checkpoint.content, tuple)
    with opened(zipped(b"}(" + b")" + b"\x85" * 1_000_000 + b"K\x01u.")) as checkpoint:
        assert checkpoint.content == {}  # such a key would overflow the stack when it is hashed
    with opened(zipped(b"Nr\xff\xff\xff\x7f.")) as checkpoint:  # Python's own unpickler makes room for 2^31 entries
        assert checkpoint.content is None
    looped = b"]q\x00" + b"h\x00a" * 1000 + b"."
    with opened(zipped(looped)) as checkpoint:
        assert len(checkpoint.content) == 1000


ZIPS = {
    "no zip": (b"\x80\x02}.", "not a checkpoint in torch's zip form"),
    "nothing": (b"", "not a checkpoint in torch's zip form"),
    "old form of torch": (pickle.dumps(0x1950A86A20F9469CFC6C, 2), "not a checkpoint in torch's zip form"),
    "packed": (zipped(b"N" * 1000 + b".", compression=zipfile.ZIP_DEFLATED), "packed or encrypted"),
    "zip bomb": (zipped(b"\x00" * (64 << 20), compression=zipfile.ZIP_DEFLATED), "packed or encrypted"),
    "other zip": (zipped(b".", names=("readme.txt",)), "has no data.pkl"),
    "two pickles": (zipped(b"N.", more=[("other/data.pkl", b"N.")]), "has no data.pkl"),
    "big-endian": (zipped(b"N.", more=[("model/byteorder", b"big")]), "big-endian"),
}


@pytest.mark.parametrize("name", ZIPS)
def test_other_files_are_refused(name):
    content, words = ZIPS[name]
    with pytest.raises(PackageError, match=words):
        opened(content)


def test_changed_numbers_and_repeated_entries_are_refused():
    content = zipped(tensor())
    place = content.index(np.arange(6, dtype="<f4").tobytes())
    with opened(content[: place + 5] + b"\x01" + content[place + 6 :]) as checkpoint:
        with pytest.raises(PackageError, match="is damaged: model/data/0"):
            checkpoint.array(checkpoint.content["w"])
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = zipped(tensor(), names=("data.pkl", "data.pkl"))
    with pytest.raises(PackageError, match="entries of the same name"):
        opened(twice)
    with opened(zipped(tensor(), data=b"\x00" * 20)) as checkpoint:
        with pytest.raises(PackageError, match="are not 6 of FloatStorage"):
            checkpoint.array(checkpoint.content["w"])


OPCODES = st.sampled_from(
    [
        b"(",
        b".",
        b"0",
        b"N",
        b"\x88",
        b"K\x03",
        b"]",
        b"}",
        b")",
        b"\x85",
        b"\x86",
        b"\x87",
        b"t",
        b"a",
        b"e",
        b"s",
        b"u",
    ]
    + [b"q\x00", b"h\x00", b"R", b"\x81", b"b", b"Q", b"\x94", b"\x93", b"\x8f", b"\x90", text("storage"), text("0")]
    + [FLOAT, b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nSize\n", storage()]
    + [b"ctorch._utils\n_rebuild_parameter\n", b"cnumpy\ndtype\n", b"c_codecs\nencode\n", number(-1), number(1 << 62)]
)


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(OPCODES, max_size=30).map(b"".join) | st.binary(max_size=60), st.booleans())
def test_any_program_is_read_or_refused(program, ended):
    try:
        with opened(zipped(program + b"." * ended)) as checkpoint:
            if isinstance(checkpoint.content, Tensor):
                checkpoint.array(checkpoint.content)
    except PackageError as error:
        assert str(error).endswith(".")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_damage_to_a_checkpoint_is_read_or_refused(data):
    content = bytearray(zipped(tensor()))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        with opened(bytes(content)) as checkpoint:
            found = checkpoint.content
            if isinstance(found, dict) and isinstance(found.get("w"), Tensor):
                checkpoint.array(found["w"])
    except PackageError as error:
        assert str(error).endswith(".")


def stored(tensors):
    sink = io.BytesIO()
    write_tensors(sink, tensors)
    return sink.getvalue()


def test_safetensors_are_those_of_the_library():
    theirs = pytest.importorskip("safetensors.numpy")
    rng = np.random.default_rng(0)
    types = (np.float64, np.float32, np.float16, np.int64, np.int32, np.int16, np.int8, np.uint8, np.bool_)
    tensors = {f"t{n}": rng.integers(0, 2, (n, 3)).astype(dtype) for n, dtype in enumerate(types)}
    tensors["turned"] = np.arange(6, dtype=np.float32).reshape(2, 3).T
    saved = theirs.save({key: np.ascontiguousarray(value) for key, value in tensors.items()})
    for found in (theirs.load(stored(tensors)), read_tensors(stored(tensors)), read_tensors(saved)):
        assert set(found) == set(tensors)
        assert all(np.array_equal(found[k], v) and found[k].dtype == v.dtype for k, v in tensors.items())
    assert stored(tensors) == stored(dict(reversed(tensors.items())))
    with pytest.raises(ValueError, match="no type for complex64"):
        stored({"a": np.zeros(1, np.complex64)})


def test_bfloat16_is_widened():
    header = b'{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    content = struct.pack("<Q", len(header)) + header + struct.pack("<HH", 0x3FC0, 0xC000)
    assert read_tensors(content)["a"].tolist() == [1.5, -2.0]


GOOD = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'


@pytest.mark.parametrize(
    "header, data",
    [
        (GOOD, b"\x00" * 7),
        (GOOD, b"\x00" * 9),
        (GOOD.replace(b"[2]", b"[3]"), b"\x00" * 8),
        (GOOD.replace(b"[2]", b"[-2]"), b"\x00" * 8),
        (GOOD.replace(b"[0,8]", b"[8,0]"), b"\x00" * 8),
        (GOOD.replace(b"[0,8]", b"[4,12]"), b"\x00" * 12),
        (GOOD.replace(b"F32", b"PICKLE"), b"\x00" * 8),
        (GOOD[:-1] + b"," + GOOD[1:], b"\x00" * 8),
        (b"[]", b""),
        (b"[" * 100_000, b""),
        (b"\xff", b""),
    ],
)
def test_wrong_safetensors_are_refused(header, data):
    with pytest.raises(PackageError, match="^The weights file is"):
        read_tensors(struct.pack("<Q", len(header)) + header + data)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_damage_to_safetensors_is_read_or_refused(data):
    content = bytearray(stored({"a": np.zeros((2, 3), np.float32), "b": np.zeros(4, np.int8)}))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        read_tensors(bytes(content[: data.draw(st.integers(0, len(content)))]))
    except PackageError as error:
        assert str(error).endswith(".")

"""What is unpacked or copied stays in its folder, within its limits, whole or not at all."""

from __future__ import annotations

import io
import os
import random
import stat
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from UNetSegmentLib.errors import Cancelled, OutputError, PackageError, UNetSegmentError
from UNetSegmentLib.package import archive

GOOD = {"model/configs/manifest.json": b"{}", "model/models/model.onnx": os.urandom(3 << 20), "model/empty/": b""}


def pack(path: Path, entries: dict[str, bytes] | list[tuple[str | zipfile.ZipInfo, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in entries.items() if isinstance(entries, dict) else entries:
            file.writestr(name, content)
    return path


def special(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


def refused(tmp_path: Path, packed: Path, words: str, **limits: int) -> None:
    """Unpacking is refused with one sentence, and nothing is left or touched."""
    before = listing(tmp_path)
    with pytest.raises(PackageError, match=words) as caught:
        archive.unpack(packed, tmp_path / "out", **limits)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    assert listing(tmp_path) == before


def listing(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


def test_a_good_zip(tmp_path: Path) -> None:
    packed = pack(tmp_path / "good.zip", GOOD)
    told: list[tuple[int, int]] = []
    archive.unpack(packed, tmp_path / "out", progress=lambda done, total: told.append((done, total)))
    for name, content in GOOD.items():
        place = tmp_path / "out" / name
        assert place.is_dir() if name.endswith("/") else place.read_bytes() == content
    assert told[-1] == (sum(map(len, GOOD.values())),) * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good.zip", "out"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../evil", "leads out"),
        ("a/../../evil", "leads out"),
        ("a/..", "leads out"),
        ("a/b/../../../evil", "leads out"),
        ("..", "leads out"),
        ("/etc/evil", "absolute"),
        ("//server/share/evil", "absolute"),
        ("C:/evil", "absolute"),
        ("c:evil", "absolute"),
        ("\\evil", "absolute"),
        ("\\\\server\\share\\evil", "absolute"),
        ("..\\evil", "leads out"),
        ("a\\..\\..\\evil", "leads out"),
        ("a\\b", "not every system"),
        ("a:stream", "absolute"),
        ("file:stream", "not every system"),
        ("a/b:stream", "not every system"),
        ("con", "device"),
        ("a/NUL.txt", "device"),
        ("COM1", "device"),
        ("lpt9.tar.gz", "device"),
        ("aux /x", "plain|device"),
        ("a//b", "not a plain"),
        ("./a", "not a plain"),
        ("a/./b", "not a plain"),
        ("a./b", "not a plain"),
        ("a /b", "not a plain"),
        ("a\nb", "not every system"),
        ("a\x1b[2Jb", "not every system"),
        ("a*b", "not every system"),
        ("x" * 300, "not a plain"),
        ("x/" * 600 + "y", "not every system"),
    ],
)
def test_names_that_leave_the_folder_or_mean_something_else(tmp_path: Path, name: str, words: str) -> None:
    refused(tmp_path, pack(tmp_path / "bad.zip", [("good.txt", b"1"), (name, b"evil")]), words)


@pytest.mark.parametrize("hidden", [b"good\x00..", b"\x00oodX..", b"goodX\x00."])
def test_a_name_with_a_hidden_end(tmp_path: Path, hidden: bytes) -> None:
    packed = pack(tmp_path / "bad.zip", [("goodX../evil", b"evil")])
    packed.write_bytes(packed.read_bytes().replace(b"goodX..", hidden))
    refused(tmp_path, packed, "leads out|not every system")


@pytest.mark.parametrize(
    "names",
    [
        ("a", "a"),
        ("a/b", "A/B"),
        ("straße", "STRASSE"),
        ("\u00e9", "e\u0301"),
        ("a", "a/b"),
        ("a/b", "a"),
        ("a/b/c", "A/B"),
        ("a/", "a"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_mean_one_file(tmp_path: Path, names: tuple[str, str]) -> None:
    refused(tmp_path, pack(tmp_path / "bad.zip", [(name, b"") for name in names]), "twice|both as a file")


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        (stat.S_IFLNK | 0o777, "holds the link"),
        (stat.S_IFIFO | 0o666, "special file"),
        (stat.S_IFCHR | 0o666, "special file"),
        (stat.S_IFSOCK | 0o666, "special file"),
    ],
)
def test_links_and_special_files(tmp_path: Path, mode: int, words: str) -> None:
    refused(tmp_path, pack(tmp_path / "bad.zip", [(special("x", mode), b"/etc/passwd"), ("x/y", b"")]), words)


def test_bits_for_everyone_or_root_are_not_taken(tmp_path: Path) -> None:
    archive.unpack(pack(tmp_path / "a.zip", [(special("x", stat.S_IFREG | 0o6777), b"1")]), tmp_path / "out")
    assert (tmp_path / "out" / "x").stat().st_mode & 0o7111 == 0


def test_a_bomb_that_says_so(tmp_path: Path) -> None:
    refused(tmp_path, pack(tmp_path / "bomb.zip", {"a": bytes(80 << 20)}), "swells")
    refused(tmp_path, pack(tmp_path / "big.zip", {"a": bytes(2000)}), "at most 1 kB", size_limit=1000)


def test_a_bomb_that_lies_about_its_size(tmp_path: Path) -> None:
    packed = pack(tmp_path / "bomb.zip", {"a": bytes(80 << 20)})
    content = bytearray(packed.read_bytes())
    for signature, offset in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        struct.pack_into("<I", content, content.index(signature) + offset, 10)
    packed.write_bytes(content)
    refused(tmp_path, packed, "not a sound zip|swells")


def test_overlapping_entries(tmp_path: Path) -> None:
    """Many entries that share one compressed block, the better zip bomb."""
    inner = pack(tmp_path / "one.zip", {"a": bytes(20 << 20)}).read_bytes()
    (tmp_path / "one.zip").unlink()
    start, end = inner.index(b"PK\x01\x02"), inner.index(b"PK\x05\x06")
    header = inner[start:end]
    names = [b"%d" % n for n in range(10)]
    central = b"".join(header[:46] + name + header[47:] for name in names)
    tail = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, len(names), len(names), len(central), start, 0)
    packed = tmp_path / "bomb.zip"
    packed.write_bytes(inner[:start] + central + tail)
    refused(tmp_path, packed, "not a sound zip|swells")


def test_thousands_of_files(tmp_path: Path) -> None:
    refused(tmp_path, pack(tmp_path / "many.zip", {f"{n}": b"" for n in range(20_001)}), "20001 entries")
    refused(tmp_path, pack(tmp_path / "few.zip", {f"{n}": b"" for n in range(11)}), "11 entries", count_limit=10)


@pytest.mark.parametrize("flag", [0x1, 0x40, 0x41])
def test_encrypted_entries(tmp_path: Path, flag: int) -> None:
    packed = pack(tmp_path / "bad.zip", {"a": b"1"})
    content = bytearray(packed.read_bytes())
    struct.pack_into("<H", content, content.index(b"PK\x01\x02") + 8, flag)
    packed.write_bytes(content)
    refused(tmp_path, packed, "encrypted")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as file:
        file.writestr("a", b"1" * 1000)
    refused(tmp_path, tmp_path / "a.zip", "other than deflate")


@pytest.mark.parametrize("content", [b"", b"PK", b"not a zip" * 100, b"PK\x05\x06" + bytes(18)])
def test_no_zip_at_all(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    refused(tmp_path, tmp_path / "a.zip", "sound zip|empty zip|not a zip file")


def test_a_missing_zip_or_a_taken_target(tmp_path: Path) -> None:
    refused(tmp_path, tmp_path / "gone.zip", "cannot be read")
    packed = pack(tmp_path / "a.zip", GOOD)
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        archive.unpack(packed, tmp_path / "out")


def test_a_zip_cut_or_changed_anywhere(tmp_path: Path) -> None:
    """Every damage gives our own error, or a folder whose files passed their checksums (names may be damaged)."""
    text, noise = b"text" * 500, random.Random(1).randbytes(500)
    good = pack(tmp_path / "good.zip", {"a/b": text, "a/c": noise}).read_bytes()
    dice = random.Random(0)
    outcomes = {"refused": 0, "read": 0}
    for turn in range(400):
        bad = bytearray(good)
        if turn % 4 == 0:
            del bad[dice.randrange(len(bad)) :]
        else:
            for _ in range(dice.randint(1, 4)):
                bad[dice.randrange(len(bad))] = dice.randrange(256)
        (tmp_path / "bad.zip").write_bytes(bad)
        out = tmp_path / f"out{turn}"
        try:
            archive.unpack(tmp_path / "bad.zip", out)
            outcomes["read"] += 1
            contents = {path.read_bytes() for path in out.rglob("*") if path.is_file()}
            assert contents <= {text, noise}
        except UNetSegmentError as error:
            outcomes["refused"] += 1
            assert "\n" not in str(error)
            assert not out.exists()
    assert outcomes["refused"] > 200
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert not (tmp_path.parent / "b").exists()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30), st.binary(max_size=50)),
        max_size=5,
    )
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_any_names_stay_inside_or_are_refused(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[str, bytes]]
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    try:
        packed = pack(folder / "a.zip", entries)
    except (ValueError, IndexError):  # zipfile itself refuses to write it
        return
    try:
        archive.unpack(packed, folder / "out")
    except UNetSegmentError as error:
        assert "\n" not in str(error)
        assert listing(folder) == [str(packed)]
    else:
        assert {path.name for path in folder.iterdir()} == {"a.zip", "out"}


def test_cancel_leaves_nothing(tmp_path: Path) -> None:
    packed = pack(tmp_path / "good.zip", GOOD)
    with pytest.raises(Cancelled):
        archive.unpack(packed, tmp_path / "out", cancel=lambda: True)
    assert [path.name for path in tmp_path.iterdir()] == ["good.zip"]


def test_a_disk_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pack(tmp_path / "good.zip", GOOD)
    monkeypatch.setattr(archive.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(OutputError, match="1 kB free where 3.1 MB are needed"):
        archive.unpack(packed, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["good.zip"]


def test_a_folder_is_copied(tmp_path: Path) -> None:
    source = tmp_path / "model"
    archive.unpack(pack(tmp_path / "good.zip", GOOD), source)
    (source / "model" / ".hidden").write_bytes(b"1")
    archive.copy(source, tmp_path / "out", skip=lambda path: path.split("/")[-1].startswith("."))
    assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*")) == [
        "model",
        "model/configs",
        "model/configs/manifest.json",
        "model/empty",
        "model/models",
        "model/models/model.onnx",
    ]


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
@pytest.mark.parametrize("kind", ["file", "folder", "inside", "fifo"])
def test_a_folder_with_links_is_not_copied(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "model"
    source.mkdir()
    (source / "a").write_bytes(b"1")
    if kind == "fifo":
        os.mkfifo(source / "x")
    else:
        (source / "x").symlink_to({"file": "/etc/passwd", "folder": "/etc", "inside": "a"}[kind])
    before = listing(tmp_path)
    with pytest.raises(PackageError, match="link|special file"):
        archive.copy(source, tmp_path / "out")
    assert listing(tmp_path) == before


def test_a_folder_within_its_limits(tmp_path: Path) -> None:
    source = tmp_path / "model"
    source.mkdir()
    for name in "abc":
        (source / name).write_bytes(bytes(500))
    with pytest.raises(PackageError, match="more than 2 files"):
        archive.copy(source, tmp_path / "out", count_limit=2)
    with pytest.raises(PackageError, match="at most 1 kB"):
        archive.copy(source, tmp_path / "out", size_limit=1000)
    with pytest.raises(PackageError, match="cannot be read"):
        archive.copy(tmp_path / "gone", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_sizes_for_people() -> None:
    sizes = [archive.size_text(n) for n in (0, 999, 1000, 1_500_000, 20 << 30, 10**13)]
    assert sizes == ["0 bytes", "999 bytes", "1 kB", "1.5 MB", "21.5 GB", "10000.0 GB"]


def test_a_zip_within_a_zip_is_a_file(tmp_path: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as file:
        file.writestr("../evil", b"1")
    archive.unpack(pack(tmp_path / "a.zip", {"inner.zip": inner.getvalue()}), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["inner.zip"]

"""A download ends with the promised file, or with one sentence and no file, whatever the server does."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("requests")
from synthetic.downloads import CONTENT, HASHES, QUICK, SHA256, fetch, leftovers
from synthetic.server import Server, serve
from UNetSegmentLib.errors import Cancelled, DownloadError
from UNetSegmentLib.package.download import Mismatch, Policy, Progress, download, read_text

FAST = Policy(attempts=3, wait=0.001, longest=0.001, connect=2, silence=2)


@pytest.fixture
def server() -> Iterator[Server]:
    with serve(CONTENT) as running:
        yield running


@pytest.mark.parametrize(
    "script",
    [
        ["ok"],
        ["unsized"],
        ["redirect"],
        ["500"],
        ["503", "500", "429"],
        ["cut:0"],
        ["cut:1"],
        ["cut:300000"],
        ["cut:300000", "cut:300000", "cut:300000"],
        ["cut:300000", "500", "cut:1000", "redirect"],
        ["cut:300000", "plain"],
        ["cut:300000", "shifted"],
        ["cut:300000", "408"],
        ["stall:0"],
        ["stall:300000"],
        ["garbage"],
        ["cut:300000", "garbage", "stall:400000", "503"],
    ],
    ids=" ".join,
)
def test_it_gets_there_in_the_end(server: Server, tmp_path: Path, script: list[str]) -> None:
    server.script = list(script)
    fetch(server, tmp_path)
    assert server.script == []


def test_it_resumes_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.script = ["cut:600000"]
    fetch(server, tmp_path)
    assert server.ranges == [None, "bytes=600000-"]
    assert server.requests[1][1]["if-range"] == '"v1"'
    assert server.sent == len(CONTENT)


def test_another_call_resumes(server: Server, tmp_path: Path) -> None:
    server.script = ["cut:600000", "404"]
    with pytest.raises(DownloadError, match="no file at"):
        fetch(server, tmp_path)
    assert (tmp_path / "model.zip.part").stat().st_size == 600000
    fetch(server, tmp_path)
    assert server.ranges[-1] == "bytes=600000-"


def test_without_a_validator_or_hash_it_starts_again(server: Server, tmp_path: Path) -> None:
    server.validator, server.script = None, ["cut:600000"]
    fetch(server, tmp_path, hashes={})
    assert server.ranges == [None, None]


def test_a_weak_tag_proves_nothing_but_a_date_does(server: Server, tmp_path: Path) -> None:
    server.validator, server.last_modified = 'W/"v1"', "Wed, 21 Oct 2015 07:28:00 GMT"
    server.script = ["cut:600000"]
    fetch(server, tmp_path, hashes={})
    assert server.requests[1][1]["if-range"] == server.last_modified


def test_a_part_of_another_address_is_not_resumed(server: Server, tmp_path: Path) -> None:
    server.script = ["cut:600000", "404"]
    with pytest.raises(DownloadError):
        fetch(server, tmp_path)
    assert download(server.url + "?2", tmp_path / "model.zip", hashes=HASHES, policy=QUICK) == SHA256
    assert server.ranges[-1] is None


def test_a_damaged_part_is_fetched_again(server: Server, tmp_path: Path) -> None:
    server.script = ["cut:600000", "404"]
    with pytest.raises(DownloadError):
        fetch(server, tmp_path)
    (tmp_path / "model.zip.part").write_bytes(b"x" * 600000)
    fetch(server, tmp_path)
    assert server.ranges[-2:] == ["bytes=600000-", None]


@pytest.mark.parametrize("size", [len(CONTENT), len(CONTENT) + 5])
def test_a_part_as_long_as_the_file_or_longer(server: Server, tmp_path: Path, size: int) -> None:
    server.script = ["cut:600000", "404"]
    with pytest.raises(DownloadError):
        fetch(server, tmp_path)
    (tmp_path / "model.zip.part").write_bytes((CONTENT + b"12345")[:size])
    fetch(server, tmp_path)


def test_a_file_that_changes_between_tries_is_not_mixed(server: Server, tmp_path: Path) -> None:
    server.script = ["cut:600000", "change"]
    target = tmp_path / "model.zip"
    sha256 = download(server.url, target, policy=QUICK)
    assert sha256 == hashlib.sha256(CONTENT[::-1]).hexdigest() and target.read_bytes() == CONTENT[::-1]


def test_a_file_that_changes_without_saying_so_is_noticed(server: Server, tmp_path: Path) -> None:
    server.validator, server.script = None, ["cut:600000"]
    wrong = CONTENT[:600000][::-1] + CONTENT[600000:]
    good, server.content = server.content, wrong
    events: list[str] = []

    def progress(now: Progress) -> None:
        events.append(now.message)
        if "trying again" in now.message:
            server.content = good

    fetch(server, tmp_path, progress=progress)
    assert any("changed" in message for message in events)
    assert server.ranges == [None, "bytes=600000-", None]


@pytest.mark.parametrize(
    ("script", "options", "words"),
    [
        (["404"], {}, "There is no file at .* 404"),
        (["410"], {}, "There is no file at"),
        (["403"], {}, "may not be fetched"),
        (["401"], {}, "may not be fetched"),
        (["400"], {}, "answered 400"),
        (["304"], {}, "answered 304"),
        (["500"] * 9, {}, "after 4 tries .the server answered 500"),
        (["cut:0"] * 9, {}, "after 4 tries .connection lost"),
        (["stall:0"] * 9, {}, "after 4 tries .no answer in time"),
        (["garbage"] * 9, {}, "after 4 tries"),
        (["loop"] * 20, {}, "without end"),
        (["gzip"], {}, "not asked for"),
        (["ok"], {"hashes": {"sha256": "0" * 64}}, "SHA-256 begins with"),
        (["ok"], {"hashes": {"md5": "0" * 32}}, "MD5 begins with"),
        (["ok"], {"hashes": {"sha1": "0" * 40}}, "SHA-1 begins with"),
        (["unsized"], {"hashes": {"sha256": "0" * 64}}, "SHA-256 begins with"),
        (["ok"], {"size": len(CONTENT) + 1}, "were promised"),
        (["more"], {"size": len(CONTENT)}, "were promised"),
        (["unsized"], {"size": len(CONTENT) - 1}, "more than"),
        (["ok"], {"limit": 1000}, "at most 1 kB"),
        (["unsized"], {"limit": 1000}, "more than the 1 kB"),
        (["more"], {}, "SHA-256 begins with"),
    ],
)
def test_a_refusal_is_one_sentence_and_leaves_no_file(
    server: Server, tmp_path: Path, script: list[str], options: dict, words: str
) -> None:
    server.script = list(script)
    with pytest.raises(DownloadError, match=words) as caught:
        fetch(server, tmp_path, **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert not (tmp_path / "model.zip").exists()
    assert leftovers(tmp_path) == []


def test_wrong_bytes_are_a_mismatch_and_the_next_call_is_fine(server: Server, tmp_path: Path) -> None:
    good, server.content = server.content, CONTENT[::-1]
    with pytest.raises(Mismatch):
        fetch(server, tmp_path)
    server.content = good
    fetch(server, tmp_path)


def test_a_file_that_never_ends_keeps_its_part(server: Server, tmp_path: Path) -> None:
    server.script = ["cut:300000"] + ["500"] * 9
    with pytest.raises(DownloadError, match="300 kB are kept"):
        fetch(server, tmp_path)
    server.script = []
    fetch(server, tmp_path)


def test_always_cut_at_the_same_byte_ends(server: Server, tmp_path: Path) -> None:
    server.validator, server.script = None, ["cut:1000"] * 50
    with pytest.raises(DownloadError, match="after 4 tries"):
        fetch(server, tmp_path, hashes={})
    assert len(server.requests) <= 6


def test_retry_after_is_respected(server: Server, tmp_path: Path) -> None:
    server.script, server.headers = ["503"], {"Retry-After": "1"}
    began = time.monotonic()
    fetch(server, tmp_path, policy=Policy(wait=0.01, longest=0.5))
    assert time.monotonic() - began >= 0.5


def test_a_file_that_is_there_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    fetch(server, tmp_path)
    fetch(server, tmp_path)
    assert len(server.requests) == 1


def test_nothing_listens(tmp_path: Path) -> None:
    with serve(b"") as gone:
        url = gone.url
    with pytest.raises(DownloadError, match="connection refused"):
        download(url, tmp_path / "model.zip", hashes=HASHES, policy=QUICK)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://127.0.0.1/x", "not an address"),
        ("file:///etc/passwd", "not an address"),
        ("http://", "not an address"),
        ("http://[::1", "not an address"),
        ("", "not an address"),
        ("https://a..b/", "not an address|cannot be fetched|could not be fetched"),
        ("http://example.org/x.zip", "neither encryption nor a published hash"),
        ("http://no-such-host.invalid/x", "could not be fetched"),
    ],
)
def test_addresses_that_cannot_be(tmp_path: Path, url: str, words: str) -> None:
    hashes = HASHES if "invalid" in url else {}
    with pytest.raises(DownloadError, match=words) as caught:
        download(url, tmp_path / "x", hashes=hashes, policy=Policy(attempts=1, wait=0, connect=2))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("script", [["stall:300000"], ["stall:0"], ["500"] * 9, ["ok"]], ids=" ".join)
def test_cancel_is_quick_whatever_the_server_does(server: Server, tmp_path: Path, script: list[str]) -> None:
    server.script, server.delay = list(script), 0.5 if script == ["ok"] else 0.0
    patient = Policy(attempts=9, wait=20, longest=20, connect=20, silence=20)
    began = time.monotonic()
    with pytest.raises(Cancelled):
        fetch(server, tmp_path, policy=patient, cancel=lambda: time.monotonic() - began > 0.3)
    assert time.monotonic() - began < 2
    assert not (tmp_path / "model.zip").exists()


STEPS = st.sampled_from(
    ["ok", "plain", "shifted", "more", "unsized", "gzip", "redirect", "garbage", "change", "404", "416", "500", "206"]
) | st.integers(0, len(CONTENT)).map("cut:{}".format)


@settings(max_examples=40, deadline=None)
@given(st.lists(STEPS, max_size=8), st.sampled_from(['"v1"', 'W/"v1"', None]), st.booleans())
def test_whatever_happens_the_file_is_right_or_absent(script: list[str], validator: str | None, hashed: bool) -> None:
    with tempfile.TemporaryDirectory() as folder, serve(CONTENT) as server:
        server.script, server.validator = list(script), validator
        target = Path(folder) / "model.zip"
        for _ in range(3):
            try:
                download(server.url, target, hashes=HASHES if hashed else {}, policy=FAST)
            except DownloadError as error:
                assert not target.exists() and "\n" not in str(error)
            else:
                content = target.read_bytes()
                assert content == CONTENT if hashed else content.removesuffix(b"more") in (CONTENT, CONTENT[::-1])
                break


def test_progress_tells_bytes_and_keeps_ticking_in_silence(server: Server, tmp_path: Path) -> None:
    server.script = ["stall:500000"]
    seen: list[Progress] = []
    fetch(server, tmp_path, progress=seen.append)
    assert seen[-1].total == len(CONTENT)
    silent = [now.done for now in seen if 0 < now.done < len(CONTENT)]
    assert max(silent.count(done) for done in silent) >= 3
    assert all(now.stage == "download" and now.message for now in seen)


def test_text_is_read_within_its_limit(server: Server) -> None:
    server.content = "ä".encode() * 1000
    assert read_text(server.url, policy=QUICK) == "ä" * 1000
    server.script = ["500", "cut:10"]
    assert read_text(server.url, policy=QUICK) == "ä" * 1000
    for script, limit, words in [
        (["ok"], 1000, "larger than"),
        (["404"], 4000, "answered 404"),
        (["500"] * 9, 4000, "could not be fetched"),
    ]:
        server.script = script
        with pytest.raises(DownloadError, match=words):
            read_text(server.url, limit=limit, policy=QUICK)
    server.script, server.content = [], b"\xff\xfe"
    with pytest.raises(DownloadError, match="not UTF-8"):
        read_text(server.url, policy=QUICK)
    with pytest.raises(DownloadError, match="neither encryption"):
        read_text("http://example.org/catalog.json")

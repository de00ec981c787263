"""Downloads on a real computer: several programs at once, killed ones, full disks, proxies and certificates."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("requests")
from synthetic.downloads import CONTENT, HASHES, QUICK, SHA256, fetch, leftovers
from synthetic.processes import wait_until
from synthetic.server import Server, serve
from UNetSegmentLib.errors import DownloadError, OutputError
from UNetSegmentLib.package.download import Policy, download


@pytest.fixture
def server() -> Iterator[Server]:
    with serve(CONTENT) as running:
        yield running


def test_threads_that_want_one_file_take_turns(server: Server, tmp_path: Path) -> None:
    server.delay = 0.2
    threads = [threading.Thread(target=fetch, args=(server, tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.requests) == 1


def _child(url: str, target: str, results: multiprocessing.Queue) -> None:
    results.put(download(url, Path(target), hashes=HASHES, policy=QUICK))


def test_processes_that_want_one_file_take_turns(server: Server, tmp_path: Path) -> None:
    server.delay = 0.5
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    children = [
        context.Process(target=_child, args=(server.url, str(tmp_path / "model.zip"), results)) for _ in range(2)
    ]
    for child in children:
        child.start()
    assert [results.get(timeout=60) for _ in children] == [SHA256] * 2
    for child in children:
        child.join()
    assert len(server.requests) == 1 and leftovers(tmp_path) == []


def test_a_killed_process_frees_the_lock_and_its_part_is_resumed(server: Server, tmp_path: Path) -> None:
    server.script = ["stall:600000"]
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=_patient_child, args=(server.url, str(tmp_path / "model.zip")))
    child.start()
    part = tmp_path / "model.zip.part"
    assert wait_until(lambda: part.exists() and part.stat().st_size > 0, 30)
    child.kill()
    child.join()
    kept = part.stat().st_size
    fetch(server, tmp_path)
    assert server.ranges[-1] == f"bytes={kept}-"


def _patient_child(url: str, target: str) -> None:
    download(url, Path(target), hashes=HASHES, policy=Policy(silence=60))


FULL = """
import resource, sys
from pathlib import Path
from UNetSegmentLib.package.download import download
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
try:
    download(sys.argv[1], Path(sys.argv[2]), hashes={"sha256": sys.argv[3]})
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no file-size limit for a process")
def test_a_full_disk_or_quota_says_so(server: Server, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, server.url, str(tmp_path / "model.zip"), SHA256],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout.startswith("OutputError The disk or quota of") and "is full" in done.stdout, done.stderr
    assert not (tmp_path / "model.zip").exists()
    fetch(server, tmp_path)  # with room, it goes on
    assert server.ranges[-1] == "bytes=500000-"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB, where this computer lets us mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    if (
        not mount
        or subprocess.run(
            [mount, "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)], capture_output=True
        ).returncode
    ):
        pytest.skip("this computer does not let us mount a small disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_small_disk_is_noticed_before_and_during(server: Server, small_disk: Path) -> None:
    with pytest.raises(OutputError, match="free where"):
        fetch(server, small_disk)
    server.script = ["unsized"]
    with pytest.raises(OutputError, match="is full"):
        fetch(server, small_disk)
    assert not (small_disk / "model.zip").exists()


def test_a_folder_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match="Cannot write to the folder"):
        download(server.url, tmp_path / "file" / "model.zip", hashes=HASHES)
    assert server.requests == []


def test_the_proxy_of_the_system_is_used(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url.rsplit("/", 1)[0])
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert download("http://example.invalid/model.zip", tmp_path / "x.zip", hashes=HASHES, policy=QUICK) == SHA256
    assert server.requests[0][0] == "http://example.invalid/model.zip"


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl to make a certificate")
def test_the_certificates_of_the_system_are_used(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    make = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    subprocess.run(["openssl", *make.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.http.socket = context.wrap_socket(server.http.socket, server_side=True)
    url = f"https://localhost:{server.http.server_port}/model.zip"
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(DownloadError, match="certificate of 'localhost' is not trusted here .self-signed"):
        download(url, tmp_path / "out" / "model.zip", hashes=HASHES, policy=QUICK)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert download(url, tmp_path / "out" / "model.zip", hashes=HASHES, policy=QUICK) == SHA256

"""Installing with a real pip into a throw-away environment: what goes well, what fails, what is stopped halfway."""

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import venv
from pathlib import Path

import psutil
import pytest
from synthetic.wheels import build_wheel
from UNetSegmentLib.errors import BackendError, Cancelled
from UNetSegmentLib.panel import pip
from UNetSegmentLib.predict.backends.installed import State, state
from UNetSegmentLib.worker import tree

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="its launcher is a shell script")


class Place:
    """A virtual environment with a launcher before its Python, as PythonSlicer is one."""

    def __init__(self, folder: Path, wheels: Path) -> None:
        venv.create(folder / "environment", with_pip=True, symlinks=True)
        self.real = folder / "environment" / "bin" / "python"
        self.python = folder / "PythonSlicer"
        self.python.write_text(f'#!/bin/sh\n"{self.real}" "$@"\n')
        self.python.chmod(0o755)
        self.packages = next((folder / "environment" / "lib").glob("python*/site-packages"))
        self.wheels = wheels
        self.reports: list[pip.Report] = []

    def state(self, name: str = "small") -> State:
        return state(name, [str(self.packages)])

    def run(self, *requirements: str, cancelled=lambda: False, commands=None, **more) -> list[str]:
        commands = commands or [pip.arguments(requirements, constrained=True)]
        return pip.run(str(self.python), commands, self.reports.append, cancelled, **more)

    def processes(self) -> list[int]:
        """What still runs of it."""
        mine = psutil.Process().children(recursive=True)
        return [child.pid for child in mine if child.status() != psutil.STATUS_ZOMBIE and self._is_mine(child)]

    def _is_mine(self, process) -> bool:
        try:
            return any(str(self.real) in word or str(self.python) in word for word in process.cmdline())
        except psutil.NoSuchProcess:
            return False


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("throw-away folder with spaces"), tmp_path_factory.mktemp("wheels"))


@pytest.fixture
def place(environment, monkeypatch):
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(environment.wheels))
    environment.reports.clear()
    yield environment
    assert not environment.processes()
    for path in (*environment.packages.glob("small*"), *environment.packages.glob("~*"), *environment.wheels.iterdir()):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture(autouse=True)
def interruptible():
    """What a script starts in the background ignores the signal by which pip is asked to stop, and so would pip."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_wheel_and_what_it_needs_are_installed_and_pips_own_configuration_is_used(place):
    build_wheel(place.wheels, "small", requires=("smaller",))
    build_wheel(place.wheels, "smaller")
    lines = place.run("small>=1.0")
    assert any("Successfully installed" in line for line in lines)
    assert place.state() == State("1.0") and place.state("smaller").is_whole
    assert subprocess.run([place.python, "-c", "import small, smaller"]).returncode == 0
    assert [report.line for report in place.reports][-1] == lines[-1]


def test_nothing_is_left_in_the_folder_for_temporary_files(place, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    build_wheel(place.wheels, "small")
    place.run("small")
    with pytest.raises(pip.PipError):
        place.run("nothing-of-that-name")
    assert not list(tmp_path.iterdir())


def test_what_is_in_use_is_left_alone(place):
    build_wheel(place.wheels, "smaller", "1.0")
    place.run("smaller")
    build_wheel(place.wheels, "smaller", "2.0")
    build_wheel(place.wheels, "small", requires=("smaller>=2",))
    with pytest.raises(pip.PipError, match="no version fits the libraries that this Slicer comes with"):
        place.run("small", constraints=lambda: {"smaller": "1.0"})
    assert place.state("smaller").version == "1.0" and not place.state().version
    place.run("small")
    assert place.state("smaller").version == "2.0"


def test_a_damaged_wheel_is_told(place):
    wheel = build_wheel(place.wheels, "small", files=50)
    content = bytearray(wheel.read_bytes())
    content[200:260] = bytes(60)
    wheel.write_bytes(content)
    with pytest.raises(pip.PipError, match="damaged") as told:
        place.run("small")
    assert told.value.lines


def test_no_version_for_this_python_is_told(place):
    build_wheel(place.wheels, "small", tag="cp27-cp27m-win32")
    with pytest.raises(pip.PipError, match="no version for this computer and Slicer's Python"):
        place.run("small")


def test_a_server_that_cannot_be_reached_is_told(place, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{free_port()}/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(pip.PipError, match="cannot be reached"):
        place.run("small")
    assert "The package server does not answer; trying again" in [pip.shown(report) for report in place.reports]


def test_a_proxy_that_does_not_answer_is_told(place, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "https://packages.example/simple")
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(pip.PipError, match="the proxy refuses or does not answer"):
        place.run("small")


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl to make a certificate")
def test_a_certificate_that_is_not_trusted_is_told(place, tmp_path, monkeypatch):
    words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout key.pem -out certificate.pem"
    subprocess.run(["openssl", *words.split()], cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet():
            while True:
                try:
                    context.wrap_socket(server.accept()[0], server_side=True).close()
                except ssl.SSLError:
                    continue
                except OSError:
                    return

        threading.Thread(target=greet, daemon=True).start()
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_INDEX_URL", f"https://localhost:{server.getsockname()[1]}/simple")
        monkeypatch.setenv("PIP_RETRIES", "1")
        with pytest.raises(pip.PipError, match="certificate is not trusted"):
            place.run("small")


def test_a_python_that_is_not_there_is_told(tmp_path):
    with pytest.raises(BackendError, match="cannot be started"):
        pip.run(str(tmp_path / "no python"), [pip.arguments(["small"])], lambda report: None, lambda: False)


def test_a_pip_that_hangs_is_cancelled_with_all_its_processes(place, monkeypatch):
    monkeypatch.setattr(pip, "GRACE", 20.0)  # time enough on a computer that is busy, too
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/simple")
        monkeypatch.setenv("PIP_TIMEOUT", "600")
        asked, connections = threading.Event(), []

        def listen():
            connections.append(silent.accept()[0])  # kept: one that ends is closed
            connections[0].recv(1)
            asked.set()

        threading.Thread(target=listen, daemon=True).start()
        end = time.monotonic() + 60
        began = []

        def cancelled():
            assert time.monotonic() < end
            if asked.is_set() and not began:
                assert len(place.processes()) >= 2  # the launcher and pip
                began.append(time.monotonic())
            return bool(began)

        with pytest.raises(Cancelled):
            place.run("small", cancelled=cancelled)
        assert time.monotonic() - began[0] < pip.GRACE  # it listened
        connections[0].close()
    assert not place.processes()


def test_one_that_does_not_listen_is_ended(place, monkeypatch):
    monkeypatch.setattr(pip, "GRACE", 0.3)
    deaf = (
        "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    )
    with pytest.raises(Cancelled):
        place.run(commands=[["-c", deaf]], cancelled=lambda: bool(place.reports))
    assert not place.processes()


def stop_halfway(place, monkeypatch, sign, requirement="small"):
    """Kill pip, which gets no chance to clean up, as soon as ``sign`` says so."""
    monkeypatch.setattr(pip, "GRACE", -1.0)
    monkeypatch.setattr(tree, "interrupt", lambda process: None)
    original = pip.queue.Queue.get
    monkeypatch.setattr(pip.queue.Queue, "get", lambda self, timeout: original(self, timeout=0.001))
    with pytest.raises(Cancelled):
        place.run(requirement, cancelled=sign)


def test_an_installation_that_was_killed_halfway_is_seen_and_mended(place, monkeypatch):
    build_wheel(place.wheels, "small", files=3000)
    with monkeypatch.context() as patch:
        stop_halfway(place, patch, lambda: (place.packages / "small").is_dir())
    there = place.state()
    assert there.fault and not there.is_whole and place.packages / "small" in there.remains
    place.run(commands=[pip.clean(there.remains), pip.arguments(["small"])])
    assert place.state() == State("1.0")


def test_a_replacement_that_was_killed_halfway_is_seen_and_mended(place, monkeypatch):
    build_wheel(place.wheels, "small", "1.0", files=2000)
    place.run("small")
    build_wheel(place.wheels, "small", "2.0", files=2000)
    with monkeypatch.context() as patch:
        before = place.packages / "small-1.0.dist-info"
        stop_halfway(place, patch, lambda: any(place.packages.glob("~*")) and not before.exists(), "small>=2")
    there = place.state()
    assert there.fault and any(path.name.startswith("~") for path in there.remains), there
    place.run(commands=[pip.clean(there.remains), pip.arguments(["small"])])
    assert place.state() == State("2.0") and not list(place.packages.glob("~*"))


def test_a_replacement_that_is_cancelled_is_put_back(place):
    build_wheel(place.wheels, "small", "1.0", files=2000)
    place.run("small")
    build_wheel(place.wheels, "small", "2.0", files=2000)
    with pytest.raises(Cancelled):
        place.run("small>=2", cancelled=lambda: any("Found existing" in report.line for report in place.reports))
    assert place.state() in (State("1.0"), State("2.0"))  # whole, whichever it came to


def test_lost_files_and_double_notes_are_seen(place):
    build_wheel(place.wheels, "small")
    place.run("small")
    (place.packages / "small" / "native.so").unlink()
    assert place.state() == State("1.0", "1 of its files are missing, such as native.so")
    place.run(commands=[["-m", "pip", "uninstall", "--yes", "small"], pip.arguments(["small"])])
    assert place.state() == State("1.0")
    shutil.copytree(place.packages / "small-1.0.dist-info", place.packages / "small-0.9.dist-info")
    assert place.state().fault == "it is noted as version 0.9 and as 1.0"


def test_the_raw_progress_of_newer_pips_becomes_a_fraction(place):
    script = (
        "print('Downloading small-1.0-py3-none-any.whl (60.1 MB)'); print('Progress 3 of 12'); print('Progress 0 of 0')"
    )
    place.run(commands=[["-c", script]])
    assert [report.fraction for report in place.reports] == [None, 0.25, None]
    assert pip.shown(place.reports[1]) == "Downloading small 1.0 (60.1 MB) · 25%"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        (
            "ERROR: Could not install packages due to an OSError: [WinError 5] Access is denied: 'C:\\\\Slicer\\\\a.pyd'",
            "a file is in use",
        ),
        ("ERROR: Could not install packages due to an OSError: [WinError 206] The filename is too long", "long paths"),
        (
            "ERROR: Could not install packages due to an OSError: [Errno 13] Permission denied: '/opt/x'",
            "may not write",
        ),
        ("ERROR: HTTP error 403 while getting https://packages.example/small.whl", "refuses access"),
        ("/usr/bin/python: No module named pip", "no pip"),
        ("ERROR: Something that nobody thought of.", "Something that nobody thought of; see the log"),
    ],
)
def test_other_failures_are_one_sentence(line, words):
    told = pip.explain(["Collecting small", line])
    assert words in told and "\n" not in told and not re.search(r"ERROR", told)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]

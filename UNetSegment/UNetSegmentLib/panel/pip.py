"""pip in a child process: watched line by line, ended with all it started, its failures told in one sentence."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import BackendError, Cancelled
from ..worker import tree

GRACE = 4.0
"""Seconds that pip has to put back what it was replacing when it is cancelled, before it is ended."""

RAW_PROGRESS = (24, 1)
"""The first pip that can tell how much of a download is there to a program that reads it."""


@dataclass(frozen=True)
class Report:
    """What pip does: its last line, and how much of the present download is there, 0 to 1; None where it does not say."""

    line: str
    fraction: float | None = None


_CONFLICT = r"ResolutionImpossible|conflicting dependencies|Cannot install .* because these package versions"


class PipError(BackendError):
    """An installation failed; ``lines`` is all that was said."""

    def __init__(self, message: str, lines: Sequence[str]) -> None:
        super().__init__(message)
        self.lines = list(lines)

    @property
    def is_conflict(self) -> bool:
        """Whether there are versions, but none that fit each other and the constraints; nothing was installed then."""
        return re.search(_CONFLICT, "\n".join(self.lines)) is not None


def arguments(requirements: Sequence[str], constrained: bool = False, alone: bool = False) -> list[str]:
    """What follows the name of Python to install ``requirements``.

    Wheels alone are taken: building from source needs a compiler, runs the package's code and takes long.

    Args:
        requirements: For pip, e.g. ``openvino>=2025.0``.
        constrained: Keep to the constraints that :func:`run` is given.
        alone: Install nothing else, whatever they ask for.
    """
    words = ["-m", "pip", "install", "--no-input", "--only-binary", ":all:", *["--no-deps"] * alone, *requirements]
    return [*words, "-c", CONSTRAINTS] if constrained else words


CONSTRAINTS = "{constraints}"
"""Stands in a command for the file of constraints that :func:`run` writes."""


def clean(remains: Sequence[Path]) -> list[str]:
    """What follows the name of Python to delete folders that pip itself cannot remove; what is in use stays."""
    script = "import shutil, sys\nfor path in sys.argv[1:]:\n    shutil.rmtree(path, ignore_errors=True)"
    return ["-c", script, *map(str, remains)]


def run(
    python: str,
    commands: Sequence[Sequence[str]],
    tell: Callable[[Report], None],
    cancelled: Callable[[], bool],
    constraints: Callable[[], Mapping[str, str]] = dict,
    version: str = "",
) -> list[str]:
    """Run commands one after another until one fails; blocks, so call it in a thread.

    They see this process's environment, so that proxies, certificates and pip's own configuration apply, with a
    folder of their own for temporary files.

    Args:
        python: The interpreter to install into: in Slicer ``PythonSlicer``.
        commands: What follows its name, e.g. from :func:`arguments`.
        tell: Given a :class:`Report` for each line.
        cancelled: Asked some ten times a second; True ends the whole tree of processes.
        constraints: Gives the distributions that must stay at their version; asked before each command.
        version: pip's, which decides what can be asked of it.

    Returns:
        All that was said.

    Raises:
        PipError: A command failed; the message is what comes after "... could not be installed: ".
        Cancelled: ``cancelled`` said so.
    """
    lines: list[str] = []
    with tempfile.TemporaryDirectory(prefix="unetsegment-pip-", ignore_cleanup_errors=True) as folder:
        environment = {**os.environ, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), folder)}
        # PYTHONSAFEPATH: nothing is imported from the folder in which Slicer was started
        environment |= {"PYTHONUTF8": "1", "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1", "PIP_NO_COLOR": "1"}
        environment |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        if _at_least(version, RAW_PROGRESS):
            environment["PIP_PROGRESS_BAR"] = "raw"
        kept = Path(folder) / "constraints.txt"
        for command in commands:
            kept.write_text("".join(f"{name}=={number}\n" for name, number in constraints().items()), "utf-8")
            words = [python, *(str(kept) if word == CONSTRAINTS else word for word in command)]
            code = _one(words, environment, lines, tell, cancelled)
            if code:
                raise PipError(explain(lines), lines)
    return lines


def _one(
    words: Sequence[str],
    environment: Mapping[str, str],
    lines: list[str],
    tell: Callable[[Report], None],
    cancelled: Callable[[], bool],
) -> int:
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            bufsize=0,
            **tree.apart(),
        )
    except OSError as error:
        raise PipError(f"'{words[0]}' cannot be started ({error.strerror})", lines) from None
    try:
        for line in _said(process, cancelled):
            done = re.fullmatch(r"Progress (\d+) of (\d+)", line)
            if done:
                have, all_ = int(done[1]), int(done[2])
                about = next((line for line in reversed(lines) if _matters(line)), "")
                tell(Report(about, have / all_ if all_ else None))
            elif line:
                lines.append(line)
                if _matters(line):
                    tell(Report(line))
        return process.wait()
    except BaseException:
        tree.end(process.pid)
        raise
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
        process.stdout.close()  # type: ignore[union-attr]


def _said(process: subprocess.Popen[bytes], cancelled: Callable[[], bool]) -> Iterator[str]:
    """Its lines as they come, until no process of the tree can say more."""
    said: queue.Queue[bytes | None] = queue.Queue()

    def read() -> None:
        with os.fdopen(os.dup(process.stdout.fileno()), "rb") as stream:  # type: ignore[union-attr]
            for line in stream:
                said.put(line)
        said.put(None)

    threading.Thread(target=read, daemon=True).start()
    asked: float | None = None
    while True:
        if asked is None and cancelled():
            asked = time.monotonic()
            tree.interrupt(process.pid)
        if asked is not None and (os.name == "nt" or time.monotonic() - asked > GRACE):
            raise Cancelled()
        try:
            line = said.get(timeout=0.1)
        except queue.Empty:
            continue
        if line is None:
            break
        if asked is None:
            yield line.decode("utf-8", "replace").strip()
    if asked is not None:
        raise Cancelled()


_REASONS: tuple[tuple[str, str], ...] = (
    (r"No module named pip\b", "this Python has no pip; reinstall Slicer"),
    (
        r"No space left on device|\[Errno 28\]|WinError 112\b",
        "the disk is full; free some space and try again",
    ),
    (
        r"WinError 206\b|Long Path support",
        "Windows refuses paths that long; install Slicer into a folder with a short name, or switch on Windows' long paths",
    ),
    (
        r"WinError (5|32)\b",
        "a file is in use; close other Slicer windows, restart Slicer and try again before anything else",
    ),
    (
        r"\[Errno 13\]|\[Errno 30\]|Permission denied|Read-only file system",
        "this user may not write to Slicer's folder; install Slicer where you may write, or ask whoever installed it",
    ),
    (
        r"ProxyError|407 Proxy|Tunnel connection failed|Cannot connect to proxy",
        "the proxy refuses or does not answer; set HTTPS_PROXY to your network's proxy and restart Slicer",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLError|SSLCertVerificationError",
        "the connection's certificate is not trusted; where the network inspects connections, give pip its certificate "
        "(PIP_CERT) and restart Slicer",
    ),
    (
        r"DO NOT MATCH THE HASHES|BadZipFile|Wheel .* is invalid|has an invalid wheel|IncompleteRead|incomplete-download",
        "what came is damaged or incomplete; try again",
    ),
    (
        r"(?:HTTP error|Client Error|status code) ?:? ?40[13]|\b40[13] (?:Client )?(?:Error|Forbidden|Unauthorized)",
        "the package server refuses access; ask who runs your network which server to use (PIP_INDEX_URL)",
    ),
    (
        _CONFLICT,
        "no version fits the libraries that this Slicer comes with; try a newer Slicer",
    ),
    (
        r"connection broken by|NewConnectionError|NameResolutionError|ConnectTimeout|Read timed out|Failed to connect|"
        r"Temporary failure in name resolution|Failed to establish a new connection|getaddrinfo failed|ConnectionError",
        "the package server cannot be reached; check the network, or set HTTPS_PROXY where there is a proxy, and try again",
    ),
    (
        r"No matching distribution found|Could not find a version that satisfies",
        "there is no version for this computer and Slicer's Python; try a newer Slicer",
    ),
    (r"MemoryError|Killed", "memory was short; close other programs and try again"),
)


def explain(lines: Sequence[str]) -> str:
    """Why pip failed and what to do, from what it said."""
    text = "\n".join(lines)
    for pattern, words in _REASONS:
        if re.search(pattern, text):
            return words
    errors = [line for line in lines if re.match(r"(ERROR|error|\w*Error)\b:?", line)]
    last = re.sub(r"^(ERROR|error):\s*", "", (errors or [*lines] or ["it gave no reason"])[-1])
    return f"{last[:200].rstrip('.')}; see the log"


def _matters(line: str) -> bool:
    """Whether a line tells how far pip is: not its warnings, but for those of a server that does not answer."""
    return "Retrying" in line or not line.startswith(("WARNING", "DEPRECATION", "[notice]"))


def shown(report: Report) -> str:
    """A line of pip's for the panel: short, without addresses and paths."""
    if "Retrying" in report.line:
        return "The package server does not answer; trying again"
    line = re.sub(r"https?://\S+/", "", report.line)
    line = re.sub(r"(\S+?)-(\d[^-\s]*)-\S+\.whl(\.metadata)?", r"\1 \2", line)
    line = line if len(line) <= 90 else line[:87] + "..."
    return f"{line} · {report.fraction:.0%}" if report.fraction is not None else line


def _at_least(version: str, wanted: tuple[int, ...]) -> bool:
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[: len(wanted)])
    return numbers >= wanted

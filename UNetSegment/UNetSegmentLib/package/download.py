"""Fetch one file: it resumes, retries, can be cancelled, and is in place only when its size and hash are right."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from ..errors import Cancelled, DownloadError
from . import transport
from .archive import SIZE_LIMIT, check_space, size_text, write_error
from .lock import locked

_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_ALGORITHMS = {"sha256": "SHA-256", "sha1": "SHA-1", "md5": "MD5"}


class Mismatch(DownloadError):
    """The server sends another file than the one that was promised."""


@dataclass(frozen=True)
class Progress:
    """How far the work is: the stage in a word, bytes done, bytes in all (None: unknown), and a line for the user."""

    stage: str
    done: int
    total: int | None
    message: str


@dataclass(frozen=True)
class Policy:
    """How patient a download is.

    Args:
        attempts: Tries in a row that bring nothing new before it gives up.
        wait: Seconds before the second try; doubled each time, up to ``longest``, and up to half of it more or less.
        longest: Seconds waited at most.
        connect: Seconds to wait for a connection.
        silence: Seconds without a byte after which a connection counts as broken.
    """

    attempts: int = 5
    wait: float = 1.0
    longest: float = 30.0
    connect: float = 10.0
    silence: float = 20.0


def download(
    url: str,
    target: Path,
    *,
    size: int | None = None,
    hashes: Mapping[str, str] | None = None,
    limit: int = SIZE_LIMIT,
    policy: Policy | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> str:
    """Fetch ``url`` to ``target``.

    The bytes go to ``target`` + ``.part``, which a later call resumes if the server still has the same file. Two
    processes that want the same ``target`` take turns; the second finds it done. Only a file that passed is moved to
    ``target``, at once.

    Args:
        url: ``https://``, or ``http://`` where a hash is published or the server is this computer.
        target: The file to make; its folder is made too.
        size: Bytes it must have, where known.
        hashes: Hex digests it must have, by ``sha256``, ``sha1`` or ``md5``.
        limit: Bytes it may have at most.
        policy: How patient to be.
        progress: Told some ten times a second.
        cancel: Asked as often; True stops the work and keeps the part for the next time.

    Returns:
        The SHA-256 of the file.

    Raises:
        DownloadError: It cannot be fetched, or is not the file that was promised.
        OutputError: The disk is full, or the folder cannot be written.
        Cancelled: ``cancel`` said so.
    """
    hashes = {name: digest.lower() for name, digest in (hashes or {}).items()}
    _check_address(url, hashes)
    job = _Job(url, target, size, hashes, limit, policy or Policy(), progress, cancel)
    with locked(target.with_name(target.name + ".lock"), cancel, job.waiting):
        try:
            return job.run()
        except OSError as error:
            raise write_error(error, target.parent) from None
        finally:
            job.tidy()


class _Job:
    """One download, while its lock is held."""

    def __init__(
        self,
        url: str,
        target: Path,
        size: int | None,
        hashes: dict[str, str],
        limit: int,
        policy: Policy,
        progress: Callable[[Progress], None] | None,
        cancel: Callable[[], bool] | None,
    ) -> None:
        self.url, self.target, self.hashes, self.limit = url, target, hashes, limit
        self.policy, self.progress, self.cancel = policy, progress, cancel
        self.size = self.total = size
        self.part = target.with_name(target.name + ".part")
        self.note = target.with_name(target.name + ".part.json")
        self.resumed = False
        self.told = 0.0
        self.done = 0

    def run(self) -> str:
        if self.target.is_file() and (self.hashes or self.size is not None):
            found = _digests(self.target.open("rb"), self._tick)
            if self._mismatch(found, self.target.stat().st_size) is None:
                return found["sha256"]
        failures, best = 0, self._part_size()
        while True:
            try:
                self._fetch()
                found = _digests(self.part.open("rb"), self._tick)
                problem = self._mismatch(found, self._part_size())
                if problem is None:
                    os.replace(self.part, self.target)
                    return found["sha256"]
                self._drop()
                if not self.resumed:
                    raise Mismatch(
                        f"What '{self.url}' sent is not the file that was promised: {problem}; it was deleted."
                    )
                best = 0  # two halves of different files: once more from the start
                self._say("The file changed meanwhile; starting again")
            except _Retry as retry:
                reached = self._part_size()
                failures = failures + 1 if reached <= best else 1
                best = max(best, reached)
                if failures >= self.policy.attempts:
                    raise DownloadError(
                        f"'{self.url}' could not be fetched after {failures} tries ({retry}); try again later: "
                        f"{size_text(reached)} are kept and will be resumed."
                        if reached
                        else f"'{self.url}' could not be fetched after {failures} tries ({retry}); check the network and "
                        "the proxy, or try again later."
                    ) from None
                self._pause(failures, retry)

    def tidy(self) -> None:
        """Leave nothing behind but a part that can be resumed."""
        if not self._part_size():
            self._drop()

    def waiting(self) -> None:
        """Another process fetches the same file."""
        self._say("Waiting for another download of the same file")

    def _fetch(self) -> None:
        """One request, its bytes appended to the part; returns when the part is complete."""
        start, validator = self._resumable()
        headers = {}
        if start:
            headers["Range"] = f"bytes={start}-"
            if validator:
                headers["If-Range"] = validator
        self.done = start
        self._say("Connecting")
        times = (self.policy.connect, self.policy.silence)
        try:
            with transport.get(self.url, headers, times, self._tick) as answer:
                if start and answer.status == 416:
                    self._past_the_end(answer, start)
                    return
                self._check_status(answer)
                begin, total = _extent(answer, start)
                if begin is None:
                    self._drop()
                    raise _Retry("the server sent another part of the file than the one asked for")
                self.resumed = begin > 0
                self._check_total(total)
                if begin == 0:
                    self._remember(answer)
                if total is not None:
                    check_space(self.part.parent, total - begin)
                self._receive(answer, begin, total)
        except transport.Interrupted as error:
            raise _Retry(str(error)) from None

    def _receive(self, answer: transport.Response, begin: int, total: int | None) -> None:
        self.done, self.total = begin, total if total is not None else self.size
        most = self.total if self.total is not None else self.limit
        with self.part.open("r+b" if begin else "wb") as sink:
            sink.seek(begin)
            sink.truncate()
            for block in answer.body():
                if block:
                    self.done += len(block)
                    if self.done > most:
                        break
                    sink.write(block)
                self._tick()
            sink.flush()
            os.fsync(sink.fileno())
        if self.done > most:
            self._drop()
            raise DownloadError(f"'{self.url}' sends more than the {size_text(most)} expected; it was deleted.")
        if total is not None and self.done < total:
            raise _Retry("connection lost")

    def _past_the_end(self, answer: transport.Response, start: int) -> None:
        """The server has nothing behind ``start``: the part is complete, or of another file."""
        whole = re.fullmatch(r"bytes \*/([0-9]{1,18})", answer.headers.get("content-range", ""))
        if whole and int(whole[1]) == start:
            self.resumed = True
            return
        self._drop()
        raise _Retry("the file changed meanwhile")

    def _check_status(self, answer: transport.Response) -> None:
        status = answer.status
        if status in _AGAIN:
            raise _Retry(f"the server answered {status}", _seconds(answer.headers.get("retry-after", "")))
        if status in (401, 403):
            raise DownloadError(f"'{self.url}' may not be fetched (the server answered {status}); ask its publisher.")
        if status in (404, 410):
            raise DownloadError(
                f"There is no file at '{self.url}' (the server answered {status}); look for a newer version of the model."
            )
        if status not in (200, 206):
            raise DownloadError(f"'{self.url}' cannot be fetched (the server answered {status}).")
        if answer.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
            raise DownloadError(f"'{self.url}' arrives in a form that was not asked for; tell its publisher.")

    def _check_total(self, total: int | None) -> None:
        if total is None:
            return
        if self.size is not None and total != self.size:
            self._drop()
            raise Mismatch(
                f"'{self.url}' has {total} bytes where {self.size} were promised; look for a newer version of the model."
            )
        if total > self.limit:
            raise DownloadError(f"'{self.url}' has {size_text(total)}; at most {size_text(self.limit)} are allowed.")

    def _mismatch(self, found: Mapping[str, str], size: int) -> str | None:
        if self.size is not None and size != self.size:
            return f"it has {size} bytes where {self.size} were promised"
        for name, digest in self.hashes.items():
            if found[name] != digest:
                return f"its {_ALGORITHMS[name]} begins with {found[name][:12]} where {digest[:12]} was promised"
        return None

    def _resumable(self) -> tuple[int, str | None]:
        """Bytes of the part that may be kept, and the validator by which the server knows the file."""
        size = self._part_size()
        if not size:
            return 0, None
        try:
            note = json.loads(self.note.read_text("utf-8"))
            known, validator = note["url"], note["validator"]
        except (OSError, ValueError, KeyError, TypeError):
            known = validator = None
        if known != self.url or not (validator or self.hashes):  # nothing would tell two files apart
            self._drop()
            return 0, None
        return size, validator if isinstance(validator, str) else None

    def _remember(self, answer: transport.Response) -> None:
        tag = answer.headers.get("etag", "")
        validator = tag if tag.startswith('"') else answer.headers.get("last-modified")  # a weak tag proves no bytes
        self.note.write_text(json.dumps({"url": self.url, "validator": validator}), "utf-8")

    def _part_size(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def _drop(self) -> None:
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def _pause(self, failures: int, retry: _Retry) -> None:
        wait = min(self.policy.wait * 2 ** (failures - 1), self.policy.longest) * random.uniform(0.5, 1.5)
        wait = max(wait, min(retry.after, self.policy.longest))
        end = time.monotonic() + wait
        while (left := end - time.monotonic()) > 0:
            self._say(f"{str(retry)[:1].upper()}{str(retry)[1:]}; trying again in {math.ceil(left)} s")
            time.sleep(min(0.1, left))

    def _tick(self) -> None:
        now = time.monotonic()
        if now - self.told >= 0.1:
            self.told = now
            of = f" of {size_text(self.total)}" if self.total else ""
            self._say(f"{size_text(self.done)}{of}")

    def _say(self, message: str) -> None:
        if self.cancel is not None and self.cancel():
            raise Cancelled("Cancelled; what was downloaded so far is kept for the next time.")
        if self.progress is not None:
            self.progress(Progress("download", self.done, self.total, message))


class _Retry(Exception):
    """This try failed; ``after``: seconds the server asked to wait."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


def read_text(url: str, limit: int = 4 << 20, policy: Policy | None = None) -> str:
    """The text at ``url``, for small files such as catalogs.

    Raises:
        DownloadError: It cannot be fetched, has more than ``limit`` bytes, or is not UTF-8.
    """
    _check_address(url, {})
    policy = policy or Policy(attempts=3)
    for attempt in range(policy.attempts):
        try:
            with transport.get(url, {}, (policy.connect, policy.silence), lambda: None) as answer:
                if answer.status in _AGAIN:
                    raise transport.Interrupted(f"the server answered {answer.status}")
                if answer.status != 200:
                    raise DownloadError(f"'{url}' cannot be fetched (the server answered {answer.status}).")
                content = b""
                for block in answer.body():
                    content += block or b""
                    if len(content) > limit:
                        raise DownloadError(f"'{url}' is larger than {limit >> 20} MiB.")
            if len(content) < (answer.length or 0):
                raise transport.Interrupted("connection lost")
            return content.decode("utf-8")
        except UnicodeDecodeError:
            raise DownloadError(f"'{url}' is not UTF-8 text.") from None
        except transport.Interrupted as error:
            if attempt + 1 == policy.attempts:
                raise DownloadError(f"'{url}' could not be fetched ({error}); check the network.") from None
            time.sleep(min(policy.wait * 2**attempt, policy.longest))
    raise DownloadError(f"'{url}' could not be fetched.")


def _check_address(url: str, hashes: Mapping[str, str]) -> None:
    try:
        parts = urlsplit(url)
        scheme, host = parts.scheme.lower(), parts.hostname
    except ValueError:
        scheme = host = None
    if scheme not in ("http", "https") or not host:
        raise DownloadError(f"'{url}' is not an address that can be fetched; give one that begins with https://.")
    if scheme == "http" and not hashes and host not in _LOOPBACK:
        raise DownloadError(
            f"'{url}' has neither encryption nor a published hash, so what it sends cannot be trusted; "
            "give an address that begins with https://."
        )
    if unknown := set(hashes) - set(_ALGORITHMS):
        raise DownloadError(f"'{url}' is promised by the unknown hash '{min(unknown)}'; use {', '.join(_ALGORITHMS)}.")


def _extent(answer: transport.Response, start: int) -> tuple[int | None, int | None]:
    """First byte of the answer (None: not the one asked for) and size of the whole file, where told."""
    if answer.status == 200:
        return 0, answer.length
    pattern = r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)"
    told = re.fullmatch(pattern, answer.headers.get("content-range", "").strip())
    if not told or int(told[1]) != start or not start:
        return None, None
    return start, int(told[3]) if told[3] != "*" else int(told[2]) + 1


def _seconds(text: str) -> float:
    return float(text) if re.fullmatch(r"[0-9]{1,6}", text.strip()) else 0.0


def _digests(file: BinaryIO, tick: Callable[[], None]) -> dict[str, str]:
    hashers = {name: hashlib.new(name, usedforsecurity=False) for name in _ALGORITHMS}
    with file:
        while block := file.read(1 << 20):
            for hasher in hashers.values():
                hasher.update(block)
            tick()
    return {name: hasher.hexdigest() for name, hasher in hashers.items()}

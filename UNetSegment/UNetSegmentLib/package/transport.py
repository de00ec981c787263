"""One HTTP request at a time, read in a thread of its own, so that the caller can cancel while the server is silent."""

from __future__ import annotations

import queue
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from .. import __version__
from ..errors import DownloadError

CHUNK = 1 << 18
"""Bytes read at a time."""


class Interrupted(Exception):
    """The connection failed, or broke, or was silent for too long; another try may do better."""


class Response:
    """The head of an answer and its body; use it in a ``with`` block, which ends the request.

    Args:
        status: HTTP status.
        headers: Header fields, names in lower case.
        inbox: Where the request's thread puts what arrives.
        stop: Set to end that thread.
    """

    def __init__(self, status: int, headers: dict[str, str], inbox: queue.Queue[Any], stop: threading.Event) -> None:
        self.status, self.headers = status, headers
        self._inbox, self._stop = inbox, stop

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    @property
    def length(self) -> int | None:
        """Bytes of the body, where the server tells."""
        text = self.headers.get("content-length", "")
        return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None

    def body(self) -> Iterator[bytes | None]:
        """Yield the body in blocks, and ``None`` some ten times a second while nothing arrives.

        Raises:
            Interrupted: The connection broke or was silent for too long.
        """
        while True:
            message = _next(self._inbox)
            if isinstance(message, BaseException):
                raise message
            if message == b"":
                return
            yield message


def get(url: str, headers: dict[str, str], timeout: tuple[float, float], tick: Callable[[], None]) -> Response:
    """Ask for ``url``, following redirects, through the system's proxy and with its certificates.

    Args:
        url: An ``http://`` or ``https://`` address.
        headers: What to send beside the usual.
        timeout: Seconds to wait for the connection, and for each further sign of life.
        tick: Called some ten times a second while waiting; may raise to give up.

    Raises:
        Interrupted: No connection, or no answer in time.
        DownloadError: The address cannot be used, or the server's certificate is not trusted.
    """
    inbox: queue.Queue[Any] = queue.Queue(maxsize=16)
    stop = threading.Event()
    worker = threading.Thread(target=_work, args=(url, headers, timeout, inbox, stop), daemon=True)
    worker.start()
    try:
        while (message := _next(inbox)) is None:
            tick()
    except BaseException:
        stop.set()
        raise
    if isinstance(message, BaseException):
        raise message
    return Response(*message, inbox, stop)


def _next(inbox: queue.Queue[Any]) -> Any:
    try:
        return inbox.get(timeout=0.1)
    except queue.Empty:
        return None


def _work(
    url: str, headers: dict[str, str], timeout: tuple[float, float], inbox: queue.Queue[Any], stop: threading.Event
) -> None:
    """Put the head, then the blocks, then ``b""`` or an exception into ``inbox``; ends soon after ``stop`` is set."""

    def put(message: Any) -> bool:
        while not stop.is_set():
            try:
                inbox.put(message, timeout=0.1)
                return True
            except queue.Full:
                pass
        return False

    try:
        import requests
        import urllib3
    except ImportError:
        put(DownloadError("Downloading needs the Python package 'requests'; install it (pip install requests)."))
        return
    try:
        with _session() as session:
            ask = {"User-Agent": f"UNetSegment/{__version__}", "Accept-Encoding": "identity", **headers}
            with session.get(url, headers=ask, timeout=timeout, stream=True) as answer:
                _check_redirects(url, answer)
                if not put((answer.status_code, {name.lower(): text for name, text in answer.headers.items()})):
                    return
                read = getattr(
                    answer.raw, "read1", answer.raw.read
                )  # read1 (urllib3 2.1) does not wait for a whole block
                while block := read(CHUNK, decode_content=False):
                    if not put(block):
                        return
        put(b"")
    except DownloadError as error:
        put(error)
    except requests.exceptions.SSLError as error:
        if "certificate" not in str(error).lower():
            put(Interrupted(_reason(error)))
            return
        host = urlsplit(url).hostname
        put(
            DownloadError(
                f"The certificate of '{host}' is not trusted here ({_reason(error)}); if your network inspects traffic, "
                "name its certificate file in the environment variable REQUESTS_CA_BUNDLE."
            )
        )
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema):
        put(DownloadError(f"'{url}' is not an address that can be fetched; give one that begins with https://."))
    except requests.exceptions.TooManyRedirects:
        put(DownloadError(f"'{url}' leads from one address to the next without end; tell its publisher."))
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        put(Interrupted(_reason(error)))
    except (
        Exception
    ) as error:  # whatever else a hostile server provokes in the libraries (LocationParseError, UnicodeError)
        put(DownloadError(f"'{url}' cannot be fetched ({type(error).__name__}: {_reason(error)})."))


def _session() -> Any:
    """A session that trusts the system's certificates beside certifi's; requests itself finds the system's proxy."""
    import requests
    from requests.adapters import HTTPAdapter

    context = ssl.create_default_context()  # the system's store, and SSL_CERT_FILE

    class SystemAdapter(HTTPAdapter):
        def init_poolmanager(self, *arguments: Any, **options: Any) -> Any:
            return super().init_poolmanager(*arguments, **options, ssl_context=context)

        def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
            return super().proxy_manager_for(proxy, **options, ssl_context=context)

    session = requests.Session()
    session.max_redirects = 10
    session.mount("https://", SystemAdapter())
    return session


def _check_redirects(url: str, answer: Any) -> None:
    if url.lower().startswith("https:") and any(
        not r.url.lower().startswith("https:") for r in (*answer.history, answer)
    ):
        raise DownloadError(f"'{url}' leads to an address without encryption; tell its publisher.")


def _reason(error: BaseException) -> str:
    """The innermost cause in a few words."""
    text = str(error)
    lowered = text.lower()
    for words, reason in (
        ("timed out", "no answer in time"),
        ("name or service not known", "the server's name is not known; is there a network?"),
        ("getaddrinfo failed", "the server's name is not known; is there a network?"),
        ("temporary failure in name resolution", "the server's name is not known; is there a network?"),
        ("nodename nor servname", "the server's name is not known; is there a network?"),
        ("refused", "connection refused"),
        ("reset", "connection lost"),
        ("incompleteread", "connection lost"),
        ("remotedisconnected", "connection lost"),
        ("self-signed certificate", "self-signed"),
        ("certificate verify failed", "it cannot be verified"),
        ("unable to connect to proxy", "the proxy does not answer"),
    ):
        if words in lowered:
            return reason
    return " ".join(text.split())[:120] or type(error).__name__

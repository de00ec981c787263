"""A real HTTP server on this computer that misbehaves on command."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """One file at every path; ``script`` says how the next requests are answered, then all is well.

    Steps: ``ok``, an HTTP status such as ``503``, ``cut:N`` (close after N bytes), ``stall:N`` (silent after N bytes),
    ``plain`` (ignores Range), ``shifted`` (another range than asked for), ``more`` (more bytes than the catalog says),
    ``unsized`` (no Content-Length), ``gzip``, ``redirect``, ``loop``, ``garbage`` (not HTTP), ``change`` (another file).
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.script: list[str] = []
        self.validator: str | None = '"v1"'
        self.last_modified: str | None = None
        self.headers: dict[str, str] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.sent = 0
        self.delay = 0.0
        self.free = threading.Event()
        self.lock = threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.http.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/model.zip"

    @property
    def ranges(self) -> list[str | None]:
        """The Range header of each request."""
        return [headers.get("range") for _, headers in self.requests]


@contextmanager
def serve(content: bytes) -> Iterator[Server]:
    server = Server(content)
    thread = threading.Thread(target=server.http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.free.set()
        server.http.shutdown()
        server.http.server_close()
        thread.join()


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:  # noqa: N802
            with server.lock:
                server.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
                step = "ok" if self.path == "/moved" or not server.script else server.script.pop(0)
            self.close_connection = True
            server.free.wait(server.delay)
            if step == "change":
                server.content, server.validator = server.content[::-1], '"v2"'
            if step == "garbage":
                self.wfile.write(b"\x00\x01\x02 this is not HTTP\r\n\r\n")
            elif step in ("redirect", "loop"):
                self.reply(302, {"Location": "/moved" if step == "redirect" else self.path}, b"")
            elif step.isdigit():
                self.reply(int(step), server.headers, b"no")
            else:
                self.send_file(step)

        def send_file(self, step: str) -> None:
            content, status, headers = server.content, 200, dict(server.headers)
            if server.validator:
                headers["ETag"] = server.validator
            if server.last_modified:
                headers["Last-Modified"] = server.last_modified
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            condition = self.headers.get("If-Range")
            known = condition in (None, server.validator, server.last_modified)
            if asked and known and step != "plain":
                start = int(asked[1])
                if start >= len(content):
                    self.reply(416, {"Content-Range": f"bytes */{len(content)}"}, b"")
                    return
                if step == "shifted":
                    start -= 7
                status, body = 206, content[start:]
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            else:
                body = content
            if step == "more":
                body += b"more"
            if step == "gzip":
                headers["Content-Encoding"] = "gzip"
            if step != "unsized":
                headers["Content-Length"] = str(len(body))
            name, _, count = step.partition(":")
            if name in ("cut", "stall"):
                self.reply(status, headers, body[: int(count)])
                if name == "stall":
                    server.free.wait(30)
            else:
                self.reply(status, headers, body)

        def reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, text in {"Content-Length": str(len(body))}.items() if status >= 300 else ():
                self.send_header(name, text)
            for name, text in headers.items():
                self.send_header(name, text)
            self.send_header("Connection", "close")
            self.end_headers()
            try:
                self.wfile.write(body)
                self.wfile.flush()
            except OSError:  # the client hung up
                return
            with server.lock:
                server.sent += len(body)

    return Handler

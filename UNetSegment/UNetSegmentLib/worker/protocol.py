"""What client and worker say: JSON-RPC 2.0 messages, one per line, UTF-8; arrays go through shared memory.

Requests: ``hello``, ``load`` (a model, to have it warm), ``predict``, ``shutdown``. Notifications to the worker: ``cancel``, ``forget``
(shared memory; that of a request it fulfilled it holds until then, and another request may name it again).
Notifications from the worker: ``alive`` (every second); of a request ``begun``, ``attached`` (it holds the shared memory),
``progress``, ``warnings``, ``slab``.
"""

from __future__ import annotations

import json
from typing import Any

from .. import errors

LONGEST = 4 << 20
"""Bytes a line may have."""
HEARTBEAT = 1.0
"""Seconds between two signs of life."""
INTERNAL = "internal"
"""Kind of an error that is a fault of ours."""


def encode(message: dict[str, Any]) -> bytes:
    """A message as a line."""
    return json.dumps({"jsonrpc": "2.0", **message}, separators=(",", ":")).encode("utf-8") + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """The message of a line.

    Raises:
        ValueError: It is no message.
    """
    if len(line) > LONGEST:
        raise ValueError("line too long")
    try:
        message = json.loads(line.decode("utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        raise ValueError("not a JSON-RPC message")
    if "method" in message and not isinstance(message["method"], str):
        raise ValueError("a method that is no text")
    if not isinstance(message.get("params", {}), dict):
        raise ValueError("parameters that are no table")
    for number in (message.get("id"), message.get("params", {}).get("id")):
        if not isinstance(number, int | str | None):
            raise ValueError("an id that is neither number nor text")
    return message


def describe_error(error: BaseException) -> dict[str, Any]:
    """An error as JSON; those written for the user keep their class and sentence."""
    if isinstance(error, MemoryError):
        words = "There is not enough memory for an image of this size; choose a region of interest, or crop the volume first."
        error = errors.BackendError(words)
    kind = type(error).__name__ if isinstance(error, errors.UNetSegmentError) else INTERNAL
    text = str(error) if kind != INTERNAL else f"{type(error).__name__}: {error}"
    return {"code": -32000, "message": text, "data": {"kind": kind}}


def restore_error(described: Any) -> errors.UNetSegmentError:
    """The error that a worker described."""
    described = described if isinstance(described, dict) else {}
    text = str(described.get("message") or "The model's process failed without a word.")
    data = described.get("data")
    kind = data.get("kind") if isinstance(data, dict) else None
    found = getattr(errors, kind, None) if isinstance(kind, str) else None
    if isinstance(found, type) and issubclass(found, errors.UNetSegmentError):
        return found(text)
    return errors.WorkerError(f"The work failed unexpectedly ({text}); the scene is as it was, see the log.")

"""The worker with a stopwatch around its network: after each prediction its log says what the network alone took."""

from __future__ import annotations

import json
import sys
from typing import Any

from benchmarks.serve import Stopwatch

WATCH = Stopwatch()
_on: list[bool] = []


def watch() -> None:
    """Put the stopwatch around the network; once."""
    from UNetSegmentLib.predict.backends.openvino_backend import OpenVinoBackend

    if not _on:
        _on.append(True)
        original = OpenVinoBackend.run
        timed = WATCH.around(lambda patches, backend, tick: original(backend, patches, tick))
        OpenVinoBackend.run = lambda self, patches, tick: timed(patches, self, tick)  # type: ignore[method-assign]


def main(begin: str) -> None:
    """Do what the client asks of a Python executable: ``-c begin``."""
    exec(begin.rpartition(";")[0].partition(" from ")[0])  # where the library is
    from UNetSegmentLib.worker import server

    watch()
    answer = server.Server._answer

    def answered(*arguments: Any) -> dict[str, Any]:
        WATCH.take()
        result = answer(*arguments)
        print("NETWORK " + json.dumps(WATCH.take()), file=sys.stderr, flush=True)
        return result

    server.Server._answer = answered  # type: ignore[method-assign]
    server.main()


if __name__ == "__main__":
    main(sys.argv[2])

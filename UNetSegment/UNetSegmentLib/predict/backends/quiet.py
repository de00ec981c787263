"""OpenVINO, imported without its telemetry: nothing leaves this computer that nobody asked for."""

from __future__ import annotations

import sys
from typing import Any

_TELEMETRY = "openvino_telemetry"


def openvino() -> Any:
    """The package ``openvino``.

    Where it finds its telemetry, it tells Google Analytics of each import, from a process that it forks off this one (which
    may be Slicer), and leaves an ID in the user's home folder. Where it does not, it has a stub in that place, which
    stays; other programs of this computer are as they were.
    """
    if "openvino" not in sys.modules:
        before = sys.modules.get(_TELEMETRY)
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # an import of it fails
        try:
            import openvino  # noqa: F401
        finally:
            if before is None:
                del sys.modules[_TELEMETRY]
            else:
                sys.modules[_TELEMETRY] = before
    import openvino

    return openvino

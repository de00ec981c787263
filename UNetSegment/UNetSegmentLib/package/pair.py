"""Two U-Nets in a row, the second of which sees the image and the first one's answer: which parts of MONAI they are."""

from __future__ import annotations

from typing import Any

PAIR = "WNet"
"""Its name in a manifest. The parts are MONAI's ``BasicUNet`` and ``SkipConnection``, and torch's ``Sequential``."""


def parts(arguments: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of both ``BasicUNet`` from those of the pair, which are the first one's.

    The second one's channels are the image's and the first one's probabilities of each class.

    Raises:
        KeyError: They lack ``in_channels`` or ``out_channels``.
        TypeError: These are no numbers.
    """
    return arguments, arguments | {"in_channels": arguments["in_channels"] + arguments["out_channels"]}

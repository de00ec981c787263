"""Images made up."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np


def blobs(shape: Sequence[int], seed: int = 0, channels: int = 1) -> np.ndarray:
    """Smooth random images (C, *shape), float32, with values around 0 to 3."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*[np.linspace(0, 1, n) for n in shape], indexing="ij")
    image = np.zeros((channels, *shape), np.float32)
    for channel, _ in itertools.product(range(channels), range(6)):
        centre, width = rng.random(3), 0.1 + 0.2 * rng.random()
        square = sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True))
        image[channel] += (rng.random() * 3 * np.exp(-square / width**2)).astype(np.float32)
    return image

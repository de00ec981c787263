"""Which volume is meant for which input of a model, guessed from their names: the user sees the guess and can change it."""

from __future__ import annotations

import re
from collections.abc import Sequence

_CONTRAST = {"ce", "gd", "gad", "km", "post", "postcontrast", "contrast", "enhanced", "c"}
_ONE_WORD = {"t1c": ("t1", "c"), "t1ce": ("t1", "c"), "t1gd": ("t1", "c"), "t1post": ("t1", "c"), "t1w": ("t1",)}
_ONE_WORD |= {"t2w": ("t2",), "t2f": ("t2", "flair"), "t1n": ("t1",), "pt": ("pet",), "mrt1": ("t1",), "mrt2": ("t2",)}
_IDLE = {"mr", "mri", "mrt", "image", "img", "volume", "scan", "series", "weighted", "the", "of", "in", "and", "with"}


def guess(channels: Sequence[str], volumes: Sequence[str]) -> list[int | None]:
    """The volume for each channel of a model, by the words that their names share.

    Args:
        channels: What each is called, with all words that tell something, e.g. ``T1c contrast-enhanced T1``.
        volumes: Names of the volumes to choose from.

    Returns:
        For each channel the index of a volume, each at most once, or None where none or more than one fits it best.
    """
    wanted, offered = [_words(name) for name in channels], [_words(name) for name in volumes]
    found: list[int | None] = [None] * len(channels)
    for channel, words in enumerate(wanted):
        fits = [_fit(words, name) for name in offered]
        best = max(fits, default=0.0)
        if best > 0 and fits.count(best) == 1:
            found[channel] = fits.index(best)
    return [index if index is not None and found.count(index) == 1 else None for index in found]


def _words(name: str) -> frozenset[str]:
    """``sub-01_T2_FLAIR`` -> {sub, 01, flair}: a FLAIR is no plain T2, and a T1 with contrast is no plain T1."""
    words: set[str] = set()
    for word in re.findall(r"[a-z]+\d?[a-z]*|\d+", name.lower()):
        words.update(_ONE_WORD.get(word, (word,)))
    if "flair" in words:
        words.discard("t2")
    if "t1" in words and words & _CONTRAST:
        words = words - _CONTRAST - {"t1"} | {"t1c"}
    return frozenset(words - _IDLE)


def _fit(channel: frozenset[str], volume: frozenset[str]) -> float:
    """How much of a channel's name a volume's name says."""
    return len(channel & volume) / max(len(channel), 1)

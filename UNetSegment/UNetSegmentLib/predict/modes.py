"""Modes: what may be traded for speed, and what a configuration must prove before it is used.

``parity`` does what the model's own framework does: its patches, weights, resampling and mirroring, in float32 on the
processor and with fp16 autocast on CUDA. ``fast`` takes reduced precision, little overlap and no mirroring, and says so.
``auto`` keeps the model's patches, does not mirror unless asked, and takes the fastest precision that gives the expected
labels on the package's reference patch.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import BackendError
from ..package import Manifest

MODES = ("auto", "parity", "fast")
AGREEMENT = 0.999
"""Dice per label that a configuration must reach on the package's reference patch."""
FAST_AGREEMENT = 0.99
"""The same for ``fast``."""
FAST_OVERLAP = 0.2
"""Overlap of patches in ``fast``; TotalSegmentator's step of 0.8 of a patch (Wasserthal et al., Radiology: AI 2023)."""


@dataclass(frozen=True)
class Configuration:
    """How a prediction is made: ``mode``, ``overlap`` of patches, ``mirror_axes``, and the Dice it must prove."""

    mode: str
    overlap: float
    mirror_axes: tuple[int, ...]
    agreement: float

    @classmethod
    def of(cls, manifest: Manifest, mode: str = "auto", mirror: bool | None = None) -> Configuration:
        """A mode's for a model; ``mirror`` overrules the mode.

        Raises:
            BackendError: The mode is unknown, or mirroring is asked of a model that does not allow it.
        """
        if mode not in MODES:
            raise BackendError(f"Mode '{mode}' is not known; use {', '.join(MODES)}.")
        window = manifest.inference
        if mirror and not window.mirror_axes:
            raise BackendError(
                f"Model '{manifest.title}' was not trained with mirrored images, so mirroring would spoil its answer; "
                "run it without."
            )
        mirrored = mirror if mirror is not None else mode == "parity" and window.convention == "nnunet"
        overlap = min(window.overlap, FAST_OVERLAP) if mode == "fast" else window.overlap
        bar = FAST_AGREEMENT if mode == "fast" else AGREEMENT
        return cls(mode, overlap, window.mirror_axes if mirrored else (), bar)

    def precisions(self, possible: tuple[str, ...], provable: bool) -> tuple[str, ...]:
        """Of the precisions ``possible`` (fastest first), those to try in order.

        Reduced precision is float32's stand-in where it is proven (``auto``) or asked for (``fast``). fp16 with float32
        sums is what nnU-Net and MONAI use on CUDA, so it belongs to ``parity`` there.
        """
        if self.mode == "parity":
            return possible[:1] if possible[0] == "fp16" else possible[-1:]
        if self.mode == "auto" and not provable:
            return possible[:1] if possible[0] == "fp16" else possible[-1:]
        return possible

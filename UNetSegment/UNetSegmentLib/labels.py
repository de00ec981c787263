"""What a voxel value means: name, colour, and the codes of a standard terminology."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Code:
    """A coded concept, as in DICOM: ``Code("SCT", "10200004", "Liver")``."""

    scheme: str
    value: str
    meaning: str


@dataclass(frozen=True)
class Terminology:
    """The codes by which 3D Slicer and DICOM SEG name a segment: category, type, and perhaps a type modifier."""

    category: Code
    type: Code
    modifier: Code | None = None


@dataclass(frozen=True)
class Label:
    """The meaning of one voxel value.

    Args:
        value: The voxel value in a label map; values of a model may be sparse.
        name: What a person calls the structure.
        color: Red, green, blue in 0..255.
        terminology: Codes, where the structure has them.
    """

    value: int
    name: str
    color: tuple[int, int, int] = (128, 174, 128)
    terminology: Terminology | None = None

    @property
    def is_background(self) -> bool:
        """Whether this value means "nothing", which by convention is 0."""
        return self.value == 0

"""What a voxel value means: name, colour, and the codes of a standard terminology."""

from __future__ import annotations

from dataclasses import dataclass

_CONTEXT = "Segmentation category and type - 3D Slicer General Anatomy list"
_ANATOMIC_CONTEXT = "Anatomic codes - DICOM master list"


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

    def serialized(self) -> str:
        """The text by which 3D Slicer stores a segment's terminology, in its tag and in ``.seg.nrrd`` files."""
        codes = (self.category, self.type, self.modifier)
        parts = ["^".join((c.scheme, c.value, c.meaning)) if c else "^^" for c in codes]
        return "~".join((_CONTEXT, *parts, _ANATOMIC_CONTEXT, "^^", "^^"))

    @classmethod
    def parse(cls, text: str) -> Terminology | None:
        """Read :meth:`serialized` text; None where it holds no category and type."""
        codes = []
        for part in text.split("~")[1:4]:
            scheme, value, meaning = [*part.split("^"), "", "", ""][:3]
            codes.append(Code(scheme, value, meaning) if scheme and value else None)
        category, kind, modifier = [*codes, None, None, None][:3]
        return cls(category, kind, modifier) if category and kind else None


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

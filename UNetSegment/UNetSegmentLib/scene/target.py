"""Whether a result can be written to a segmentation that exists, and what that changes there."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import slicer
import vtk

from ..errors import InputError, OutputError


def check_target(node: Any, reference: Any) -> None:
    """Refuse a segmentation node that a result for ``reference`` cannot be written to; None is a new one.

    Raises:
        OutputError: It is under another transform, or its segments hold no labelmaps.
    """
    if not holds_segments(node):
        return
    if node.GetTransformNodeID() != reference.GetTransformNodeID():
        raise OutputError(
            f"Segmentation '{node.GetName()}' is under another transform than volume '{reference.GetName()}'; "
            "choose a new segmentation, or put both under the same transform."
        )
    if node.GetSegmentation().GetSourceRepresentationName() != binary():
        raise OutputError(
            f"Segmentation '{node.GetName()}' is stored as surfaces, not as labelmaps; choose a new segmentation, "
            "or make binary labelmap its source representation in the Segmentations module."
        )


def check_present(*nodes: Any) -> None:
    """Refuse to write where a node of a run is no longer in a scene; None stands for one that there never was.

    Raises:
        InputError: One was removed.
    """
    for node in nodes:
        if node is not None and node.GetScene() is None:
            raise InputError(f"'{node.GetName()}' was removed while it was being segmented; nothing was written.")


def holds_segments(node: Any) -> bool:
    """Whether there is a segmentation with something in it."""
    return node is not None and node.GetSegmentation().GetNumberOfSegments() > 0


def made_from(node: Any) -> Any:
    """The volume that a segmentation was made from; None where the scene does not know, or has it no more."""
    return node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())


def target_note(node: Any, reference: Any, names: Collection[str], tr: Callable[[str], str] = lambda text: text) -> str:
    """What a user may not expect of writing to a segmentation that exists; empty where there is nothing.

    Args:
        node: vtkMRMLSegmentationNode; None for a new one.
        reference: The vtkMRMLScalarVolumeNode that will be segmented.
        names: Of the structures that will be written.
        tr: Translates a text.
    """
    if node is None:
        return ""
    segmentation = node.GetSegmentation()
    segments = [segmentation.GetNthSegment(index) for index in range(segmentation.GetNumberOfSegments())]
    by_name = {segment.GetName(): segment for segment in reversed(segments)}  # the first of a name is written to
    found = [name for name in names if name in by_name]
    kept = [name for name in found if is_completed(by_name[name])]
    source, parts = made_from(node), []
    if source is not None and source is not reference and len(kept) < len(found):
        parts.append(
            tr("It was made from '{source}': what it has of the same structures is replaced.").format(
                source=source.GetName()
            )
        )
    if kept:
        parts.append(tr("Marked as completed, stays as it is: {names}.").format(names=", ".join(kept)))
    return " ".join(parts)


def is_completed(segment: Any) -> bool:
    """Whether the user marked a segment as completed."""
    text = vtk.reference("")
    found = segment.GetTag("Segmentation.Status", text)
    return bool(found) and str(text) == "completed"


def find_segment(segmentation: Any, name: str) -> str | None:
    """The ID of the segment with a name; None where there is none."""
    for index in range(segmentation.GetNumberOfSegments()):
        if segmentation.GetNthSegment(index).GetName() == name:
            return segmentation.GetNthSegmentID(index)
    return None


def binary() -> str:
    """The name of the representation that results are written in."""
    return slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()

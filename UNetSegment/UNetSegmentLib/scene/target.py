"""Whether a result can be written to a segmentation that exists, and what that changes there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import slicer
import vtk

from ..errors import InputError, OutputError

ATTRIBUTE = "UNetSegment."
"""Before the names of a node's attributes that tell how it was made."""
STATUS = "Segmentation.Status"
"""The tag in which the Segment Editor keeps how far a segment is."""


def check_target(node: Any, reference: Any, names: Collection[str] = ()) -> None:
    """Refuse a segmentation node that a result for ``reference`` cannot be written to; None is a new one.

    Args:
        node: vtkMRMLSegmentationNode.
        reference: The vtkMRMLScalarVolumeNode that is segmented.
        names: Of the structures that will be written.

    Raises:
        OutputError: It is no segmentation, is under another transform, its segments hold no labelmaps, or all of ``names`` are
            completed.
    """
    if node is not None and not node.IsA("vtkMRMLSegmentationNode"):
        raise OutputError(f"'{node.GetName()}' is no segmentation; choose one, or a new one.")
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
    if names and len(completed(node, names)) == len(names):
        raise OutputError(
            f"In segmentation '{node.GetName()}' every structure is marked as completed, so that nothing would be written; "
            "choose a new segmentation, or change their status in the Segment Editor."
        )


def check_present(*nodes: Any, has_begun: bool = True) -> None:
    """Refuse to begin or, once a run has begun, to write where a node is not in a scene; None stands for one that there never was.

    Raises:
        InputError: One is not there, or is no node at all.
    """
    for node in nodes:
        if node is None:
            continue
        if not hasattr(node, "GetScene"):
            raise InputError(f"{node!r} is no node of the scene; slicer.util.getNode() gives the node with a name.")
        if node.GetScene() is None:
            why = "was removed from the scene during the run; nothing was written"
            if not has_begun:
                why = "is not in the scene; load it again or choose another one"
            raise InputError(f"'{node.GetName()}' {why}.")


def holds_segments(node: Any) -> bool:
    """Whether there is a segmentation with something in it."""
    return node is not None and node.GetSegmentation().GetNumberOfSegments() > 0


def made_from(node: Any) -> Any:
    """The volume that a segmentation was made from; None where the scene does not know, or has it no more."""
    return node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())


def target_note(
    node: Any,
    reference: Any,
    names: Collection[str],
    tr: Callable[[str], str] = lambda text: text,
    model: str = "",
    region: str = "",
) -> str:
    """What a user may not expect of writing to a segmentation that exists; empty where there is nothing.

    Args:
        node: vtkMRMLSegmentationNode; None for a new one.
        reference: The vtkMRMLScalarVolumeNode that will be segmented.
        names: Of the structures that will be written.
        tr: Translates a text.
        model: Name of the model that will write them.
        region: Name of the region of interest; empty for the whole volume.
    """
    if node is None:
        return ""
    kept, mended = completed(node, names), corrected(node, names)
    replaced = [name for name in _segments(node, names) if name not in kept]
    source, parts = made_from(node), []
    if mended:
        words = tr(
            "Corrected since and would be replaced: {names}. Segments marked as completed in the Segment Editor stay."
        )
        parts.append(words.format(names=some(mended, tr)))
    if replaced and source is not None and source is not reference:
        words = tr("It was made from '{source}': what it has of the same structures is replaced.")
        parts.append(words.format(source=source.GetName()))
    elif replaced and model and node.GetAttribute(ATTRIBUTE + "model") != model:
        parts.append(tr("It was not made by this model: what it has of the same structures is replaced."))
    if source is not None and source is not reference and not _share_voxels(source, reference):
        words = tr(
            "When it is saved, Slicer moves all of it onto the voxels of '{source}', which lie elsewhere; "
            "a new segmentation keeps this result exact."
        )
        parts.append(words.format(source=source.GetName()))
    if replaced and region:
        parts.append(tr("Outside of '{region}' these structures become empty.").format(region=region))
    if kept:
        parts.append(tr("Marked as completed, stays as it is: {names}.").format(names=some(kept, tr)))
    return " ".join(parts)


def _share_voxels(one: Any, other: Any) -> bool:
    """Whether the voxels of two volume nodes lie in one lattice, so that nothing is interpolated between them."""
    import numpy as np

    from .read import world_volume

    try:
        mine, theirs = world_volume(one).grid, world_volume(other).grid
    except InputError:  # said where the volumes are chosen
        return True
    steps = mine.index_in(theirs)
    off = np.abs(steps - np.round(steps))[:3] @ (*mine.shape, 1)  # at the last voxel, in voxels
    return bool(off.max() < 0.1 and np.isclose(abs(np.linalg.det(steps[:3, :3])), 1))


def some(names: Sequence[str], tr: Callable[[str], str] = lambda text: text) -> str:
    """``Liver, Spleen``; of many ``Liver, Spleen, Aorta and 101 more``."""
    if len(names) <= 4:
        return ", ".join(names)
    return tr("{names} and {count} more").format(names=", ".join(names[:3]), count=len(names) - 3)


def completed(node: Any, names: Collection[str]) -> list[str]:
    """Those of ``names`` whose segment the user marked as completed: a result leaves them as they are."""
    return [name for name, segment in _segments(node, names).items() if status(segment) == "completed"]


def corrected(node: Any, names: Collection[str]) -> list[str]:
    """Those of ``names`` whose segment was worked on since it was written: the Segment Editor notes so at the first stroke."""
    worked_on = ("inprogress", "flagged")
    return [name for name, segment in _segments(node, names).items() if status(segment) in worked_on]


def open_layers(node: Any, names: Collection[str]) -> dict[str, tuple[Any, int]]:
    """Where the voxels of the segments of these names are, but for completed ones: their layer and their value in it."""
    found = _segments(node, names).items()
    open_ = {name: segment for name, segment in found if status(segment) != "completed"}
    return {name: (each.GetRepresentation(binary()), each.GetLabelValue()) for name, each in open_.items()}


def status(segment: Any) -> str:
    """How far a segment is for the user, in the Segment Editor's words: ``completed``; empty where nothing is noted."""
    text = vtk.reference("")
    return str(text) if segment.GetTag(STATUS, text) else ""


def _segments(node: Any, names: Collection[str]) -> dict[str, Any]:
    """The segments of a node with these names; of several with one name the first, to which a result is written."""
    if node is None:
        return {}
    segmentation = node.GetSegmentation()
    segments = [segmentation.GetNthSegment(index) for index in range(segmentation.GetNumberOfSegments())]
    by_name = {segment.GetName(): segment for segment in reversed(segments)}
    return {name: by_name[name] for name in names if name in by_name}


def find_segment(segmentation: Any, name: str) -> str | None:
    """The ID of the segment with a name; None where there is none."""
    for index in range(segmentation.GetNumberOfSegments()):
        if segmentation.GetNthSegment(index).GetName() == name:
            return segmentation.GetNthSegmentID(index)
    return None


def binary() -> str:
    """The name of the representation that results are written in."""
    return slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()

"""From a :class:`LabelMap` to a segmentation node beside its input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from ..labels import Label
from ..predict import passes
from ..volume import LabelMap
from .target import ATTRIBUTE, STATUS, binary, check_target, find_segment, made_from, status

LABEL_TAG = "UNetSegment.Label"


def write_segmentation(
    labels: LabelMap,
    reference: Any,
    node: Any = None,
    name: str = "",
    provenance: Mapping[str, str] | None = None,
    show_3d: bool = False,
    layer: Any = None,
) -> Any:
    """Put a result into the scene.

    All segments of the result share one labelmap layer in the reference volume's own frame, and the node takes the
    volume's parent transform. In a node that exists, segments that this result names again get its voxels and keep
    their ID, colour and place; those marked as completed, and every other segment, stay as they are.

    Args:
        labels: On the voxels of ``reference``.
        reference: The vtkMRMLScalarVolumeNode that was segmented.
        node: vtkMRMLSegmentationNode to write to; a new one by default.
        name: Of a new node.
        provenance: Kept as node attributes ``UNetSegment.<key>``.
        show_3d: Also make the surfaces.
        layer: From :func:`new_layer`, filled with 1, 2, ... in the order of the segments of ``labels``, whose array is
            not looked at then. A volume that was moved since, as by hardening its transform, takes it along.

    Returns:
        The segmentation node.

    Raises:
        OutputError: The node that exists is under another transform than the volume, or its segments hold no labelmaps.
    """
    scene = reference.GetScene()
    shown = _shown(node, layer)
    if not shown:
        check_target(node, reference)
    if layer is None:
        layer, voxels = new_layer(reference, len(labels.segments))
        table = np.zeros(65536, voxels.dtype)
        table[[label.value for label in labels.segments]] = np.arange(1, len(labels.segments) + 1)
        passes.transfer(voxels, labels.array.T, passes.count(), table)
    created = node is None
    if not created and not shown:
        _save_for_undo(node)
    _lay_onto(layer, reference)
    if created:
        node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", scene.GenerateUniqueName(name or reference.GetName()))
        node.CreateDefaultDisplayNodes()
    segmentation = node.GetSegmentation()
    surfaces = segmentation.ContainsRepresentation(_surface())
    undo: list[Callable[[], None]] = []
    modified = node.StartModify()
    try:
        if shown or segmentation.GetNumberOfSegments() == 0:
            node.SetAndObserveTransformNodeID(reference.GetTransformNodeID())
            node.SetReferenceImageGeometryParameterFromVolumeNode(reference)
        elif made_from(node) is None:
            node.SetReferenceImageGeometryParameterFromVolumeNode(reference)
        new = [(n, label) for n, label in enumerate(labels.segments, start=1) if n not in shown]
        left = [_put(segmentation, label, layer, n, undo) for n, label in new]
        for key, text in (provenance or {}).items():
            node.SetAttribute(ATTRIBUTE + key, text)
    except Exception:
        for step in reversed(undo):
            step()
        if created:
            discard(node)
        raise
    finally:
        node.EndModify(modified)
    _clear_left(segmentation, [entry for entry in left if entry is not None])
    _place_beside(node, reference, scene, created)
    node.CreateDefaultDisplayNodes()  # one that a node selector or a script made may have none, and be invisible
    if show_3d or surfaces:
        node.CreateClosedSurfaceRepresentation()
    if show_3d:
        node.GetDisplayNode().SetVisibility3D(True)
    return node


def discard(node: Any) -> None:
    """Take a segmentation node that was made for a run, and its display node, out of the scene again."""
    scene = node.GetScene()
    if scene is not None:
        scene.RemoveNode(node.GetDisplayNode())
        scene.RemoveNode(node)


def new_layer(reference: Any, segments: int) -> tuple[Any, np.ndarray]:
    """An empty labelmap layer in the reference volume's own frame, and its voxels to fill, (k, j, i).

    The n-th segment is to have the voxel value n. Model values may exceed what Slicer's labelmaps hold, so they are
    numbered anew. The voxels may be filled in another thread, before the layer is written.
    """
    matrix = vtk.vtkMatrix4x4()
    reference.GetIJKToRASMatrix(matrix)
    return _empty(
        reference.GetImageData().GetExtent(), vtk.VTK_UNSIGNED_CHAR if segments < 256 else vtk.VTK_SHORT, matrix
    )


def layer_like(layer: Any) -> tuple[Any, np.ndarray]:
    """Another empty layer where one is, whatever became of the volume, as :func:`new_layer` gives it."""
    matrix = vtk.vtkMatrix4x4()
    layer.GetImageToWorldMatrix(matrix)
    return _empty(layer.GetExtent(), layer.GetScalarType(), matrix)


def _empty(extent: tuple[int, ...], scalar_type: int, matrix: Any) -> tuple[Any, np.ndarray]:
    image = slicer.vtkOrientedImageData()
    image.SetExtent(extent)
    image.AllocateScalars(scalar_type, 1)
    image.GetPointData().GetScalars().SetName("ImageScalars")
    image.SetGeometryFromImageToWorldMatrix(matrix)
    voxels = vtk_to_numpy(image.GetPointData().GetScalars())
    passes.in_large_pages(voxels)
    return image, voxels.reshape(image.GetDimensions()[::-1])


def _lay_onto(layer: Any, reference: Any) -> None:
    """Put a layer where the voxels of the volume are now, unless the volume has got others meanwhile, and tell that it is new.

    NumPy fills voxels unnoticed, and Slicer's undo keeps its older copy of a segment where the voxels look older than that.
    """
    image = reference.GetImageData()
    if image is not None and image.GetExtent() == layer.GetExtent():
        matrix = vtk.vtkMatrix4x4()
        reference.GetIJKToRASMatrix(matrix)
        layer.SetGeometryFromImageToWorldMatrix(matrix)
    layer.GetPointData().GetScalars().Modified()
    layer.Modified()


def _shown(node: Any, layer: Any) -> set[int]:
    """The values of a layer that segments of the node show already, whatever the user calls them: it grew while a run filled it."""
    segmentation = node.GetSegmentation() if node is not None and layer is not None else None
    count = segmentation.GetNumberOfSegments() if segmentation is not None else 0
    segments = [segmentation.GetNthSegment(index) for index in range(count)]
    return {each.GetLabelValue() for each in segments if each.GetRepresentation(binary()) is layer}


def _save_for_undo(node: Any) -> None:
    """Where the Segment Editor is open on a segmentation, its Undo brings back what is written over now, as after its own effects."""
    editor = getattr(getattr(slicer.modules, "SegmentEditorWidget", None), "editor", None)  # there once it was opened
    if editor is not None and editor.segmentationNodeID() == node.GetID():
        editor.saveStateForUndo()


def _put(
    segmentation: Any, label: Label, layer: Any, voxel_value: int, undo: list[Callable[[], None]]
) -> tuple[Any, int] | None:
    """Let a segment read ``voxel_value`` of the layer: the one of this name, or a new one.

    Removing and adding segments would copy and search whole layers, a second each for a large volume.

    Returns:
        The layer and value that a segment had before, or None.
    """
    segment_id = find_segment(segmentation, label.name)
    if segment_id is not None:
        segment = segmentation.GetSegment(segment_id)
        marked = status(segment)
        if marked == "completed":
            return None
        before = segment.GetRepresentation(binary()), segment.GetLabelValue()

        def restore() -> None:
            if marked:
                segment.SetTag(STATUS, marked)
            segment.SetLabelValue(before[1])
            segment.AddRepresentation(binary(), before[0])

        undo.append(restore)
        if marked:  # nobody worked on what is written now
            segment.SetTag(STATUS, "notstarted")
        segment.RemoveRepresentation(_surface())
        segment.SetTag(LABEL_TAG, str(label.value))
        segment.SetLabelValue(voxel_value)
        segment.AddRepresentation(binary(), layer)
        return before
    segment = slicer.vtkSegment()
    segment.SetName(label.name)
    segment.SetNameAutoGenerated(False)
    segment.SetColor(*(c / 255 for c in label.color))
    segment.SetColorAutoGenerated(False)
    segment.SetTag(LABEL_TAG, str(label.value))
    if label.terminology is not None:
        segment.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), label.terminology.serialized())
    segment.SetLabelValue(voxel_value)
    segment.AddRepresentation(binary(), layer)
    new_id = segmentation.GenerateUniqueSegmentID(f"Segment_{label.value}")
    segmentation.AddSegment(segment, new_id)
    undo.append(lambda: segmentation.RemoveSegment(new_id))
    return None


def _clear_left(segmentation: Any, left: list[tuple[Any, int]]) -> None:
    """Remove the voxels that replaced segments left in layers which other segments still use."""
    used = [segmentation.GetNthSegment(n) for n in range(segmentation.GetNumberOfSegments())]
    for layer in {id(layer): layer for layer, _ in left if layer is not None}.values():
        if layer.GetPointData().GetScalars() is None or all(s.GetRepresentation(binary()) is not layer for s in used):
            continue
        voxels = vtk_to_numpy(layer.GetPointData().GetScalars()).reshape(layer.GetDimensions()[::-1])
        passes.erase(voxels, [value for other, value in left if other is layer], passes.count())
        layer.GetPointData().GetScalars().Modified()
        layer.Modified()


def _surface() -> str:
    return slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()


def _place_beside(node: Any, reference: Any, scene: Any, created: bool) -> None:
    """A new node becomes a sibling of the volume in the subject hierarchy."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    if not created or hierarchy is None:
        return
    item, volume = hierarchy.GetItemByDataNode(node), hierarchy.GetItemByDataNode(reference)
    if item and volume:  # a hidden volume has none
        hierarchy.SetItemParent(item, hierarchy.GetItemParent(volume))

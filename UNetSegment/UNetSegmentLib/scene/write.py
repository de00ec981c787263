"""From a :class:`LabelMap` to a segmentation node beside its input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk

from ..errors import OutputError
from ..labels import Label
from ..volume import LabelMap

LABEL_TAG = "UNetSegment.Label"
ATTRIBUTE = "UNetSegment."


def write_segmentation(
    labels: LabelMap,
    reference: Any,
    node: Any = None,
    name: str = "",
    provenance: Mapping[str, str] | None = None,
    show_3d: bool = False,
    numbered: bool = False,
) -> Any:
    """Put a result into the scene.

    All segments of the result share one labelmap layer in the reference volume's own frame, and the node takes the
    volume's parent transform. In a node that exists, segments that this result names again are replaced and keep
    their ID; every other segment stays as it is.

    Args:
        labels: On the voxels of ``reference``.
        reference: The vtkMRMLScalarVolumeNode that was segmented.
        node: vtkMRMLSegmentationNode to write to; a new one by default.
        name: Of a new node.
        provenance: Kept as node attributes ``UNetSegment.<key>``.
        show_3d: Also make the surfaces.
        numbered: The array of ``labels`` holds 1, 2, ... in the order of its segments instead of their values.

    Returns:
        The segmentation node.

    Raises:
        OutputError: The node that exists is under another transform than the volume, or its segments hold no labelmaps.
    """
    scene = reference.GetScene()
    check_target(node, reference)
    layer = _layer(labels, reference, numbered)
    created = node is None
    if created:
        node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", scene.GenerateUniqueName(name or reference.GetName()))
        node.CreateDefaultDisplayNodes()
    before = slicer.vtkSegmentation()
    before.DeepCopy(node.GetSegmentation())
    modified = node.StartModify()
    try:
        if before.GetNumberOfSegments() == 0:
            node.SetAndObserveTransformNodeID(reference.GetTransformNodeID())
            node.SetReferenceImageGeometryParameterFromVolumeNode(reference)
        elif node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()) is None:
            node.SetReferenceImageGeometryParameterFromVolumeNode(reference)
        for index, label in enumerate(labels.segments):
            _put(node.GetSegmentation(), label, layer, index + 1)
        for key, text in (provenance or {}).items():
            node.SetAttribute(ATTRIBUTE + key, text)
    except Exception:
        if created:
            scene.RemoveNode(node.GetDisplayNode())
            scene.RemoveNode(node)
        else:
            node.GetSegmentation().DeepCopy(before)
        raise
    finally:
        node.EndModify(modified)
    _place_beside(node, reference, scene, created)
    if show_3d:
        node.CreateClosedSurfaceRepresentation()
        node.GetDisplayNode().SetVisibility3D(True)
    return node


def check_target(node: Any, reference: Any) -> None:
    """Refuse a segmentation node that a result for ``reference`` cannot be written to; None is a new one.

    Raises:
        OutputError: It is under another transform, or its segments hold no labelmaps.
    """
    if node is None or node.GetSegmentation().GetNumberOfSegments() == 0:
        return
    if node.GetTransformNodeID() != reference.GetTransformNodeID():
        raise OutputError(
            f"Segmentation '{node.GetName()}' is under another transform than volume '{reference.GetName()}'; "
            "choose a new segmentation, or put both under the same transform."
        )
    binary = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    if node.GetSegmentation().GetSourceRepresentationName() != binary:
        raise OutputError(
            f"Segmentation '{node.GetName()}' is stored as surfaces, not as labelmaps; choose a new segmentation, "
            "or make binary labelmap its source representation in the Segmentations module."
        )


def _layer(labels: LabelMap, reference: Any, numbered: bool) -> Any:
    """One vtkOrientedImageData in the reference volume's own frame; the n-th segment has the voxel value n + 1.

    Model values may exceed what Slicer's labelmaps hold, so they are numbered anew; names went by value before.
    """
    voxels = labels.array.T
    if not numbered:
        segments = labels.segments
        table = np.zeros(65536, np.uint8 if len(segments) < 256 else np.int16)
        table[[label.value for label in segments]] = np.arange(1, len(segments) + 1)
        voxels = table[voxels]
    scalars = numpy_to_vtk(voxels.reshape(-1), deep=True)
    scalars.SetName("ImageScalars")
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(labels.array.shape)
    image.GetPointData().SetScalars(scalars)
    matrix = vtk.vtkMatrix4x4()
    reference.GetIJKToRASMatrix(matrix)
    image.SetGeometryFromImageToWorldMatrix(matrix)
    return image


def _put(segmentation: Any, label: Label, layer: Any, voxel_value: int) -> None:
    """Add one segment that reads ``voxel_value`` of the layer, in the place of the one it replaces."""
    binary = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    segment = slicer.vtkSegment()
    segment.SetName(label.name)
    segment.SetNameAutoGenerated(False)
    segment.SetColor(*(c / 255 for c in label.color))
    segment.SetColorAutoGenerated(False)
    segment.SetTag(LABEL_TAG, str(label.value))
    if label.terminology is not None:
        segment.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), label.terminology.serialized())
    segment.SetLabelValue(voxel_value)
    segment.AddRepresentation(binary, layer)

    old = _find(segmentation, label.name)
    if old is None:
        segmentation.AddSegment(segment, segmentation.GenerateUniqueSegmentID(f"Segment_{label.value}"))
        return
    ids = [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]
    following = ids[ids.index(old) + 1] if old != ids[-1] else ""
    segmentation.RemoveSegment(old)
    segmentation.AddSegment(segment, old, following)


def _find(segmentation: Any, name: str) -> str | None:
    for index in range(segmentation.GetNumberOfSegments()):
        if segmentation.GetNthSegment(index).GetName() == name:
            return segmentation.GetNthSegmentID(index)
    return None


def _place_beside(node: Any, reference: Any, scene: Any, created: bool) -> None:
    """A new node becomes a sibling of the volume in the subject hierarchy."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    if not created or hierarchy is None:
        return
    parent = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(reference))
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(node), parent)

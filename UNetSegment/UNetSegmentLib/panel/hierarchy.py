"""The entry "Segment with U-Net" in the menu of a volume in the Data module and its like."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _


class HierarchyPlugin:
    """What Slicer's subject hierarchy asks a scripted plugin; what is left out here has a good default there.

    Args:
        scriptedPlugin: Slicer's own object, which it hands to the class that ``setPythonSource`` finds.
    """

    def __init__(self, scriptedPlugin: Any) -> None:
        self.scriptedPlugin = scriptedPlugin  # nothing else keeps it alive
        scriptedPlugin.name = "UNetSegment"
        self.action = qt.QAction(_("Segment with U-Net..."), scriptedPlugin)
        self.action.setObjectName("SegmentWithUNetAction")
        self.action.connect("triggered()", self.onAction)
        slicer.qSlicerSubjectHierarchyPluginHandler.instance().registerPlugin(scriptedPlugin)

    def canAddNodeToSubjectHierarchy(self, node: Any, parentItemID: int) -> float:
        return 0.0

    def canOwnSubjectHierarchyItem(self, itemID: int) -> float:
        return 0.0

    def roleForPlugin(self) -> str:
        return "N/A"

    def helpText(self) -> str:
        return ""

    def itemContextMenuActions(self) -> list:
        return [self.action]

    def sceneContextMenuActions(self) -> list:
        return []

    def showContextMenuActionsForItem(self, itemID: int) -> None:
        self.action.visible = volume_of(itemID) is not None

    def onAction(self) -> None:
        volume = volume_of(slicer.qSlicerSubjectHierarchyPluginHandler.instance().currentItem())
        if volume is not None:
            slicer.util.selectModule("UNetSegment")
            slicer.modules.unetsegment.widgetRepresentation().self().useVolume(volume)


def volume_of(itemID: int) -> Any:
    """The volume of an item of the subject hierarchy that can be segmented, or None."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    node = hierarchy.GetItemDataNode(itemID) if hierarchy is not None and itemID else None
    return node if node is not None and node.GetClassName() == "vtkMRMLScalarVolumeNode" else None


def register(source: str, message: Callable[[str], None]) -> None:
    """Have Slicer make the plugin: the class ``<module>SubjectHierarchyPlugin`` of the module's file ``source``."""
    if not hasattr(slicer, "qSlicerSubjectHierarchyScriptedPlugin"):  # a Slicer without its subject hierarchy's widgets
        return
    plugin = slicer.qSlicerSubjectHierarchyScriptedPlugin(None)
    if not plugin.setPythonSource(source):
        message("UNetSegment: the menu entry for volumes could not be added.")

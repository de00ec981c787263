"""The nodes chosen in the panel: volumes that are taken by themselves, and a fresh look whenever a chosen node changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer
import vtk
from slicer.util import VTKObservationMixin

from ..package import Manifest
from .guess import guess
from .state import MAX_INPUTS

DELAY_MS = 200
"""A node must rest this long before it is looked at again."""
NODES = {f"input{n}": f"inputSelector{n}" for n in range(1, MAX_INPUTS + 1)}
NODES |= {"outputSegmentation": "outputSelector", "region": "regionSelector"}
"""What of the parameter node are nodes, and the widgets that they are chosen in."""


class Volumes(VTKObservationMixin):
    """Looks after the chosen nodes of a panel.

    Args:
        changed: Called shortly after a chosen node changed, or a node came that may be chosen: with whether one came, and
            whether a volume is not what it was.
        is_of_other: Tells of a segmentation whether it was made from another volume than this one.
    """

    def __init__(self, changed: Callable[[bool, bool], None], is_of_other: Callable[[Any, Any], bool]) -> None:
        VTKObservationMixin.__init__(self)
        self._changed, self._is_of_other = changed, is_of_other
        self._nodes: list[Any] | None = None
        self._taken: str | None = None  # IDs, not nodes: who holds a node that left the scene holds its voxels
        self._volume: str | None = None
        self._parameters: Any = None
        self._came = self._differs = False
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(DELAY_MS)
        self._timer.connect("timeout()", self._onTimer)

    def attend(self, ui: Any) -> None:
        """Take what the user picks in the selectors, too: where Slicer is built with Qt 6, they tell it through the parameter node
        only where the name is another one, and two nodes may have one name."""
        for name, selector in NODES.items():
            widget = getattr(ui, selector)
            widget.connect("nodeActivated(vtkMRMLNode*)", lambda node, name=name: self._onPicked(name, node))

    def there(self) -> list[Any]:
        """The scalar volumes of the scene that can be chosen: no label maps, no colour images."""
        nodes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
        return [
            node for node in nodes if node.GetClassName() == "vtkMRMLScalarVolumeNode" and not node.GetHideFromEditors()
        ]

    def suggest(self, parameters: Any, manifest: Manifest | None) -> None:
        """Take volumes for the inputs of a model that have none: by their names, else the first one for the first input.

        What the user chose stays; what was taken by itself makes way where names tell better.
        """
        channels = manifest.channels[:MAX_INPUTS] if manifest is not None else ()
        inputs = [f"input{n}" for n in range(1, max(len(channels), 1) + 1)]
        chosen = [getattr(parameters, name) for name in inputs]
        if len(channels) > 1 and None in chosen:
            nodes = self.there()
            names = [f"{channel.name} {channel.title}" for channel in channels]
            found = [None if at is None else nodes[at] for at in guess(names, [node.GetName() for node in nodes])]
            for at, (name, node) in enumerate(zip(inputs, found, strict=True)):
                free = chosen[at] is None or (at == 0 and _id(chosen[at]) == self._taken)
                others = [
                    each for k, each in enumerate(chosen) if k != at and not (k == 0 and _id(each) == self._taken)
                ]
                if node is not None and free and node is not chosen[at] and node not in others:
                    setattr(parameters, name, node)
                    chosen[at] = node
        elif chosen[0] is None and (nodes := self.there()):
            parameters.input1, self._taken = nodes[0], _id(nodes[0])
            self._let_go(parameters, nodes[0])

    def follow(self, parameters: Any, inputs: list[Any], running: bool) -> None:
        """Watch what is chosen now; where another volume was chosen, let go what was made from the one before.

        Args:
            parameters: The parameter node.
            inputs: The chosen volume nodes; None where none is chosen.
            running: Whether a run is under way, which changes no choices.
        """
        self._parameters = parameters
        self._watch([*inputs, parameters.outputSegmentation, parameters.region])
        before, self._volume = self._volume, _id(inputs[0]) or self._volume
        if before is not None and before != self._volume and not running:
            self._let_go(parameters, inputs[0])

    def _let_go(self, parameters: Any, volume: Any) -> None:
        """Another volume's result is not to be overwritten: this one's goes to a new segmentation."""
        if self._is_of_other(parameters.outputSegmentation, volume):
            parameters.outputSegmentation = None

    def _watch(self, nodes: list[Any]) -> None:
        """From now on look again whenever one of these nodes changes, or a node comes into the scene."""
        nodes = list(dict.fromkeys(node for node in nodes if node is not None))
        if nodes == self._nodes:
            return
        self.removeObservers()
        self._nodes = nodes
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.NodeAddedEvent, self._onCame)
        self.addObserver(scene, scene.NodeAboutToBeRemovedEvent, self._onGoes, priority=1.0)  # before the selectors
        for node in nodes:
            for event in _events(node):
                self.addObserver(node, event, self._onChange)

    def stop(self) -> None:
        """Watch nothing any more."""
        self._timer.stop()
        self.removeObservers()
        self._nodes = self._volume = self._parameters = None

    def clear(self) -> None:
        """The scene went: its IDs will be given to other nodes."""
        self.stop()
        self._taken = None

    def _onPicked(self, name: str, node: Any) -> None:
        if self._parameters is not None and getattr(self._parameters, name) is not node:
            setattr(self._parameters, name, node)

    def _onCame(self, caller: Any, event: Any) -> None:
        self._came = True
        self._timer.start()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onGoes(self, caller: Any, event: Any, node: Any) -> None:
        """A node that is removed leaves its place empty: Slicer's selectors would choose the next one of the scene, to
        segment, to limit the run to, or to write to, which nobody asked for."""
        for name in NODES:
            if node is not None and getattr(self._parameters, name) is node:
                setattr(self._parameters, name, None)

    def _onChange(self, caller: Any, event: Any) -> None:
        self._differs = self._differs or bool(caller.IsA("vtkMRMLVolumeNode"))
        self._timer.start()

    def _onTimer(self) -> None:
        came, differs, self._came, self._differs = self._came, self._differs, False, False
        self._changed(came, differs)


def spread(region: Any, volume: Any) -> None:
    """Make a region of interest as large as a volume."""
    bounds = [0.0] * 6
    volume.GetRASBounds(bounds)
    region.SetCenter([(low + high) / 2 for low, high in zip(bounds[::2], bounds[1::2], strict=True)])
    region.SetSize([high - low for low, high in zip(bounds[::2], bounds[1::2], strict=True)])


def _id(node: Any) -> str | None:
    return node.GetID() if node is not None else None


def _events(node: Any) -> list[int]:
    """What tells that a node looks another way to a run."""
    events = [vtk.vtkCommand.ModifiedEvent, slicer.vtkMRMLTransformableNode.TransformModifiedEvent]
    if node.IsA("vtkMRMLVolumeNode"):
        events.append(slicer.vtkMRMLVolumeNode.ImageDataModifiedEvent)
    if node.IsA("vtkMRMLMarkupsNode"):
        events.append(slicer.vtkMRMLMarkupsNode.PointModifiedEvent)
    if node.IsA("vtkMRMLSegmentationNode"):
        events.append(slicer.vtkSegmentation.SegmentModified)
    return events

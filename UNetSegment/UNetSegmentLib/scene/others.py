"""Whether somebody else changed segments while a run was under way, as with a brush in the Segment Editor."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import vtk

from .target import open_layers


class Others:
    """Watches the voxels of segments that a run will write, or that grow while it runs; those marked as completed are not
    written, so they are not watched. Whoever changes them as well says :meth:`watch` again afterwards.

    Looking, saving, renaming, colours and surfaces modify no layer; a script that says ``Modified()`` of one without an edit is
    taken at its word, as the voxels of a layer that is being filled cannot be compared with anything.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[Any, int]] = {}
        self._tags: list[tuple[Any, int]] = []
        self._told = False

    def watch(self, node: Any, names: Collection[str]) -> None:
        """From now on, the segments of these names of a segmentation node; None has none."""
        self.stop()
        self._seen, self._told = open_layers(node, names), False
        for layer in {id(layer): layer for layer, _value in self._seen.values()}.values():
            self._tags.append((layer, layer.AddObserver(vtk.vtkCommand.ModifiedEvent, self._onModified)))

    def changed(self, node: Any, names: Collection[str]) -> bool:
        """Whether somebody did since."""
        return self._told or any(self._seen.get(name) != layer for name, layer in open_layers(node, names).items())

    def stop(self) -> None:
        """Watch nothing any more."""
        for layer, tag in self._tags:
            layer.RemoveObserver(tag)
        self._tags, self._seen = [], {}

    def _onModified(self, caller: Any, event: Any) -> None:
        self._told = True

"""The rooms that know MRML: nodes to :class:`Volume`, :class:`LabelMap` to nodes."""

from .read import world_volume
from .write import write_segmentation

__all__ = ["world_volume", "write_segmentation"]

"""The rooms that know MRML: nodes to :class:`Volume`, :class:`LabelMap` to nodes, and runs of the worker between them."""

from .read import world_volume
from .run import Result, Run
from .write import write_segmentation

__all__ = ["Result", "Run", "world_volume", "write_segmentation"]

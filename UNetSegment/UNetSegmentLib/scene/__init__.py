"""The rooms that know MRML: nodes to :class:`Volume`, :class:`LabelMap` to nodes, and runs of the worker between them."""

from .frames import FrameRun, frame_count
from .read import world_volume
from .region import region_box
from .run import Result, Run, kept_labels
from .write import write_segmentation

__all__ = [
    "FrameRun",
    "Result",
    "Run",
    "frame_count",
    "kept_labels",
    "region_box",
    "world_volume",
    "write_segmentation",
]

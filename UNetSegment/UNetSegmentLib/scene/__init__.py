"""The rooms that know MRML: nodes to :class:`Volume`, :class:`LabelMap` to nodes, and runs of the worker between them."""

from typing import TYPE_CHECKING

from ..later import names
from .target import check_present, check_target, corrected, holds_segments, made_from, target_note

if TYPE_CHECKING:
    from .frames import FrameRun, frame_count
    from .read import world_volume
    from .region import region_box
    from .run import Result, Run, kept_labels
    from .write import write_segmentation

__all__ = [
    "FrameRun",
    "Result",
    "Run",
    "check_present",
    "check_target",
    "corrected",
    "frame_count",
    "holds_segments",
    "kept_labels",
    "made_from",
    "region_box",
    "target_note",
    "world_volume",
    "write_segmentation",
]
__getattr__ = names(
    __name__,
    frames=("FrameRun", "frame_count"),
    read=("world_volume",),
    region=("region_box",),
    run=("Result", "Run", "kept_labels"),
    write=("write_segmentation",),
)

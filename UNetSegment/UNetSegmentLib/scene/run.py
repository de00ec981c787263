"""One segmentation of volume nodes in the worker, from the nodes to the segmentation node."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError, OutputError, UNetSegmentError
from ..labels import Label
from ..package import Manifest, Package
from ..predict import Progress, passes
from ..predict.reports import InputWarning
from ..volume import LabelMap
from ..worker import Outcome, Worker
from .others import Others
from .read import world_volume
from .target import check_present, check_target, completed, holds_segments, some
from .write import discard, layer_like, new_layer, write_segmentation

GROWING = 20
"""A new segmentation is shown while it is being filled, unless it has more structures than this."""
REDRAW = 0.25
"""Seconds between two redraws of a segmentation that is being filled."""


@dataclass(frozen=True)
class Result:
    """What a run gave.

    Args:
        node: The segmentation node.
        labels: The structures that were written.
        volumes_ml: Millilitres of each by label value.
        provenance: What was run.
        warnings: What looked wrong about the inputs.
    """

    node: Any
    labels: tuple[Label, ...]
    volumes_ml: dict[int, float]
    provenance: dict[str, str]
    warnings: tuple[InputWarning, ...] = ()


def kept_labels(manifest: Manifest, keep: Collection[int] | None = None) -> tuple[Label, ...]:
    """The structures of a model with the label values ``keep``; None: all.

    Raises:
        InputError: There is none among them.
    """
    labels = tuple(label for label in manifest.segments if keep is None or label.value in keep)
    if not labels:
        raise InputError("No structure is chosen; choose at least one of the model's structures.")
    return labels


def for_the_user(error: Exception) -> UNetSegmentError:
    """What ended a run while the scene was being written, as an error with a sentence: whoever waits for it must be told."""
    if isinstance(error, UNetSegmentError):
        return error
    logging.error("UNetSegment: a result could not be written", exc_info=error)
    why = f"{type(error).__name__}: {error}".removesuffix(": ")
    return OutputError(f"The result could not be written ({why}); the scene is as it was, see the log.")


class Run:
    """A segmentation under way; exactly one of ``on_done`` and ``on_error`` is called, while the worker is polled.

    Args:
        worker: Does the work.
        model: The model.
        nodes: One vtkMRMLScalarVolumeNode per channel of the model.
        target: vtkMRMLSegmentationNode to write to; None for a new one, which grows in the views while it runs.
        options: See :meth:`Worker.predict`.
        show_3d: Also make the surfaces.
        keep: Label values of the structures to write; None: all.
        is_frame: Whether the volume shows one frame of many, and may show another meanwhile.
        on_progress: Given a :class:`Progress` and the seconds that are left, or None where that is not known yet.
        on_warnings: Given the :class:`InputWarning` list, once, where the inputs look wrong.
        on_done: Given a :class:`Result`.
        on_error: Given the :class:`UNetSegmentError`; the scene is as it was.

    Raises:
        UNetSegmentError: What can be known at once is wrong; nothing was started.
    """

    def __init__(
        self,
        worker: Worker,
        model: Package,
        nodes: Sequence[Any],
        target: Any = None,
        options: dict[str, Any] | None = None,
        show_3d: bool = False,
        on_progress: Callable[[Progress, float | None], None] | None = None,
        on_done: Callable[[Result], None] | None = None,
        on_error: Callable[[UNetSegmentError], None] | None = None,
        keep: Collection[int] | None = None,
        on_warnings: Callable[[list[InputWarning]], None] | None = None,
        is_frame: bool = False,
    ) -> None:
        self._worker, self._model, self._nodes, self._target = worker, model, list(nodes), target
        self._show_3d, self._on_done, self._on_error, self._on_warnings = show_3d, on_done, on_error, on_warnings
        check_present(*self._nodes, target, has_begun=False)
        volumes = [world_volume(node) for node in self._nodes or [None]]  # None says what is missing
        self._labels = kept_labels(model.manifest, keep)
        self._names = [label.name for label in self._labels]
        check_target(target, self._nodes[0], self._names)
        numbering = {0: 0} | {label.value: 0 for label in model.manifest.labels}
        numbering |= {label.value: index for index, label in enumerate(self._labels, start=1)}
        self._grid = volumes[0].grid
        self._layer, self._voxels = new_layer(self._nodes[0], len(self._labels))
        self._grown: Any = None
        self._blank: threading.Thread | None = None
        self._drawn = 0.0
        self._others, self._is_left = Others(), False
        self._others.watch(target, self._names)
        self._seen = [] if is_frame else [(node, _time_of(node)) for node in self._nodes]
        self._warnings: tuple[InputWarning, ...] = ()
        grows = target is None and len(self._labels) <= GROWING
        if grows:  # in a thread: touching that much memory for the first time takes a tenth of a second
            self._blank = threading.Thread(target=self._voxels.fill, args=(0,), daemon=True)
            self._blank.start()
        self._job = worker.predict(
            str(model.root),
            volumes,
            numbering,
            options,
            on_answer=lambda array: self._fill((slice(None),) * 3, array),
            on_slab=self._fill,
            on_grown=self._grow if grows else None,
            on_progress=on_progress,
            on_warnings=self._warn,
            on_done=self._write,
            on_error=self._fail,
        )

    @property
    def finished(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self._job.finished

    def cancel(self) -> None:
        """Stop; ends with ``Cancelled``, and the scene is as it was."""
        self._worker.cancel(self._job)

    def _fill(self, box: tuple[slice, ...], array: np.ndarray) -> None:
        """In a thread of the client's: take over what is finished."""
        if self._blank is not None:
            self._blank.join()
        passes.transfer(self._voxels[box[::-1]], array[box].T, passes.count())

    def _grow(self) -> None:
        """Show what is finished of a new segmentation."""
        if self._is_left or self._nodes[0].GetScene() is None:
            return
        if self._grown is not None and (self._grown.GetScene() is None or self._leave(self._grown)):
            return
        if self._grown is None:
            self._grown = self._put(None)
        elif time.monotonic() - self._drawn < REDRAW:
            return
        self._redraw()

    def _redraw(self) -> None:
        self._others.stop()
        self._layer.GetPointData().GetScalars().Modified()
        self._layer.Modified()
        self._others.watch(self._grown, self._names)
        self._drawn = time.monotonic()

    def _leave(self, node: Any) -> bool:
        """Leave a segmentation to whoever changed it while this ran: the result goes to a new one. So it does where the
        segmentation is no longer under the transform of the volume; one that grows goes with the volume."""
        moved = node.GetTransformNodeID() != self._nodes[0].GetTransformNodeID()
        is_apart = moved and node is not self._grown and holds_segments(node)
        if not is_apart and not self._others.changed(node, self._names):
            return False
        self._others.stop()
        self._is_left = True
        if node is self._grown:  # what it shows is theirs as well
            self._grown = None
            self._layer, self._voxels = layer_like(self._layer)
        return True

    def _put(self, target: Any, provenance: dict[str, str] | None = None, last: bool = False) -> Any:
        manifest, reference = self._model.manifest, self._nodes[0]
        name = f"{reference.GetName()} {manifest.title}"
        labels = LabelMap(self._voxels.T, self._grid, self._labels)
        return write_segmentation(labels, reference, target, name, provenance, self._show_3d and last, self._layer)

    def _warn(self, warnings: list[InputWarning]) -> None:
        self._warnings = tuple(warnings)
        if self._on_warnings is not None:
            self._on_warnings(warnings)

    def _fail(self, error: UNetSegmentError) -> None:
        self._others.stop()
        node, self._grown = self._grown, None
        if node is not None:
            discard(node)
        if self._on_error is not None:
            self._on_error(error)

    def _write(self, outcome: Outcome) -> None:
        try:
            check_present(*self._nodes, self._target, self._grown)
            target = self._target if self._grown is None else self._grown
            if target is not None and self._leave(target):
                target = None
            if self._is_left:  # in a layer that has not got all slabs
                passes.transfer(self._voxels, outcome.array.T, passes.count())
            self._others.stop()
            left = completed(target, self._names)
            node = self._put(target, outcome.provenance, last=True)
        except Exception as error:
            self._fail(for_the_user(error))
            return
        ml = self._grid.voxel_volume_ml
        written = tuple(label for label in self._labels if label.name not in left)
        volumes = {label.value: outcome.voxels.get(label.value, 0) * ml for label in written}
        told = f"Marked as completed, left as it was: {some(left)}." if left else ""
        if self._is_left:
            told = "The segmentation was changed meanwhile, or the volume moved, so it is left: this result is in a new one."
        notes = " ".join(filter(None, [outcome.provenance.get("notes", ""), told, self._edited()]))
        if self._on_done is not None:
            self._on_done(Result(node, written, volumes, {**outcome.provenance, "notes": notes}, self._warnings))

    def _edited(self) -> str:
        """A sentence on volumes whose voxels are not those any more that the worker was given a copy of."""
        names = some([f"'{node.GetName()}'" for node, seen in self._seen if _time_of(node) != seen])
        return f"The voxels of {names} changed meanwhile: this result is of those from before." if names else ""


def _time_of(node: Any) -> int:
    """When the voxels of a volume node were last changed, in VTK's count; another image has another time."""
    image = node.GetImageData()
    return image.GetMTime() if image is not None else 0

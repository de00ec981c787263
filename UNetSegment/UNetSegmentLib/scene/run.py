"""One segmentation of volume nodes in the worker, from the nodes to the segmentation node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError, UNetSegmentError
from ..labels import Label
from ..package import Package
from ..predict import Progress
from ..volume import LabelMap
from ..worker import Worker
from ..worker.client import Outcome
from .read import world_volume
from .write import check_target, new_layer, write_segmentation


@dataclass(frozen=True)
class Result:
    """What a run gave: the segmentation node, its structures with their millilitres by label value, and what was run."""

    node: Any
    labels: tuple[Label, ...]
    volumes_ml: dict[int, float]
    provenance: dict[str, str]


class Run:
    """A segmentation under way; exactly one of ``on_done`` and ``on_error`` is called, while the worker is polled.

    Args:
        worker: Does the work.
        model: The model.
        nodes: One vtkMRMLScalarVolumeNode per channel of the model.
        target: vtkMRMLSegmentationNode to write to; None for a new one.
        options: See :meth:`Worker.predict`.
        show_3d: Also make the surfaces.
        on_progress: Given a :class:`Progress` and the seconds that are left, or None where that is not known yet.
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
    ) -> None:
        self._worker, self._model, self._nodes, self._target = worker, model, list(nodes), target
        self._show_3d, self._on_done, self._on_error = show_3d, on_done, on_error
        volumes = [world_volume(node) for node in self._nodes]
        if not volumes:
            raise InputError("No volume is chosen; choose one first.")
        check_target(target, self._nodes[0])
        segments = model.manifest.segments
        numbering = {0: 0} | {label.value: index + 1 for index, label in enumerate(segments)}
        self._grid = volumes[0].grid
        self._layer, voxels = new_layer(self._nodes[0], len(segments))

        def fill(array: np.ndarray) -> None:
            np.copyto(voxels, array.T)

        self._job = worker.predict(
            str(model.root),
            volumes,
            numbering,
            options,
            on_answer=fill,
            on_progress=on_progress,
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

    def _fail(self, error: UNetSegmentError) -> None:
        if self._on_error is not None:
            self._on_error(error)

    def _write(self, outcome: Outcome) -> None:
        manifest = self._model.manifest
        try:
            for node in (*self._nodes, self._target):
                if node is not None and node.GetScene() is None:
                    words = f"'{node.GetName()}' was removed while it was being segmented; nothing was written."
                    raise InputError(words)
            name = f"{self._nodes[0].GetName()} {manifest.title}"
            labels = LabelMap(outcome.array, self._grid, manifest.labels)
            node = write_segmentation(
                labels, self._nodes[0], self._target, name, outcome.provenance, self._show_3d, self._layer
            )
        except UNetSegmentError as error:
            self._fail(error)
            return
        ml = self._grid.voxel_volume_ml
        volumes = {label.value: outcome.voxels.get(label.value, 0) * ml for label in manifest.segments}
        if self._on_done is not None:
            self._on_done(Result(node, manifest.segments, volumes, outcome.provenance))

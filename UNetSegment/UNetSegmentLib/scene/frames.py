"""A volume that shows the frames of a sequence: segment every frame, into a sequence of segmentations beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import slicer

from ..errors import InputError, UNetSegmentError
from ..predict import Progress
from .write import discard

if TYPE_CHECKING:
    from ..package import Package
    from ..worker import Worker
    from .run import Result, Run


def browser_of(volume: Any) -> Any:
    """The sequence browser whose frames a volume node shows; None where it is a volume like any other."""
    module = getattr(slicer.modules, "sequences", None)
    if module is None or volume is None or volume.GetScene() is None:
        return None
    browser = module.logic().GetFirstBrowserNodeForProxyNode(volume)
    return browser if browser is not None and browser.GetNumberOfItems() > 1 else None


def frame_count(volume: Any) -> int:
    """How many frames the sequence has that a volume node shows; 1 for a volume like any other."""
    browser = browser_of(volume)
    return browser.GetNumberOfItems() if browser is not None else 1


class FrameRun:
    """Runs over all frames, one after the other, into a new segmentation; see :class:`Run` for the arguments.

    The frame that was shown is shown again at the end. Where a frame fails or is cancelled, the scene is as it was.

    Raises:
        UNetSegmentError: What can be known at once is wrong, or the volume shows no sequence; nothing was started.
    """

    def __init__(
        self,
        worker: Worker,
        model: Package,
        nodes: Sequence[Any],
        options: dict[str, Any] | None = None,
        show_3d: bool = False,
        on_progress: Callable[[Progress, float | None], None] | None = None,
        on_done: Callable[[Result], None] | None = None,
        on_error: Callable[[UNetSegmentError], None] | None = None,
        **more: Any,
    ) -> None:
        browser = browser_of(nodes[0] if nodes else None)
        if browser is None:
            raise InputError("The volume shows no sequence; choose one that does, or segment it as it is.")
        self._arguments = (worker, model, list(nodes))
        self._options, self._show_3d, self._more = options, show_3d, more
        self._on_progress, self._on_done, self._on_error = on_progress, on_done, on_error
        self._browser, self._count = browser, browser.GetNumberOfItems()
        self._before, self._frame = browser.GetSelectedItemNumber(), 0
        self._node: Any = None
        self._sequence = slicer.vtkMRMLSequenceNode()
        self._run: Run | None = None
        self._began = time.monotonic()
        self.finished = False
        try:
            self._next()
        except UNetSegmentError:
            self._show(self._before)
            raise

    def cancel(self) -> None:
        """Stop; ends with ``Cancelled``, and the scene is as it was."""
        if self._run is not None:
            self._run.cancel()

    def _show(self, frame: int) -> None:
        if self._browser.GetScene() is not None:
            self._browser.SetSelectedItemNumber(frame)
            slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(self._browser)

    def _next(self) -> None:
        from .run import Run

        self._show(self._frame)
        more = dict(self._more)
        if self._frame:  # told once
            more.pop("on_warnings", None)
        self._run = Run(
            *self._arguments,
            target=self._node,
            options=self._options,
            show_3d=self._show_3d and self._frame == self._count - 1,
            on_progress=self._tell,
            on_done=self._take,
            on_error=self._fail,
            is_frame=True,
            **more,
        )

    def _tell(self, report: Progress, seconds_left: float | None) -> None:
        if self._on_progress is not None:
            words = f"Frame {self._frame + 1} of {self._count} · {report.message}"
            fraction = (self._frame + report.fraction) / self._count
            passed = time.monotonic() - self._began
            left = passed * (1 / fraction - 1) if self._frame else None  # the first one tells how long a frame takes
            self._on_progress(Progress(report.stage, fraction, words), left)

    def _take(self, result: Result) -> None:
        self._node = result.node
        master = self._browser.GetMasterSequenceNode()
        if self._browser.GetScene() is None or master is None:
            self._fail(InputError("The sequence was removed from the scene during the run; nothing was written."))
            return
        self._sequence.SetDataNodeAtValue(result.node, master.GetNthIndexValue(self._frame))
        self._frame += 1
        if self._frame < self._count:
            try:
                self._next()
            except Exception as error:
                from .run import for_the_user

                self._fail(for_the_user(error))
            return
        self._finish(result, master)

    def _finish(self, result: Result, master: Any) -> None:
        self._run, self.finished = None, True  # the last run holds this: held in return, both would stay in memory
        sequence = self._sequence
        sequence.SetName(result.node.GetName())
        sequence.SetIndexName(master.GetIndexName())
        sequence.SetIndexUnit(master.GetIndexUnit())
        sequence.SetIndexType(master.GetIndexType())
        slicer.mrmlScene.AddNode(sequence)
        self._browser.AddProxyNode(
            result.node, sequence, False
        )  # not AddSynchronizedSequenceNode first: it makes a node too
        self._show(self._before)
        notes = f"{self._count} frames; the figures are those of the last."
        provenance = {**result.provenance, "notes": " ".join(filter(None, [result.provenance.get("notes"), notes]))}
        if self._on_done is not None:
            self._on_done(replace(result, provenance=provenance))

    def _fail(self, error: UNetSegmentError) -> None:
        self._run, self.finished = None, True
        node, self._node = self._node, None
        if node is not None:
            discard(node)
        self._show(self._before)
        if self._on_error is not None:
            self._on_error(error)

"""When memory is short: smaller batches, sums in main memory, smaller patches, the processor; never from the start.

Each step repeats only the patch at hand: what has been summed or handed out stays. Every step is noted in words.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import BackendError
from ..package import Inference
from .ensemble import Ensemble
from .tiles import Tiling, weights

SMALLEST = 16
"""No patch is made smaller than this along an axis where it was larger, in voxels."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory is short, on a GPU or in main memory, whichever library raised it."""
    if isinstance(error, MemoryError):
        return True
    text = f"{type(error).__name__} {error}".lower()
    words = ("out of memory", "outofmemory", "alloc_failed", "bad_alloc", "bad allocation", "not enough memory")
    return isinstance(error, RuntimeError) and any(word in text for word in (*words, "can't allocate"))


class Ladder:
    """A network that steps down instead of failing. Called as :class:`stitch.Run`.

    Args:
        open_: ``(device, patch_size) -> Ensemble``; device None is the one that was chosen.
        patch: Patch size of the model.
        inference: For the weights of smaller patches.
        tick: Served while the network runs.
        batch: Patches per run to begin with.
        can_leave: Whether the processor is a step: the chosen device is another one.
    """

    def __init__(
        self,
        open_: Callable[[str | None, tuple[int, ...]], Ensemble],
        patch: tuple[int, ...],
        inference: Inference,
        tick: Callable[[], None],
        batch: int = 1,
        can_leave: bool = False,
    ) -> None:
        self._open, self._patch, self._inference, self._tick = open_, tuple(patch), inference, tick
        self._device: str | None = None
        self._can_leave = can_leave
        self._small = self._patch
        self.batch = batch
        self.notes: list[str] = []
        self._network = open_(None, self._patch)

    def __call__(self, patches: np.ndarray, relieve: Callable[[], bool]) -> Any:
        """Answers (N, F, *patch) to patches (N, C, *patch)."""
        while True:
            try:
                return self._answers(patches)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            # Outside of the handler: the failed run's buffers are free only when its traceback is gone.
            self._network = None  # type: ignore[assignment]
            self._step_down(relieve)

    def _answers(self, patches: np.ndarray) -> Any:
        if self._network is None:
            self._network = self._open(self._device, self._small)
        if len(patches) <= self.batch:
            return self._answer(patches)
        whole: Any = None
        for n in range(0, len(patches), self.batch):
            part = self._answer(patches[n : n + self.batch])
            if whole is None:
                shape = (len(patches), *part.shape[1:])
                whole = np.empty(shape, part.dtype) if isinstance(part, np.ndarray) else part.new_empty(shape)
            whole[n : n + len(part)] = part
        return whole

    def _answer(self, patches: np.ndarray) -> Any:
        if self._small == self._patch:
            return self._network.run(patches, self._tick)
        return np.stack([self._in_parts(patch) for patch in patches])

    def _in_parts(self, patch: np.ndarray) -> np.ndarray:
        """One patch by smaller ones that overlap by half."""
        from .stitch import Stitcher

        tiling = Tiling.cover(self._patch, self._small, 0.5)

        def run(parts: np.ndarray, _: Callable[[], bool]) -> np.ndarray:
            answer = self._network.run(parts, self._tick)
            return answer if isinstance(answer, np.ndarray) else answer.float().cpu().numpy()

        stitched = Stitcher(tiling, weights(self._small, self._inference), run, np.zeros(1, np.float32))
        return np.concatenate([slab for _, slab in stitched(patch)], axis=1)

    def _step_down(self, relieve: Callable[[], bool]) -> None:
        if self.batch > 1:
            self.batch = 1
            self.notes.append("Memory was short: one patch was computed at a time.")
        elif relieve():
            self.notes.append("Memory was short on the GPU: the sums were moved to main memory.")
        elif (smaller := smaller_patch(self._small)) is not None:
            self._small = smaller
            size = " x ".join(map(str, smaller))
            self.notes.append(f"Memory was short: patches of {size} voxels were used; results may differ slightly.")
        elif self._can_leave:
            self._can_leave, self._device, self._small = False, "cpu", self._patch
            self.notes.append("The GPU's memory did not suffice: the processor took over.")
        else:
            raise BackendError(
                "There is not enough memory to run this model, even with small patches; close other programs, or "
                "choose a model with a smaller patch."
            )


def smaller_patch(patch: tuple[int, ...]) -> tuple[int, ...] | None:
    """About half of each axis, still divisible by what the network divides by; None where that is too small.

    A network that accepts ``n`` voxels pools by a factor that divides ``n``; multiples of the largest power of two in
    ``n`` are therefore accepted as well. U-Nets pool six times at most: multiples of 64 always are.
    """
    result = []
    for size in patch:
        power = min(size & -size, 64)
        half = -(-size // (2 * power)) * power
        result.append(half if half >= SMALLEST else size)
    return tuple(result) if tuple(result) != tuple(patch) else None

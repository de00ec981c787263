"""Export alone, ours: logits in memory, handed over in slabs as the stitching does, to labels on the input's grid."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.serve import serve, stage

_state: dict[str, Any] = {}


def load(logits: str, threads: int) -> None:
    """Import the library and hold the float16 logits (K, I, J, K), as nnU-Net's accumulator does."""
    export, interpolate, stitch = (
        importlib.import_module(f"UNetSegmentLib.predict.{name}") for name in ("export", "interpolate", "stitch")
    )
    _state.update(export=export, lerp=interpolate.Lerp, chunk=stitch.CHUNK_BYTES, threads=threads)
    _state["logits"] = np.load(logits)


def run(shape: list[int], out: str, compiled: bool | None = None) -> dict[str, Any]:
    """Labels on a grid of ``shape`` that covers the same space."""
    logits, module = _state["logits"], _state["export"]
    count = len(logits)
    decision = module.Decision(np.arange(count, dtype=np.uint8), np.arange(count))
    lerps = [_state["lerp"].edges(old, new) for old, new in zip(logits.shape[1:], shape, strict=True)]
    rows = max(_state["chunk"] // (4 * logits[:, 0].size), 1)

    def slabs() -> Iterator[tuple[int, np.ndarray]]:
        for start in range(0, logits.shape[1], rows):
            yield start, logits[:, start : start + rows].astype(np.float32)

    with stage("export"):
        labels = module.export(slabs(), lerps, decision, threads=_state["threads"], compiled=compiled)
    np.save(out, labels)
    return {"rows": rows}


if __name__ == "__main__":
    serve({"load": load, "run": run})

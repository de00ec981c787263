"""This project's predictor."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.serve import Stopwatch, gpu_memory, serve, stage

_state: dict[str, Any] = {}


def load(package: str, **options: Any) -> dict[str, Any]:
    """Import the library, open the package and make its network ready."""
    with stage("load"):
        from UNetSegmentLib import package as packages
        from UNetSegmentLib.predict import Predictor

        predictor = Predictor(packages.load(package), **options)
    watch = Stopwatch()
    for member in predictor._members:
        if member.device == "cpu":  # a GPU works on while the call returns
            member.run = watch.around(member.run)
    _state.update(predictor=predictor, watch=watch)
    return {"notes": predictor.notes}


def predict(image: str, affine: list[list[float]], out: str) -> dict[str, Any]:
    """Segment the (C, I, J, K) array in a file, from memory to memory."""
    from UNetSegmentLib.volume import Grid, Volume

    array = np.load(image)
    volume = Volume(array, Grid(array.shape[1:], np.asarray(affine)), tuple("abcdefgh"[: array.shape[0]]))
    _state["watch"].take()
    with stage("predict"):
        prediction = _state["predictor"].predict(volume)
    network = _state["watch"].take() | gpu_memory()
    np.save(out, prediction.labels.array)
    return {"network": network, "provenance": prediction.provenance}


if __name__ == "__main__":
    serve({"load": load, "predict": predict})

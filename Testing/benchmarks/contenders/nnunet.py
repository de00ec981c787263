"""The real nnU-Net's predictor, in its sequential forms (those with worker processes cost more on a single case)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serve import Stopwatch, gpu_memory, serve, stage

_state: dict[str, Any] = {}


def load(folder: str, mirror: bool, device: str, threads: int, exact: bool = False) -> dict[str, Any]:
    """Import nnU-Net and open a trained-model folder; ``exact`` makes it sum patches in float32, not in float16."""
    with stage("load"):
        import torch
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        torch.set_num_threads(threads)
        if exact:
            _sum_in_float32()
        predictor = nnUNetPredictor(
            use_mirroring=mirror,
            perform_everything_on_device=device == "cuda",
            device=torch.device(device),
            allow_tqdm=False,
        )
        fold = next(Path(folder).glob("fold_*")).name.removeprefix("fold_")
        predictor.initialize_from_trained_model_folder(folder, (fold if fold == "all" else int(fold),))
    watch = Stopwatch()
    if device == "cpu":  # a GPU works on while the call returns
        predictor._internal_maybe_mirror_and_predict = watch.around(predictor._internal_maybe_mirror_and_predict)
    _state.update(predictor=predictor, watch=watch)
    return {"torch": torch.__version__}


def _sum_in_float32() -> None:
    """What its predictor calls ``torch.half``, and the type of its Gaussian, become float32."""
    import torch
    from nnunetv2.inference import predict_from_raw_data as module

    class Torch:
        half = torch.float32

        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

    gaussian = module.compute_gaussian
    module.torch = Torch()
    module.compute_gaussian = partial(gaussian, dtype=torch.float32)


def predict(image: str, spacing: list[float], out: str) -> dict[str, Any]:
    """Segment the (C, I, J, K) array in a file, from memory to memory; ``spacing`` in mm along i, j, k."""
    array = np.load(image).transpose(0, 3, 2, 1).astype(np.float32)
    _state["watch"].take()
    with stage("predict"):
        labels = _state["predictor"].predict_single_npy_array(array, {"spacing": spacing[::-1]})
    network = _state["watch"].take() | gpu_memory()
    np.save(out, np.ascontiguousarray(labels.transpose(2, 1, 0)))
    return {"network": network}


def predict_file(image: str, out: str) -> dict[str, Any]:
    """Segment a file into a file with ``predict_from_files_sequential``; ``out`` without its ending."""
    _state["watch"].take()
    with stage("predict"):
        _state["predictor"].predict_from_files_sequential([[image]], [out])
    return {"network": _state["watch"].take()}


if __name__ == "__main__":
    serve({"load": load, "predict": predict, "predict_file": predict_file})

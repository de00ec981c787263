"""Export alone, nnU-Net's: ``convert_predicted_logits_to_segmentation_with_correct_shape``, its two ways to resample."""

from __future__ import annotations

from typing import Any

import numpy as np
from synthetic import nnunet

from benchmarks.contenders.make_nnunet import make_dataset, make_plans
from benchmarks.serve import serve, stage

_state: dict[str, Any] = {}


def load(logits: str, threads: int, resampling: str) -> None:
    """Import nnU-Net and hold the float16 logits; ``resampling`` is the name of a function that plans may name."""
    import torch
    from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    torch.set_num_threads(threads)
    plans = make_plans(1.0, 128, 1.5, {"mean": 0.0, "std": 1.0, "percentile_00_5": 0.0, "percentile_99_5": 1.0})
    configuration = plans["configurations"][nnunet.FULL]
    if resampling == "resample_torch_fornnunet":
        configuration["resampling_fn_probabilities"] = resampling
        configuration["resampling_fn_probabilities_kwargs"] = {"is_seg": False, "num_threads": threads}
    _state.update(manager=PlansManager(plans), convert=convert_predicted_logits_to_segmentation_with_correct_shape)
    _state.update(logits=torch.from_numpy(np.load(logits)), threads=threads)


def run(shape: list[int], spacing: float, out: str) -> dict[str, Any]:
    """Labels on a grid of ``shape`` at ``spacing`` mm."""
    manager, logits = _state["manager"], _state["logits"]
    properties = {
        "spacing": [spacing] * 3,
        "shape_before_cropping": tuple(shape),
        "shape_after_cropping_and_before_resampling": tuple(shape),
        "bbox_used_for_cropping": [[0, n] for n in shape],
    }
    configuration = manager.get_configuration(nnunet.FULL)
    label_manager = manager.get_label_manager(make_dataset(len(logits)))
    with stage("export"):
        labels = _state["convert"](
            logits, manager, configuration, label_manager, properties, False, num_threads_torch=_state["threads"]
        )
    np.save(out, labels)
    return {}


if __name__ == "__main__":
    serve({"load": load, "run": run})

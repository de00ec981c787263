"""nnU-Net's own planner, asked for plans of fingerprints that are not on disk; run by a Python that has nnunetv2.

``cd Testing && python -m peers.nnunet_planner FINGERPRINTS.json PLANS.json``: the first is a list of {"spacings", "shapes", "labels", "memory"}
with axes (k, j, i), the second gets per entry and configuration spacing, patch, batch, features, kernels and strides.
"""

import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path


def plan(fingerprint):
    """nnU-Net's configurations for one fingerprint, in its own axis order after transposition, and that order."""
    import torch
    from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner as planner

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        raw, done = Path(folder, "raw/Dataset001_X"), Path(folder, "done/Dataset001_X")
        (raw / "imagesTr").mkdir(parents=True)
        done.mkdir(parents=True)
        names = {"background": 0} | {f"L{n}": n for n in range(1, fingerprint["labels"])}
        cases = {f"c{n}": {"images": ["x.nii.gz"], "label": "x.nii.gz"} for n in range(len(fingerprint["shapes"]))}
        described = {
            "channel_names": {"0": "MRI"}, "labels": names, "numTraining": len(cases), "file_ending": ".nii.gz",
            "dataset": cases, "overwrite_image_reader_writer": "SimpleITKIO",
        }  # fmt: skip
        (raw / "dataset.json").write_text(json.dumps(described))
        statistics = {"mean": 0.0, "std": 1.0, "percentile_00_5": 0.0, "percentile_99_5": 1.0}
        known = {
            "spacings": fingerprint["spacings"], "shapes_after_crop": fingerprint["shapes"],
            "median_relative_size_after_cropping": 1.0, "foreground_intensity_properties_per_channel": {"0": statistics},
        }  # fmt: skip
        (done / "dataset_fingerprint.json").write_text(json.dumps(known))
        planner.nnUNet_raw, planner.nnUNet_preprocessed = str(raw.parent), str(done.parent)
        planner.maybe_convert_to_dataset_name = lambda name: "Dataset001_X"
        with torch.device("meta"):  # it builds a network per try, only to count
            plans = planner.ExperimentPlanner("Dataset001_X", fingerprint["memory"]).plan_experiment()
    answer = {}
    for name, c in plans["configurations"].items():
        if "architecture" in c:
            network = c["architecture"]["arch_kwargs"]
            answer[name] = {
                "spacing": c["spacing"], "patch": c["patch_size"], "batch": c["batch_size"],
                "filters": network["features_per_stage"], "kernels": network["kernel_sizes"],
                "strides": network["strides"], "batch_dice": c["batch_dice"],
            }  # fmt: skip
    return {"transpose": plans["transpose_forward"], "configurations": answer}


if __name__ == "__main__":
    found = [plan(f) for f in json.loads(Path(sys.argv[1]).read_text())]
    Path(sys.argv[2]).write_text(json.dumps(found, default=lambda x: x.tolist()))

"""nnU-Net on one fold for a given processor time; run by ``equal_time.py`` with the Python that has nnunetv2.

Prepares the dataset by nnU-Net's own experiment planning, measures a few steps, sets as many epochs as fit the time (so that
its learning rate runs its whole course) and trains, then predicts the validation cases with nnU-Net's own predictor.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path, help="Medical Segmentation Decathlon folder")
    parser.add_argument("work", type=Path)
    parser.add_argument("--minutes", type=float, required=True, help="processor minutes for training")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--epoch-steps", type=int, default=25, help="steps of an epoch; nnU-Net's own are 250")
    args = parser.parse_args()
    folders = {name: args.work / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    for name, folder in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        os.environ[name] = str(folder)
    os.environ |= {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1"}

    import torch
    from nnunetv2.dataset_conversion.generate_dataset_json import generate_dataset_json
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    torch.set_num_threads(1)
    name = "Dataset004_Task"
    ready = folders["nnUNet_preprocessed"] / name
    if not (ready / "nnUNetPlans_3d_fullres").is_dir():
        count = _raw(args.dataset, folders["nnUNet_raw"] / name, generate_dataset_json)
        extract_fingerprints([4], num_processes=1, check_dataset_integrity=False)
        plan_experiments([4])
        preprocess([4], configurations=("3d_fullres",), num_processes=(1,))
        print(f"nnU-Net: {count} cases prepared", flush=True)
    # augmentation in this process and thread too: its processor time is the whole cost
    os.environ["nnUNet_n_proc_DA"] = "0"
    plans = json.loads((ready / "nnUNetPlans.json").read_text())
    dataset_json = json.loads((ready / "dataset.json").read_text())

    def trainer() -> nnUNetTrainer:
        made = nnUNetTrainer(
            plans | {"continue_training": False}, "3d_fullres", args.fold, dataset_json, torch.device("cpu")
        )
        made.num_iterations_per_epoch, made.num_val_iterations_per_epoch = args.epoch_steps, 1
        made.save_every = 10
        return made

    trial = trainer()
    trial.num_epochs = 1
    trial.on_train_start()
    trial.on_train_epoch_start()
    trial.train_step(next(trial.dataloader_train))
    began = time.process_time()
    for _ in range(5):
        trial.train_step(next(trial.dataloader_train))
    step = (time.process_time() - began) / 5

    epochs = max(1, round(args.minutes * 60 / (step * (args.epoch_steps + 0.4))))
    print(f"nnU-Net: {step:.2f} processor seconds a step, {epochs} epochs of {args.epoch_steps} steps", flush=True)
    run = trainer()
    run.num_epochs = epochs
    cpu, wall = time.process_time(), time.time()
    run.run_training()
    spent = {"cpu_s": time.process_time() - cpu, "wall_s": time.time() - wall, "steps": epochs * args.epoch_steps}
    spent |= {"batch": run.configuration_manager.batch_size, "patch": list(run.configuration_manager.patch_size)}
    spent["parameters"] = sum(p.numel() for p in run.network.parameters())
    run.perform_actual_validation()
    (args.work / "nnunet.json").write_text(json.dumps(spent | {"answers": str(Path(run.output_folder) / "validation")}))


def _raw(source: Path, target: Path, write_json) -> int:
    """A Decathlon folder in nnU-Net's raw form, as links."""
    described = json.loads((source / "dataset.json").read_text())
    for part in ("imagesTr", "labelsTr"):
        (target / part).mkdir(parents=True, exist_ok=True)
    labels = sorted(p for p in (source / "labelsTr").glob("*.nii.gz") if not p.name.startswith("."))
    for label in labels:
        case = label.name.removesuffix(".nii.gz")
        for link, real in (
            (target / "labelsTr" / label.name, label),
            (target / "imagesTr" / f"{case}_0000.nii.gz", source / "imagesTr" / label.name),
        ):
            if not link.exists():
                link.symlink_to(real.resolve())
    names = {text: int(value) for value, text in described["labels"].items()}
    names = {("background" if value == 0 else text): value for text, value in names.items()}
    write_json(str(target), {0: "MRI"}, names, len(labels), ".nii.gz")
    return len(labels)


if __name__ == "__main__":
    main()

"""How long is an optimisation step, beside nnU-Net's own trainer: the same network, patch, batch, loss and optimiser.

    python training/benchmarks/step_time.py --nnunet-python /path/to/python --steps 4 --batch 8

Both are started once and take turns, a step each, on one thread and the same random patches. The network is nnU-Net's for the
hippocampus: 40 x 56 x 40, 32-64-128-256 features, Dice + cross-entropy with deep supervision, SGD with Nesterov momentum,
gradient norm at most 12. Ours is what ``fit`` runs, Lightning's loop included (``--set`` changes its settings); theirs is
``nnUNetTrainer.train_step``, which by its own rule computes in single precision on a processor. A step is everything from having a
batch to asking for the next. Processor seconds count on a busy computer; elapsed ones are given too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PATCH, FEATURES, CLASSES = (40, 56, 40), [32, 64, 128, 256], 3


def turns(steps: int) -> Iterator[int]:
    """A step each time a line comes in; says what the one before it took."""
    for step in range(steps + 2):
        sys.stdin.readline()
        cpu, wall = time.process_time(), time.perf_counter()
        yield step
        spent = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        print("STEP", json.dumps(spent), flush=True)


def ours(steps: int, batch: int, settings: list[str]) -> None:
    import numpy as np
    import SimpleITK as sitk
    import torch
    from torch.utils.data import DataLoader, IterableDataset
    from unetsegment_training import fit
    from unetsegment_training.config import FitConfig, parse_setting
    from unetsegment_training.dataset import read_dataset
    from unetsegment_training.pace import Pace
    from unetsegment_training.plan import draft_manifest
    from unetsegment_training.processes import Layout
    from unetsegment_training.processor import channels_last, keep_memory

    torch.set_num_threads(1)
    nnunet = {
        "filters": FEATURES, "patch": PATCH, "batch": batch, "optimizer": "sgd", "momentum": 0.99, "learning_rate": 0.01,
        "schedule": "poly", "warmup_steps": 0, "ema_decay": 0, "epochs": 1,
    }  # fmt: skip
    config = FitConfig(**nnunet | dict(map(parse_setting, settings)))

    class Turns(IterableDataset):
        def __len__(self) -> int:
            return steps + 2

        def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, list[str]]]:
            torch.manual_seed(0)
            x, y = torch.randn(batch, 1, *PATCH), torch.randint(0, CLASSES, (batch, *PATCH))
            for _ in turns(steps):
                yield x, y, ["random"] * batch

    class Data(fit.Cases):
        def train_dataloader(self) -> DataLoader:
            return DataLoader(Turns(), batch_size=None)

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        names = {"background": 0, "first": 1, "second": 2}
        for part in ("imagesTr", "labelsTr"):
            (root / part).mkdir()
            suffix = "_0000" * (part == "imagesTr")
            sitk.WriteImage(
                sitk.GetImageFromArray(np.ones(PATCH[::-1], np.uint8)), str(root / part / f"a{suffix}.nii.gz")
            )
        described = {"channel_names": {"0": "MRI"}, "labels": names, "numTraining": 1, "file_ending": ".nii.gz"}
        (root / "dataset.json").write_text(json.dumps(described))
        dataset = read_dataset(root)[0]
        module = fit.Segmenter(draft_manifest(dataset, config, dataset.cases), config, steps)
        trainer = fit._trainer(root / "run", config, "cpu", steps, False, Layout(), Pace())
        keep_memory()
        module.channels_last = channels_last(module.network)
        trainer.fit(module, Data([], [], config))


def theirs(steps: int, batch: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            os.environ[name] = folder
        ready = Path(folder) / "Dataset001_Step" / "step"
        ready.mkdir(parents=True)
        (ready / "a.b2nd").touch()  # by its name nnU-Net knows the kind of data

        import torch
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

        torch.set_num_threads(1)
        network = {
            "n_stages": 4, "features_per_stage": FEATURES, "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3] * 3] * 4, "strides": [[1] * 3] + [[2] * 3] * 3, "n_conv_per_stage": [2] * 4,
            "n_conv_per_stage_decoder": [2] * 3, "conv_bias": True, "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True}, "dropout_op": None, "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True},
        }  # fmt: skip
        configuration = {
            "data_identifier": "step", "batch_size": batch, "patch_size": PATCH, "spacing": [1.0] * 3, "batch_dice": False,
            "architecture": {
                "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                "arch_kwargs": network, "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
            },
        }  # fmt: skip
        plans = {
            "dataset_name": "Dataset001_Step", "plans_name": "nnUNetPlans", "configurations": {"3d_fullres": configuration},
            "label_manager": "LabelManager", "continue_training": False,
        }  # fmt: skip
        described = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "first": 1, "second": 2}}
        trainer = nnUNetTrainer(plans, "3d_fullres", 0, described, torch.device("cpu"))
        trainer.initialize()
        trainer.set_deep_supervision_enabled(True)
        trainer.network.train()
        torch.manual_seed(0)
        x, y = torch.randn(batch, 1, *PATCH), torch.randint(0, CLASSES, (batch, 1, *PATCH)).float()
        scales = [[round(1 / part) for part in scale] for scale in trainer._get_deep_supervision_scales()]
        targets = [y[:, :, ::i, ::j, ::k].contiguous() for i, j, k in scales]
        for _ in turns(steps):
            trainer.train_step({"data": x, "target": targets})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nnunet-python", help="interpreter that has nnunetv2; without it ours alone is measured")
    parser.add_argument("--steps", type=int, default=4, help="measured, after one that is not")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--set", action="append", default=[], help="setting of ours as key=value, e.g. precision=fp32")
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side == "ours":
        return ours(args.steps, args.batch, args.set)
    if args.side == "theirs":
        return theirs(args.steps, args.batch)

    sides = {"ours": sys.executable} | ({"theirs": args.nnunet_python} if args.nnunet_python else {})
    passed = [f"--steps={args.steps}", f"--batch={args.batch}", *(f"--set={text}" for text in args.set)]
    running = {}
    for side, python in sides.items():
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        if side == "theirs":
            environment.pop("PYTHONPATH", None)
        running[side] = subprocess.Popen(
            [python, __file__, "--side", side, *passed], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=environment,
        )  # fmt: skip
    spent: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for _ in range(args.steps + 1):
        for side, process in running.items():
            process.stdin.write("go\n")
            process.stdin.flush()
            line = next((line for line in process.stdout if line.startswith("STEP ")), None)
            if line is None:
                raise SystemExit(f"{side} ended without a step")
            spent[side].append(json.loads(line[5:]))
            print(side, spent[side][-1], flush=True)
    for process in running.values():
        process.stdin.close()
        process.kill()
    means = {}
    for side, steps in spent.items():
        cpu, wall = (sorted(step[key] for step in steps[1:]) for key in ("cpu", "wall"))
        means[side] = sum(cpu) / len(cpu)
        print(f"{side}: {means[side]:.2f} processor seconds a step ({cpu[0]:.2f} to {cpu[-1]:.2f}), "
              f"{sum(wall) / len(wall):.2f} elapsed")  # fmt: skip
    if len(means) == 2:
        print(f"theirs / ours: {means['theirs'] / means['ours']:.2f}")


if __name__ == "__main__":
    main()

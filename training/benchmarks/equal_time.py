"""Our recipe and nnU-Net's, trained on the same fold for the same processor time, one core each, and compared case by case.

    python training/benchmarks/equal_time.py DATASET WORK --nnunet-python PYTHON --minutes 45

Both run at the same time, each in one thread bound to a core of its own, so that whatever else the computer does falls on both.
Each measures its own steps first and sets as many epochs as fit, so both learning rates run their whole course. Answers are
each tool's own: nnU-Net's with its mirrored copies, ours as packed, plain and mirrored.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from unetsegment_training.compare import compare
from unetsegment_training.dataset import Case, read_dataset
from unetsegment_training.evaluate import evaluate
from unetsegment_training.metrics import measure, summarize
from unetsegment_training.pack import pack
from unetsegment_training.split import five_folds
from UNetSegmentLib import io

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("dataset", type=Path, help="Medical Segmentation Decathlon folder")
    parser.add_argument("work", type=Path, help="folder for both runs; can be continued")
    parser.add_argument("--nnunet-python", required=True, help="a Python that has nnunetv2")
    parser.add_argument("--minutes", type=float, default=45, help="processor minutes for each")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--card", type=Path, default=HERE.parent / "cards" / "hippocampus.json")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    cores = sorted(os.sched_getaffinity(0))[:2]
    theirs = threading.Thread(target=_train_nnunet, args=(args, cores[0]))
    theirs.start()
    ours = _train_ours(args, cores[-1])
    theirs.join()
    _score(args, ours)


def _train_nnunet(args: argparse.Namespace, core: int) -> None:
    if (args.work / "nnunet.json").exists():
        return
    command = [args.nnunet_python, str(HERE / "nnunet_run.py"), str(args.dataset), str(args.work)]
    _run([*command, "--minutes", str(args.minutes), "--fold", str(args.fold)], core, args.work / "nnunet.log")


def _train_ours(args: argparse.Namespace, core: int) -> dict[str, Any]:
    told = args.work / "ours.json"
    if told.exists():
        return json.loads(told.read_text())

    def fit(run: str, epochs: int) -> tuple[float, float]:
        command = [sys.executable, "-c", "from unetsegment_training.cli import main; main()", "fit"]
        command += [
            str(args.dataset),
            str(args.work / run),
            "--fold",
            str(args.fold),
            "--epochs",
            str(epochs),
            "--validate-every",
            "1000",
            "--device",
            "cpu",
        ]
        return _run(command, core, args.work / f"{run}.log")

    one, two = fit("trial-1", 1)[0], fit("trial-3", 3)[0]
    epoch = (two - one) / 2
    epochs = max(1, round(args.minutes * 60 / epoch))
    print(f"ours: {epoch:.1f} processor seconds an epoch, {epochs} epochs", flush=True)
    cpu, wall = fit("ours", epochs)
    spent = {"cpu_s": cpu, "wall_s": wall, "epochs": epochs}
    told.write_text(json.dumps(spent))
    return spent


def _run(command: list[str], core: int, log: Path) -> tuple[float, float]:
    """Processor and wall seconds of a command in one thread on one core.

    Raises:
        RuntimeError: It failed; the log says why.
    """
    began = time.time()
    with log.open("w") as file:
        child = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
        _, status, used = os.wait4(child.pid, 0)
    if status:
        raise RuntimeError(f"{command[0]} failed; see {log}")
    return used.ru_utime + used.ru_stime, time.time() - began


def _score(args: argparse.Namespace, ours: dict[str, Any]) -> None:
    """Both on the validation cases by the same measures, and the paired comparison."""
    dataset, _ = read_dataset(args.dataset)
    held = five_folds([case.name for case in dataset.cases])[args.fold]["val"]
    cases = [case for case in dataset.cases if case.name in held]
    nnunet = json.loads((args.work / "nnunet.json").read_text())
    names = {value: name for value, name in dataset.labels.items() if value}
    folders = {"nnunet": args.work / "nnunet-scores", "ours": args.work / "ours-scores"}
    _score_answers(cases, Path(nnunet["answers"]), names, folders["nnunet"])
    packed = args.work / "ours-packed"
    pack([args.work / "ours"], dataset, packed, json.loads(args.card.read_text()))
    evaluate(cases, packed, folders["ours"])

    console = Console()
    console.print(
        f"nnU-Net: {nnunet['cpu_s'] / 60:.1f} processor minutes, {nnunet['steps']} steps of {nnunet['batch']}"
    )
    console.print(f"ours: {ours['cpu_s'] / 60:.1f} processor minutes, {ours['epochs']} epochs")
    for name, folder in folders.items():
        for row in json.loads((folder / "summary.json").read_text()):
            low, high = row["dice_ci95"]
            console.print(f"{name:8} {row['name']:24} Dice {row['dice']:.4f} ({low:.4f} to {high:.4f})")
    for difference in compare(folders["nnunet"], folders["ours"])[0]:
        console.print(difference)


def _score_answers(cases: list[Case], answers: Path, names: dict[int, str], output: Path) -> None:
    """A folder of label maps, one per case, in the form that ``compare`` reads."""
    rows: list[dict[str, Any]] = []
    for case in cases:
        image, expert = case.load()
        answer = io.read_labelmap(answers / f"{case.name}.nii.gz").array
        for value, name in names.items():
            scores = measure(answer == value, expert.array == value, image.grid.spacing)
            rows.append({"case": case.name, "label": value, "name": name, **scores})
    output.mkdir(parents=True, exist_ok=True)
    (output / "summary.json").write_text(json.dumps(summarize(rows), indent=1))
    rows = [{k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in row.items()} for row in rows]
    (output / "cases.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

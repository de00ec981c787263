"""Five corrected cases of a new hospital: what does a model learn from them, and what does it unlearn?

    python training/benchmarks/fine_tuning.py DATASET WORK --model hippocampus-mr-t1

DATASET is the Decathlon's hippocampus. Of the 44 cases that the model has not seen (fold 0), some are turned into those of
a new hospital: contrast inverted, images smoothed (sigma 0.8 voxels), and another protocol, in which the border between
anterior and posterior lies three slices farther to the front. Five of them are saved as 3D Slicer saves a corrected
segmentation; twelve are for measuring, as are twelve others that stay as they are. Ten training cases of the model stand
for old cases at hand. Each way to train on runs with the command line's defaults; models are packed and measured as in
the clinic. WORK gets the data, runs, packages and ``result.json``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from unetsegment_training.cli import main as train
from unetsegment_training.dataset import Case, list_cases, read_dataset
from unetsegment_training.evaluate import evaluate
from unetsegment_training.parent import by_name
from unetsegment_training.split import five_folds
from UNetSegmentLib import io, package
from UNetSegmentLib.labels import Label
from UNetSegmentLib.volume import LabelMap

NAMES = {1: "Anterior hippocampus", 2: "Posterior hippocampus"}
SHIFT = 3
WAYS = {
    "nothing kept": ["--set", "keep=0"],
    "the model's reference patch": [],
    "and old cases rehearsed": ["--rehearse", "rehearse"],
}


def other_contrast(image: np.ndarray) -> np.ndarray:
    """An image (I, J, K) with its intensities inverted between the 0.5th and 99.5th percentile, smoothed, 0 to 1000."""
    low, high = np.percentile(image, (0.5, 99.5))
    inverted = 1 - np.clip((image - low) / (high - low), 0, 1)
    return (1000 * ndimage.gaussian_filter(inverted, 0.8)).astype(np.float32)


def other_protocol(label: np.ndarray) -> np.ndarray:
    """Labels (I, J, K), j to the front: the posterior part takes the first ``SHIFT`` slices of the anterior one."""
    border = int(np.argwhere(label == 2)[:, 1].max())
    slices = np.arange(label.shape[1])[None, :, None]
    return np.where((label == 1) & (slices <= border + SHIFT), 2, label)


def write(folder: Path, case: Case, changed: bool) -> None:
    """A case as 3D Slicer saves it: an image, and a segmentation with named segments."""
    image, label = case.load()
    turned, turn = image.reoriented("RAS")
    array, classes = turned.array[0], turn.apply(label.array)
    if changed:
        array, classes = other_contrast(array.astype(float)), other_protocol(classes)
    grid = turned.grid
    picture = sitk.GetImageFromArray(np.ascontiguousarray(array.astype(np.float32).T))
    lps = np.diag([-1.0, -1.0, 1.0])
    picture.SetSpacing(grid.spacing)
    picture.SetOrigin((lps @ grid.origin).tolist())
    picture.SetDirection((lps @ grid.direction).ravel().tolist())
    folder.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(picture, str(folder / f"{case.name}.nrrd"), useCompression=True)
    labels = tuple(Label(value, name) for value, name in NAMES.items())
    segmentation = LabelMap(np.ascontiguousarray(classes.astype(np.uint8)), grid, labels)
    io.write_labelmap(folder / f"{case.name}.seg.nrrd", segmentation)


def make(dataset: Path, work: Path) -> None:
    """The four groups of cases below ``work``: corrected, new, old, rehearse."""
    listed, _ = list_cases(dataset)
    by_case = {case.name: case for case in listed.cases}
    fold = five_folds(list(by_case))[0]
    rng = np.random.default_rng(7)
    # the model's reference patch is of the first validation case
    unseen, seen = rng.permutation(fold["val"][1:]), rng.permutation(fold["train"])
    groups = {"corrected": unseen[:5], "new": unseen[5:17], "old": unseen[17:29], "rehearse": seen[:10]}
    for group, names in groups.items():
        for name in names:
            write(work / group, by_case[str(name)], changed=group in ("corrected", "new"))


def measure(model: str | Path, group: Path, output: Path) -> dict[str, float]:
    """Mean Dice over the cases of a group: of each structure, and of both."""
    cases = by_name(read_dataset(group)[0], package.load(model).manifest).cases
    table = {row["name"]: row["dice"] for row in evaluate(cases, model, output)}
    return table | {"mean": float(np.mean(list(table.values())))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--model", default="hippocampus-mr-t1")
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--set", nargs="*", default=[], help="settings of every way, key=value")
    arguments = parser.parse_args()
    work = arguments.work
    if not (work / "rehearse").exists():
        make(arguments.dataset, work)
    path = work / "result.json"
    result = json.loads(path.read_text("utf-8")) if path.exists() else {}
    if "the model as it is" not in result:
        result["the model as it is"] = {
            group: measure(arguments.model, work / group, work / "evaluation" / f"before-{group}")
            for group in ("new", "old")
        }
    for way in arguments.ways:
        name = way.replace(" ", "-").replace("'", "")
        run, packed = work / name, work / f"{name}-model"
        more = [str(work / part) if (work / part).is_dir() else part for part in WAYS[way]]
        settings = [part for text in arguments.set for part in ("--set", text)]
        line = ["fit", str(work / "corrected"), str(run), "--from", arguments.model, "--fold", "-1", *more, *settings]
        began = time.process_time()
        if train(line) or train(["pack", str(work / "corrected"), str(run), str(packed)]):
            raise SystemExit(1)
        seconds = time.process_time() - began
        result[way] = {
            group: measure(packed, work / group, work / "evaluation" / f"{run.name}-{group}")
            for group in ("new", "old")
        } | {"cpu_seconds": round(seconds)}
        path.write_text(json.dumps(result, indent=1), "utf-8")
    for way, row in result.items():
        print(f"{way:28s} new {row['new']['mean']:.4f}  old {row['old']['mean']:.4f}")


if __name__ == "__main__":
    main()

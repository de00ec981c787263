"""Does the border-weighted loss of 2015 keep touching cells apart? The same U-Net, data and steps with and without it.

    python training/benchmarks/touching_cells.py WORK --epochs 40 --seeds 2

WORK gets the synthetic data, a run per loss and seed, ``result.json`` and ``cells.png``. The network is the unpadded U-Net of
Ronneberger et al. 2015 at an eighth of its width, with elastic deformation; whole images are segmented by overlapping tiles
with mirrored borders. Both losses see the same patches in the same order, from the same first weights.

Measured on validation images: cells found (matched at IoU > 0.5) as F1, the share of touching pairs that do not end up in one
connected piece, and the Dice of all cells as one mask; at probability 1/2, and at the threshold that gives the best F1 on
eight training images, as a stricter threshold alone cuts cells apart too.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from skimage.segmentation import find_boundaries

SIZE = 256
COMMON = {
    "network": "unet2015-valid", "dimensions": 2, "filters": (8, 16, 32, 64, 128), "patch": (284, 284), "batch": 2,
    "norm": "batch", "init": "he", "steps_per_epoch": 16, "elastic": 0.5, "elastic_sigma": 4.0, "foreground_share": 0.0,
    "learning_rate": 3e-3, "ema_decay": 0.98, "mirror_axes": (0, 1), "class_weights": (1.0, 1.0),
}  # fmt: skip
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
CONTENDERS = {"cross-entropy": {"loss": "ce"}, "border-weighted": {"loss": "border_ce"}}


def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An image (H, W) float32 and its cells, numbered from 1 (H, W): clusters whose cells share faint, broken borders."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(float)
    best, cells = np.full((SIZE, SIZE), np.inf), np.zeros((SIZE, SIZE), int)
    count = 0
    for _ in range(rng.integers(7, 11)):  # clusters
        middle = rng.uniform(20, SIZE - 20, 2)
        for _ in range(rng.integers(2, 6)):
            centre, radius = middle + rng.normal(0, 17, 2), rng.uniform(10, 16)
            dy, dx = y - centre[0], x - centre[1]
            angle = np.arctan2(dy, dx)
            wave = sum(rng.normal(0, 0.07) * np.cos(n * angle + rng.uniform(0, 6.3)) for n in (2, 3, 4))
            distance = np.hypot(dy, dx) / (radius * (1 + wave))
            count += 1
            mine = (distance < 1) & (distance < best)
            cells[mine], best[mine] = count, distance[mine]
    for number in range(1, count + 1):  # what a neighbour cut in pieces keeps its largest
        pieces, many = ndimage.label(cells == number)
        sizes = np.bincount(pieces.ravel())[1:]
        keep = int(np.argmax(sizes)) + 1 if many and sizes.max() >= 80 else 0
        cells[(cells == number) & ((pieces != keep) | (keep == 0))] = 0
    inside = cells > 0
    image = (
        0.45 * ndimage.gaussian_filter(inside.astype(float), 1.5)
        + 0.15 * ndimage.gaussian_filter(rng.standard_normal((SIZE, SIZE)), 4) * inside * 8
    )
    border = find_boundaries(cells, mode="inner") & inside & (ndimage.grey_dilation(cells, 3) != cells)
    faint = np.clip(ndimage.gaussian_filter(rng.standard_normal((SIZE, SIZE)), 6) * 14 + 0.9, 0.1, 1.4)
    image -= 0.55 * ndimage.gaussian_filter(border * faint, 0.8)
    image += 0.3 * ndimage.gaussian_filter(rng.standard_normal((SIZE, SIZE)), 40) * 40
    image += 0.09 * rng.standard_normal((SIZE, SIZE))
    return (100 + 100 * image).astype(np.float32), cells


def ridged(cells: np.ndarray) -> np.ndarray:
    """Cells as one class, with a line of background between touching ones, as the paper's labels have."""
    low = ndimage.minimum_filter(np.where(cells > 0, cells, cells.max() + 1), 3)
    high = ndimage.maximum_filter(cells, 3)
    return ((cells > 0) & ~((low != high) & (low <= cells.max()) & (low > 0))).astype(np.uint8)


def touching(cells: np.ndarray) -> set[tuple[int, int]]:
    """Pairs of cells that share a border of five pixels at least."""
    pairs: dict[tuple[int, int], int] = {}
    for a, b in ((cells[1:], cells[:-1]), (cells[:, 1:], cells[:, :-1])):
        meet = (a != b) & (a > 0) & (b > 0)
        for pair in zip(a[meet], b[meet], strict=True):
            key = (int(min(pair)), int(max(pair)))
            pairs[key] = pairs.get(key, 0) + 1
    return {pair for pair, length in pairs.items() if length >= 5}


def score(mask: np.ndarray, cells: np.ndarray) -> dict[str, float]:
    """Counts of one image: cells, pieces found, matches, touching pairs, pairs kept apart, overlap and sizes."""
    pieces, found = ndimage.label(mask)
    matches, home = 0, {}
    for number in np.unique(cells[cells > 0]):
        mine = cells == number
        inside = np.bincount(pieces[mine], minlength=found + 1)
        inside[0] = 0
        piece = int(inside.argmax())
        home[int(number)] = piece if inside[piece] > 0.3 * mine.sum() else 0
        union = mine.sum() + (pieces == piece).sum() - inside[piece]
        matches += bool(piece) and inside[piece] / union > 0.5
    pairs = touching(cells)
    apart = sum(home[a] != home[b] and home[a] > 0 and home[b] > 0 for a, b in pairs)
    return {
        "cells": len(home), "found": found, "matches": int(matches), "pairs": len(pairs), "apart": int(apart),
        "both": int((mask & (cells > 0)).sum()), "sizes": int(mask.sum() + (cells > 0).sum()),
    }  # fmt: skip


def rates(images: list[tuple[np.ndarray, np.ndarray]], level: float) -> dict[str, float]:
    """:func:`score` summed over pairs of probability (H, W) and numbered cells (H, W), and the rates from the sums."""
    counts = [score(chance > level, cells) for chance, cells in images]
    total = {key: sum(one[key] for one in counts) for key in counts[0]}
    return {
        "f1": 2 * total["matches"] / (total["cells"] + total["found"]),
        "pairs_apart": total["apart"] / total["pairs"],
        "dice": 2 * total["both"] / total["sizes"],
        **total,
    }


def write(folder: Path, images: int) -> dict[str, np.ndarray]:
    """A training folder in nnU-Net's layout; the numbered cells of every image."""
    rng, truth = np.random.default_rng(2015), {}
    for index in range(images):
        name = f"cells_{index:03d}"
        image, truth[name] = draw(rng)
        for place, array in (("imagesTr", image), ("labelsTr", ridged(truth[name]))):
            (folder / place).mkdir(parents=True, exist_ok=True)
            suffix = "_0000" if place == "imagesTr" else ""
            sitk.WriteImage(sitk.GetImageFromArray(array[None]), str(folder / place / f"{name}{suffix}.nii.gz"))
    entry = {"name": "Touching cells", "channel_names": {"0": "phase contrast"}, "labels": {"background": 0, "cell": 1}}
    (folder / "dataset.json").write_text(json.dumps(entry | {"licence": "CC0-1.0"}))
    return truth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--images", type=int, default=40)
    options = parser.parse_args()

    from unetsegment_training.config import FitConfig
    from unetsegment_training.dataset import read_dataset
    from unetsegment_training.fit import averaged_weights, fit
    from unetsegment_training.infer import logits
    from unetsegment_training.network import build_for_training
    from unetsegment_training.patches import prepare
    from UNetSegmentLib.package import Manifest

    truth = write(options.work / "data", options.images)
    dataset, _ = read_dataset(options.work / "data")
    rows, pictures = [], {}
    for seed in range(options.seeds):
        for name, own in CONTENDERS.items():
            run, began = options.work / f"{name}-{seed}", time.perf_counter()
            config = FitConfig(**COMMON, **own, epochs=options.epochs, validate_every=options.epochs, seed=seed)
            fit(dataset, run, config, "cpu")
            seconds = time.perf_counter() - began
            manifest = Manifest.from_dict(json.loads((run / "manifest.json").read_text()))
            network = build_for_training(manifest, config).eval()
            network.load_state_dict(averaged_weights(run, manifest)[0])
            split = json.loads((run / "split.json").read_text())[config.fold]["val"]
            answers = []
            for case in dataset.cases:
                image = prepare(case, manifest)
                cells = truth[case.name].T[::-1, ::-1]  # the files' first axis is x, and RAS turns both
                assert np.array_equal(ridged(cells), image.classes[0])
                chance = 1 / (1 + np.exp(-np.diff(logits(network, image.image, manifest, config), axis=0)[0, 0]))
                answers.append((case.name in split, chance, cells))
                if case.name in split:
                    shown = pictures.setdefault(case.name, {"image": image.image[0, 0], "cells": cells})
                    shown[f"{name} {seed}"] = chance > 0.5
            known = [(chance, cells) for held_out, chance, cells in answers if not held_out][:8]
            best = max(THRESHOLDS, key=lambda level: rates(known, level)["f1"])
            held_out = [(chance, cells) for held, chance, cells in answers if held]
            for level in dict.fromkeys((0.5, best)):
                row = {"loss": name, "seed": seed, "threshold": level, **rates(held_out, level)}
                rows.append({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
                print(rows[-1], f"{seconds:.0f} s", flush=True)
    (options.work / "result.json").write_text(json.dumps(rows, indent=1))
    picture(options.work / "cells.png", pictures)


def picture(path: Path, pictures: dict[str, dict[str, np.ndarray]]) -> None:
    """Two validation images with the true cells' outlines and each loss's answer in colours by piece."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = list(pictures.values())[:2]
    columns = ["cells", *[key for key in shown[0] if key not in ("image", "cells") and key.endswith(" 0")]]
    figure, axes = pyplot.subplots(len(shown), 1 + len(columns), figsize=(4 * (1 + len(columns)), 4 * len(shown)))
    for row, entry in zip(axes, shown, strict=True):
        row[0].imshow(entry["image"].T, cmap="gray")
        row[0].set_title("image")
        for axis, key in zip(row[1:], columns, strict=True):
            pieces = entry["cells"] if key == "cells" else ndimage.label(entry[key])[0]
            colours = np.random.default_rng(3).permutation(int(pieces.max())) + 1
            shuffled = np.concatenate([[0], colours])[pieces] if key != "cells" else pieces
            axis.imshow(np.ma.masked_equal(shuffled, 0).T, cmap="tab20", interpolation="nearest")
            axis.set_title("the truth" if key == "cells" else key)
        for axis in row:
            axis.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=70)


if __name__ == "__main__":
    main()

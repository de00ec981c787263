"""How often the warnings before a run are right: ``cd Testing && python -m benchmarks.sanity /path/to/shared``.

Right and wrong inputs for five models are made from real images (``data/hippocampus``, ``data/ct_torso`` and
``models/nnunet_hippocampus`` of the shared folder). Thresholds were chosen on the ``even`` half; the ``odd`` half measures.
Hippocampus cases are those of fold 0's validation, which the shipped model's fingerprint has not seen, by turns; the CT is
the upper half of the 3 mm torso (even, and the CT models' fingerprint), its lower half and the DICOM series (odd).
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "UNetSegment"))  # this clone's library, not another

from UNetSegmentLib import io, package  # noqa: E402
from UNetSegmentLib.package import Manifest  # noqa: E402
from UNetSegmentLib.predict import Predictor, gather  # noqa: E402
from UNetSegmentLib.predict.appearance import Appearance, summary  # noqa: E402
from UNetSegmentLib.predict.sanity import check  # noqa: E402
from UNetSegmentLib.volume import Grid, Volume, dice  # noqa: E402

from .changes import (  # noqa: E402
    as_picture,
    as_t2,
    blurred,
    cropped,
    cut_out,
    noise,
    oblique,
    padded,
    resampled,
    tiled,
    valued,
    with_spacing,
)  # fmt: skip

NEARLY = "(borderline)"


@dataclass(frozen=True, eq=False)
class Pair:
    """Inputs given to a model; ``wrong`` says whether a person should be warned."""

    model: str
    kind: str
    wrong: bool
    volumes: tuple[Volume, ...]


def main() -> int:
    """Print the table; 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sanity", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("shared", type=Path, help="the shared folder with data/ and models/")
    parser.add_argument(
        "--half", choices=("even", "odd"), default="odd", help="odd measures, even chose the thresholds"
    )
    parser.add_argument("--cases", type=int, default=22, help="hippocampus cases of a half that are changed (of 22)")
    parser.add_argument("--every", action="store_true", help="also print each pair with its warnings")
    parser.add_argument(
        "--dice", action="store_true", help="instead: what each change does to the shipped model's Dice"
    )
    chosen = parser.parse_args()
    if chosen.dice:
        print(effects(chosen.shared, chosen.half, chosen.cases))
        return 0
    print(report(chosen.shared, chosen.half, chosen.cases, chosen.every))
    return 0


def report(shared: Path, half: str, cases: int, every: bool) -> str:
    """The table in Markdown, with the counts and the misses below."""
    models = Models(shared)
    rows: dict[tuple[bool, str, str], list[list[str]]] = {}
    lines, seconds = [], []
    for pair in pairs(shared, models, half, cases):
        manifest = models.manifests[pair.model]
        began = time.process_time()
        found = check(pair.volumes, manifest)
        seconds.append(time.process_time() - began)
        rows.setdefault((pair.wrong, pair.model, pair.kind), []).append([w.code for w in found])
        if every:
            lines += [f"- {pair.model}, {pair.kind}: " + (" / ".join(w.message for w in found) or "-")]
    text = ["| | model | input | warned | warnings |", "|---|---|---|---|---|"]
    for (wrong, model, kind), codes in sorted(rows.items(), key=lambda row: row[0][0]):
        named = sorted({code for each in codes for code in each})
        warned = f"{sum(map(bool, codes))} of {len(codes)}"
        text.append(f"| {'wrong' if wrong else 'right'} | {model} | {kind} | {warned} | {', '.join(named)} |")
    for wrong, word in ((True, "wrong inputs caught"), (False, "right inputs accused")):
        each = [bool(codes) for row, found in rows.items() if row[0] is wrong for codes in found]
        kinds = [
            all(map(bool, codes)) if wrong else any(map(bool, codes)) for row, codes in rows.items() if row[0] is wrong
        ]
        how = "rows caught every time" if wrong else "rows with an accusation"
        text.append(f"\n{sum(each)} of {len(each)} {word} ({half} half); {sum(kinds)} of {len(kinds)} {how}.")
    text.append(
        f"\nOne check takes {np.median(seconds) * 1e3:.0f} ms of processor time (median), {max(seconds) * 1e3:.0f} ms (most)."
    )
    return "\n".join(lines + text)


def effects(shared: Path, half: str, cases: int) -> str:
    """Mean Dice of the shipped model on changed hippocampus images, for changes that leave the voxels where they are."""
    model = package.load(ROOT / "Resources/Models/hippocampus-mr-t1")
    predictor = Predictor(model, device="cpu")
    names = folds(shared)[1][half == "odd" :: 2][:cases]
    text = ["| | input | Dice |", "|---|---|---|"]
    for wrong, kind, change in _changes(np.random.default_rng(0)):
        found = []
        for name in names:
            image = change(_read(shared, name))
            if image.grid.orientation != "RAS" or not np.allclose(image.grid.spacing, 1) or max(image.grid.shape) > 80:
                continue
            expert = io.read_labelmap(shared / "data/hippocampus/labelsTr" / f"{name}.nii.gz")
            extra = [(n - m) // 2 for n, m in zip(image.grid.shape, expert.grid.shape, strict=True)]
            answer = predictor.predict(gather([image], model.manifest)).labels.array
            if min(extra) >= 0:
                answer = answer[tuple(slice(e, e + n) for e, n in zip(extra, expert.grid.shape, strict=True))]
                found.append(np.mean([dice(answer == value, expert.array == value) for value in (1, 2)]))
        if found:
            text.append(f"| {'wrong' if wrong else 'right'} | {kind} | {np.mean(found):.2f} |")
    return "\n".join(text)


class Models:
    """The five manifests."""

    def __init__(self, shared: Path) -> None:
        shipped = json.loads((ROOT / "Resources/Models/hippocampus-mr-t1/configs/manifest.json").read_text("utf-8"))
        upper = torso(shared, "even")
        two = _two_channels(shared, shipped)
        self.manifests = {
            "hippocampus": Manifest.from_dict(shipped),
            "nnU-Net hippocampus": package.load(shared / "models" / "nnunet_hippocampus").manifest,
            "CT": Manifest.from_dict(_ct(shipped, upper)),
            "nnU-Net-like CT": Manifest.from_dict(_foreground_ct(shipped, shared, upper)),
            "T1 + T2": Manifest.from_dict(two),
        }


def _ct(shipped: dict[str, Any], image: Volume) -> dict[str, Any]:
    """A CT model as this project would train it, of one image."""
    raw = copy.deepcopy(shipped)
    clip = {"method": "clip_zscore", "clip": [-900.0, 1200.0], "mean": 30.0, "std": 250.0}
    raw["channels"] = [{"name": "CT", "title": "CT", "modality": "CT", "normalization": clip}]
    raw["preprocessing"]["spacing"] = [3.0, 3.0, 3.0]
    raw["inference"]["patch_size"] = [64, 64, 32]
    row = Appearance.of(image.array[0]).statistics()
    lengths = {
        name: list(map(float, values)) for name, values in (("spacing", image.grid.spacing), ("size", image.grid.shape))
    }
    raw["fingerprint"] = {name: {way: values for way in ("min", "median", "max")} for name, values in lengths.items()}
    raw["fingerprint"]["intensity"] = [row | {"cases": summary([row])}]
    return raw


def _foreground_ct(shipped: dict[str, Any], shared: Path, image: Volume) -> dict[str, Any]:
    """A CT model with what an nnU-Net folder tells: medians, and the intensities of labelled voxels."""
    raw = _ct(shipped, image)
    inside = image.array[0][torso_labels(shared, "even").array[0] > 0]
    low, middle, high = np.percentile(inside, (0.5, 50, 99.5))
    raw["preprocessing"]["spacing"] = [1.0, 1.0, 2.0]
    raw["inference"]["patch_size"] = [192, 192, 16]
    raw["fingerprint"] = {
        "spacing": {"median": [1.0, 1.0, 2.0]},
        "size": {"median": [366.0, 303.0, 84.0]},
        "intensity": [
            {"mean": float(inside.mean()), "std": float(inside.std()), "p00_5": low, "p50": middle, "p99_5": high}
        ],
    }
    return raw


def _two_channels(shared: Path, shipped: dict[str, Any]) -> dict[str, Any]:
    """A model of T1 and an imitation of T2, with the fingerprint of the first 40 training cases."""
    raw = copy.deepcopy(shipped)
    one = raw["channels"][0]
    raw["channels"] = [one, one | {"name": "T2", "title": "T2"}]
    raw["network"]["arguments"]["in_channels"] = 2
    images = [_read(shared, name) for name in folds(shared)[0][:40]]
    channels = ([Appearance.of(f(image).array[0]).statistics() for image in images] for f in (lambda v: v, as_t2))
    raw["fingerprint"]["intensity"] = [{"cases": summary(rows)} for rows in channels]
    return raw


def folds(shared: Path) -> tuple[list[str], list[str]]:
    """Names of the training and validation cases of fold 0, as the training code splits them."""
    sys.path.insert(0, str(ROOT / "training" / "src"))
    from unetsegment_training.split import five_folds

    names = [path.name.split(".")[0] for path in (shared / "data/hippocampus/imagesTr").glob("*.nii.gz")]
    first = five_folds(names)[0]
    return sorted(first["train"]), sorted(first["val"])


def _read(shared: Path, name: str) -> Volume:
    return io.read_volume(shared / "data/hippocampus/imagesTr" / f"{name}.nii.gz")


def torso(shared: Path, half: str) -> Volume:
    """The upper (even) or lower (odd) half of the torso."""
    return _half(io.read_volume(shared / "data/ct_torso/ct_3mm.nii.gz"), half)


def torso_labels(shared: Path, half: str) -> Volume:
    """Its label map, as an image."""
    labels = io.read_labelmap(shared / "data/ct_torso/labels_3mm.nii.gz")
    return _half(Volume(labels.array[None], labels.grid, ("labels",)), half)


def _half(whole: Volume, half: str) -> Volume:
    n = whole.grid.shape[2] // 2
    return cropped(whole, (0, 0, n if half == "even" else 0), (*whole.grid.shape[:2], n))


def pairs(shared: Path, models: Models, half: str, cases: int) -> Iterator[Pair]:
    """All pairs of a half; unchanged, all its hippocampus cases are taken, changed, the first ``cases``."""
    names = folds(shared)[1][half == "odd" :: 2]
    heads = [_read(shared, name) for name in names]
    few, ct = heads[:cases], torso(shared, half)
    small = cropped(ct, (40, 30, 10), (36, 50, 36))
    random = np.random.default_rng(0)
    for model in ("hippocampus", "nnU-Net hippocampus"):
        for wrong, kind, change in _changes(random):
            for image in heads if kind == "as it is" else few:
                yield Pair(model, kind, wrong, (change(image),))
        labels = [io.read_labelmap(shared / "data/hippocampus/labelsTr" / f"{name}.nii.gz") for name in names[:cases]]
        for label in labels:
            yield Pair(model, "its own label map", True, (Volume(label.array[None], label.grid, ("label",)),))
        yield Pair(model, "torso CT", True, (ct,))
        yield Pair(model, "torso CT, cut to the size of a hippocampus", True, (with_spacing(small, (1, 1, 1)),))
        for kind, change in (("+1024", lambda a: a + 1024), ("as 0..255", as_picture)):
            yield Pair(
                model, f"torso CT, {kind}, cut to that size", True, (valued(with_spacing(small, (1, 1, 1)), change),)
            )
    yield from _ct_pairs(shared, ct, few, half)
    for image in few:
        other = as_t2(image)
        yield Pair("T1 + T2", "both, in order", False, (image, other))
        yield Pair("T1 + T2", "both, noisy", False, (valued(image, noise(random, 0.05)), other))
        yield Pair("T1 + T2", "swapped", True, (other, image))
        yield Pair("T1 + T2", "T1 twice", True, (image, image))
        yield Pair("T1 + T2", "T1, and T1 in another scale", True, (image, valued(image, lambda a: a * 3 + 7)))
        yield Pair("T1 + T2", "T1, and a constant", True, (image, valued(image, lambda a: a * 0 + 5)))


def _changes(random: np.random.Generator) -> Iterator[tuple[bool, str, Callable[[Volume], Volume]]]:
    """Changes to a hippocampus image: whether it is wrong then, what it is, and how."""

    def value(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Volume], Volume]:
        return lambda volume: valued(volume, change)

    yield False, "as it is", lambda v: v
    yield False, "turned to LPI", lambda v: v.reoriented("LPI")[0]
    yield False, "turned to PIR", lambda v: v.reoriented("PIR")[0]
    yield False, "oblique by 20 degrees", oblique
    yield False, "another scale", value(lambda a: a * 37.5)
    yield False, "8 bit", value(lambda a: np.clip(a / np.percentile(a, 99.9) * 255, 0, 255).round())
    yield False, "noise of 3 %", value(noise(random, 0.03))
    yield False, "bias field of 20 %", value(lambda a: a * np.linspace(0.8, 1.2, a.shape[0])[:, None, None])
    yield False, "0.7 mm", lambda v: resampled(v, (0.7, 0.7, 0.7))
    yield False, "0.4 mm", lambda v: resampled(v, (0.4, 0.4, 0.4))
    yield False, "1 x 1 x 2 mm", lambda v: resampled(v, (1, 1, 2))
    yield False, "1 x 1 x 3 mm", lambda v: resampled(v, (1, 1, 3))
    yield (
        False,
        "6 mm cut off everywhere",
        lambda v: cropped(v, (6, 6, 4), [n - 2 * c for n, c in zip(v.grid.shape, (6, 6, 4), strict=True)]),
    )
    yield False, "gamma of 0.8", value(lambda a: (a / a.max()) ** 0.8)
    yield False, "gamma of 1.2", value(lambda a: (a / a.max()) ** 1.2)
    yield False, "smoothed by 0.6 mm", value(lambda a: blurred(a, 0.6))
    yield False, "standardised", value(lambda a: (a - a.mean()) / a.std())
    yield True, "lost header", lambda v: Volume(v.array, Grid(v.grid.shape, np.eye(4)), v.channels)
    yield True, "cm for mm", lambda v: with_spacing(v, (0.1, 0.1, 0.1))
    yield True, "m for mm", lambda v: with_spacing(v, (0.001, 0.001, 0.001))
    yield True, "10 mm for 1 mm", lambda v: with_spacing(v, (10, 10, 10))
    yield True, "5 mm slices", lambda v: resampled(v, (1, 1, 5))
    yield True, "1 mm image with header of 2 mm", lambda v: with_spacing(v, (2, 2, 2))
    yield True, "field of view of a whole head", lambda v: tiled(v, (5, 4, 5))
    yield True, f"field of view of both temporal lobes {NEARLY}", lambda v: tiled(v, (4, 2, 1))
    yield True, "tiny crop (12 mm)", lambda v: cropped(v, [n // 2 - 6 for n in v.grid.shape], (12, 12, 12))
    yield True, "one slice", lambda v: cropped(v, (0, 0, 15), (*v.grid.shape[:2], 1))
    yield True, "inverted contrast", value(lambda a: a.max() - a)
    yield (
        True,
        "inverted contrast, bright voxels cut",
        value(lambda a: np.percentile(a, 99.5) - np.minimum(a, np.percentile(a, 99.5))),
    )
    yield True, "constant", value(lambda a: a * 0 + 300)
    yield True, "noise alone", value(lambda a: random.normal(500, 150, a.shape))
    yield True, "noise of 30 %", value(noise(random, 0.3))
    yield True, "blurred by 4 mm", value(blurred)
    yield True, "mask of the bright part", value(lambda a: (a > a.mean()) * 1.0)
    yield True, "4 voxels of zeros around", lambda v: padded(v, 4)
    yield True, "brain cut out, zeros around", value(cut_out)
    yield True, "three grey levels", value(lambda a: np.digitize(a, np.percentile(a, (33, 66))) * 100.0)
    yield True, "exponential of the intensities", value(lambda a: np.exp(6 * a / np.percentile(a, 99.5)))


def _ct_pairs(shared: Path, ct: Volume, heads: list[Volume], half: str) -> Iterator[Pair]:
    random = np.random.default_rng(1)
    series = [io.read_volume(shared / "data/ct_torso/dicom")] if half == "odd" else []
    for model in ("CT", "nnU-Net-like CT"):
        rights: list[tuple[str, Volume]] = [
            ("as it is", ct),
            ("turned to PIR", ct.reoriented("PIR")[0]),
            ("int16", valued(ct, lambda a: a, np.int16)),
            ("noise of 20 HU", valued(ct, lambda a: a + random.normal(0, 20, a.shape))),
            ("2 x 2 x 5 mm", resampled(ct, (2, 2, 5))),
            ("2 mm", resampled(ct, (2, 2, 2))),
            ("crop of 240 x 240 x 120 mm", cropped(ct, (20, 10, 8), (80, 80, 40))),
            ("air outside set to -2048", valued(ct, lambda a: np.where(a < -950, -2048, a))),
            ("metal of 15000", valued(ct, lambda a: np.where(a > 1000, 15000, a))),
            ("contrast agent (organs + 100)", valued(ct, lambda a: np.where((a > 20) & (a < 200), a + 100, a))),
        ]
        if series and model != "CT":
            rights += [("DICOM series, 40 mm", series[0])]
        for kind, image in rights:
            yield Pair(model, kind, False, (image,))
        wrongs: list[tuple[str, Volume]] = [
            ("as 0..255", valued(ct, as_picture)),
            ("as 0..255 of a soft window", valued(ct, lambda a: np.clip((a + 160) / 400 * 255, 0, 255).round())),
            ("+1024", valued(ct, lambda a: a + 1024)),
            ("+1024, unsigned 16 bit", valued(ct, lambda a: np.maximum(a + 1024, 0), np.uint16)),
            ("-1024 twice", valued(ct, lambda a: a - 1024)),
            ("+1000, then scaled to 0..1", valued(ct, lambda a: (a + 1000) / 4000)),
            ("-1..1", valued(ct, lambda a: np.clip(a / 1000, -1, 1))),
            ("rescale slope of 10", valued(ct, lambda a: a * 10)),
            ("rescale slope of 0.1", valued(ct, lambda a: a * 0.1)),
            ("soft window kept, -160..240", valued(ct, lambda a: np.clip(a, -160, 240))),
            ("inverted", valued(ct, lambda a: -a)),
            ("standardised", valued(ct, lambda a: (a - a.mean()) / a.std())),
            ("constant air", valued(ct, lambda a: a * 0 - 1000)),
            ("absolute values", valued(ct, np.abs)),
            ("lost header", Volume(ct.array, Grid(ct.grid.shape, np.eye(4)), ct.channels)),
            ("cm for mm", with_spacing(ct, (0.3, 0.3, 0.3))),
            ("12 mm voxels", resampled(ct, (12, 12, 12))),
            (f"five times as long {NEARLY}", tiled(ct, (1, 1, 5))),
            ("sixteen times the body", tiled(ct, (2, 2, 4))),
            ("three slices", cropped(ct, (0, 0, 20), (*ct.grid.shape[:2], 3))),
            ("crop of 60 mm", cropped(ct, (30, 30, 20), (20, 20, 20))),
        ]
        if series:
            wrongs += [("DICOM series + 1024", valued(series[0], lambda a: a + 1024))]
            wrongs += [("DICOM series as 0..255", valued(series[0], as_picture))]
            if model == "CT":
                wrongs += [("DICOM series, 40 mm for patches of 96 mm", series[0])]
        wrongs += [("its own label map", torso_labels(shared, half))]
        wrongs += [("MR of a head, as a CT", with_spacing(tiled(image, (5, 4, 5)), (2, 2, 1))) for image in heads]
        for kind, image in wrongs:
            yield Pair(model, kind, True, (image,))


if __name__ == "__main__":
    sys.exit(main())

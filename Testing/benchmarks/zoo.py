"""``python Testing/benchmarks/zoo.py MODELS``: every segmentation bundle of a copy of MONAI's model zoo, ours against stock.

MODELS is the folder ``models`` of a clone of github.com/Project-MONAI/model-zoo. Weights are not in it, so each bundle that
is not refused gets random ones for its own network, the same for both sides: stock MONAI runs the bundle's own
``inference`` configuration with its own evaluator, transforms and writer; ours runs ``package.load`` and the predictor
on the same NIfTI files. The images are smooth, anisotropic, and not stored in RAS order.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "UNetSegment"))  # this clone's library, not another

from UNetSegmentLib import package
from UNetSegmentLib.errors import PackageError, UNetSegmentError
from UNetSegmentLib.io import read_volume
from UNetSegmentLib.predict import Predictor, gather
from UNetSegmentLib.predict.preprocess import preprocess
from UNetSegmentLib.volume import dice

SEED = 20261121
LEFT_OUT = {"SwinUNETR": ("img_size",)}
"""Arguments in configurations of the zoo that the MONAI of today refuses; they are taken out for the stock run too."""


def main() -> int:
    """Compare, print a line for each bundle, and write the table; 1 where an agreement is below the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, help="folder 'models' of a clone of the zoo")
    parser.add_argument("--only", nargs="+", help="names of bundles; all segmentation bundles by default")
    parser.add_argument(
        "--config", default="inference", help="configuration to run (inference, inference_segresnet ...)"
    )
    parser.add_argument("--read-only", action="store_true", help="tell what is refused; run nothing")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--size", type=float, default=1.0, help="scale the images' size, to save time")
    parser.add_argument("--bar", type=float, default=0.999, help="lowest share of equal voxels")
    parser.add_argument("--out", type=Path, help="add the results to this file, as JSON lines")
    parser.add_argument("--table", action="store_true", help="at the end, print what --out holds as a Markdown table")
    chosen = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    failed = False
    for folder in sorted(chosen.models.iterdir()):
        if not (folder / "configs" / "metadata.json").is_file() or (chosen.only and folder.name not in chosen.only):
            continue
        if not chosen.only and not _is_segmentation(folder):
            continue
        with tempfile.TemporaryDirectory(prefix="unetsegment-zoo-") as scratch, _cache(scratch):
            try:
                row = compare(folder, Path(scratch), chosen)
            except Exception:  # one broken bundle must not hide the others
                row = {"result": "error", "why": traceback.format_exc(limit=-4)}
        row = {"bundle": folder.name, "config": chosen.config, **row}
        failed |= row["result"] == "error" or row.get("equal", 1.0) < chosen.bar
        line = json.dumps(row)
        print(line, flush=True)
        if chosen.out:
            with chosen.out.open("a", encoding="utf-8") as sink:
                sink.write(line + "\n")
    if chosen.table and chosen.out:
        print(_table([json.loads(line) for line in chosen.out.read_text("utf-8").splitlines()]))
    return int(failed)


def _table(rows: list[dict[str, Any]]) -> str:
    """Markdown: of each bundle and configuration the last result, those that run first."""
    last = {(row["bundle"], row.get("config", "")): row for row in rows}
    lines = ["| bundle | equal voxels | lowest Dice | labels | voxels |", "|---|---|---|---|---|"]
    for row in sorted(last.values(), key=lambda row: row["bundle"].lower()):
        if row["result"] == "runs":
            name = row["bundle"] + (f" ({row['config']})" if row["config"] != "inference" else "")
            size = " x ".join(map(str, row["shape"]))
            lines.append(f"| {name} | {row['equal']:.6f} | {row['min_dice']:.5f} | {row['labels']} | {size} |")
    lines += ["", "| bundle | refused because |", "|---|---|"]
    for row in sorted(last.values(), key=lambda row: row["bundle"].lower()):
        if row["result"] != "runs":
            lines.append(f"| {row['bundle']} | {row['why'].replace('|', '/')} |")
    return "\n".join(lines)


def compare(folder: Path, scratch: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """One bundle: refused and why, or how well both sides agree on it."""
    bundle = scratch / folder.name
    shutil.copytree(folder, bundle)
    if chosen.config != "inference":
        for old in (bundle / "configs").glob("inference.*"):
            old.unlink()
        (found,) = (bundle / "configs").glob(f"{chosen.config}.*")
        found.rename(found.with_name(f"inference{found.suffix}"))
    weights = _weights_place(bundle)
    if weights is None:
        return {"result": "refused", "why": _refusal(bundle)}
    weights.parent.mkdir(parents=True, exist_ok=True)
    weights.write_bytes(b"not yet")
    if why := _refusal(bundle):
        return {"result": "refused", "why": why}
    if chosen.read_only:
        return {"result": "accepted", "why": ""}
    import torch

    torch.set_num_threads(chosen.threads)
    manifest = package.load(bundle).manifest
    files = _images(manifest, scratch, chosen.size)
    network, dropped = _network(bundle)
    with torch.inference_mode():
        _calibrate(network, manifest, files)
    torch.save(network.state_dict(), weights)
    del network
    began = time.perf_counter()
    loaded = package.load(bundle)
    predictor = Predictor(loaded, device="cpu", backend="torch", threads=chosen.threads, mode="parity")
    ours = predictor.predict(gather([read_volume(file) for file in files], loaded.manifest)).labels.array
    own_seconds = time.perf_counter() - began
    began = time.perf_counter()
    theirs = _stock(bundle, files, scratch / "stock", dropped)
    stock_seconds = time.perf_counter() - began
    as_is: dict[str, float] = {}
    if manifest.preprocessing.resampling.output == "labels" and not np.array_equal(theirs, np.rint(theirs)):
        as_is["equal_as_is"] = float((np.rint(theirs) == ours).mean())
        as_is["fractions"] = float((theirs != np.rint(theirs)).mean())
        theirs = _stock(bundle, files, scratch / "nearest", dropped, nearest=True)
    if theirs.shape != ours.shape:
        return {"result": "error", "why": f"shapes differ: {ours.shape} here, {theirs.shape} there"}
    whole = np.rint(theirs).astype(int)
    values = sorted(set(np.unique(whole)) | set(np.unique(ours)))
    return {
        "result": "runs",
        "equal": float((whole == ours).mean()),
        "min_dice": min(dice(whole == value, ours == value) for value in values),
        "labels": len(values),
        "largest": float(max((ours == value).mean() for value in values)),
        **as_is,
        "shape": list(ours.shape),
        "seconds": [round(own_seconds, 1), round(stock_seconds, 1)],
        "left_out": list(dropped),
        "limits": manifest.raw.get("limits", ""),
    }


def _is_segmentation(folder: Path) -> bool:
    raw = json.loads((folder / "configs" / "metadata.json").read_text("utf-8"))
    answer = raw.get("network_data_format", {}).get("outputs", {}).get("pred", {})
    return "segment" in f"{folder.name} {raw.get('task', '')} {answer.get('format', '')}".lower()


@contextlib.contextmanager
def _cache(scratch: str) -> Any:
    before = os.environ.get("UNETSEGMENT_CACHE")
    os.environ["UNETSEGMENT_CACHE"] = str(Path(scratch) / "cache")
    try:
        yield
    finally:
        os.environ.pop("UNETSEGMENT_CACHE")
        if before is not None:
            os.environ["UNETSEGMENT_CACHE"] = before


def _refusal(bundle: Path) -> str:
    try:
        package.load(bundle)
    except PackageError as error:
        return str(error)
    return ""


def _weights_place(bundle: Path) -> Path | None:
    """Where the bundle's weights belong; None where it is refused for another reason."""
    missing = re.search(r"is incomplete: its weights (\S+) are missing", _refusal(bundle))
    return bundle / missing[1] if missing else None


def _images(manifest: Any, scratch: Path, size: float) -> list[Path]:
    """Write smooth images, one file for each channel, on a grid that suits the model."""
    import nibabel
    from scipy import ndimage

    rng = np.random.default_rng(SEED)
    pre, flat = manifest.preprocessing, manifest.dimensions == 2
    order = np.argsort(pre.axes)
    patch, spacing = np.asarray(manifest.inference.patch_size, float), pre.spacing
    target = patch * size * ([8 / size, 1.15, 0.9] if flat else [1.2, 1.1, 0.9])
    new = np.array([s or default for s, default in zip(spacing, (1.0, 1.2, 2.1), strict=True)])
    own = new * [1.0 if s is None else factor for s, factor in zip(spacing, (0.8, 1.3, 1.9), strict=True)]
    shape = np.maximum(np.rint(target * new / own), 4).astype(int)[order]
    own = own[order]
    stored = (1, 2, 0) if pre.orientation != "stored" else (0, 1, 2)  # not RAS: P, I, R or the axes as they are
    signs = (-1, -1, 1) if pre.orientation != "stored" else (-1, 1, 1)
    rotation = np.zeros((3, 3))
    for axis, (world, sign) in enumerate(zip(stored, signs, strict=True)):
        rotation[world, axis] = sign
    sizes, spacings = shape[list(stored)], own[list(stored)]
    affine = np.eye(4)
    affine[:3, :3] = rotation * spacings
    affine[:3, 3] = 13.0, -7.0, 21.0
    files = []
    for index, channel in enumerate(manifest.channels):
        image = np.zeros(tuple(sizes))
        for sigma, weight in ((14, 1.0), (5, 0.5), (2, 0.2)):
            noise = ndimage.gaussian_filter(rng.standard_normal(image.shape), sigma / spacings, mode="reflect")
            image += weight * noise / noise.std()
        image = image * 90 + 40 if channel.modality == "CT" else np.abs(image) * 200 + 30
        outside = np.indices(image.shape).T / (sizes - 1) - 0.5
        outside = (np.linalg.norm(outside, axis=-1) > 0.62).T
        image[outside] = -1000 if channel.modality == "CT" else 0
        files.append(scratch / f"image_{index}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(image.astype(np.float32), affine), files[-1])
    return files


def _parser(bundle: Path) -> Any:
    from monai.bundle import ConfigParser

    (path,) = (p for p in (bundle / "configs").glob("inference.*") if p.suffix in (".json", ".yaml"))
    parser = ConfigParser()
    parser.read_config(path)
    imports = [line for line in parser.get("imports", []) if "pandas" not in line and "scripts" not in line]
    parser["imports"] = imports
    parser["bundle_root"] = str(bundle)
    parser["device"] = "$torch.device('cpu')"
    return parser


def _network(bundle: Path) -> tuple[Any, tuple[str, ...]]:
    """The network that stock MONAI builds from the configuration, and the arguments that it does not know any more."""
    import torch

    parser = _parser(bundle)
    dropped = LEFT_OUT.get(str(parser["network_def::_target_"]).rpartition(".")[2], ())
    for name in dropped:
        parser["network_def"].pop(name, None)
    torch.manual_seed(SEED)
    return parser.get_parsed_content("network_def").eval(), dropped


def _calibrate(network: Any, manifest: Any, files: list[Path]) -> None:
    """Give each output of a random network its share of the image: without that, one of them wins everywhere.

    The last convolution is scaled and shifted by what the outputs are on one patch.
    """
    import torch

    image = preprocess(gather([read_volume(file) for file in files], manifest), manifest).array
    patch = [
        slice(max((n - p) // 2, 0), max((n - p) // 2, 0) + p)
        for n, p in zip(image.shape[1:], manifest.inference.patch_size, strict=True)
    ]
    part = image[(slice(None), *patch)]
    part = np.pad(
        part, [(0, 0), *((0, p - n) for n, p in zip(part.shape[1:], manifest.inference.patch_size, strict=True))]
    )
    patches = torch.from_numpy(np.ascontiguousarray(part))[None]
    if manifest.dimensions == 2:
        patches = patches[:, :, 0]
    count, last = len(manifest.outputs), []
    hooks = [
        module.register_forward_hook(lambda m, _i, out: last.append((m, out)))
        for module in network.modules()
        if getattr(module, "out_channels", None) == count and hasattr(module, "weight")
    ]
    answer = network(patches)
    for hook in hooks:
        hook.remove()
    module, output = last[-1]
    axes = [0, *range(2, answer.ndim)]
    mean, std = answer.mean(axes), answer.std(axes)
    if torch.equal(output, answer):
        scale = 3 / std.clamp(min=1e-6)
        module.weight *= scale.reshape(-1, *[1] * (module.weight.ndim - 1))
        module.bias.copy_((module.bias - mean) * scale)
    else:  # a residual is added to it
        module.bias -= mean


def _stock(bundle: Path, files: list[Path], out: Path, dropped: tuple[str, ...], nearest: bool = False) -> np.ndarray:
    """Stock MONAI's labels: the bundle's own run, on the processor and in full precision, as its writer saved them.

    ``nearest`` repairs a bundle that has its labels interpolated linearly, so that they come out as fractions.
    """
    import nibabel

    parser = _parser(bundle)
    paths = [str(file) for file in files]
    parser["dataset::data"] = [{"image": paths if len(paths) > 1 else paths[0]}]
    parser["output_dir"] = str(out)
    parser["evaluator::amp"] = False
    parser["dataloader::num_workers"] = 0
    for name in dropped:
        parser["network_def"].pop(name, None)
    for index, transform in enumerate(parser["postprocessing::transforms"] if nearest else ()):
        if transform["_target_"] == "Invertd":
            parser[f"postprocessing::transforms::{index}::nearest_interp"] = True
    for entry in ("initialize", "run", "evaluating", "inference"):
        if entry in parser.config:
            with contextlib.redirect_stdout(io.StringIO()):
                parser.get_parsed_content(entry)
    (written,) = out.rglob("*.nii.gz")
    return np.asarray(nibabel.load(written).dataobj).squeeze()


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except UNetSegmentError as error:
        raise SystemExit(str(error)) from None

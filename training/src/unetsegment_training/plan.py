"""From a dataset to the manifest that training, validation and the packed model share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from UNetSegmentLib.package import Manifest
from UNetSegmentLib.predict.appearance import Appearance, summary

from .augment import Augmenter
from .dataset import Case, Dataset, DatasetError
from .network import manifest_entry

if TYPE_CHECKING:
    from .config import FitConfig
    from .plan_file import Normalization

ORIENTATION = "RAS"
PALETTE = ((230, 118, 84), (76, 158, 217), (120, 190, 120), (240, 200, 90), (170, 120, 200), (110, 200, 200))


def color_of(value: int) -> tuple[int, int, int]:
    """A label value's colour in pictures and packed models: red, green, blue in 0 .. 255; the background is black."""
    return PALETTE[(value - 1) % len(PALETTE)] if value else (0, 0, 0)


def web_color_of(value: int) -> str:
    """The same as ``#rrggbb``."""
    return "#{:02x}{:02x}{:02x}".format(*color_of(value))


def draft_manifest(dataset: Dataset, config: FitConfig, cases: Sequence[Case]) -> Manifest:
    """A manifest without files: channels and labels from the dataset, spacing and fingerprint from ``cases``.

    Where the settings name no spacing it is the median of the cases, as in nnU-Net's plan.
    """
    looks = fingerprint(cases)
    spacing = looks["spacing"]["median"]
    wanted = config.spacing or spacing
    order = _order(config, spacing, looks["size"]["median"])
    rules = {rule.channel: rule for rule in config.normalization}
    if rules and (odd := sorted(set(dataset.channels) ^ set(rules))):
        raise DatasetError(f"The setting normalization and the dataset differ in the channel '{odd[0]}'.")
    axes = {"axes": order} if order != [0, 1, 2] else {}
    raw: dict[str, Any] = {
        "manifest_version": "1.0",
        "name": "draft",
        "title": dataset.name,
        "version": "0.0.0",
        "description": str(dataset.raw.get("description", "")),
        "channels": [
            {"name": name, "title": name, "modality": _modality(name), "normalization": _scale(rules.get(name))}
            for name in dataset.channels
        ],
        "preprocessing": {"orientation": ORIENTATION} | axes | {"spacing": [wanted[a] or None for a in order]},
        "inference": _window(config),
        "network": manifest_entry(config, len(dataset.channels), len(dataset.labels)),
        "activation": "softmax",
        "labels": [
            {"value": value, "name": name, "color": list(color_of(value))} for value, name in dataset.labels.items()
        ],
        "postprocessing": [],
        "licence": {"name": str(dataset.raw.get("licence", "unknown")), "clinical_use": False},
        "intended_use": "",
        "training_data": {"name": dataset.name, "cases": len(cases)},
        "fingerprint": looks,
        "files": {},
    }
    return Manifest.from_dict(raw)


def fingerprint(cases: Sequence[Case]) -> dict[str, Any]:
    """A manifest's ``fingerprint``: spacing, size and intensities of the cases' images, turned to :data:`ORIENTATION`."""
    prints = [_fingerprint(case) for case in cases]
    spacings = np.array([p["spacing"] for p in prints])
    sizes = np.array([p["size"] for p in prints], float)
    intensities = np.array([p["intensity"] for p in prints]).transpose(1, 0, 2)  # channel, case, statistic
    names = ("mean", "std", "p00_5", "p50", "p99_5")
    return {
        "spacing": _range(spacings),
        "size": _range(sizes),
        "size_mm": _range(spacings * sizes),
        "unplaced": round(float(np.mean([p["unplaced"] for p in prints])), 4),
        "intensity": [
            dict(zip(names, np.median(c, axis=0).round(4).tolist(), strict=True))
            | {"cases": summary([p["statistics"][n] for p in prints])}
            for n, c in enumerate(intensities)
        ],
    }


def _window(config: FitConfig) -> dict[str, Any]:
    """Patches of the packed network. One that was trained without padding runs padded, its patches rounded up to 16;
    they overlap by the margin that padding spoils. Axes that training mirrored may be mirrored when it is asked for."""
    patch, overlap = list(config.patch), 0.5
    if config.valid:
        overlap = round(1 - min(a / p for a, p in zip(config.answer, config.patch, strict=True)), 4)
        patch = [-(-n // 16) * 16 for n in patch]
    mirrored = [axis + (config.dimensions == 2) for axis in Augmenter.of(config).mirrored]
    return {
        "patch_size": [1] * (config.dimensions == 2) + patch,
        "overlap": min(overlap, 0.75),
        "blending": "gaussian",
        "sigma_scale": 0.125,
    } | ({"mirror_axes": mirrored} if mirrored else {})


def _scale(rule: Normalization | None) -> dict[str, Any]:
    """A plan's normalisation in the manifest's words."""
    if rule is None or rule.method == "zscore":
        return {"method": "zscore"} | ({"mask": "nonzero"} if rule is not None and rule.nonzero_only else {})
    if rule.method == "ct":
        return {"method": "clip_zscore", "clip": [rule.low, rule.high], "mean": rule.mean, "std": rule.std}
    if rule.method == "rgb_to_0_1":
        return {"method": "range", "window": [0, 255]}
    return {"method": "minmax" if rule.method == "rescale_to_0_1" else "none"}


def _order(config: FitConfig, spacing: Sequence[float], size: Sequence[float]) -> list[int]:
    """The axes of the network: for 2D networks the slice axis first, that of the widest spacing, then of the fewest voxels."""
    if config.dimensions == 3:
        return [0, 1, 2]
    first = "ijk".index(config.slice_axis) if config.slice_axis else -1
    first = first if first >= 0 else max(range(3), key=lambda axis: (round(spacing[axis], 3), -size[axis]))
    return [first, *(axis for axis in range(3) if axis != first)]


def _fingerprint(case: Case) -> dict[str, Any]:
    image, _ = case.load()
    turned, _ = image.reoriented(ORIENTATION)
    statistics = [
        [float(c.mean()), float(c.std()), *np.percentile(c, (0.5, 50, 99.5)).tolist()]
        for c in turned.array.astype(float)
    ]
    return {
        "spacing": turned.grid.spacing,
        "size": turned.grid.shape,
        "intensity": statistics,
        "unplaced": image.grid.is_unset,
        "statistics": [Appearance.of(channel).statistics() for channel in turned.array],
    }


def _range(values: np.ndarray) -> dict[str, list[float]]:
    return {
        k: f(values, axis=0).round(4).tolist() for k, f in (("min", np.min), ("median", np.median), ("max", np.max))
    }


def _modality(name: str) -> str:
    text = name.upper()
    return "CT" if "CT" in text else "PT" if "PET" in text else "MR" if "MR" in text or text[:1] in "TF" else "OT"

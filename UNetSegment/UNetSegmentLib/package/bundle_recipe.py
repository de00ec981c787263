"""From the steps of a MONAI bundle's ``preprocessing`` to our manifest's entries.

The steps must be in an order that the manifest can say: orientation, spacing, intensities before or after it, one crop.
"""

from __future__ import annotations

from typing import Any

from .bundle_config import Node, shown
from .bundle_transforms import Step, Stream


def read_recipe(streams: dict[str, Stream], key: str, count: int, preprocessing: Node) -> dict[str, Any]:
    """The manifest's ``preprocessing`` (without ``resampling.output``) and each channel's ``normalization``.

    Args:
        streams: Of :func:`read_streams`.
        key: The one that the network sees.
        count: Number of the network's input channels.
        preprocessing: For messages.

    Returns:
        ``{"preprocessing": {...}, "normalizations": [...]}``.

    Raises:
        PackageError: The steps come in an order that the manifest cannot say.
    """
    if key not in streams:
        raise preprocessing.refusal(f"no transform makes the key {shown(key)}, which the network is given")
    whole = streams[key]
    if whole.channels and len(whole.channels) != count:
        raise preprocessing.refusal(f"{len(whole.channels)} channels are put together for a network of {count}")
    if any(part.channels for part in whole.channels):
        raise preprocessing.refusal("channels are put together twice")
    before = [part.steps for part in whole.channels] or [[] for _ in range(count)]
    shapes = [[step for step in steps if step.kind != "normalization"] for steps in before]
    places = [[step.kind for step in steps] for steps in before]
    if any(other != shapes[0] for other in shapes) or any(
        _phase(other, places[0]) != _phase(places[0], places[0]) for other in places
    ):
        raise preprocessing.refusal("the channels are prepared differently, which is not supported")
    if whole.channels and any(step.kind == "crop" for step in shapes[0]):
        raise preprocessing.refusal("each channel is cropped by itself, which is not supported")
    chains = [[*steps, *whole.steps] for steps in before]
    for step in whole.steps if count > 1 else ():
        if step.together:
            raise step.source.refusal("statistics over all channels together are not supported")
    recipe = _geometry(chains[0])
    norms = [_chain([step.value for step in chain if step.kind == "normalization"]) for chain in chains]
    return {"preprocessing": recipe, "normalizations": norms}


def _phase(kinds: list[str], like: list[str]) -> list[bool]:
    """Whether intensities come before or after the spacing, where they come at all."""
    if "spacing" not in kinds or "normalization" not in kinds or "normalization" not in like:
        return []
    return [kinds.index("normalization") < kinds.index("spacing")]


def _geometry(steps: list[Step]) -> dict[str, Any]:
    kinds = [step.kind for step in steps]
    for kind in ("orientation", "spacing", "crop"):
        if kinds.count(kind) > 1:
            raise steps[len(kinds) - 1 - kinds[::-1].index(kind)].source.refusal(f"a second {kind} is not supported")
    at = {kind: kinds.index(kind) for kind in kinds if kind != "normalization"}
    values = {kind: steps[n].value for kind, n in at.items()}
    norms = [n for n, kind in enumerate(kinds) if kind == "normalization"]
    spacing = at.get("spacing")
    if spacing is not None and at.get("orientation", -1) > spacing:
        raise steps[at["orientation"]].source.refusal("an orientation after the spacing is not supported")
    if spacing is not None and norms and min(norms) < spacing < max(norms):
        raise steps[max(norms)].source.refusal("intensities are changed before and after the spacing")
    orientation, axes = _axes(values.get("orientation"))
    pixdim, order = values.get("spacing", ((None, None, None), 1))
    recipe: dict[str, Any] = {
        "orientation": orientation,
        "axes": axes,
        "spacing": list(pixdim),
        "normalize": "after_resampling"
        if spacing is not None and norms and min(norms) > spacing
        else "before_resampling",
        "resampling": {"alignment": "first_voxel", "image_order": order, "separate_axis": "never"},
    }
    if "crop" in at:
        recipe["crop"] = values["crop"]
        first = at["crop"] < min([*norms, len(kinds)]) and at["crop"] < (len(kinds) if spacing is None else spacing)
        last = at["crop"] > max([*norms, -1]) and at["crop"] > (-1 if spacing is None else spacing)
        if not first and not last:
            raise steps[at["crop"]].source.refusal("a crop between other steps is not supported")
        if not first:
            recipe["crop_on"] = "network_image"
    return recipe


def _axes(codes: str | None) -> tuple[str, list[int]]:
    """An orientation of the manifest and the order of its axes, for axis codes in any order."""
    if codes is None:
        return "stored", [0, 1, 2]
    axes = [next(n for n, pair in enumerate(("RL", "AP", "SI")) if c in pair) for c in codes]
    return "".join(codes[axes.index(n)] for n in range(3)), axes


def _chain(steps: list[dict[str, Any]]) -> dict[str, Any]:
    """One normalisation for several in a row, where one says the same; else the first with the rest in ``then``."""
    steps = [step for step in steps if step["method"] != "none"]
    kept: list[dict[str, Any]] = []
    for step in steps:
        # mean, deviation and percentiles move with a plain change of scale, so what they normalise forgets it
        forgets = step.get("mask", "all") == "all" and step["method"] in ("zscore", "minmax", "percentiles")
        while forgets and kept and _is_affine(kept[-1]):
            kept.pop()
        kept.append(step)
    if not kept:
        return {"method": "none"}
    result = dict(kept[-1])
    for step in reversed(kept[:-1]):
        result = {**step, "then": result}
    return result


def _is_affine(step: dict[str, Any]) -> bool:
    return step.get("mask", "all") == "all" and not step.get("clamp", False)

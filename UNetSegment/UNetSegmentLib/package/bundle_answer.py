"""A MONAI bundle's ``inferer`` and ``postprocessing`` as our manifest's: tiles, activation, decision, and the way back.

``Activationsd -> Invertd -> AsDiscreted`` is what our export does: probabilities are interpolated to the input's grid and
decided there. Where a bundle decides first and inverts labels, labels are taken from the nearest voxel.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import Any

from .bundle_config import Node, shown
from .bundle_transforms import Arguments, composed, unknown

INFERERS = "monai.inferers"


@dataclass
class Answer:
    """What becomes of the network's outputs.

    Args:
        activation: ``softmax`` or ``sigmoid``.
        output: What is brought back to the input's grid: ``logits``, ``probabilities`` or ``labels``.
        values: Label value of each output, where the bundle gives its own; by default their numbers, regions from 1.
        paint_order: Values of regions in the order they are painted; by default that of the outputs.
        components: ``(values or None, one by one, on the network's grid)`` for each step that keeps largest components.
        remarks: What is done differently here, in sentences.
    """

    activation: str = ""
    output: str = ""
    values: list[int] | None = None
    paint_order: list[int] | None = None
    components: list[tuple[list[int] | None, bool, bool]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def read_inferer(node: Node, dimensions: int) -> dict[str, Any]:
    """The manifest's ``inference``; for a network of 2 ``dimensions`` with ``slice_axis``, the axis it runs across.

    Raises:
        PackageError: It is another inferer, or has an argument that is not supported.
    """
    component = node.component()
    name, a = component.name(INFERERS), Arguments(component)
    if name == "SimpleInferer":
        raise node.refusal(
            "'SimpleInferer' names no patch size (SlidingWindowInferer does), so that memory has no bound"
        )
    if name not in ("SlidingWindowInferer", "SlidingWindowInfererAdapt", "SliceInferer"):
        raise node.refusal(f"the inferer {shown(component.target)} is not one of those that are known")
    if (name == "SliceInferer") != (dimensions == 2):
        raise node.refusal(f"'{name}' does not suit a network of {dimensions} dimensions")
    size = a.take("roi_size")
    size = [size] * dimensions if isinstance(size, int) else size
    if not isinstance(size, list) or len(size) != dimensions or not all(_is_count(n, 1024) for n in size):
        raise a.refusal("roi_size", size)
    overlap = a.take("overlap", 0.25)
    if isinstance(overlap, list) and overlap and all(n == overlap[0] for n in overlap):
        overlap = overlap[0]
    if isinstance(overlap, bool) or not isinstance(overlap, int | float) or not 0 <= overlap <= 0.95:
        raise a.refusal("overlap", overlap)
    mode = a.take("mode", "constant")
    sigma = a.number("sigma_scale", 0.125)
    padding = a.take("padding_mode", "constant")
    if mode not in ("constant", "gaussian"):
        raise a.refusal("mode", mode)
    if padding not in ("constant", "replicate"):
        raise a.refusal("padding_mode", padding)
    a.only("cval", 0, 0.0)
    a.only("with_coord", False)
    a.only("process_fn", None)
    a.ignore("sw_batch_size", "sw_device", "device", "progress", "cache_roi_weight_map", "cpu_thresh", "buffer_steps")
    a.ignore("buffer_dim", "non_blocking")
    found: dict[str, Any] = {"overlap": float(overlap), "blending": mode, "convention": "monai"}
    if mode == "gaussian":
        found["sigma_scale"] = sigma
    if padding != "constant":
        found["padding"] = "edge"
    if dimensions == 2:
        axis = a.take("spatial_dim", 0)
        if not _is_count(axis, 2, 0):
            raise a.refusal("spatial_dim", axis)
        size, found["slice_axis"] = [1, *size], axis
    a.finish()
    return {"patch_size": size, **found}


def read_answer(node: Node, moved: bool, cropped: bool) -> Answer:
    """What ``postprocessing`` does.

    Args:
        node: Its entry.
        moved: Whether the preprocessing changes the image's grid, so that the way back matters.
        cropped: Whether it crops.

    Raises:
        PackageError: It holds a transform or an order of transforms that is not known.
    """
    answer = Answer()
    activation: str | None = None
    decided = inverted = saved = False
    for component, name in composed(node):
        a, here = Arguments(component), component.node
        if name in ("MeanEnsembled", "VoteEnsembled"):
            raise here.refusal(
                "it averages several networks; such a bundle runs only as a package, with configs/manifest.json"
            )
        if name == "SaveImaged" or (a.keys and "pred" not in a.keys):
            if name == "SaveImaged" and "pred" in a.keys and moved and not inverted:
                if cropped or not a.truth("resample", True) or not decided:
                    raise here.refusal("the answer is saved without being brought back to the image's grid (Invertd)")
                answer.output, saved = "labels", True
            continue
        if name == "Activationsd":
            activation = _activation(a)
        elif name == "AsDiscreted" and not decided:
            _decide(a, answer, activation)
            decided = True
            if not inverted:
                answer.output = "labels"
        elif name == "Invertd" and not inverted:
            inverted = True
            nearest = _invert(a)
            if not decided:
                if nearest:
                    raise here.refusal(
                        "outputs that are brought back to the nearest voxel before the decision are unknown"
                    )
                answer.output = "probabilities" if activation else "logits"
            elif not nearest:
                answer.remarks.append(
                    "The bundle interpolates label values linearly; here each voxel gets the label of the nearest one."
                )
        elif name == "KeepLargestConnectedComponentd" and decided and answer.activation == "softmax":
            answer.components.append((*_component(a), moved and not inverted))
        elif name == "Lambdad" and decided and answer.activation == "sigmoid" and answer.values is None:
            answer.values, answer.paint_order = _painted(a)
        elif name == "MapLabelValued" and decided and answer.activation == "softmax":
            raise here.refusal("label values are changed, which is not supported")
        elif name in ("EnsureTyped", "ToTensord", "ToDeviced", "CastToTyped", "Identityd", "DeleteItemsd"):
            continue
        else:
            raise unknown(component)
        a.finish()
    if not decided:
        raise node.refusal("nothing decides on labels (AsDiscreted)")
    if moved and not inverted and not saved:
        raise node.refusal("the answer is not brought back to the image's grid (Invertd)")
    if not moved:  # nothing is interpolated, so it does not matter what would be
        answer.output = "logits"
    return answer


def _activation(a: Arguments) -> str | None:
    soft, sig = a.truth("softmax", key="pred"), a.truth("sigmoid", key="pred")
    a.only("other", None, key="pred")
    if soft and sig:
        raise a.refusal("softmax", True)
    return "softmax" if soft else "sigmoid" if sig else None


def _decide(a: Arguments, answer: Answer, activation: str | None) -> None:
    argmax, threshold = a.truth("argmax", key="pred"), a.take("threshold", None, "pred")
    a.only("to_onehot", None, key="pred")
    a.only("rounding", None, key="pred")
    a.ignore("dim", "keepdim", "dtype")
    if argmax and threshold is None and activation != "sigmoid":
        answer.activation = "softmax"
    elif not argmax and activation == "sigmoid" and threshold == 0.5:
        answer.activation = "sigmoid"
    else:
        raise a.refusal("argmax" if argmax else "threshold", argmax or threshold)


def _invert(a: Arguments) -> bool:
    nearest = a.truth("nearest_interp", True, key="pred")
    a.only("post_func", None, key="pred")
    a.ignore("transform", "orig_keys", "meta_keys", "orig_meta_keys", "meta_key_postfix", "to_tensor", "device")
    a.ignore("support_single")
    return nearest


def _component(a: Arguments) -> tuple[list[int] | None, bool]:
    labels = a.take("applied_labels")
    labels = [labels] if isinstance(labels, int) else labels
    if labels is not None and (not isinstance(labels, list) or not all(_is_count(n, 65535) for n in labels)):
        raise a.refusal("applied_labels", labels)
    one_by_one = a.truth("independent", True)
    a.only("is_onehot", None, False, key="pred")
    a.only("connectivity", None, 3)
    a.only("num_components", 1)
    return labels, one_by_one


def _painted(a: Arguments) -> tuple[list[int], list[int]]:
    """Values of regions and their order from ``$lambda x: torch.where(x[[2]] > 0, 4, torch.where(...))``.

    This nested choice is read, not run: the outermost region is painted last.
    """
    node = a.node_of("func")
    a.ignore("track_meta", "overwrite", "inv_func")
    text = node.value if node is not None else None
    if not isinstance(text, str) or not text.startswith("$") or len(text) > 2000:
        raise a.refusal("func", text)
    values: dict[int, int] = {}
    try:
        tree = ast.parse(text[1:].strip(), mode="eval").body
        if isinstance(tree, ast.Lambda) and len(tree.args.args) == 1:
            name, branch = tree.args.args[0].arg, tree.body
            while isinstance(branch, ast.Call) and ast.unparse(branch.func) == "torch.where" and len(branch.args) == 3:
                test, value, branch = branch.args
                index = _region(test, name)
                if index is None or index in values or not isinstance(value, ast.Constant):
                    break
                if not _is_count(value.value, 65535) or value.value in values.values():
                    break
                values[index] = value.value
            else:
                if values and isinstance(branch, ast.Constant) and branch.value == 0 and branch.value is not False:
                    if sorted(values) == list(range(len(values))):
                        return [values[n] for n in range(len(values))], list(values.values())[::-1]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        pass
    raise a.node.refusal(f"the expression {shown(text)} would have to be run as code")


def _region(test: ast.expr, name: str) -> int | None:
    """The output ``n`` of the comparison ``name[[n]] > 0`` (or ``name[n:n+1]``)."""
    words = ast.unparse(test)
    for n in range(256):
        if words in (f"{name}[[{n}]] > 0", f"{name}[{n}:{n + 1}] > 0"):
            return n
    return None


def _is_count(value: Any, most: int, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most

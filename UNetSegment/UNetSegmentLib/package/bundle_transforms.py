"""The transforms of a MONAI bundle's ``preprocessing`` that are known, every argument that matters checked.

Each one adds a step to the streams (keys) that it works on; :mod:`bundle_recipe` makes our manifest's entries of them.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .bundle_config import Component, Node, shown

TRANSFORMS = "monai.transforms"
_FLOATS = ("float32", "float64", None)
_READERS = (None, "nibabelreader", "itkreader", "nrrdreader", "pydicomreader", "numpyreader")


@dataclass(frozen=True)
class Step:
    """One thing done to a stream: ``orientation``, ``spacing``, ``crop``, or ``normalization``.

    ``together`` marks statistics that MONAI takes over all channels at once.
    """

    kind: str
    value: Any
    source: Node = field(compare=False)
    together: bool = False


@dataclass
class Stream:
    """What has happened to a key so far; ``channels`` are the streams that were put together into this one."""

    steps: list[Step] = field(default_factory=list)
    channels: list[Stream] = field(default_factory=list)


class Arguments:
    """The arguments of a component, each to be taken or ignored by name; :meth:`finish` refuses those that are left."""

    def __init__(self, component: Component) -> None:
        self.component, self.node = component, component.node
        self._left = dict(component.arguments)
        keys = self.take("keys", [])
        self.keys = [keys] if isinstance(keys, str) else keys
        if not isinstance(self.keys, list) or not all(isinstance(key, str) for key in self.keys):
            raise self.node.refusal(f"{shown(keys)} are not keys")

    def has(self, name: str) -> bool:
        """Whether the argument is given."""
        return name in self.component.arguments

    def take(self, name: str, default: Any = None, key: str | None = None) -> Any:
        """The argument as plain data; of a list with one entry for each key, that of ``key``."""
        node = self._left.pop(name, None) or self.component.arguments.get(name)
        value = default if node is None else node.data()
        if key is not None and isinstance(value, list):
            if len(value) not in (1, len(self.keys)):
                raise self.refusal(name, value)
            value = value[self.keys.index(key) if len(value) > 1 else 0]
        return value

    def node_of(self, name: str) -> Node | None:
        """The argument's entry, not looked into."""
        return self._left.pop(name, None)

    def truth(self, name: str, default: bool = False, key: str | None = None) -> bool:
        """A truth value; MONAI takes the text ``True`` for one as well."""
        value = self.take(name, default, key)
        if value in ("True", "true", "False", "false"):
            return value.lower() == "true"
        if not isinstance(value, bool) and value is not None:
            raise self.refusal(name, value)
        return bool(value)

    def number(self, name: str, default: float | None = None) -> float | None:
        """A finite number, or None where neither the argument nor a default is given."""
        value = self.take(name, default)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e30:
            raise self.refusal(name, value)
        return float(value)

    def only(self, name: str, *allowed: Any, key: str | None = None) -> None:
        """Refuse other values than ``allowed``, of which the first is the default."""
        value = self.take(name, allowed[0], key)
        if not any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in allowed):
            raise self.refusal(name, value)

    def ignore(self, *names: str) -> None:
        """These do not change what we compute."""
        for name in names:
            self._left.pop(name, None)

    def finish(self) -> None:
        """Refuse arguments that nothing was said about."""
        self.ignore("allow_missing_keys")
        for name, node in self._left.items():
            raise node.refusal(f"{shown(self.component.target)} has the argument {shown(name)}, which is not supported")

    def refusal(self, name: str, value: Any) -> Exception:
        """The error for an argument whose value is not supported."""
        return self.node.refusal(f"{shown(self.component.target)} with {name} = {shown(value)} is not supported")


def unknown(component: Component) -> Exception:
    """The error for a transform that is not in the table."""
    what = f"the transform {shown(component.target)}"
    if "." in component.target and not component.target.startswith("monai."):
        return component.node.refusal(f"{what} is code of the bundle's own, which is not run")
    return component.node.refusal(f"{what} is not one of MONAI's that are known here")


Handler = Callable[[Arguments, dict[str, Stream]], None]


def read_streams(preprocessing: Node) -> dict[str, Stream]:
    """What the bundle's ``preprocessing`` (a ``Compose``) does to each key.

    Raises:
        PackageError: It holds a transform or an argument that the tables below do not know.
    """
    streams: dict[str, Stream] = {}
    for component, name in composed(preprocessing):
        if name not in _TABLE:
            raise unknown(component)
        arguments = Arguments(component)
        _TABLE[name](arguments, streams)
        arguments.finish()
    return streams


def composed(node: Node) -> list[tuple[Component, str | None]]:
    """The transforms of a ``Compose`` that are not disabled, each with the name of its class, ``...d``.

    Raises:
        PackageError: It is no plain ``Compose``.
    """
    compose = node.component()
    if compose.name(TRANSFORMS) != "Compose":
        raise node.refusal(f"{shown(compose.target)} is not a Compose")
    arguments = Arguments(compose)
    transforms = arguments.node_of("transforms")
    arguments.ignore("map_items", "unpack_items", "log_stats", "overrides")
    arguments.only("lazy", False, None)
    arguments.finish()
    found: list[tuple[Component, str | None]] = []
    for item in transforms.items() if transforms else []:
        component = item.component()
        name = component.name(TRANSFORMS)
        if not component.disabled and name == "Compose":
            found += composed(item)
        elif not component.disabled:
            found.append((component, _dictionary_form(name)))
    return found


def _dictionary_form(name: str | None) -> str | None:
    """MONAI gives each dictionary transform three names: ``Spacingd``, ``SpacingD``, ``SpacingDict``."""
    for ending in ("Dict", "D"):
        if name and name.endswith(ending):
            return name.removesuffix(ending) + "d"
    return name


def _add(a: Arguments, streams: dict[str, Stream], make: Callable[[str], Step | None]) -> None:
    for key in a.keys:
        step = make(key)
        stream = streams.setdefault(key, Stream())
        if step is not None:
            stream.steps.append(step)


def _load(a: Arguments, streams: dict[str, Stream]) -> None:
    reader = a.take("reader")
    if not (reader is None or isinstance(reader, str)) or (reader or "").lower() not in (*_READERS, ""):
        raise a.refusal("reader", reader)
    dtype = a.take("dtype", "float32")
    if dtype not in _FLOATS:
        raise a.refusal("dtype", dtype)
    a.ignore("meta_keys", "meta_key_postfix", "overwriting", "image_only", "ensure_channel_first", "simple_keys")
    a.ignore("prune_meta_pattern", "prune_meta_sep", "expanduser")
    _add(a, streams, lambda key: None)


def _nothing(*harmless: str) -> Handler:
    def handler(a: Arguments, streams: dict[str, Stream]) -> None:
        a.ignore(*harmless)

    return handler


def _type(a: Arguments, streams: dict[str, Stream]) -> None:
    for key in a.keys:
        dtype = a.take("dtype", None, key)
        if dtype not in (*_FLOATS, "float", "torch.float32"):
            raise a.refusal("dtype", dtype)
    a.ignore("data_type", "device", "wrap_sequence", "track_meta")


def _orientation(a: Arguments, streams: dict[str, Stream]) -> None:
    codes = a.take("axcodes")
    axes = [next((n for n, pair in enumerate(("RL", "AP", "SI")) if c in pair), -1) for c in str(codes or "")]
    if a.truth("as_closest_canonical"):
        codes, axes = "RAS", [0, 1, 2]
    if sorted(axes) != [0, 1, 2]:
        raise a.refusal("axcodes", codes)
    a.ignore("labels")
    a.only("lazy", False, None)
    _add(a, streams, lambda key: Step("orientation", str(codes), a.node))


def _spacing(a: Arguments, streams: dict[str, Stream]) -> None:
    raw = a.take("pixdim")
    wanted = raw if isinstance(raw, list) else [raw]
    numbers = [None if n is None or n == -1 else n for n in wanted[:3]]
    if len(numbers) != 3 or not all(
        n is None or (isinstance(n, int | float) and not isinstance(n, bool) and 1e-3 < n < 1e3) for n in numbers
    ):
        raise a.refusal("pixdim", raw)
    orders = {"bilinear": 1, "linear": 1, 1: 1, "nearest": 0, 0: 0}

    def make(key: str) -> Step:
        mode = a.take("mode", "bilinear", key)
        if isinstance(mode, bool) or not isinstance(mode, str | int) or mode not in orders:
            raise a.refusal("mode", mode)
        a.only("padding_mode", "border", key=key)
        a.only("align_corners", False, None, key=key)
        a.only("scale_extent", False, key=key)
        return Step("spacing", (tuple(None if n is None else float(n) for n in numbers), orders[mode]), a.node)

    a.only("diagonal", False)
    a.only("min_pixdim", None)
    a.only("max_pixdim", None)
    a.only("lazy", False, None)
    a.ignore("dtype", "recompute_affine", "ensure_same_shape", "meta_keys", "meta_key_postfix")
    _add(a, streams, make)


def _normalize(a: Arguments, streams: dict[str, Stream]) -> None:
    nonzero, each = a.truth("nonzero"), a.truth("channel_wise")
    mean, std = a.number("subtrahend"), a.number("divisor")
    if (mean is None) != (std is None) or (std is not None and std <= 0):
        raise a.refusal("divisor", std)
    dtype = a.take("dtype", "float32")
    if dtype not in _FLOATS:
        raise a.refusal("dtype", dtype)
    mask = "nonzero" if nonzero else "all"
    if mean is not None and std is not None:
        how = {"method": "range", "mask": mask, "window": [mean, mean + std], "output": [0.0, 1.0]}
    else:
        how = {"method": "zscore", "mask": mask}
    _add(a, streams, lambda key: Step("normalization", how, a.node, not each and mean is None))


def _scale(a: Arguments, streams: dict[str, Stream]) -> None:
    low, high, each = a.number("minv", 0.0), a.number("maxv", 1.0), a.truth("channel_wise")
    a.only("factor", None)
    a.ignore("dtype")
    if low is None or high is None or not low < high:
        raise a.refusal("minv", low)
    how: dict[str, Any] = {"method": "minmax"}
    if (low, high) != (0.0, 1.0):
        how = {"method": "percentiles", "window": [0.0, 100.0], "output": [low, high]}
    _add(a, streams, lambda key: Step("normalization", how, a.node, not each))


def _range(a: Arguments, streams: dict[str, Stream]) -> None:
    low, high = a.number("a_min"), a.number("a_max")
    window = _ordered(a, "a_min", low, high)
    how = {"method": "range", "window": window, **_target(a)}
    a.ignore("dtype")
    _add(a, streams, lambda key: Step("normalization", how, a.node))


def _percentiles(a: Arguments, streams: dict[str, Stream]) -> None:
    low, high, each = a.number("lower"), a.number("upper"), a.truth("channel_wise")
    window = _ordered(a, "lower", low, high)
    if window[0] < 0 or window[1] > 100:
        raise a.refusal("lower", window)
    a.only("relative", False)
    how = {"method": "percentiles", "window": window, **_target(a)}
    a.ignore("dtype")
    _add(a, streams, lambda key: Step("normalization", how, a.node, not each))


def _target(a: Arguments) -> dict[str, Any]:
    low, high, clip = a.number("b_min"), a.number("b_max"), a.truth("clip")
    if low is None and high is None and not clip:
        return {"output": [0.0, 1.0], "clamp": False}
    return {"output": _ordered(a, "b_min", low, high), "clamp": clip}


def _ordered(a: Arguments, name: str, low: float | None, high: float | None) -> list[float]:
    if low is None or high is None or not low < high:
        raise a.refusal(name, low)
    return [low, high]


def _crop(a: Arguments, streams: dict[str, Stream]) -> None:
    source = a.take("source_key")
    if a.keys != [source]:
        raise a.refusal("source_key", source)
    a.only("channel_indices", None)
    a.only("margin", 0, [0, 0, 0])
    a.only("k_divisible", 1, [1, 1, 1])
    a.only("lazy", False, None)
    a.ignore("mode", "allow_smaller", "start_coord_key", "end_coord_key", "pad_kwargs")
    how = _selected(a.node_of("select_fn"))
    _add(a, streams, lambda key: Step("crop", how, a.node))


def _selected(select: Node | None) -> str:
    """Which voxels ``CropForegroundd`` keeps: the default function, or a plain comparison with 0."""
    if select is None:
        return "positive"
    text = select.value
    if isinstance(text, str) and text.startswith("$lambda"):
        try:
            tree = ast.parse(text[1:].strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            tree = None
        if isinstance(tree, ast.Lambda) and [x.arg for x in tree.args.args] and isinstance(tree.body, ast.Compare):
            name = tree.args.args[0].arg
            for sign, kind in ((">", "positive"), ("!=", "nonzero")):
                if ast.unparse(tree.body) == f"{name} {sign} 0":
                    return kind
        raise select.refusal(f"the expression {shown(text)} would have to be run as code")
    if select.data() == "is_positive":
        return "positive"
    raise select.refusal(f"{shown(text)} is not a known choice of voxels")


def _concatenate(a: Arguments, streams: dict[str, Stream]) -> None:
    name = a.take("name")
    a.only("dim", 0)
    if not isinstance(name, str) or not a.keys or not all(key in streams for key in a.keys):
        raise a.refusal("keys", a.keys)
    streams[name] = Stream([], [streams[key] for key in a.keys])


_TABLE: dict[str | None, Handler] = {
    "LoadImaged": _load,
    "EnsureChannelFirstd": _nothing("channel_dim", "strict_check", "meta_keys", "meta_key_postfix"),
    "AddChanneld": _nothing(),
    "AsChannelFirstd": _nothing("channel_dim"),
    "EnsureTyped": _type,
    "CastToTyped": _type,
    "ToTensord": _type,
    "ToDeviced": _nothing("device", "non_blocking"),
    "Identityd": _nothing(),
    "DeleteItemsd": _nothing("sep", "use_re"),
    "Orientationd": _orientation,
    "Spacingd": _spacing,
    "NormalizeIntensityd": _normalize,
    "ScaleIntensityd": _scale,
    "ScaleIntensityRanged": _range,
    "ScaleIntensityRangePercentilesd": _percentiles,
    "CropForegroundd": _crop,
    "ConcatItemsd": _concatenate,
}

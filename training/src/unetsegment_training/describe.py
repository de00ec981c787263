"""A network in numbers: its stages, the size of every feature map, receptive field, parameters, memory and operations."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import log, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .dataset import DatasetError
from .layers import Layer, trace

if TYPE_CHECKING:
    import torch
    from rich.console import Console

BYTES = 4
"""Of a number in single precision."""
PAPER = "unet2015"


@dataclass
class Stage:
    """The layers at one resolution on one side of the U.

    Args:
        side: "encoder", "bottleneck" or "decoder".
        level: 0 at the top, the finest.
        layers: In the order they run.
        part: Which U it belongs to, where several follow each other.
    """

    side: str
    level: int
    layers: list[Layer]
    part: int = 1

    @property
    def name(self) -> str:
        """As in "encoder 1", or "encoder 1 of U 2"."""
        name = self.side if self.side == "bottleneck" else f"{self.side} {self.level + 1}"
        return f"{name} of U {self.part}" if self.part > 1 else name

    @property
    def last(self) -> Layer:
        """The layer whose output leaves the stage."""
        return next((x for x in reversed(self.layers) if x.size_out), self.layers[-1])

    @property
    def parameters(self) -> int:
        """Numbers that are trained."""
        return sum(x.parameters for x in self.layers)

    @property
    def megabytes(self) -> float:
        """Of all its feature maps for one image, in single precision."""
        return sum(x.values for x in self.layers if x.size_out) * BYTES / 1e6

    @property
    def gigaflops(self) -> float:
        """For one image; a multiplication and an addition are two."""
        return sum(x.flops for x in self.layers) / 1e9


@dataclass
class Description:
    """A network for images of one size.

    Args:
        name: As it was asked for.
        title: For people.
        channels: Of the image.
        size: Of the image in voxels.
        stages: In the order they run.
        notes: Sentences about it.
    """

    name: str
    title: str
    channels: int
    size: tuple[int, ...]
    stages: list[Stage]
    notes: list[str] = field(default_factory=list)

    @property
    def layers(self) -> list[Layer]:
        """All layers, in the order they run."""
        return [layer for stage in self.stages for layer in stage.layers]

    @property
    def answer(self) -> Layer:
        """The last layer."""
        return self.stages[-1].last

    @property
    def margin(self) -> tuple[int, ...]:
        """Voxels on each side of the image that get no answer; 0 for padded networks."""
        return tuple((n - m) // 2 for n, m in zip(self.size, self.answer.size_out, strict=True))

    @property
    def parameters(self) -> int:
        """Numbers that are trained."""
        return sum(stage.parameters for stage in self.stages)

    def as_json(self) -> dict[str, Any]:
        """All of it for other programs."""
        return {
            "name": self.name, "title": self.title, "channels": self.channels, "size": self.size,
            "parameters": self.parameters, "gigaflops": sum(s.gigaflops for s in self.stages),
            "feature_maps_megabytes": sum(s.megabytes for s in self.stages), "margin": self.margin, "notes": self.notes,
            "stages": [
                {
                    "name": s.name, "parameters": s.parameters, "megabytes": s.megabytes, "gigaflops": s.gigaflops,
                    "layers": [asdict(x) | {"formula": x.formula()} for x in s.layers],
                }
                for s in self.stages
            ],
        }  # fmt: skip


def describe(
    target: str,
    size: Sequence[int] | None = None,
    configuration: str | None = None,
    channels: int | None = None,
    classes: int | None = None,
) -> Description:
    """Describe a network.

    Args:
        target: A name (``unet2015``: as published; else those of ``fit``'s setting ``network``), ``plan.json``, a run
            folder, or the folder or zip of a model package.
        size: Of the image in voxels; by default the patch, or for names a usual one.
        configuration: Of a plan.
        channels: Of the image, and ``classes`` of the answer, where the target does not tell.

    Raises:
        DatasetError: There is no such network, or it cannot take that size.
    """
    import torch

    try:
        with torch.device("meta"):
            network, title, channels, usual, notes = _find(target, configuration, channels, classes, size)
    except RuntimeError:  # its constructor looks at values
        network, title, channels, usual, notes = _find(target, configuration, channels, classes, size)
    size = tuple(size or usual)
    try:
        layers = trace(network, channels, size)
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        shown = " x ".join(map(str, size))
        raise DatasetError(f"The network '{target}' cannot take an image of {shown} voxels ({text}).") from None
    name = Path(target).stem or target
    if Path(target).suffix == ".json":  # a plan, whose own file must not be written over
        name += "-network"
    told = Description(name, title, channels, size, stages_of(layers), notes)
    if any(x.kind == "linear" for x in layers):
        told.notes.append(
            "Its linear layers (attention) are counted with the convolution before them; a receptive field is not told."
        )
    if len(told.answer.size_out) == len(size) and any(told.margin):
        told.notes.append(_overlap_tile(told))
    return told


def _overlap_tile(told: Description) -> str:
    inside, out = (" x ".join(map(str, x)) for x in (told.size, told.answer.size_out))
    return (
        f"Convolutions without padding: an image of {inside} gives an answer of {out}, the middle. Larger images are cut "
        f"into tiles of {out} (overlap-tile); each is answered from {inside}, with {told.margin[0]} more on every side, "
        "mirrored where the image ends."
    )


def stages_of(layers: Sequence[Layer]) -> list[Stage]:
    """Layers grouped by resolution: down to the coarsest (encoder, bottleneck), and up again (decoder), once or more."""
    known_steps = [prod(x.step) for x in layers if x.step]
    down = known_steps[: known_steps.index(max(known_steps)) + 1]
    steps = sorted(set(down if layers[0].receptive_field else known_steps))
    # on the way up, the distance of voxels is an average and may be off by a little
    levels = [min(range(len(steps)), key=lambda n: abs(log(prod(x.step) / steps[n]))) if x.step else -1 for x in layers]
    for n, level in enumerate(levels):
        levels[n] = levels[n - 1] if level < 0 and n else max(level, 0)
    deepest = max(levels)
    starts = _starts(layers, levels)
    stages: list[Stage] = []
    for n, (layer, level) in enumerate(zip(layers, levels, strict=True)):
        part = sum(start <= n for start in starts)
        first = levels.index(deepest, starts[part - 1])
        side = "bottleneck" if level == deepest else "encoder" if n < first else "decoder"
        known = next((s for s in stages if (s.part, s.side, s.level) == (part, side, level)), None)
        if known is None:
            known = Stage(side, level, [], part)
            stages.append(known)
        known.layers.append(layer)
    rank = {"encoder": 0, "bottleneck": 1, "decoder": 2}
    return sorted(stages, key=lambda s: (s.part, rank[s.side], s.level if s.side == "encoder" else -s.level))


def _starts(layers: Sequence[Layer], levels: Sequence[int]) -> list[int]:
    """Where each U begins: the first layer, and what joins the image and the answer of the U before to go down again."""
    starts, deepest = [0], max(levels)
    while True:
        down = levels.index(deepest, starts[-1])
        up = next((n for n in range(down, len(levels)) if levels[n] == 0), None)
        if up is None or deepest == 0 or deepest not in levels[up:]:
            return starts
        below = next(n for n in range(up, len(levels)) if levels[n] > 0)
        joined = [n for n in range(up, below) if layers[n].kind == "concatenation"]
        if len(joined) < 2:  # what the U joins itself comes first
            return starts
        starts.append(joined[-1])


def _find(
    target: str, configuration: str | None, channels: int | None, classes: int | None, size: Sequence[int] | None
) -> tuple[torch.nn.Module, str, int, tuple[int, ...], list[str]]:
    """Network on "meta", title, channels, usual size, notes."""
    from UNetSegmentLib.package.pair import PAIR

    from .config import FitConfig
    from .network import KINDS

    path = Path(target)
    if target == PAPER:
        from .unet2015 import UNet2015

        n = len(size) if size else 2
        usual = (572,) * n if n == 2 else (188,) * n
        network = UNet2015(channels or 1, classes or 2, dimensions=n)
        notes = [
            "As published, without padding and normalisation. 'fit' has network = 'unet2015' (padded) and 'unet2015-valid', "
            "with a wider last up-convolution."
        ]
        return network, "U-Net (Ronneberger, Fischer, Brox 2015)", channels or 1, usual, notes
    if target in KINDS:
        settings = _usual(target, size)
        config = FitConfig(network=target, **settings)
        monai = "two of MONAI's BasicUNet" if KINDS[target].monai == PAIR else f"MONAI's {KINDS[target].monai}"
        found = _of_settings(config, f"{target} ({monai})", channels or 1, classes or 2)
        return *found[:-1], [f"{target}: {KINDS[target].words}."]
    if path.is_file() and path.suffix == ".json":
        from .plan_file import Plan

        plan = Plan.load(path)
        chosen = plan.choose(configuration)
        config = FitConfig(**FitConfig.of_plan(plan, configuration))
        title = f"{plan.dataset}, {chosen.name}: patches {' x '.join(map(str, chosen.patch))}, batch {chosen.batch}"
        return _of_settings(config, title, channels or len(plan.channels), classes or len(plan.labels))
    if path.exists():
        return _of_manifest(path)
    from UNetSegmentLib.package import package

    if target in (installed := package.installed()):
        return _of_manifest(installed[target])
    names = ", ".join(dict.fromkeys((PAPER, *KINDS)))
    raise DatasetError(f"There is no network, plan or model '{target}'; networks are {names}.")


def _usual(name: str, size: Sequence[int] | None) -> dict[str, Any]:
    """Settings under which a network is best known."""
    flat = (len(size) if size else 3 - ("2015" in name)) == 2
    settings: dict[str, Any] = {"dimensions": 2 if flat else 3, "patch": (512, 512) if flat else (128, 128, 128)}
    settings["filters"] = (32, 64, 128, 256, 512)
    if "2015" in name:
        settings |= {"filters": (64, 128, 256, 512, 1024), "norm": "none"}
        if name.endswith("valid"):
            settings["patch"] = (572, 572) if flat else (188, 188, 188)
    elif name in ("dynunet", "residual"):
        settings["filters"] = (32, 64, 128, 256, 512, 512) if flat else (32, 64, 128, 256, 320, 320)
    elif name == "swin-unetr":
        settings |= {"filters": (24, 48, 96, 192), "patch": (96,) * (2 if flat else 3)}
    elif name == "segresnet":
        settings["filters"] = (32, 64, 128, 256)
    elif name == "attention-unet":
        settings["filters"] = (16, 32, 64, 128, 256)
    return settings | ({"patch": tuple(size)} if size else {})


def _of_settings(config: Any, title: str, channels: int, classes: int) -> Any:
    from UNetSegmentLib.predict.backends.torch_backend import monai_network

    from .network import manifest_entry, unpad

    entry = manifest_entry(config, channels, classes)
    network = monai_network(entry["name"], entry["arguments"])
    if config.valid:
        unpad(network)
    return network, title, channels, config.patch, []


def _of_manifest(path: Path) -> Any:
    from UNetSegmentLib.package import Manifest, package
    from UNetSegmentLib.predict.backends.torch_backend import build_network

    from .run_folder import stored

    if (path / "manifest.json").is_file():  # a run
        manifest = Manifest.from_dict(stored(path / "manifest.json"))
    else:
        manifest = package.load(path).manifest
    usual = tuple(manifest.inference.patch_size)[-manifest.dimensions :]
    title = f"{manifest.title} {manifest.version}: {manifest.network}"
    return build_network(manifest), title, len(manifest.channels), usual, []


def shape_text(channels: int, size: Sequence[int]) -> str:
    """``64 x 568 x 568``: channels first."""
    return " x ".join(map(str, (channels, *size)))


def layer_words(stage: Stage) -> str:
    """``2 convolution 3 x 3``: what a stage is made of."""
    counts: Counter[str] = Counter()
    for x in stage.layers:
        kernel = " x ".join(map(str, x.kernel))
        step = f" / {' x '.join(map(str, x.stride))}" if x.stride and max(x.stride) > 1 else ""
        counts[f"{x.kind} {kernel}{step}".strip()] += 1
    return "\n".join(f"{n} {words}" for words, n in counts.items())


def print_description(told: Description, console: Console, layers: bool = False) -> None:
    """Tables on the console: a row per stage, and with ``layers`` one per layer."""
    from rich.table import Table

    console.print(f"{told.title}; image {shape_text(told.channels, told.size)}", style="bold", markup=False)
    table = Table("stage", "layers (kernel / stride)", "output")
    for heading in ("receptive field", "parameters", "maps MB", "GFLOP"):
        table.add_column(heading, justify="right")
    for stage in told.stages:
        last = stage.last
        field_ = " x ".join(map(str, last.receptive_field)) or "?"
        numbers = (field_, f"{stage.parameters:,}", f"{stage.megabytes:,.1f}", f"{stage.gigaflops:,.2f}")
        table.add_row(stage.name, layer_words(stage), shape_text(last.channels_out, last.size_out), *numbers)
    table.add_section()
    megabytes, work = sum(s.megabytes for s in told.stages), sum(s.gigaflops for s in told.stages)
    table.add_row("all", "", "", "", f"{told.parameters:,}", f"{megabytes:,.1f}", f"{work:,.2f}")
    console.print(table)
    if layers:
        table = Table("layer", "kind", "output", "size along the first axis", "field", "parameters")
        for x in told.layers:
            field_ = str(x.receptive_field[0]) if x.receptive_field else "?"
            shape = shape_text(x.channels_out, x.size_out) if x.size_out else str(x.channels_out)
            table.add_row(x.name, x.kind, shape, x.formula(), field_, f"{x.parameters:,}")
        console.print(table)
    console.print(
        "Output size of convolution and pooling: floor((n + 2p - k) / s) + 1; of transposed convolution: (n - 1)s - 2p + k "
        "(n voxels in, kernel k, stride s, padding p). maps MB: all feature maps of one image in single precision; GFLOP: one "
        "image forward, a multiplication and an addition are two. Receptive field: voxels of the image that an output "
        "voxel can depend on through these layers; normalisation over the image sees all of it.",
        style="dim",
    )
    for note in told.notes:
        console.print(note, markup=False)


def save(told: Description, folder: Path) -> list[Path]:
    """Write NAME.svg, NAME.png and NAME.json."""
    from .draw_network import draw
    from .safely import replace_bytes, replace_text

    paths = [folder / f"{told.name}.{ending}" for ending in ("svg", "png", "json")]
    svg, png = draw(told)
    replace_bytes(paths[0], svg)
    replace_bytes(paths[1], png)
    replace_text(paths[2], json.dumps(told.as_json(), indent=1))
    return paths

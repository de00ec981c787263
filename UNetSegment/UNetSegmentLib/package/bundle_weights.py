"""Where a MONAI bundle's weights are: what its ``CheckpointLoader`` would read, or ``models/model.pt``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ..errors import PackageError
from .bundle_config import Component, Config, shown

_DEFAULT = "models/model.pt"
_ROLES = {".pt": "torch", ".pth": "torch", ".safetensors": "safetensors"}


def weights_of(folder: Path, config: Config) -> dict[str, Path]:
    """Role (``torch`` or ``safetensors``) and file of the weights.

    Raises:
        PackageError: There are none, they lie outside of the bundle, or they are a program (TorchScript).
    """
    named = _named(config)
    place = PurePosixPath(named or _DEFAULT)
    role = _ROLES.get(place.suffix)
    inside = not place.is_absolute() and ".." not in place.parts and not re.search(r"[\\:\x00-\x1f]", str(place))
    if not inside or len(str(place)) > 200:
        raise PackageError(
            f"Bundle '{config.model}' cannot be used: its weights {shown(str(place))} lie outside of it."
        )
    if role is None:
        raise PackageError(
            f"Bundle '{config.model}' cannot be used: its weights {shown(str(place))} are not a state dict (.pt or "
            ".safetensors)."
        )
    path = folder.joinpath(*place.parts)
    if not path.is_file():
        other = " (it has a TorchScript program, models/model.ts, which is not run)"
        raise PackageError(
            f"Bundle '{config.model}' is incomplete: its weights {place} are missing"
            f"{other if (folder / 'models' / 'model.ts').is_file() else ''}; fetch them first."
        )
    if not path.resolve().is_relative_to(folder.resolve()):
        raise PackageError(f"Bundle '{config.model}' cannot be used: its weights {place} are a link out of it.")
    return {role: path}


def _named(config: Config) -> str | None:
    """The path that the configuration gives, below the bundle; None where it gives none that can be read."""
    for loader in _loaders(config):
        path = loader.arguments.get("load_path")
        try:
            value = path.data() if path else None
        except PackageError:  # built by code from what is not known: the usual place is looked at
            continue
        if isinstance(value, str):
            return value
    return None


def _loaders(config: Config) -> Iterator[Component]:
    for entry in ("checkpointloader", "handlers"):
        if entry not in config:
            continue
        try:
            node = config.get(entry).followed()
            for item in node.items() if isinstance(node.value, list) else [node]:
                component = item.component()
                if component.name("monai.handlers") == "CheckpointLoader":
                    yield component
        except PackageError:  # not needed to run the network
            continue

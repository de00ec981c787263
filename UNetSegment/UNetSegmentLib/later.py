"""Names of a package that are imported when they are first asked for, so that opening the panel reads little (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


def names(package: str, **homes: tuple[str, ...]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package, ``names(__name__, run=("Run", "Result"))``: ``Run`` is imported from its file ``run``.

    No name may be that of a file of the package, which would take its place.
    """
    home = {name: file for file, those in homes.items() for name in those}

    def get(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        value = getattr(import_module(f"{package}.{home[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return get

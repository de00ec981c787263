"""``slicer.packaging``: requirements are read and checked; nothing is ever installed from a test."""

import importlib.metadata
from pathlib import Path

from packaging.requirements import Requirement

__all__ = ["isPipInstallInProgress", "load_requirements", "pip_check", "pip_ensure", "pip_install", "pip_uninstall"]


def load_requirements(path):
    lines = (line.strip() for line in Path(path).read_text().splitlines())
    return [Requirement(line) for line in lines if line and line[0] not in "#-"]


def pip_check(req, _seen=None):
    """Whether the requirement, or all of a list, is met by what is installed."""
    if isinstance(req, list | tuple):
        return all(pip_check(r) for r in req)
    req = Requirement(req) if isinstance(req, str) else req
    if req.marker is not None and not req.marker.evaluate():
        return True
    try:
        return req.specifier.contains(importlib.metadata.version(req.name), prereleases=True)
    except importlib.metadata.PackageNotFoundError:
        return False


def pip_install(requirements, *args, **kwargs):
    raise RuntimeError(f"the stand-in host does not install packages: {requirements}")


def pip_ensure(requirements, *args, skip_in_testing=True, **kwargs):
    import slicer

    if skip_in_testing and slicer.app.testingEnabled():
        return None
    missing = [r for r in (requirements if isinstance(requirements, list) else [requirements]) if not pip_check(r)]
    return pip_install(missing) if missing else []


pip_uninstall = pip_install


def isPipInstallInProgress():
    return False

"""Small wheels, built here: for tests that install something for real."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path


def build_wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    files: int = 1,
    requires: tuple[str, ...] = (),
    tag: str = "py3-none-any",
) -> Path:
    """A wheel with one package that has ``files`` modules and a file that passes for a library; its path."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {f"{name}/__init__.py": f'__version__ = "{version}"\n', f"{name}/native.so": "not code\n"}
    content |= {f"{name}/part_{number}.py": f"NUMBER = {number}\n" for number in range(files)}
    notes = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {need}\n" for need in requires)
    content[f"{notes}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"
    content[f"{notes}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n"
    record = "".join(f"{path},sha256={_hash(text)},{len(text)}\n" for path, text in content.items())
    content[f"{notes}/RECORD"] = record + f"{notes}/RECORD,,\n"
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for inside, text in content.items():
            archive.writestr(inside, text)
    return path


def _hash(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()

"""Catalogs of models as a hospital would write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def entry(url: str, **changes: Any) -> dict[str, Any]:
    """One model at an address, without a published hash; ``changes`` replace entries, and add to its ``download``."""
    download = {"url": url, "sha256": None} | changes.pop("download", {})
    return {
        "name": "synthetic",
        "version": "1.0.0",
        "title": "Synthetic",
        "kind": "unetsegment",
        "task": "Tests",
        "modality": ["MR"],
        "channels": ["T1"],
        "labels": ["Dim structure"],
        "size": None,
        "licence": {"name": "CC0-1.0", "clinical_use": False, "commercial_use": None},
        "download": download,
    } | changes


def write(path: Path, *models: Any, **changes: Any) -> Path:
    """A catalog of these models; ``changes`` replace its own entries."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"catalog_version": "1.0", "title": "Clinic", "models": list(models)} | changes
    path.write_text(json.dumps(content), "utf-8")
    return path

"""What the figures were measured on: processor, memory, versions, and the matrix-product ceiling."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from .options import Options
from .session import Session

_LIBRARIES = ("unetsegment", "numpy", "openvino", "numba", "torch", "monai", "nnunetv2", "scipy")


def describe(options: Options) -> dict[str, Any]:
    """Processor, cores, memory, load by others, system, date."""
    flags = _cpuinfo("flags").split()
    units = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    return {
        "processor": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "units": units,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": options.threads,
        "memory": psutil.virtual_memory().total,
        "load": [round(value, 2) for value in psutil.getloadavg()],
        "system": f"{platform.system()} {platform.machine()}",
        "device": options.device,
        "date": datetime.now(timezone.utc).isoformat(timespec="minutes"),
    }


def versions(options: Options) -> dict[str, dict[str, str]]:
    """Versions of what runs in our interpreter and in nnU-Net's."""
    found = {"ours": {"python": platform.python_version()} | _installed()}
    if options.nnunet_python is not None:
        script = (
            "import json,platform\nfrom importlib import metadata\nv={'python':platform.python_version()}\n"
            f"for n in {_LIBRARIES!r}:\n try: v[n]=metadata.version(n)\n except Exception: pass\nprint(json.dumps(v))"
        )
        out = subprocess.run([options.nnunet_python, "-c", script], capture_output=True, text=True, check=True).stdout
        found["nnU-Net"] = json.loads(out)
    return found


def ceiling(options: Options) -> dict[str, dict[str, float]]:
    """GFLOP/s, and GFLOP per processor second, of matrix products in each precision."""
    folder, module = options.scratch / "ceiling", "benchmarks.contenders.ceiling"
    with Session("ceiling", module, sys.executable, options.threads, folder) as session:
        return session.call("ceiling", threads=options.threads, device=options.device).result


def _installed() -> dict[str, str]:
    from UNetSegmentLib import __version__

    found = {"unetsegment": __version__}
    for name in _LIBRARIES[1:]:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpuinfo(key: str) -> str:
    """An entry of Linux' description of the processor; empty elsewhere."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return ""
    lines = path.read_text("utf-8", "replace").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.split(":")[0].strip() == key), "")

"""``python -m benchmarks``: run cases, keep each as a small JSON file, and write the table from all that there are."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "UNetSegment"))  # this clone's library, not another

from . import machine, table  # noqa: E402
from .options import Options, Skip  # noqa: E402
from .session import ContenderError  # noqa: E402

CASES = {
    "network": "network",
    "hippocampus": "hippocampus",
    "nnunet-hippocampus": "nnunet_hippocampus",
    "torso-2": "torso",
    "torso-20": "torso",
    "torso-118": "torso",
    "export-20": "export",
    "depth": "depth",
    "large": "large",
    "panel": "panel",
}
"""Case and the file in ``cases/`` that runs it."""


def main() -> int:
    """Run what was asked for; 0, or 1 where a case broke."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that no contender outlives this process
    chosen = _parser().parse_args()
    out: Path = chosen.out.with_suffix("")
    names = list(CASES) if "all" in chosen.case else chosen.case
    if not chosen.table_only:
        with tempfile.TemporaryDirectory(prefix="unetsegment-bench-") as temporary:
            options = _options(chosen, Path(chosen.scratch or temporary).resolve())
            broken = [name for name in names if not _case(name, options, out)]
    else:
        broken = []
    text = table.assemble(table.read(out))
    out.with_suffix(".md").write_text(text, "utf-8")
    print(text)
    return 1 if broken else 0


def _case(name: str, options: Options, out: Path) -> bool:
    """Run one case into its JSON file; False where it broke."""
    print(f"{name} ...", file=sys.stderr, flush=True)
    folder, began = options.scratch / name, time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    for caches in folder.rglob("caches"):  # of an earlier run in a kept folder: first use means first use
        shutil.rmtree(caches)
    record: dict[str, Any] = {"case": name, "machine": machine.describe(options), "command": _command()}
    try:
        record["versions"] = machine.versions(options)
        module = importlib.import_module(f".cases.{CASES[name]}", __package__)
        if not getattr(module, "EMPTY_NETWORK", False):
            record["ceiling"] = machine.ceiling(options)
        record |= module.run(options, folder)
    except Skip as reason:
        print(f"  skipped: {reason}", file=sys.stderr)
        return True  # what an earlier run measured stays
    except (ContenderError, Exception) as error:
        traceback.print_exc()
        print(f"  broke: {error}", file=sys.stderr)
        return False
    record["seconds"] = time.monotonic() - began
    out.mkdir(parents=True, exist_ok=True)
    device = "" if options.device == "cpu" else f"-{options.device}"
    (out / f"{name}{device}.json").write_text(json.dumps(table.rounded(record), indent=1) + "\n", "utf-8")
    print(f"  {record['seconds']:.0f} s", file=sys.stderr)
    return True


def _command() -> str:
    """The command line, with the interpreter of nnU-Net and folders of this machine left out."""
    hidden = {"--nnunet-python": "PYTHON", "--data": "SHARED", "--scratch": "FOLDER", "--out": "DOCS"}
    words = ["python", "-m", "benchmarks"]
    for before, word in zip(["", *sys.argv[1:]], sys.argv[1:], strict=False):
        flag, _, value = word.partition("=")
        if before in hidden:
            words.append(hidden[before])
        else:
            words.append(f"{flag}={hidden[flag]}" if value and flag in hidden else word)
    return " ".join(words)


def _options(chosen: argparse.Namespace, scratch: Path) -> Options:
    device = chosen.device
    if device == "auto":
        device = "cuda" if _cuda() else "cpu"
    return Options(
        nnunet_python=chosen.nnunet_python or None,
        shared=chosen.data.resolve(),
        threads=chosen.threads,
        device=device,
        scratch=scratch,
        count=chosen.count,
        repeats=chosen.repeats,
        width=chosen.width,
        patch=chosen.patch,
        crop=chosen.crop,
        slices=chosen.slices,
    )


def _cuda() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())


def _parser() -> argparse.ArgumentParser:
    root = Path(__file__).resolve().parents[2]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shared = Path(os.environ.get("UNETSEGMENT_SHARED", root.parent / "shared"))
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--case", nargs="+", default=["all"], choices=["all", *CASES], metavar="CASE", help=f"all, {', '.join(CASES)}")
    add(
        "--nnunet-python",
        default=os.environ.get("UNETSEGMENT_NNUNET_PYTHON"),
        help="Python that has nnunetv2 installed; without it, rows of nnU-Net and cases that need it are left out",
    )
    add("--data", type=Path, default=shared, help="folder with data/ and models/ (or set UNETSEGMENT_SHARED)")
    add("--out", type=Path, default=root / "docs" / "benchmarks", help="folder of JSON files; table beside it as .md")
    add("--threads", type=int, default=cores, help="processor threads of every contender")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto")
    add("--count", type=int, default=20, help="images of the case hippocampus")
    add("--repeats", type=int, default=2, help="warm runs of every contender on every image")
    add("--width", type=float, default=0.25, help="share of the full network's channels in the cases torso and large")
    add("--patch", type=int, default=128, help="edge of their patch")
    add("--crop", type=int, default=80, help="edge of the used part of the CT in voxels of 3 mm; 0 for all of it")
    add("--slices", type=int, default=96, help="slices of the case large (300 for a whole torso)")
    add("--scratch", help="keep inputs, results and logs in this folder")
    add("--table-only", action="store_true", help="measure nothing, write the table anew")
    return parser


if __name__ == "__main__":
    sys.exit(main())

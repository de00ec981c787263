"""The table: from the JSON files of the cases to Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Record = Mapping[str, Any]
GIB, MIB = 2**30, 2**20

INTRO = """# Benchmarks

What the predictor costs, measured beside its peers: the same weights, input, threads and machine, each contender in a process of its own,
in turns. Written by

```
make bench
```

(`cd Testing && python -m benchmarks --help` has the choices; each case is kept in `docs/benchmarks/*.json`, and this page is assembled from
them.) **CPU s** are processor seconds of the process and its children and come first, as other work shares these machines; **wall** is
elapsed seconds. **Cold** is a fresh process from its start through imports, loading and the first image; **first use** is the same before
anything was converted, compiled or cached. **Warm** is the mean over the images, of each the least of its warm runs.
**Network** is the time within the network (mirrored passes included), **rest** all else of a warm prediction. **Ceiling**: matrix products
in the same precision, the best of several sizes in PyTorch and OpenVINO, just before the case; floating point operations are counted from
the convolutions. **Memory** is resident memory of the process tree, looked at from outside every 20 ms: the peak, and what of it came after loading; the kernel's peak is its own count for the main process."""


def read(folder: Path) -> list[dict[str, Any]]:
    """The records in a folder, in the order of the command's cases."""
    from .__main__ import CASES

    found = [json.loads(path.read_text("utf-8")) for path in folder.glob("*.json")]
    order = list(CASES)
    return sorted(found, key=lambda record: order.index(record["case"]) if record["case"] in order else len(order))


def assemble(records: Sequence[Record]) -> str:
    """The page."""
    parts = [INTRO, *_targets(records), *_machines(records)]
    for record in records:
        parts += _case(record)
    return "\n\n".join(part for part in parts if part) + "\n"


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(cells) + " |" for cells in [head, *rows]]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def number(value: Any, digits: int = 3) -> str:
    """A figure with few digits; a dash where there is none."""
    if value is None:
        return "-"
    if isinstance(value, bool | str):
        return str(value)
    if value == 0:
        return "0"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:.0f}"
    text = f"{value:.{digits}g}"
    return text if "e" not in text or abs(value) < 1e-4 else f"{value:.{digits}f}"


def share(value: float | None) -> str:
    """A share near one, with all digits that matter: 0.99998."""
    if value is None:
        return "-"
    return f"{value:.7f}".rstrip("0").rstrip(".")


def rounded(value: Any) -> Any:
    """JSON with floats of six significant digits: small files, readable differences."""
    if isinstance(value, float):
        return value if 0.9 < value < 1 else float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list | tuple) else value


def _targets(records: Sequence[Record]) -> list[str]:
    """All targets in one table, and what was missed in plain words."""
    rows, words = [], []
    for record in records:
        for target in record.get("targets", []):
            verdict = {True: "met", False: "**missed**", None: "not measured"}[target["met"]]
            aim = f"{target['sign']} {_plain(target['aim'])} {target['unit']}"
            rows.append([target["what"], record["case"], aim, _measured(target), verdict])
            if target["met"] is False:
                words.append(
                    f"- {target['what']} (`{record['case']}`): {_measured(target)} where {aim} was the aim."
                    + (f" {target['why']}" if target.get("why") else "")
                )
    if not rows:
        return []
    missed = ["Missed:\n\n" + "\n".join(words)] if words else []
    return ["## Targets", grid(["what", "case", "target", "measured", ""], rows), *missed]


def _measured(target: Record) -> str:
    value = target["measured"]
    return share(value) if target["unit"].startswith(("of voxels", "Dice")) and value is not None else number(value)


def _plain(value: float) -> str:
    return f"{value:.10f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _machines(records: Sequence[Record]) -> list[str]:
    """Machine, ceiling and versions; several where cases were run on several."""
    texts: dict[str, list[str]] = {}
    for record in records:
        here, peers = record["machine"], record["versions"]
        units = f" ({', '.join(here['units'])})" if here["units"] else ""
        text = (
            f"{here['processor']}{units}, {here['cores']} cores, {here['threads']} threads, "
            f"{here['memory'] / GIB:.0f} GiB, {here['system']}, device {here['device']}. "
        )
        text += " ".join(
            f"{side}: {', '.join(f'{name} {version}' for name, version in found.items())}."
            for side, found in peers.items()
        )
        texts.setdefault(text, []).append(record["case"])
    parts = ["## Machine"]
    parts += [text + (f" (cases {', '.join(cases)})" if len(texts) > 1 else "") for text, cases in texts.items()]
    if not any(record["machine"]["device"] == "cuda" for record in records):
        parts.append("CUDA: no NVIDIA GPU was at hand in these runs; the same command measures it where there is one.")
    rows = []
    for record in records:
        peak = record.get("ceiling", {})
        keys = [(p, key) for key in ("per_cpu_second", "gflops") for p in ("fp32", "bf16")]
        cells = [number(peak[p][key]) if p in peak else "-" for p, key in keys]
        cells.append(str(record["machine"]["load"][0]))
        rows.append([record["case"], record["machine"]["date"], *cells, number(record.get("seconds"))])
    head = ["case", "date (UTC)", "ceiling fp32, GFLOP per CPU s", "bf16", "ceiling fp32, GFLOP/s", "bf16"]
    head += ["load by others", "case took s"]
    return [*parts, grid(head, rows)]


def _case(record: Record) -> list[str]:
    device = record["machine"]["device"]
    name = record["case"] if device == "cpu" else f"{record['case']} on {device}"
    parts = [f"## {name}: {record['title']}", f"Scale: {record['scale']}. Command: `{record['command']}`"]
    rows = record.get("rows", [])
    if any("warm_cpu" in row for row in rows):
        parts.append(_predictions(record, rows))
        once = [row["contender"] for row in rows if row.get("runs") == 0]
        if once:
            parts.append(f"Without a warm run, so that figures of the cold prediction stand in: {'; '.join(once)}.")
    if record.get("table"):
        parts.append(grid(record["table"]["head"], record["table"]["rows"]))
    failed = [f"- {row['contender']}: {row['error']}" for row in rows if "error" in row]
    if failed:
        parts.append("Did not run:\n\n" + "\n".join(failed))
    if record.get("agreement"):
        parts.append(
            grid(
                ["agreement of", "with", "voxels", "different", "equal", "Dice, worst label"],
                [
                    [one["a"], one["b"], str(one["voxels"]), str(one["different"]), share(one["equal"])]
                    + [share(one["dice_min"]) + (f" ({n} voxels)" if (n := one.get("dice_min_voxels")) else "")]
                    for one in record["agreement"]
                ],
            )
        )
    return [*parts, *record.get("notes", [])]


def _predictions(record: Record, rows: Sequence[Record]) -> str:
    head = ["contender", "warm CPU s", "warm wall s", "network CPU s", "rest CPU s", "rest wall s", "GFLOP per CPU s"]
    head += [
        "of ceiling",
        "cold CPU s",
        "cold wall s",
        "first use s",
        "peak GiB",
        "of it after loading MiB",
        "kernel's peak GiB",
    ]
    on_gpu = any(row.get("gpu_peak") for row in rows)
    head += ["GPU MiB"] if on_gpu else []
    lines = []
    for row in rows:
        if "error" in row:
            continue
        rate, part = _rate(record, row)
        timed = ("warm_cpu", "warm_wall", "network_cpu", "rest_cpu", "rest_wall")
        line = [row["contender"], *(number(row.get(key)) for key in timed), number(rate), part]
        line += [number(row["cold_cpu"]), number(row["cold_wall"]), number(row.get("first_use_wall"))]
        line += [number(row["peak"] / GIB), number(row["peak_over_start"] / MIB), number(row["maxrss"] / GIB)]
        lines.append([*line, number(row["gpu_peak"] / MIB)] if on_gpu else line)
    return grid(head, lines)


def _rate(record: Record, row: Record) -> tuple[float | None, str]:
    """GFLOP per CPU second within the network, and its share of the ceiling of the precision that it ran in."""
    operations = record.get("flop_per_patch")
    passes = row["network_calls"] * (8 if "mirrored" in row["contender"] and "nnU-Net" in row["contender"] else 1)
    if not operations or not row.get("network_cpu"):
        return None, "-"
    rate = operations * passes / row["network_cpu"] / 1e9
    precision = row.get("provenance", {}).get("precision", "fp32")
    peak = record.get("ceiling", {}).get(precision)
    return rate, f"{100 * rate / peak['per_cpu_second']:.0f} % of {precision}" if peak else "-"

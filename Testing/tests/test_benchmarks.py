"""The benchmarks measure what they say: a process with known memory and work, and the table from its figures."""

import json
import os
import sys
import textwrap

import numpy as np
import pytest

pytest.importorskip("psutil")

from benchmarks import flops, table  # noqa: E402
from benchmarks.compare import agreement, pooled  # noqa: E402
from benchmarks.report import Target  # noqa: E402
from benchmarks.session import ContenderError, Session  # noqa: E402
from UNetSegmentLib import package  # noqa: E402

MIB = 2**20


@pytest.fixture
def session(tmp_path):
    """A contender that takes memory for a while, burns processor time, alone or in a child, or fails."""
    (tmp_path / "known.py").write_text(
        textwrap.dedent("""
            import subprocess, sys, time
            from benchmarks.serve import cpu_seconds, serve, stage

            BURN = "import time\\nwhile time.process_time() < {}: pass"

            def hold(mib, seconds):
                with stage("hold"):
                    block = bytearray(mib << 20)
                    block[::4096] = b"x" * len(block[::4096])
                    time.sleep(seconds)
                    del block

            def burn(seconds):
                with stage("burn"):
                    began = cpu_seconds()
                    while cpu_seconds() - began < seconds:
                        pass
                print("printed by a library")

            def child(seconds):
                script = BURN.format(seconds) + "\\nprint(1, flush=True)\\ntime.sleep(30)"
                with stage("child"):
                    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
                    process.stdout.readline()
                    time.sleep(0.1)
                process.kill()

            def fail():
                raise ValueError("as told")

            serve({"hold": hold, "burn": burn, "child": child, "fail": fail})
        """)
    )
    known = Session("known", "known", sys.executable, 1, tmp_path / "scratch")
    environment = known._environment()
    known.environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), environment["PYTHONPATH"]])
    with known:
        yield known


def test_memory_is_seen_from_outside(session):
    answer = session.call("hold", mib=200, seconds=0.2)
    held = answer.stages["hold"]
    assert held.extra == pytest.approx(200 * MIB, rel=0.05)
    assert answer.peak == pytest.approx(held.rss_peak, rel=0.05)
    after = session.call("hold", mib=50, seconds=0.2).stages["hold"]
    assert after.extra == pytest.approx(50 * MIB, rel=0.1) and after.rss_peak < held.rss_peak


def test_processor_and_wall_time(session):
    answer = session.call("burn", seconds=0.4)
    assert answer.stages["burn"].cpu == pytest.approx(0.4, abs=0.05)
    assert answer.stages["burn"].wall >= 0.39 and answer.cpu_since_start > 0.4
    idle = session.call("hold", mib=1, seconds=0.4).stages["hold"]
    assert idle.wall >= 0.4 and idle.cpu < 0.1


def test_a_child_that_still_runs_counts(session):
    seen = session.call("child", seconds=0.4).stages["child"]
    assert seen.cpu >= 0.3 and seen.extra > 2 * MIB


def test_a_failure_is_told_and_the_contender_goes_on(session):
    with pytest.raises(ContenderError, match="as told"):
        session.call("fail")
    assert session.call("hold", mib=1, seconds=0.0).stages


def test_agreement_counts_voxels_and_the_worst_label():
    a = np.zeros((4, 5, 6), np.uint8)
    a[:2] = 1
    b = a.copy()
    b[0, 0, 0], b[3, 0, 0] = 0, 7
    found = agreement(a, b)
    assert found["different"] == 2 and found["voxels"] == 120
    assert found["dice_min"] == 0 and found["dice_min_label"] == 7
    both = pooled([found, agreement(a, a)])
    assert both["equal"] == pytest.approx(1 - 2 / 240) and both["dice_min"] == 0


def test_multiply_adds_are_those_of_the_layers():
    openvino = pytest.importorskip("openvino")
    model = package.load("hippocampus-mr-t1")
    patch = model.manifest.inference.patch_size
    network = openvino.Core().read_model(model.path("onnx"))
    network.reshape([1, len(model.manifest.channels), *patch])
    total = 0.0
    for layer in network.get_ops():
        if layer.get_type_name() == "Convolution":  # weights (out, in, *kernel)
            total += 2.0 * np.prod(layer.output(0).shape) * np.prod(list(layer.input(1).get_shape())[1:])
        elif layer.get_type_name() == "ConvolutionBackpropData":  # transposed: each output has one source
            total += 2.0 * np.prod(layer.output(0).shape) * layer.input(1).get_shape()[0]
    assert flops.of_dynunet(model.manifest.raw["network"]["arguments"], patch) == total


def test_the_page_is_assembled_from_what_was_kept(tmp_path):
    machine = {"processor": "CPU", "units": [], "cores": 2, "threads": 2, "memory": 2**34, "load": [0.1, 0.1, 0.1]}
    record = {
        "case": "hippocampus",
        "title": "a model",
        "scale": "small",
        "command": "python -m benchmarks",
        "seconds": 12.3456789,
        "machine": machine | {"system": "Linux", "device": "cpu", "date": "2026-01-01T00:00+00:00"},
        "versions": {"ours": {"python": "3.12"}},
        "ceiling": {"fp32": {"gflops": 100.0, "per_cpu_second": 50.0}},
        "flop_per_patch": 1e9,
        "rows": [
            {"contender": "ours, parity", "provenance": {"precision": "fp32"}, "network_calls": 1}
            | dict.fromkeys(("warm_cpu", "warm_wall", "rest_cpu", "rest_wall", "cold_cpu"), 0.5)
            | {
                "network_wall": 0.02,
                "network_cpu": 0.02,
                "cold_wall": 1.0,
                "peak": 2**30,
                "peak_over_start": 3 * 2**20,
                "maxrss": 2**30,
            },
            {"contender": "a peer", "error": "it died"},
        ],
        "agreement": [{"a": "ours, parity", "b": "a peer", **agreement(np.eye(3, dtype=int), np.eye(3, dtype=int))}],
        "targets": [Target.times("less time", 3.0, 2.5), Target.equal("equal", [], "x", "y", 0.9999)]
        + [Target.at_most("few", 0.5, 0.1, "of them")],
    }
    (tmp_path / "hippocampus.json").write_text(json.dumps(table.rounded(record)), "utf-8")
    page = table.assemble(table.read(tmp_path))
    assert "| less time | hippocampus | >= 2.5 times less | 3 | met |" in page
    assert "| few | hippocampus | <= 0.1 of them | 0.5 | **missed** |" in page and "not measured" in page
    assert "| 50 | 100 % of fp32 |" in page and "- a peer: it died" in page
    assert "| ours, parity | a peer | 9 | 0 | 1 | 1 (6 voxels) |" in page

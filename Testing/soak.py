"""Hundreds of runs through the whole panel that end badly at random moments: ``cd Testing && python -m soak``.

Apply is clicked on the stand-in host, with the real worker. Then the run is cancelled, the worker's process tree is killed, the
scene is closed, a node is deleted, another module is opened, the module is reloaded, or the application ends. After each: the
panel is usable, no node is lost or half-written, and what is written is right to the voxel. At the end: no process and no shared
memory is left, and memory did not grow. Attacks that come when the run is over are tried again: those of the plan hit one in flight.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "UNetSegment"), str(ROOT / "Testing")]

import numpy as np  # noqa: E402
import psutil  # noqa: E402
from synthetic.processes import shared_names  # noqa: E402
from synthetic.workers import labels_of  # noqa: E402

SHAPE = (48, 44, 40)
PLAN = {
    **{
        "let it finish": 20,
        "cancel": 200,
        "kill": 50,
        "close the scene": 20,
        "delete the volume": 10,
        "delete the result": 10,
    },
    **{"open another module": 10, "reload": 5},
}
EXITS = 6


HANDOVER = 0.25
"""Part of the attacks that come before the first report of a run."""
LATEST = 0.8
"""Part of the progress bar up to which the others come: a report that there is no more to do is the last."""


class Soak:
    """The panel under attack.

    Args:
        seed: Of the random moments.
    """

    def __init__(self, seed: int) -> None:
        import host

        host.start()
        import slicer
        from host import pythonqt
        from synthetic import packages

        self._slicer, self._errors, self._random = slicer, pythonqt.slot_errors, random.Random(seed)
        packages.threshold_package(
            Path(os.environ["UNETSEGMENT_CACHE"]) / "models" / "soaked",
            name="soaked",
            inference={"patch_size": [16, 16, 16], "overlap": 0.5},
        )
        self.names = shared_names(os.getpid())
        host.load_module(ROOT / "UNetSegment" / "UNetSegment.py")
        self.panel.enter()
        self._usual = 0.5  # seconds of a run
        self.ends: collections.Counter[tuple[str, str]] = collections.Counter()

    @property
    def panel(self) -> Any:
        """The module's panel; a new one after a reload."""
        return self._slicer.modules.unetsegment.widgetRepresentation().self()

    def live(self, until: Any, seconds: float) -> bool:
        """Let the application live; whether it came to that in time."""
        import qt

        end = time.monotonic() + seconds
        while not until() and time.monotonic() < end:
            self._slicer.app.processEvents()
            qt.QCoreApplication.sendPostedEvents(None, qt.QEvent.DeferredDelete)  # as Slicer's running loop does
            time.sleep(0.002)
        return bool(until())

    def round(self, attack: str, tries: int = 1) -> bool:
        """Apply, attack at a random moment, and look at what is left.

        Args:
            attack: One of the plan.
            tries: How often it was tried, with this time: earlier ones came too late.

        Returns:
            Whether the run was in flight then.

        Raises:
            AssertionError: Something is not as it should be.
        """
        slicer, panel = self._slicer, self.panel
        volume, kept, target = self._scene()
        before = self._nodes()
        expected = labels_of(slicer.util.arrayFromVolume(volume))
        began = time.monotonic()
        self.apply(volume, target)
        if attack == "let it finish":
            assert self.live(lambda: panel._run is None, 120)
            self._usual = 0.8 * self._usual + 0.2 * (time.monotonic() - began)
        else:
            self.to_a_moment(tries)
        hit = panel._run is not None or attack == "let it finish"
        gone = self._attack(attack, volume)
        panel = self.panel
        assert self.live(lambda: panel._run is None, 120), f"still running after '{attack}'"
        words = panel.ui.statusLabel.text
        if attack == "close the scene":
            self._ended(attack, hit, "closed")
            assert not self._nodes() - before and not slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
        else:
            end = self._look(attack, words, before - gone, kept, target, expected)
            self._ended(attack, hit, end)
        assert not self._errors, self._errors
        return hit

    def _ended(self, attack: str, hit: bool, end: str) -> None:
        self.ends[attack if hit else f"{attack}, too late", end] += 1

    def apply(self, volume: Any, target: Any) -> None:
        """Press the button, and see the run begin."""
        ui, panel = self.panel.ui, self.panel
        ui.inputSelector1.setCurrentNode(volume)
        ui.modelSelector.setCurrentIndex(ui.modelSelector.findData("soaked"))
        ui.outputSelector.setCurrentNode(target)
        assert ui.applyButton.enabled and ui.applyButton.text == "Apply", ui.applyButton.text
        for _ in range(2):  # where it asks whether the warning is meant to be passed over, after a while
            if panel._run is None:
                ui.applyButton.click()
                self.live(lambda: panel._run is not None, 1.0)
        assert panel._run is not None, ui.statusLabel.text

    def to_a_moment(self, tries: int) -> None:
        """Let a run come to a random point: of the time before its first report, or of its progress bar.

        Where the computer is so fast that an attack came too late, it comes more and more often before the first report.
        """
        panel = self.panel
        if self._random.random() < max(HANDOVER, 1 - 1 / tries):
            self.live(lambda: panel._run is None, self._random.uniform(0, HANDOVER * self._usual))
        else:
            point = self._random.uniform(0, LATEST * panel.ui.progressBar.maximum)
            self.live(lambda: panel._run is None or panel.ui.progressBar.value >= point, 120)

    def _look(self, attack: str, words: str, before: set, kept: Any, target: Any, expected: np.ndarray) -> str:
        """Either a whole result, or a scene as it was; which."""
        slicer = self._slicer
        after = self._nodes()
        new = [slicer.mrmlScene.GetNodeByID(n) for n in after - before]
        result = [node for node in new if node.IsA("vtkMRMLSegmentationNode")]
        helpers = [node for node in new if not node.IsA("vtkMRMLSegmentationNode")]
        assert before <= after, f"lost by '{attack}': {before - after}"
        assert all(node.IsA("vtkMRMLSegmentationDisplayNode") for node in helpers), helpers
        done = words == ""
        if target is not None and target.GetScene() is not None:
            assert not result
            result = [target] if done and target.GetSegmentation().GetNumberOfSegments() > 1 else []
        if done and attack not in ("delete the result", "reload"):
            assert len(result) == 1, (attack, words, result)
        for node in result:
            found = segments_of(node, slicer)
            for name, value in (("Dim structure", 1), ("Bright structure", 2)):
                np.testing.assert_array_equal(found[name], expected == value, f"{name} after '{attack}'")
        if kept is not None:
            np.testing.assert_array_equal(segments_of(kept, slicer)["mine"], expected == 2)
        if result:
            return "done"
        return "cancelled" if words.startswith("Cancelled") else "as it was: " + words.split(";")[0][:50]

    def _attack(self, attack: str, volume: Any) -> set[str]:
        """Do it; the IDs of the nodes that it removes itself."""
        slicer, panel = self._slicer, self.panel
        if attack == "cancel" and panel._run is not None:
            panel.ui.applyButton.click()
        elif attack == "kill" and (process := panel.logic.worker()._process) is not None:
            kill_tree(process.pid)
        elif attack == "close the scene":
            slicer.mrmlScene.Clear(0)
        elif attack == "delete the volume":
            helpers = (volume.GetDisplayNode(), volume.GetStorageNode())  # they go with it, as in the Data module
            nodes = [node for node in (*helpers, volume) if node is not None]
            gone = {node.GetID() for node in nodes}
            for node in nodes:
                slicer.mrmlScene.RemoveNode(node)
            return gone
        elif attack == "delete the result":
            grown = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")[-1:]
            gone = {node.GetID() for one in grown for node in (one, one.GetDisplayNode()) if node is not None}
            for node in grown:
                slicer.mrmlScene.RemoveNode(node.GetDisplayNode())
                slicer.mrmlScene.RemoveNode(node)
            return gone
        elif attack == "open another module":
            panel.exit()
            self.live(lambda: panel._run is None, self._usual)
            panel.enter()
        elif attack == "reload":
            slicer.util.reloadScriptedModule("UNetSegment")
            self.panel.enter()
        return set()

    def _scene(self) -> tuple[Any, Any, Any]:
        """A volume; often a segmentation of the user's; sometimes that one is to be written to."""
        slicer = self._slicer
        for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
            slicer.mrmlScene.RemoveNode(node.GetDisplayNode())
            slicer.mrmlScene.RemoveNode(node)
        volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
        if not volumes:
            seed = self._random.randrange(1000)
            voxels = np.random.default_rng(seed).uniform(0, 3, SHAPE).astype(np.float32)
            volumes = [slicer.util.addVolumeFromArray(voxels, name="Volume")]
        volume, kept = volumes[0], None
        if self._random.random() < 0.7:
            kept = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Mine")
            kept.CreateDefaultDisplayNodes()
            kept.SetReferenceImageGeometryParameterFromVolumeNode(volume)
            ident = kept.GetSegmentation().AddEmptySegment("mine", "mine")
            array = (labels_of(slicer.util.arrayFromVolume(volume)) == 2).astype(np.uint8)
            slicer.util.updateSegmentBinaryLabelmapFromArray(array, kept, ident, volume)
            for node in slicer.util.getNodesByClass("vtkMRMLLabelMapVolumeDisplayNode"):  # that this function leaves
                slicer.mrmlScene.RemoveNode(node)
        return volume, kept, kept if self._random.random() < 0.4 else None

    def _nodes(self) -> set[str]:
        """IDs of the nodes that a user would miss."""
        scene = self._slicer.mrmlScene
        kinds = (
            "vtkMRMLVolumeNode",
            "vtkMRMLSegmentationNode",
            "vtkMRMLSegmentationDisplayNode",
            "vtkMRMLTransformNode",
        )
        nodes = [scene.GetNthNode(n) for n in range(scene.GetNumberOfNodes())]
        return {node.GetID() for node in nodes if any(node.IsA(kind) for kind in kinds)}

    def left(self, workers: int) -> list[str]:
        """Processes and shared memory beyond what may be there."""
        me = psutil.Process()
        self.live(
            lambda: len(alive(me.children(recursive=True))) <= workers and shared_names(os.getpid()) <= self.names, 15
        )
        found = [f"process {child.pid}" for child in alive(me.children(recursive=True))[workers:]]
        return found + [f"shared memory {name}" for name in sorted(shared_names(os.getpid()) - self.names)]


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that run."""
    return [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def kill_tree(pid: int) -> None:
    """SIGKILL to a process and its children, as the system does when memory is short."""
    try:
        whole = psutil.Process(pid)
        for one in [*whole.children(recursive=True), whole]:
            one.kill()
    except psutil.NoSuchProcess:
        pass


def segments_of(node: Any, slicer: Any) -> dict[str, np.ndarray]:
    """The voxels (k, j, i) of each segment, by name."""
    segmentation, found = node.GetSegmentation(), {}
    for n in range(segmentation.GetNumberOfSegments()):
        layer = segmentation.GetNthSegment(n).GetRepresentation("Binary labelmap")
        array = np.zeros(SHAPE, bool)
        scalars = layer.GetPointData().GetScalars()
        if scalars is not None and scalars.GetNumberOfTuples():
            i0, i1, j0, j1, k0, k1 = layer.GetExtent()
            from vtk.util.numpy_support import vtk_to_numpy

            part = vtk_to_numpy(scalars).reshape(k1 - k0 + 1, j1 - j0 + 1, i1 - i0 + 1)
            array[k0 : k1 + 1, j0 : j1 + 1, i0 : i1 + 1] = part == segmentation.GetNthSegment(n).GetLabelValue()
        found[segmentation.GetNthSegment(n).GetName()] = array
    return found


def soak(plan: dict[str, int], seed: int, quiet: bool = False) -> dict[str, Any]:
    """Carry a plan out in random order in this process.

    Args:
        plan: How often each attack hits a run in flight.
        seed: Of order and moments.

    Returns:
        ``hits``: how often each attack hit; ``ends``: how often each ended how; ``left``: what should not be there; ``resident``:
        MB of this process after each tenth.
    """
    one = Soak(seed)
    one.round("let it finish")
    attacks = [attack for attack, count in plan.items() for _ in range(count)]
    random.Random(seed).shuffle(attacks)
    hits: collections.Counter[str] = collections.Counter()
    resident, left = [], []
    for number, attack in enumerate(attacks):
        tries = 1
        while not one.round(attack, tries):
            tries += 1
            assert tries < 20, f"'{attack}' is always too late"
        hits[attack] += 1
        if number % max(len(attacks) // 10, 1) == 0:
            left += one.left(workers=1)
            resident.append(psutil.Process().memory_info().rss >> 20)
            if not quiet:
                print(
                    f"{number} of {len(attacks)}: {resident[-1]} MB, left behind: {left}", file=sys.stderr, flush=True
                )
    one.round("let it finish")
    one._slicer.mrmlScene.Clear(0)
    one.panel.cleanup()
    left += one.left(workers=0)
    ends = {f"{attack}: {end}": count for (attack, end), count in sorted(one.ends.items())}
    return {"hits": dict(sorted(hits.items())), "ends": ends, "left": left, "resident": resident}


def leave(seed: int, how: str) -> None:
    """In a process of its own: Apply, and end the application at a random moment."""
    one = Soak(seed)
    one.round("let it finish")
    worker = one.panel.logic.worker()._process.pid
    volume, _, _ = one._scene()
    tries = 0
    while one.panel._run is None:
        tries += 1
        one.apply(volume, None)
        one.to_a_moment(tries)
    print(worker, flush=True)
    if how == "close":  # as Slicer does when its window is closed
        one.panel.cleanup()
        sys.exit(0)
    os.kill(os.getpid(), signal.SIGKILL if how == "kill" else signal.SIGTERM)
    time.sleep(30)


def exits(count: int, seed: int) -> list[str]:
    """End whole applications during a run; what they leave behind."""
    before, left = shared_names("*"), []
    for number in range(count):
        how = ("close", "kill", "terminate")[number % 3]
        command = [sys.executable, __file__, "--leave", how, "--seed", str(seed + number)]
        done = subprocess.run(command, stdout=subprocess.PIPE, timeout=300, env=os.environ)
        worker = int(done.stdout.split()[-1])
        end = time.monotonic() + 20
        while (psutil.pid_exists(worker) or shared_names("*") - before) and time.monotonic() < end:
            time.sleep(0.1)
        if psutil.pid_exists(worker) and psutil.Process(worker).status() != psutil.STATUS_ZOMBIE:
            left.append(f"process {worker} after '{how}'")
        left += [f"shared memory {name} after '{how}'" for name in shared_names("*") - before]
    return left


def main() -> int:
    """The command line; 0 where nothing is left behind."""
    parser = argparse.ArgumentParser("python -m soak", description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help=f"of the whole plan: {PLAN} and {EXITS} exits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--leave", choices=["close", "kill", "terminate"], help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="unetsegment-soak-") as folder:
        os.environ["UNETSEGMENT_CACHE"] = folder
        if chosen.leave:
            leave(chosen.seed, chosen.leave)
        plan = {attack: round(count * chosen.share) for attack, count in PLAN.items()}
        report = soak(plan, chosen.seed)
        report["left"] += exits(round(EXITS * chosen.share), chosen.seed)
    print(json.dumps(report, indent=1))
    return 1 if report["left"] else 0


if __name__ == "__main__":
    sys.exit(main())

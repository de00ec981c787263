"""The predictor: volumes and a package in, labels on the input's grid out."""

from __future__ import annotations

import io
import json
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

import numpy as np

from .. import __version__
from ..errors import BackendError, Cancelled, PackageError
from ..package import Package
from ..volume import LabelMap, Volume, dice
from . import backends, focus, passes
from .backends import Backend, Place
from .cells import Free
from .ensemble import Ensemble, chosen_folds
from .export import Decision, export
from .head import Head
from .interpolate import Lerp
from .ladder import Ladder
from .modes import Configuration
from .postprocess import postprocess
from .preprocess import NetworkImage, preprocess
from .probabilities import Collector, Probabilities
from .reports import InputWarning, Progress
from .stitch import Stitcher
from .tiles import Tiling, weights

CUDA_BATCH = 4
"""Patches per run on a GPU to begin with."""


@dataclass(frozen=True, eq=False)
class Slab:
    """Labels that are final but for post-processing: ``labels`` are the voxels ``box`` of the input's grid (a view)."""

    box: tuple[slice, slice, slice]
    labels: np.ndarray


@dataclass(frozen=True, eq=False)
class Prediction:
    """A result: the label map on the input's grid, what was run as text entries, and probabilities where asked for."""

    labels: LabelMap
    provenance: dict[str, str]
    probabilities: Probabilities | None = None


class Predictor:
    """A package made ready to run on this computer; keep it to run again without start-up cost.

    Args:
        package: A loaded package.
        device: ``auto``, ``cpu``, ``cuda``, ``mps`` or ``intel-gpu``.
        backend: ``auto``, ``openvino`` or ``torch``.
        threads: Processor threads; all of them by default.
        mode: ``auto``, ``parity`` or ``fast``; see :mod:`modes`.
        mirror: Average mirrored copies; by default where the mode is ``parity`` and the model is one of nnU-Net's.
        folds: Which of a model's networks are averaged: ``all``, ``first``, or names like ``0,2``. The reference patch
            tells what all of them answer together, so with fewer of them no configuration can be proven.

    Raises:
        BackendError: What was asked for is not installed, not here, or fails the package's reference patch.
        PackageError: The package is damaged or not allowed.
    """

    def __init__(
        self,
        package: Package,
        device: str = "auto",
        backend: str = "auto",
        threads: int | None = None,
        mode: str = "auto",
        mirror: bool | None = None,
        folds: str = "all",
    ) -> None:
        self.package = package
        self.folds = chosen_folds(package.manifest.folds, folds)
        self.configuration = Configuration.of(package.manifest, mode, mirror)
        self.place = backends.choose(package, device, backend, threads)
        self.notes: list[str] = []
        self.agreement: float | None = None
        self.proof_seconds: float | None = None
        self._decision = Decision.of(package.manifest)
        self._members = self._prove()
        self._free: Free = {}

    def predict(
        self,
        volume: Volume,
        progress: Callable[[Progress], None] | None = None,
        cancel: Callable[[], bool] | None = None,
        on_slab: Callable[[Slab], None] | None = None,
        region: focus.Region | None = None,
        skip_background: bool = False,
        crop_to_body: bool = False,
        probabilities: str | None = None,
        warnings: Sequence[InputWarning] = (),
        into: np.ndarray | None = None,
    ) -> Prediction:
        """Segment one volume.

        Args:
            volume: (C, I, J, K), channels in the manifest's order; see :func:`gather` for separate volumes.
            progress: Told often, also while a patch is computed (some 20 times a second with OpenVINO).
            cancel: Asked as often; True stops the work.
            on_slab: Given each finished part of the labels, front to back along one axis.
            region: Voxels ((i0, i1), (j0, j1), (k0, k1)) to label; the rest stays 0. Labels inside are those of a
                whole run: every patch they depend on is computed, and no other.
            skip_background: Leave out patches that show nothing but air.
            crop_to_body: Cut the image to what is not air first; patches then lie elsewhere than in a whole run.
            probabilities: ``uint8`` or ``float16`` to get the network's probabilities as well.
            warnings: Those of :func:`sanity.check` that the user was shown, for the provenance.
            into: (I, J, K) zeros that the labels are written to, where nothing is left to do to them once they are; they are
                the result's array then. Else it stays as it is.

        Raises:
            Cancelled: ``cancel`` said so.
            InputError: The region is not inside of the image.
            BackendError: Memory does not suffice by any means, or the network's answer is not finite.
        """
        began = time.perf_counter()
        manifest, chosen = self.package.manifest, self.configuration

        def tell(stage: str, fraction: float, message: str) -> None:
            if cancel is not None and cancel():
                raise Cancelled()
            if progress is not None:
                progress(Progress(stage, fraction, message))

        tell("prepare", 0.0, "Preparing the image")
        threads = passes.count(self.place.threads)
        ready = preprocess(volume, manifest, "body" if crop_to_body else None, threads, leave=not skip_background)
        image, order = ready.slices_first()
        window = manifest.inference
        tiling = Tiling.of(image.grid.shape, window, chosen.overlap, order)
        if tiling.is_dense or tiling.padded != tiling.shape:  # what lies around a finished image is 0
            image, _ = ready.finished(threads).slices_first()
        del ready
        box = focus.source_box(image, region, volume.grid.shape) if region is not None else None
        wanted = focus.wanted(image, tiling, box, skip_background)
        count = focus.count(tiling, wanted)
        done, network = 0, 0.0

        def tick() -> None:
            message = f"Patch {min(done + 1, count)} of {count}"
            tell("segment", 0.02 + 0.93 * min(done / max(count, 1), 1.0), message)

        ladder = self._ladder(tick)

        def run(patches: np.ndarray, relieve: Callable[[], bool]) -> Any:
            nonlocal done, network
            start = time.perf_counter()
            answers = ladder(patches.transpose(0, 1, *(2 + order.index(axis) for axis in range(3))), relieve)
            done += len(patches)
            network += time.perf_counter() - start
            back = (0, 1, *(2 + axis for axis in order))
            return answers.transpose(back) if isinstance(answers, np.ndarray) else answers.permute(back)

        weight = weights(window.patch_size, window).transpose(order)
        steps = manifest.postprocessing
        early = [step for step in steps if step.get("grid") == "network"]
        same = all(lerp.is_identity for lerp in image.lerps) and not early and probabilities is None
        direct = same and box is None and not steps and into is not None and into.dtype == self._decision.table.dtype
        stitch = Stitcher(
            *(tiling, weight, run, self._decision.background, ladder.batch, self._head, wanted),
            finish=image.left,
            threads=threads,
            is_checked=True,
            free=self._free,
        )
        slabs = stitch(image.array)
        collector = None
        if probabilities is not None:
            regions = self._decision.regions
            background = manifest.outputs.index(0) if 0 in manifest.outputs else None
            collector = Collector(probabilities, regions, background)
            slabs = collector.watch(slabs)

        def on_rows(start: int, stop: int, rows: np.ndarray) -> None:
            if on_slab is not None:
                on_slab(_slab(image, start, stop, rows, box, volume.grid.shape))

        try:
            if same:
                array = image.labels(self._decision.table.dtype) if not direct else image.part(into)
                decision = self._decision

                def put(box: tuple[slice, ...], winners: np.ndarray) -> None:
                    passes.transfer(array[box], winners, threads, decision.table)

                for rows in stitch.settle(image.array, decision.settle, put, decision.is_scale_free):
                    on_rows(*rows, array)
            else:
                array = self._labels(slabs, image, early, on_rows)
        except FloatingPointError:
            raise self._not_finite() from None
        except MemoryError:
            raise BackendError(
                f"There is not enough memory for {len(self._decision.order)} outputs on an image of this size; "
                "choose a region of interest, or crop the volume first."
            ) from None
        tell("finish", 0.96, "Finishing the labels")
        if box is not None:
            array = _inside(array, box)
        if direct:
            array = into
        else:
            array = image.restored(postprocess(array, [step for step in steps if step not in early]), volume.grid.shape)
        tell("finish", 1.0, "Done")
        seconds = time.perf_counter() - began
        asked = {"region": region, "skip_background": skip_background, "crop_to_body": crop_to_body}
        asked = {key: value for key, value in asked.items() if value}
        notes = (
            self.notes
            + ladder.notes
            + ([f"{tiling.count - count} of {tiling.count} patches were left out."] if count < tiling.count else [])
        )
        provenance = self._provenance({"patches": count, **asked}, notes, seconds, network)
        if warnings:
            provenance["warnings"] = json.dumps([warning.to_dict() for warning in warnings], ensure_ascii=False)
        kept = collector.result(image.grid, manifest.outputs) if collector is not None else None
        return Prediction(LabelMap(array, volume.grid, manifest.labels, provenance), provenance, kept)

    def rest(self) -> None:
        """Free what is kept from one image for the next, but not the network."""
        self._free.clear()

    def _not_finite(self) -> BackendError:
        first = self._members[0]
        return BackendError(
            f"The network's answer is not finite in {first.precision} on {first.device}; choose the precision 'as trained' "
            "(mode 'parity') or another device, or look for voxels of extreme values."
        )

    def _labels(
        self,
        slabs: Iterable[tuple[int, Any]],
        image: NetworkImage,
        early: list[dict[str, Any]],
        on_rows: Callable[[int, int, np.ndarray], None],
    ) -> np.ndarray:
        """Labels on ``image.source``; with steps to do ``early``, labels of the network's grid, to the nearest voxels."""
        threads = self.place.threads
        if not early:
            return export(slabs, image.lerps, self._decision, on_rows, threads)
        plain = tuple(Lerp.identity(n) for n in image.grid.shape)
        array = postprocess(export(slabs, plain, self._decision, None, threads), early)
        array = array[np.ix_(*(np.where(w.weight > 0.5, w.upper, w.lower) for w in image.lerps))]
        on_rows(0, len(array), array)
        return array

    def description(self) -> dict[str, str]:
        """What a prediction would run on: mode, backend, device, precision, and the Dice proven on this computer."""
        first = self._members[0]
        return {
            "mode": self.configuration.mode,
            "backend": first.name,
            "device": first.device,
            "precision": first.precision,
            "reference_dice": "" if self.agreement is None else f"{self.agreement:.4f}",
        }

    @property
    def _head(self) -> Head | None:
        return self._members[0].head

    def _ladder(self, tick: Callable[[], None]) -> Ladder:
        package, axes, features = self.package, self.configuration.mirror_axes, self._head is not None
        patch = package.manifest.inference.patch_size
        first = self._members[0]

        def open_(device: str | None, size: tuple[int, ...]) -> Ensemble:
            if device is None and size == patch:
                return Ensemble(self._members, axes)
            place = self.place if device is None else Place(self.place.backend, device, self.place.threads)
            precision = first.precision if device is None else "fp32"
            opened = [place.open(package, precision, fold, size, features) for fold in self.folds]
            return Ensemble(opened, axes)

        batch = CUDA_BATCH if first.device == "cuda" else 1
        return Ladder(open_, patch, package.manifest.inference, tick, batch, first.device != "cpu")

    def _prove(self) -> list[Backend]:
        """Open the fastest configuration that gives the expected labels on the package's reference patch."""
        package, place = self.package, self.place
        reference = self._reference() if len(self.folds) == package.folds else None
        features = len(self.folds) == 1
        tried = self.configuration.precisions(place.precisions, reference is not None)
        for precision in tried:
            members = [place.open(package, precision, fold, None, features) for fold in self.folds]
            self.agreement = None if reference is None else self._agreement(members, *reference)
            if self.agreement is None or self.agreement >= self.configuration.agreement:
                return members
            name = f"{members[0].name} {precision} on {members[0].device}"
            if precision != tried[-1]:
                self.notes.append(f"{name} was not used: Dice {self.agreement:.4f} on the reference patch.")
        raise BackendError(
            f"{name} does not give the answer that model '{package.manifest.name}' expects on its reference patch "
            f"(Dice {self.agreement:.4f}); choose another device or install the model again."
        )

    def _reference(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The package's reference patch (C, *patch) and its labels (*patch); None where it carries none."""
        package = self.package
        if not package.has("reference"):
            return None
        names = package.manifest.raw.get("reference", {"input": "input", "labels": "labels"})
        try:
            with np.load(io.BytesIO(package.verified_bytes("reference")), allow_pickle=False) as arrays:
                return arrays[names["input"]].astype(np.float32), arrays[names["labels"]]
        except (ValueError, KeyError, OSError) as error:
            raise PackageError(
                f"Model '{package.manifest.name}': its reference patch cannot be read ({error})."
            ) from None

    def _agreement(self, members: list[Backend], patch: np.ndarray, expected: np.ndarray) -> float:
        """Lowest Dice per label against the expected labels."""
        began = time.perf_counter()
        answer = Ensemble(members).run(patch[None], lambda: None)[0]
        self.proof_seconds = (time.perf_counter() - began) / len(members)
        answer = answer if isinstance(answer, np.ndarray) else answer.cpu().numpy()
        answer = answer if members[0].head is None else members[0].head(answer)
        plain = replace(self._decision, threshold=0.0)  # of logits
        labels = plain.table[plain.winners(answer)]
        return min(dice(labels == value, expected == value) for value in plain.table)

    def _provenance(self, counts: dict[str, Any], notes: list[str], seconds: float, network: float) -> dict[str, str]:
        manifest, first, chosen = self.package.manifest, self._members[0], self.configuration
        versions: dict[str, Any] = {"unetsegment": __version__, "python": platform.python_version()}
        versions |= {"numpy": np.__version__, **first.versions}
        options = {
            "patch_size": list(manifest.inference.patch_size),
            "overlap": chosen.overlap,
            "blending": manifest.inference.blending,
            "mirror_axes": list(chosen.mirror_axes),
            "folds": [manifest.folds[fold] for fold in self.folds],
            **counts,
        }
        return {
            "model": manifest.name,
            "model_version": manifest.version,
            "model_hash": self.package.content_hash,
            **self.description(),
            "options": json.dumps(options),
            "notes": " ".join(notes),
            "software": json.dumps(versions),
            "seconds": f"{seconds:.4g}",
            "network_seconds": f"{network:.4g}",
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }


def _inside(array: np.ndarray, box: tuple[slice, ...]) -> np.ndarray:
    """The labels inside of the box, 0 elsewhere."""
    kept = np.zeros_like(array)
    kept[box] = array[box]
    return kept


def _slab(image: NetworkImage, start: int, stop: int, rows: np.ndarray, box: Any, shape: tuple[int, int, int]) -> Slab:
    """Rows ``start..stop`` on ``image.source``, in the input's axes."""
    cuts = [slice(start, stop), *(slice(0, n) for n in image.source.shape[1:])]
    part = rows[start:stop]
    if box is not None:
        low, high = max(start, box[0].start), max(min(stop, box[0].stop), max(start, box[0].start))
        cuts = [slice(low, high), *box[1:]]
        part = rows[tuple(cuts)]
    place: list[slice] = [slice(0, 0)] * 3
    for axis, (turned, flip) in enumerate(zip(image.turn.axes, image.turn.flips, strict=True)):
        low, high = (n + image.box[axis].start for n in (cuts[axis].start, cuts[axis].stop))
        place[turned] = slice(shape[turned] - high, shape[turned] - low) if flip else slice(low, high)
    return Slab(tuple(place), image.turn.inverse().apply(part))  # type: ignore[arg-type]

"""The predictor: volumes and a package in, labels on the input's grid out."""

from __future__ import annotations

import io
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np

from .. import __version__
from ..errors import BackendError, Cancelled, PackageError
from ..package import Package
from ..volume import LabelMap, Volume, dice
from . import backends
from .export import export
from .postprocess import postprocess
from .preprocess import preprocess
from .stitch import stitch
from .tiles import Tiling, weights

AGREEMENT = 0.999
"""Dice per label that a backend must reach on the package's reference patch."""


@dataclass(frozen=True)
class Progress:
    """How far a prediction is: the stage in words, 0..1 over the whole run, and a line for the user."""

    stage: str
    fraction: float
    message: str


@dataclass(frozen=True, eq=False)
class Prediction:
    """A result: the label map on the input's grid, and what was run as text entries."""

    labels: LabelMap
    provenance: dict[str, str]


class Predictor:
    """A package made ready to run on this computer; keep it to run again without start-up cost.

    Args:
        package: A loaded package.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        backend: ``auto``, ``openvino`` or ``torch``.
        threads: Processor threads; all of them by default.

    Raises:
        BackendError: What was asked for is not installed, not here, or fails the package's reference patch.
        PackageError: The package is damaged or not allowed.
    """

    def __init__(
        self, package: Package, device: str = "auto", backend: str = "auto", threads: int | None = None
    ) -> None:
        self.package = package
        self.backend = backends.create(package, device, backend, threads)
        self.agreement = self._prove()

    def predict(
        self,
        volume: Volume,
        progress: Callable[[Progress], None] | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> Prediction:
        """Segment one volume.

        Args:
            volume: (C, I, J, K), channels in the manifest's order; see :func:`gather` for separate volumes.
            progress: Told often, also while a patch is computed (some 20 times a second with OpenVINO).
            cancel: Asked as often; True stops the work.

        Raises:
            Cancelled: ``cancel`` said so.
        """
        began = time.perf_counter()
        manifest = self.package.manifest

        def tell(stage: str, fraction: float, message: str) -> None:
            if cancel is not None and cancel():
                raise Cancelled()
            if progress is not None:
                progress(Progress(stage, fraction, message))

        tell("prepare", 0.0, "Preparing the image")
        image = preprocess(volume, manifest)
        window = manifest.inference
        tiling = Tiling.cover(image.grid.shape, window.patch_size, window.overlap)
        done = 0

        def run(patches: np.ndarray) -> np.ndarray:
            nonlocal done
            message = f"Patch {done + 1} of {tiling.count}"
            answer = self.backend.run(patches, lambda: tell("segment", 0.02 + 0.93 * done / tiling.count, message))
            done += 1
            return answer

        slabs = stitch(image.array, tiling, weights(tiling.patch, window), run)
        array = export(slabs, image.grid, image.source, [label.value for label in manifest.labels])
        tell("finish", 0.96, "Finishing the labels")
        array = postprocess(array, manifest.postprocessing)
        array = np.ascontiguousarray(image.turn.inverse().apply(array))
        tell("finish", 1.0, "Done")
        seconds = time.perf_counter() - began
        provenance = self._provenance(tiling, seconds)
        return Prediction(LabelMap(array, volume.grid, manifest.labels, provenance), provenance)

    def _prove(self) -> float | None:
        """Lowest Dice per label against the package's reference patch; None where it carries none."""
        package = self.package
        if not package.has("reference"):
            return None
        names = package.manifest.raw.get("reference", {"input": "input", "labels": "labels"})
        try:
            with np.load(io.BytesIO(package.verified_bytes("reference")), allow_pickle=False) as arrays:
                patch, expected = arrays[names["input"]].astype(np.float32), arrays[names["labels"]]
        except (ValueError, KeyError, OSError) as error:
            raise PackageError(
                f"Model '{package.manifest.name}': its reference patch cannot be read ({error})."
            ) from None
        values = np.asarray([label.value for label in package.manifest.labels])
        answer = values[self.backend.run(patch[None], lambda: None)[0].argmax(axis=0)]
        scores = [dice(answer == value, expected == value) for value in values]
        if min(scores) < AGREEMENT:
            raise BackendError(
                f"{self.backend.name} on {self.backend.device} does not give the answer that model "
                f"'{package.manifest.name}' expects on its reference patch (Dice {min(scores):.4f}); "
                "choose another device or install the model again."
            )
        return min(scores)

    def _provenance(self, tiling: Tiling, seconds: float) -> dict[str, str]:
        manifest, backend = self.package.manifest, self.backend
        versions: dict[str, Any] = {"unetsegment": __version__, "python": platform.python_version()}
        versions |= {"numpy": np.__version__, **getattr(backend, "versions", {})}
        options = {
            "patch_size": list(tiling.patch),
            "overlap": manifest.inference.overlap,
            "blending": manifest.inference.blending,
            "patches": tiling.count,
        }
        return {
            "model": manifest.name,
            "model_version": manifest.version,
            "model_hash": self.package.content_hash,
            "backend": backend.name,
            "device": backend.device,
            "precision": backend.precision,
            "reference_dice": "" if self.agreement is None else f"{self.agreement:.4f}",
            "options": json.dumps(options),
            "software": json.dumps(versions),
            "seconds": f"{seconds:.2f}",
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }

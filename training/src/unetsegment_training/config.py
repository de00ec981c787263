"""What a run is asked to do: one dataclass, stored with the run."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from .dataset import DatasetError
from .safely import replace_text


@dataclass(frozen=True)
class FitConfig:
    """Settings of one run.

    Args:
        fold: Which of the five folds validates (0..4), or -1 to train on every case.
        epochs: Passes over the training cases.
        filters: Feature maps per stage, finest first.
        patch: Patch size in voxels (i, j, k); a multiple of ``2 ** (stages - 1)`` on each axis.
        batch: Patches per step.
        learning_rate: Peak of the cosine schedule (50 steps of warm-up).
        weight_decay: Of AdamW.
        ema_decay: Of the exponential moving average of weights, which is what validates and ships.
        validate_every: Epochs between validations.
        seed: Of initial weights, order and augmentation.
    """

    fold: int = 0
    epochs: int = 100
    filters: tuple[int, ...] = (16, 32, 64, 128)
    patch: tuple[int, int, int] = (40, 56, 40)
    batch: int = 4
    learning_rate: float = 2e-3
    weight_decay: float = 3e-5
    ema_decay: float = 0.995
    validate_every: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "filters", tuple(self.filters))
        object.__setattr__(self, "patch", tuple(self.patch))
        step = 2 ** (len(self.filters) - 1)
        if any(n % step for n in self.patch):
            raise DatasetError(
                f"The patch {self.patch} must be a multiple of {step} on each axis for {len(self.filters)} stages."
            )
        if not -1 <= self.fold <= 4:
            raise DatasetError(f"Fold {self.fold} does not exist; choose 0 to 4, or -1 for all cases.")

    def store(self, path: Path) -> FitConfig:
        """Write to ``path``, or check that what is there is the same but for ``epochs``, ``validate_every``.

        Raises:
            DatasetError: The run folder belongs to other settings.
        """
        if path.exists():
            old = json.loads(path.read_text("utf-8"))
            for key, value in json.loads(json.dumps(asdict(self))).items():
                if old.get(key) != value and key not in ("epochs", "validate_every"):
                    raise DatasetError(
                        f"'{path.parent}' holds a run with {key} = {old.get(key)}, now {value} is asked for; "
                        "use another run folder."
                    )
        replace_text(path, json.dumps(asdict(self), indent=1))
        return self

    @classmethod
    def load(cls, path: Path) -> FitConfig:
        """Read what :meth:`store` wrote."""
        return cls(**json.loads(path.read_text("utf-8")))

"""What a run is asked to do: one typed, checked model, read from TOML, stored with the run, documented from its fields."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from . import processes
from .dataset import DatasetError
from .network import NAMES, check_patch, valid_size
from .plan_file import Normalization, Plan
from .safely import replace_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAY_CHANGE = ("epochs", "validate_every", "early_stopping", "precision", "checkpointing", "workers", "deterministic")
"""Settings that may differ when a run goes on."""
FEW = {
    "epochs": 12, "steps_per_epoch": 25, "learning_rate": 5e-4, "warmup_steps": 10, "ema_decay": 0.98, "batch": 2,
    "validate_every": 4, "deep_supervision": False,
}  # fmt: skip
"""Defaults of a run that starts from a model: some hundred small steps, whatever the number of cases."""

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


def _option(group: str, default: Any, words: str) -> Any:
    return Field(default, description=words, json_schema_extra={"group": group})


class FitConfig(BaseModel):
    """Settings of one run. The defaults are the recipe that the bundled model was trained with.

    Raises:
        DatasetError: A setting is unknown, of the wrong type or out of range; one sentence.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    fold: int = _option("Run", 0, "Which of the five folds validates (0 to 4); -1 trains on every case.")
    epochs: Count = _option("Run", 100, "Epochs to train.")
    steps_per_epoch: Annotated[int, Field(ge=0)] = _option(
        "Run", 0, "Optimisation steps of an epoch; 0 sees every case once. nnU-Net has 250."
    )
    validate_every: Count = _option("Run", 10, "Epochs between validations.")
    early_stopping: Annotated[int, Field(ge=0)] = _option(
        "Run", 0, "Stop after this many validations without a better mean Dice; 0 never stops early."
    )
    ship: Literal["last", "best"] = _option(
        "Run", "last", "Which weights ship: those of the last epoch (nnU-Net's way), or of the best validation."
    )
    seed: Annotated[int, Field(ge=0)] = _option("Run", 0, "Of initial weights, order and augmentation.")
    deterministic: bool = _option(
        "Run",
        False,
        "Ask PyTorch for algorithms that give the same bits every time: slower on GPUs, where some operations have none and say so. "
        "Processors do so anyway.",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = _option(
        "Run", "auto", "Of sums: `auto` mixes in bf16 or fp16 where the device computes it fast."
    )

    workers: Annotated[int, Field(ge=0)] | None = _option(
        "Run",
        None,
        "Processes that load and augment patches beside each training process; 0 leaves it to the training process. By "
        "default as many as the computer's cores allow, none where a processor trains. Patches do not depend on it.",
    )

    network: Literal[NAMES] = _option(
        "Network", "dynunet", "Which network; see the table below. `package`: that of the model of `--from`."
    )  # type: ignore[valid-type]
    dimensions: Literal[2, 3] = _option(
        "Network", 3, "2 trains on slices across the axis of the widest spacing, 3 on volumes."
    )
    filters: tuple[Count, ...] = _option("Network", (16, 32, 64, 128), "Feature maps per stage, finest first.")
    patch: tuple[Count, ...] = _option("Network", (40, 56, 40), "Patch size in voxels, as many numbers as dimensions.")
    strides: tuple[tuple[Count, ...], ...] | None = _option(
        "Network", None, "Step of each stage's first convolution per axis (`dynunet`, `residual`); by default halving."
    )
    kernels: tuple[tuple[Count, ...], ...] | None = _option(
        "Network", None, "Kernel of each stage per axis (`dynunet`, `residual`); by default 3."
    )
    spacing: tuple[NotNegative, NotNegative, NotNegative] | None = _option(
        "Network",
        None,
        "Voxel size in mm along right, anterior, superior that images and labels are brought to; 0 keeps an image's own; "
        "by default the median of the training cases.",
    )
    slice_axis: Literal["i", "j", "k"] | None = _option(
        "Network",
        None,
        "In 2D, the axis across the slices: right, anterior or superior; by default the widest spacing's.",
    )
    normalization: tuple[Normalization, ...] = _option(
        "Network",
        (),
        "A table per channel: `channel`, `method` (`zscore`, `ct`, `nonorm`, `rescale_to_0_1`, `rgb_to_0_1`), for `zscore` "
        "`nonzero_only`, for `ct` `low`, `high`, `mean`, `std`; by default zscore.",
    )
    norm: Literal["instance", "batch", "none"] = _option("Network", "instance", "Normalisation after convolutions.")
    dropout: Annotated[float, Field(ge=0, lt=1)] = _option("Network", 0.0, "Share of features dropped in training.")
    init: Literal["default", "he", "xavier"] = _option(
        "Network",
        "default",
        "First weights of convolutions: the library's own, He et al. 2015 (normal, fan in, slope 0.01) or Glorot 2010.",
    )
    deep_supervision: bool = _option(
        "Network", True, "Also ask coarser stages for the answer (weights 1, 1/2, 1/4 ...), where the network can."
    )
    checkpointing: bool = _option(
        "Network", False, "Compute features again in the backward pass instead of keeping them: less memory, more time."
    )

    loss: Literal["bce", "ce", "dice", "dice_ce", "dice_focal", "tversky", "border_ce"] = _option(
        "Loss", "dice_ce", "What is made small; see the table below."
    )
    batch_dice: bool = _option(
        "Loss", True, "Take Dice over the batch as if it were one image, instead of patch by patch."
    )
    class_weights: Literal["balanced"] | tuple[NotNegative, ...] = _option(
        "Loss",
        (),
        "Weight per class, background first, in cross-entropy, focal and border-weighted loss; "
        '`"balanced"` takes the inverse of the class frequencies in the training cases; `[]` weighs all alike.',
    )
    focal_gamma: NotNegative = _option("Loss", 2.0, "Exponent of the focal loss (Lin et al. 2017).")
    tversky_alpha: Share = _option("Loss", 0.3, "Weight of false positives in the Tversky loss (Salehi et al. 2017).")
    tversky_beta: Share = _option("Loss", 0.7, "Weight of false negatives in the Tversky loss.")
    border_w0: NotNegative = _option(
        "Loss", 10.0, "Height of the weight between two objects in the border-weighted loss (Ronneberger et al. 2015)."
    )
    border_sigma: Positive = _option("Loss", 5.0, "Its width in voxels.")

    optimizer: Literal["adamw", "adam", "sgd", "rmsprop"] = _option(
        "Optimisation", "adamw", "`sgd` has Nesterov momentum."
    )
    learning_rate: Positive = _option("Optimisation", 2e-3, "Peak learning rate; nnU-Net has 0.01 with `sgd`.")
    momentum: Annotated[float, Field(ge=0, lt=1)] = _option("Optimisation", 0.99, "Of `sgd` and `rmsprop`.")
    weight_decay: NotNegative = _option("Optimisation", 3e-5, "Pull of the weights towards zero.")
    schedule: Literal["cosine", "poly", "plateau", "constant"] = _option(
        "Optimisation",
        "cosine",
        "Course of the learning rate: half a cosine, nnU-Net's (1 - t) ** 0.9 per epoch, a third after "
        "`plateau_patience` epochs without a smaller training loss, or constant.",
    )
    plateau_patience: Count = _option("Optimisation", 10, "Epochs that `plateau` waits.")
    warmup_steps: Annotated[int, Field(ge=0)] = _option("Optimisation", 50, "Steps from near zero to the peak.")
    gradient_clip: NotNegative = _option("Optimisation", 12.0, "Largest norm of the gradient; 0 does not clip.")
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = _option(
        "Optimisation",
        0.995,
        "Of the moving average of weights, which is what validates and ships; 0 averages nothing.",
    )

    batch: Count = _option("Sampling", 4, "Patches per step, of all processes that train together.")
    foreground_share: Share = _option("Sampling", 1 / 3, "Share of patches that must hold foreground.")
    foreground_rule: Literal["chance", "nnunet"] = _option(
        "Sampling", "chance", "`chance` decides for each patch; `nnunet` takes the last of every batch, rounded."
    )
    foreground_classes: Literal["voxel", "class"] = _option(
        "Sampling",
        "voxel",
        "Centre: any foreground voxel alike, or any class alike and then a voxel of it (nnU-Net's).",
    )
    case_sampling: Literal["each", "random", "rare"] = _option(
        "Sampling",
        "each",
        "`each` takes every case once per pass, `random` any case, `rare` prefers cases with classes that few cases have.",
    )

    augmentation: Literal["none", "light", "nnunet"] = _option(
        "Augmentation", "light", "Which kinds of change, with which probability; see the table below."
    )
    mirror_axes: tuple[Annotated[int, Field(ge=0, le=2)], ...] | None = _option(
        "Augmentation", None, "Axes that are mirrored, of the patch; by default the first (`light`) or all (`nnunet`)."
    )
    elastic: Share = _option("Augmentation", 0.0, "Probability of an elastic deformation (Ronneberger et al. 2015).")
    elastic_spacing: Positive = _option("Augmentation", 32.0, "Voxels between the points of its coarse grid.")
    elastic_sigma: NotNegative = _option(
        "Augmentation", 3.0, "Standard deviation of these points' displacements in voxels."
    )

    keep: NotNegative = _option(
        "Fine-tuning",
        10.0,
        "How strongly the network is held to what the model of `--from` answers on its reference patch (Li and Hoiem 2016); "
        "0 lets it forget.",
    )
    same_labels: tuple[str, ...] = _option(
        "Fine-tuning",
        (),
        "What labels of the dataset are called in the model of `--from`: `NAME=STRUCTURE`, or `NAME=+` for a structure that "
        "the model does not have; other labels are matched by name.",
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise DatasetError(_sentence(error)) from None
        if not -1 <= self.fold <= 4:
            raise DatasetError(f"Fold {self.fold} does not exist; choose 0 to 4, or -1 for all cases.")
        if len(self.patch) != self.dimensions:
            raise DatasetError(
                f"The patch {list(self.patch)} has {len(self.patch)} numbers; a {self.dimensions}D network needs "
                f"{self.dimensions}."
            )
        check_patch(self)
        if self.fold < 0 and (self.early_stopping or self.ship == "best"):
            name = "early_stopping" if self.early_stopping else "ship = 'best'"
            raise DatasetError(f"{name} needs validation cases; fold -1 has none.")
        if wrong := [axis for axis in self.mirror_axes or () if axis >= self.dimensions]:
            raise DatasetError(f"mirror_axes names axis {wrong[0]}; a {self.dimensions}D patch has no such axis.")

    @property
    def valid(self) -> bool:
        """Whether the network answers less than it sees."""
        return self.network == "unet2015-valid"

    @property
    def answer(self) -> tuple[int, ...]:
        """Size of the network's answer for a patch."""
        return tuple(valid_size(n) or n for n in self.patch) if self.valid else self.patch

    def changed(self, **values: Any) -> FitConfig:
        """A copy with other values, checked as a whole."""
        return FitConfig(**(self.model_dump() | values))

    @classmethod
    def read(cls, path: Path | None = None, overrules: Mapping[str, Any] | None = None, **defaults: Any) -> FitConfig:
        """From a TOML file; what ``overrules`` names wins over the file, ``defaults`` lose to it.

        Raises:
            DatasetError: The file cannot be read, or a setting is wrong.
        """
        values: dict[str, Any] = dict(defaults)
        if path is not None:
            try:
                values |= tomllib.loads(path.read_text("utf-8"))
            except OSError as error:
                raise DatasetError(f"The configuration '{path}' cannot be read ({error.strerror}).") from None
            except ValueError as error:
                raise DatasetError(f"The configuration '{path}' is not TOML ({error}).") from None
        return cls(**(values | dict(overrules or {})))

    @staticmethod
    def of_plan(plan: Plan, name: str | None = None) -> dict[str, Any]:
        """Settings that a plan's configuration decides; by default of 3d_fullres, or of 2d where there is no other.

        Raises:
            DatasetError: The plan has no such configuration.
        """
        chosen = plan.choose(name)
        flat = ((1,) * chosen.dimensions,) * max(3 - len(chosen.filters), 0)  # DynUNet has three stages at least
        spacing = dict(zip(chosen.axes, chosen.spacing, strict=True))
        values: dict[str, Any] = {
            "network": "dynunet", "dimensions": chosen.dimensions, "patch": chosen.patch, "batch": chosen.batch,
            "filters": chosen.filters + chosen.filters[-1:] * len(flat), "strides": chosen.strides + flat,
            "kernels": chosen.kernels + chosen.kernels[-1:] * len(flat),
            "batch_dice": chosen.batch_dice, "spacing": tuple(spacing.get(axis, 0.0) for axis in "ijk"),
            "normalization": plan.normalization,
        }  # fmt: skip
        if chosen.dimensions == 2:
            values["slice_axis"] = next(axis for axis in "ijk" if axis not in chosen.axes)
        return values

    def store(self, path: Path, begun: bool = True) -> FitConfig:
        """Write to ``path``; where a run has begun, check that its settings are the same but for :data:`MAY_CHANGE`.

        Raises:
            DatasetError: The run folder belongs to other settings.
        """
        if begun and path.exists():
            old = FitConfig.load(path).model_dump(mode="json")
            for key, value in self.model_dump(mode="json").items():
                if old[key] != value and key not in MAY_CHANGE:
                    raise DatasetError(
                        f"'{path.parent}' holds a run with {key} = {old[key]}, now {value} is asked for; "
                        "use another run folder."
                    )
        if processes.first():
            replace_text(path, self.model_dump_json(indent=1))
        return self

    @classmethod
    def load(cls, path: Path) -> FitConfig:
        """Read what :meth:`store` wrote, also where it did so before a setting existed.

        Raises:
            DatasetError: It cannot be read, or is of something else.
        """
        try:
            return cls(**json.loads(path.read_text("utf-8")))
        except OSError as error:
            raise DatasetError(f"The stored settings '{path}' cannot be read ({error.strerror}).") from None
        except (ValueError, TypeError, DatasetError):
            raise DatasetError(
                f"'{path}' holds no settings of a run of this program, or of another version of it; use another run folder."
            ) from None


def parse_setting(text: str) -> tuple[str, Any]:
    """``key=value`` of the command line; the value is TOML, and text where it is none.

    Raises:
        DatasetError: There is no ``=``.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise DatasetError(f"'{text}' is not of the form key=value.")
    try:
        return key.strip(), tomllib.loads(f"x = {value}")["x"]
    except ValueError:
        return key.strip(), value.strip()


def _sentence(error: ValidationError) -> str:
    """The first mistake as one sentence; for an unknown key, with the key that was probably meant."""
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    key = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(key, FitConfig.model_fields, 1, 0.5)
        return f"There is no setting '{key}'" + (f"; did you mean '{close[0]}'?" if close else ".")
    value = str(first["input"])
    words = first["msg"][:1].lower() + first["msg"][1:]
    close = difflib.get_close_matches(value, _choices(key), 1, 0.5)
    return f"The setting {key} cannot be {value!r}: {words}" + (f"; did you mean '{close[0]}'?" if close else ".")


def _choices(key: str) -> list[str]:
    schema = FitConfig.model_json_schema()["properties"].get(key, {})
    return [str(choice) for choice in schema.get("enum", [])]

"""``plan.json``: what a planner decided, typed and checked when it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .dataset import Dataset, DatasetError, same_name
from .fingerprint import read_model

Axes = tuple[int, ...]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Normalization(_Strict):
    """How a channel's intensities are brought to the network's range.

    "zscore": minus mean, over standard deviation of the image (of its voxels that are not zero, with
    ``nonzero_only``). "ct": clipped to ``low`` .. ``high``, minus ``mean``, over ``std``, all of the dataset's labelled
    voxels.
    """

    channel: str
    method: Literal["zscore", "ct", "nonorm", "rescale_to_0_1", "rgb_to_0_1"]
    nonzero_only: bool = False
    mean: float | None = None
    std: float | None = None
    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _complete(self) -> Normalization:
        if self.method == "ct" and None in (self.mean, self.std, self.low, self.high):
            raise ValueError("the method ct needs mean, std, low and high")
        return self


class Configuration(_Strict):
    """One network and its patches. Axes are those of ``axes``, among (i, j, k) of the image in RAS.

    Args:
        spacing: That images are resampled to, in mm.
        median_shape: Of the cropped, resampled images, in voxels.
        patch: In voxels; divisible by the product of the strides.
        batch: Patches per step.
        filters: Feature maps per stage, finest first.
        kernels: Of the convolutions, per stage and axis.
        strides: With which a stage begins, per stage and axis; the first stage's are 1.
        convolutions_per_stage: What all networks here have; another number would be a promise that none keeps.
        batch_dice: Whether the Dice loss is taken over the batch as if it were one image.
        feature_values: In all feature maps for one patch.
        step_gigabytes: Estimate of a training step's memory.
    """

    name: str
    axes: tuple[Literal["i", "j", "k"], ...]
    spacing: tuple[float, ...]
    median_shape: tuple[float, ...]
    patch: Axes
    batch: int = Field(ge=1)
    filters: Axes = Field(min_length=1)
    kernels: tuple[Axes, ...]
    strides: tuple[Axes, ...]
    convolutions_per_stage: Literal[2] = 2
    batch_dice: bool = False
    feature_values: int = Field(default=0, ge=0)
    step_gigabytes: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Configuration:
        n = len(self.axes)
        rows = (self.spacing, self.median_shape, self.patch, *self.kernels, *self.strides)
        if n not in (2, 3) or any(len(row) != n for row in rows):
            raise ValueError(f"spacing, patch, kernels and strides must have one number for each of the {n} axes")
        if not len(self.filters) == len(self.kernels) == len(self.strides):
            raise ValueError("filters, kernels and strides must have one entry per stage")
        if min(self.filters) < 1 or min(self.spacing) <= 0 or min(self.patch) < 1:
            raise ValueError("filters, spacing and patch must be positive")
        if any(k % 2 == 0 or k < 1 for row in self.kernels for k in row) or any(
            s < 1 for row in self.strides for s in row
        ):
            raise ValueError("kernels must be odd and strides positive")
        for axis, size in enumerate(self.patch):
            step = 1
            for row in self.strides:
                step *= row[axis]
            if size % step:
                raise ValueError(f"the patch's {size} voxels along {self.axes[axis]} must be a multiple of {step}")
        return self

    @property
    def dimensions(self) -> int:
        """2 for slices, 3 for volumes."""
        return len(self.axes)


class Plan(_Strict):
    """Configurations for one dataset and budget: "2d", "3d_fullres", and "3d_lowres" where images are large."""

    version: Literal[1] = 1
    dataset: str
    channels: tuple[str, ...] = Field(min_length=1)
    labels: dict[int, str]
    cases: int = Field(ge=1)
    memory_gb: float = Field(gt=0)
    device: Literal["cuda", "cpu"]
    normalization: tuple[Normalization, ...]
    configurations: dict[str, Configuration] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Plan:
        if [n.channel for n in self.normalization] != list(self.channels):
            raise ValueError("normalization must have one entry per channel, in their order")
        return self

    def choose(self, name: str | None = None) -> Configuration:
        """A configuration by name; by default 3d_fullres, and 2d where there is no other.

        Raises:
            DatasetError: The plan has none of that name.
        """
        name = name or ("3d_fullres" if "3d_fullres" in self.configurations else "2d")
        if name not in self.configurations:
            raise DatasetError(f"The plan has no configuration '{name}'; it has {', '.join(self.configurations)}.")
        return self.configurations[name]

    def check(self, dataset: Dataset) -> None:
        """See that the plan was made for images and labels like those of a dataset.

        Raises:
            DatasetError: Channels or labels differ.
        """
        for what, mine, theirs in (
            ("channels", list(self.channels), list(dataset.channels)),
            ("labels", list(self.labels.values()), list(dataset.labels.values())),
        ):
            if sorted(map(same_name, mine)) != sorted(map(same_name, theirs)):
                raise DatasetError(
                    f"The plan is for the {what} {', '.join(mine)} of '{self.dataset}'; the dataset has {', '.join(theirs)}. "
                    "Make a plan of this dataset."
                )

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read ``plan.json``.

        Raises:
            DatasetError: It cannot be read, or is not a plan.
        """
        return read_model(cls, Path(path), "a plan; make it with 'unetsegment-train plan'")

"""Train a model on: with new cases, also a handful, without unlearning the old ones.

Settings come from the model and suit few cases. What the new cases do not tell is kept in three ways:

- On the patch of an old case that a package carries as its reference, the network is held to the answer that the model
  gave before (:class:`Memory`).
- Old cases, where some are at hand, are rehearsed: patches come from new and old ones alike.
- A structure of the model that the dataset does not name is completed, where a label says background, by the model's own
  answer: an expert who corrects the liver need not draw the other organs.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from UNetSegmentLib.package import Manifest

from .config import FEW, FitConfig
from .dataset import Case, Dataset, DatasetError
from .infer import segment
from .network import PACKAGE
from .parent import Parent
from .patches import Patches, Prepared, prepare


@dataclass(frozen=True)
class Start:
    """What a run starts from.

    Args:
        parent: The model.
        new: Manifest entries of the labels that it does not have.
        old: Cases to rehearse, matched.
    """

    parent: Parent
    new: tuple[dict[str, Any], ...] = ()
    old: Dataset | None = None

    def note(self, run: Path) -> None:
        """Write it into the run folder, or check that it is the same as before; see :meth:`Parent.note`."""
        self.parent.note(run, [case.name for case in self.old.cases] if self.old is not None else [])

    def manifest(self, dataset: Dataset, config: FitConfig, cases: Sequence[Case]) -> Manifest:
        """The draft manifest of the run."""
        return self.parent.child(list(self.new), dataset, cases, config)

    def train(self, new: list[Prepared], manifest: Manifest, dataset: Dataset, device: str) -> list[Prepared]:
        """Cases to train on: the new and old ones, completed, each about equally often."""
        network = self.parent.network()
        network.to("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
        new = [completed(case, network, self.parent.manifest, dataset.labels) for case in new]
        if self.old is None:
            return new
        ready = (prepare(case, manifest) for case in self.old.cases)
        return mixed(new, [completed(case, network, self.parent.manifest, self.old.labels) for case in ready])

    def memory(self, config: FitConfig) -> Memory | None:
        """What holds the network to the model's answers; None where the model has no reference patch or none is wanted."""
        if self.parent.reference is None or not config.keep:
            return None
        return Memory(self.parent.network(), self.parent.reference, config)


class Memory:
    """Learning without Forgetting (Li and Hoiem, ECCV 2016), on one patch that shows what the model was trained on.

    Each step adds the mean over voxels of the Kullback-Leibler divergence between the model's probabilities and the
    network's, on the patch changed at random as the training patches are, times the setting ``keep``. New labels
    count as background here, which they were to the model (Cermelli et al., CVPR 2020).

    Args:
        model: The network as the model has it, in evaluation mode.
        patch: (C, I, J, K), normalised.
        config: Settings of the run.
    """

    def __init__(self, model: torch.nn.Module, patch: np.ndarray, config: FitConfig) -> None:
        self.model = model.requires_grad_(False)
        self.patch = Prepared("reference patch", patch, np.zeros(patch.shape[1:], np.uint8), (1.0, 1.0, 1.0))
        self.config = config.changed(batch=1, steps_per_epoch=1, foreground_share=0.0, case_sampling="each")

    def loss(self, network: torch.nn.Module, step: int, device: torch.device) -> torch.Tensor:
        """To be added at a step: which patch, follows from seed and step alone."""
        image = Patches([self.patch], self.config)[step, 0][0].to(device)
        with torch.no_grad():
            wanted = self.model.to(device)(image).float().log_softmax(1)
        answer = network(image).float()
        answer = answer[:, 0] if answer.ndim > wanted.ndim else answer  # of several scales, the finest
        known = wanted.shape[1]
        found = answer.log_softmax(1)
        background = torch.cat([found[:, :1], found[:, known:]], 1).logsumexp(1, keepdim=True)
        found = torch.cat([background, found[:, 1:known]], 1)
        divergence = torch.nn.functional.kl_div(found, wanted, reduction="none", log_target=True)
        return self.config.keep * divergence.sum(1).mean()


def defaults(parent: Parent, asked: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Settings for a run that starts from ``parent``: :data:`config.FEW`, its patch, and mirroring only where it allows it.

    Raises:
        DatasetError: Another network is asked for.
    """
    manifest = parent.manifest
    if (other := (asked or {}).get("network", PACKAGE)) != PACKAGE:
        raise DatasetError(f"The network is that of model '{manifest.name}'; leave network = {other} out.")
    flat = manifest.dimensions == 2
    return FEW | {
        "network": PACKAGE,
        "dimensions": manifest.dimensions,
        "patch": manifest.inference.patch_size[flat:],
        "mirror_axes": tuple(axis - flat for axis in manifest.inference.mirror_axes),
    }


def begin(parent: Parent, dataset: Dataset, config: FitConfig, old: Dataset | None = None) -> tuple[Dataset, Start]:
    """The dataset in the words of the model, and what the run starts from.

    Raises:
        DatasetError: The settings name another network; channels or labels do not fit (see :meth:`Parent.matched`); old
            cases lack a new label, or have the name of a new one.
    """
    if config.network != PACKAGE:
        raise DatasetError(
            f"The network is that of model '{parent.manifest.name}'; leave network = {config.network} out."
        )
    matched, new = parent.matched(dataset, config.same_labels)
    if old is None:
        return matched, Start(parent, tuple(new))
    rehearsed, more = parent.matched(old, config.same_labels, new)
    if len(more) > len(new):
        raise DatasetError(
            f"The new label '{more[-1]['name']}' is in the old cases alone; give new cases that have it."
        )
    if lacking := [entry["name"] for entry in new if entry["value"] not in rehearsed.labels]:
        raise DatasetError(
            f"The old cases in '{old.root}' do not have the new label '{lacking[0]}' and would teach that it is background; "
            "label it there, or train without --rehearse."
        )
    if twice := sorted({case.name for case in old.cases} & {case.name for case in dataset.cases}):
        raise DatasetError(f"Case '{twice[0]}' is among the new and the old cases; leave it out of one of them.")
    return matched, Start(parent, tuple(new), rehearsed)


def seen_by(run: Path, dataset: Dataset) -> Dataset:
    """The dataset in the words of the model that ``run`` started from; as it is where that started from nothing."""
    parent = Parent.noted(run)
    if parent is None:
        return dataset
    return parent.matched(dataset, FitConfig.load(run / "config.json").same_labels)[0]


def completed(case: Prepared, network: torch.nn.Module, manifest: Manifest, drawn: Container[int]) -> Prepared:
    """A case whose background is filled, where the network says so, with structures that the experts did not draw.

    Args:
        case: Prepared; its classes begin with those of ``manifest``.
        network: That of the model.
        manifest: Of the model.
        drawn: Label values that the dataset has.
    """
    missing = [index for index, label in enumerate(manifest.labels) if label.value not in drawn]
    if not missing:
        return case
    answer = segment(network, case.image, manifest)
    fill = (case.classes == 0) & np.isin(answer, missing)
    return replace(case, classes=np.where(fill, answer, case.classes).astype(np.uint8))


def mixed(new: Sequence[Prepared], old: Sequence[Prepared]) -> list[Prepared]:
    """New and old cases, the fewer of them repeated, so that a pass over all sees both about equally often."""
    most = max(len(new), len(old))
    return [case for cases in (new, old) for case in list(cases) * round(most / len(cases))]

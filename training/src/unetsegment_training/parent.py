"""The model that a run starts from: its network with its weights, and which of its structures a dataset's labels are.

Labels are matched by name. The output of a label that the model does not have starts as a copy of the background's, and
both with a bias smaller by log(1 + new labels), so that together they are as probable as the background was (Cermelli et
al., "Modeling the Background for Incremental Learning in Semantic Segmentation", CVPR 2020): what the model said of its
own structures it still says before the first step.
"""

from __future__ import annotations

import copy
import difflib
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from UNetSegmentLib import package
from UNetSegmentLib.package import Manifest, Package
from UNetSegmentLib.predict.backends.torch_backend import build_network, load_network

from . import processes
from .augment import Augmenter
from .dataset import Case, Dataset, DatasetError, same_name
from .plan import color_of, fingerprint
from .run_folder import stored
from .safely import replace_text

if TYPE_CHECKING:
    from .config import FitConfig

NEW = "+"
"""In ``NAME=+``: the label is a structure that the model does not have."""


@dataclass(frozen=True)
class Parent:
    """A model to start from.

    Args:
        manifest: Its manifest; labels in the order of the network's outputs, no files.
        state: Its network's weights, float32. Of several folds, the first one's.
        sha256: Of its manifest, which holds the hashes of its files.
        reference: The patch (C, I, J, K) that it carries as its reference, normalised; None where it has none.
    """

    manifest: Manifest
    state: dict[str, torch.Tensor]
    sha256: str
    reference: np.ndarray | None = None

    @classmethod
    def open(cls, model: str | Path) -> Parent:
        """From a package folder, a zip, an nnU-Net v2 folder, a MONAI bundle, or the name of an installed model.

        Raises:
            DatasetError: It answers overlapping regions.
            PackageError: It cannot be loaded.
        """
        loaded = package.load(model)
        manifest = loaded.manifest
        if manifest.activation != "softmax":
            raise DatasetError(
                f"Model '{manifest.name}' answers regions that may overlap, which is not trained here; "
                "start from a model whose labels exclude each other."
            )
        if manifest.outputs[0] != 0 or len(manifest.outputs) > 256:
            raise DatasetError(
                f"Model '{manifest.name}' does not answer the background first, or has more than 256 outputs; "
                "it cannot be trained here."
            )
        if not any(role.split(".")[0] in ("torch", "safetensors") for role in manifest.files):
            raise DatasetError(f"Model '{manifest.name}' has no weights for PyTorch, only ONNX; it cannot be trained.")
        state = load_network(loaded).state_dict()
        return cls(_trainable(manifest), state, loaded.content_hash, _reference(loaded))

    def network(self) -> torch.nn.Module:
        """Its network, on the processor, in evaluation mode."""
        network = build_network(self.manifest)
        network.load_state_dict(self.state)
        return network.eval()

    def note(self, run: Path, rehearsed: Sequence[str] = ()) -> None:
        """Write into a run folder what it starts from, as ``parent.json``.

        Raises:
            DatasetError: The run started from another model, or with other old cases.
        """
        path, names = run / "parent.json", sorted(rehearsed)
        if path.exists():
            there = stored(path)
            if there["sha256"] != self.sha256:
                raise DatasetError(
                    f"'{run}' started from another model than '{self.manifest.name}' is now; use a new run folder."
                )
            if odd := sorted(set(there["rehearsed"]) ^ set(names)):
                raise DatasetError(f"'{run}' was started with other old cases (case '{odd[0]}'); use a new run folder.")
        about = {"sha256": self.sha256, "rehearsed": names, "manifest": self.manifest.to_dict()}
        if processes.first():
            replace_text(path, json.dumps(about, indent=1))

    @classmethod
    def noted(cls, run: Path) -> Parent | None:
        """The model that a run started from, without weights; None where it started from nothing."""
        path = run / "parent.json"
        if not path.exists():
            return None
        about = stored(path)
        return cls(Manifest.from_dict(about["manifest"]), {}, about["sha256"])

    def ancestry(self) -> list[dict[str, Any]]:
        """For a manifest's ``ancestors``: this model, then those it came from itself."""
        raw = self.manifest.raw
        entry = {key: raw[key] for key in ("name", "version", "licence")} | {"sha256": self.sha256}
        data = {key: raw["training_data"][key] for key in ("name", "cases") if key in raw.get("training_data", {})}
        return [entry | ({"training_data": data} if data else {}), *raw.get("ancestors", [])]

    def matched(
        self, dataset: Dataset, same: Sequence[str] = (), new: Sequence[dict[str, Any]] = ()
    ) -> tuple[Dataset, list[dict[str, Any]]]:
        """The dataset in the model's words: channels in its order, label values its own.

        Args:
            dataset: Any.
            same: ``NAME=STRUCTURE`` for labels that are called otherwise than in the model, ``NAME=+`` for those that it
                does not have. Names that the dataset lacks do nothing.
            new: Manifest entries of labels that are new already.

        Returns:
            The dataset, and the manifest entries of its new labels: ``new``, and others behind.

        Raises:
            DatasetError: Channels differ, or a label is none of the model's and not said to be new.
        """
        dataset = self._with_channels(dataset)
        entries = list(new)
        own = {same_name(label.name): (label.value, label.name) for label in self.manifest.segments}
        own |= {same_name(entry["name"]): (entry["value"], entry["name"]) for entry in entries}
        said = dict(_parted(text) for text in same)
        table, names = {0: 0}, {0: "background"}
        for value, name in dataset.labels.items():
            if value == 0:
                continue
            wanted = said.get(same_name(name), name)
            if wanted == NEW and same_name(name) not in own:
                free = max([label.value for label in self.manifest.labels] + [e["value"] for e in entries]) + 1
                entries.append({"value": free, "name": name, "color": list(color_of(free))})
                own[same_name(name)] = free, name
            target = own.get(same_name(name if wanted == NEW else wanted))
            if target is None:
                raise DatasetError(self._unknown(name, wanted, said))
            table[value] = target[0]
            names[target[0]] = target[1]
        pairs = tuple(sorted(table.items()))
        cases = tuple(replace(case, renumber=pairs) for case in dataset.cases)
        return replace(dataset, labels=dict(sorted(names.items())), cases=cases), entries

    def _unknown(self, name: str, wanted: str, said: dict[str, str]) -> str:
        names = [label.name for label in self.manifest.segments]
        close = difflib.get_close_matches(wanted, names, 1, 0.3)
        example = close[0] if close else names[0]
        what = f"'{name}'" if same_name(name) not in said else f"'{wanted}', which '{name}' is said to be,"
        more = f" ({', '.join(names[:6])}{', ...' * (len(names) > 6)})"
        return (
            f"The label {what} is none of the structures of model '{self.manifest.name}'{more}; say which it is, "
            f'--label "{name}={example}", or that it is a new one, --label "{name}={NEW}".'
        )

    def _with_channels(self, dataset: Dataset) -> Dataset:
        wanted, have = [channel.name for channel in self.manifest.channels], list(dataset.channels)
        order = [same_name(name) for name in wanted]
        there = [same_name(name) for name in have]
        if len(wanted) != len(have) or (len(wanted) > 1 and sorted(order) != sorted(there)):
            raise DatasetError(
                f"Model '{self.manifest.name}' sees the channels {', '.join(wanted)}; the dataset has {', '.join(have)}. "
                "Give one image for each, called the same."
            )
        if len(wanted) == 1 or order == there:
            return dataset
        places = [there.index(name) for name in order]
        cases = tuple(replace(case, images=tuple(case.images[p] for p in places)) for case in dataset.cases)
        return replace(dataset, channels=tuple(have[p] for p in places), cases=cases)

    def child(self, new: list[dict[str, Any]], dataset: Dataset, cases: Sequence[Case], config: FitConfig) -> Manifest:
        """The manifest of a model trained on from this one, without files.

        The licence is the parent's, ``ancestors`` say where it comes from, and the fingerprint is widened to what the
        cases look like.

        Args:
            new: Entries of new labels.
            dataset: Matched.
            cases: Those to train on.
            config: Settings of the run; patch and mirrored axes are its.
        """
        raw = copy.deepcopy(self.manifest.raw)
        name, version = raw["name"], raw["version"].split(".")
        raw["name"] = name if name.endswith("-tuned") else f"{name[:58]}-tuned"
        raw["title"] = raw["title"] if raw["title"].endswith(", tuned") else f"{raw['title'][:113]}, tuned"
        raw["version"] = f"{version[0]}.{int(version[1]) + 1}.0"
        raw["labels"] += new
        if new and self.manifest.architecture is None:
            raw["network"]["arguments"]["out_channels"] = len(raw["labels"])
        flat = self.manifest.dimensions == 2
        mirrored = [axis + flat for axis in Augmenter.of(config).mirrored]
        raw["inference"] |= {"patch_size": [1] * flat + list(config.patch), "mirror_axes": mirrored}
        raw["ancestors"] = self.ancestry()
        raw["training_data"] = {
            "name": dataset.name, "cases": len(cases), "description": f"Training went on from {name} {raw['ancestors'][0]['version']}.",
        }  # fmt: skip
        raw["fingerprint"] = _widened(raw.get("fingerprint"), fingerprint(cases))
        return Manifest.from_dict(raw)

    def begin(self, network: torch.nn.Module, manifest: Manifest) -> None:
        """Give a training network of the child's manifest this model's weights; see the module's docstring.

        Deep-supervision heads, which a packed model lacks, start at zero: they pull at nothing until they have learned.

        Raises:
            DatasetError: There are new labels, and the network's outputs are not rows of one last layer.
        """
        more = len(manifest.labels) - len(self.manifest.labels)
        state = {}
        for key, value in network.state_dict().items():
            old = self.state.get(key)
            if old is None:
                state[key] = torch.zeros_like(value)
            elif old.shape == value.shape:
                state[key] = old
            elif old.shape[1:] == value.shape[1:] and len(value) - len(old) == more:
                state[key] = _grown(old, more)
            else:
                raise DatasetError(
                    f"The network {manifest.network} mixes its outputs in its last layers; a label cannot be added to it."
                )
        network.load_state_dict(state)
        network.register_forward_hook(_first)


def _first(network: torch.nn.Module, inputs: Any, answer: Any) -> Any:
    """Of networks that answer at several scales in training (SegResNetDS), the finest answer."""
    return answer[0] if isinstance(answer, list | tuple) else answer


def by_name(dataset: Dataset, manifest: Manifest) -> Dataset:
    """The dataset with a model's label values where the model has all of its label names; otherwise as it is."""
    own = {same_name(label.name): label.value for label in manifest.segments}
    values = {value: own.get(same_name(name)) if value else 0 for value, name in dataset.labels.items()}
    if None in values.values():
        return dataset
    cases = tuple(replace(case, renumber=tuple(values.items())) for case in dataset.cases)
    return replace(dataset, labels={values[value]: name for value, name in dataset.labels.items()}, cases=cases)


def _grown(old: torch.Tensor, more: int) -> torch.Tensor:
    """Rows (K, ...) with ``more`` copies of the first; of a bias (K,), the first and its copies share its exponential."""
    rows = torch.cat([old, *[old[:1]] * more])
    if old.ndim == 1:
        rows[[0, *range(len(old), len(rows))]] -= math.log(1 + more)
    return rows


def _reference(loaded: Package) -> np.ndarray | None:
    if not loaded.has("reference"):
        return None
    name = loaded.manifest.raw.get("reference", {}).get("input", "input")
    with np.load(io.BytesIO(loaded.verified_bytes("reference")), allow_pickle=False) as arrays:
        return arrays[name].astype(np.float32)


def _trainable(manifest: Manifest) -> Manifest:
    """The manifest with its labels in the outputs' order, of a network without deep-supervision heads, without files."""
    raw = copy.deepcopy(manifest.raw)
    raw = {key: value for key, value in raw.items() if key not in ("outputs", "metrics", "reference")}
    by_value = {entry["value"]: entry for entry in raw["labels"]}
    raw["labels"] = [by_value[value] for value in manifest.outputs]
    if manifest.network == "DynUNet":
        kept = {k: v for k, v in manifest.network_arguments.items() if k not in ("deep_supervision", "deep_supr_num")}
        raw["network"]["arguments"] = kept
    return Manifest.from_dict(raw | {"files": {}})


def _parted(text: str) -> tuple[str, str]:
    name, equals, structure = text.partition("=")
    if not equals or not name.strip() or not structure.strip():
        raise DatasetError(f"'{text}' in same_labels is not of the form NAME=STRUCTURE or NAME={NEW}.")
    return same_name(name), structure.strip()


def _widened(old: dict[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """The parent's fingerprint, its ranges stretched to hold the new cases; the new one where the parent has none."""
    if not old:
        return new
    wide = copy.deepcopy(old)
    for key in ("spacing", "size", "size_mm"):
        if key in wide:
            _stretch(wide[key], new[key])
    if new["unplaced"]:
        wide["unplaced"] = max(wide.get("unplaced", 0.0), new["unplaced"])
    for mine, other in zip(wide.get("intensity", []), new["intensity"], strict=False):
        if isinstance(mine, dict) and "cases" in mine:
            _stretch(mine["cases"], other["cases"])
    return wide


def _stretch(mine: dict[str, Any], other: dict[str, Any]) -> None:
    for end, choose in (("min", min), ("max", max)):
        if isinstance(mine.get(end), dict):
            mine[end] = {k: choose(v, other[end].get(k, v)) for k, v in mine[end].items()}
        elif end in mine:
            mine[end] = [choose(pair) for pair in zip(mine[end], other[end], strict=True)]

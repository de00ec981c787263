"""Make small nnU-Net v2 trained-model folders of many kinds, with nnU-Net's own answers: run where nnunetv2 is installed.

    cd Testing && python -m peers.nnunet_folders OUT [KIND ...]

Each ``OUT/KIND`` gets ``model`` (the folder), ``image`` (a case, one NIfTI file per channel), ``plain`` and ``mirrored``
(nnU-Net's labels). The networks are nnU-Net's, fitted for some seconds to ellipsoids, so that their answers are not ties.
"""

from __future__ import annotations

import copy
import json
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from synthetic import nnunet

# the search for trainers imports every file; this one needs timm and torchvision, and no kind here needs it
sys.modules["nnunetv2.training.nnUNetTrainer.primus.primus_trainers"] = types.ModuleType("primus_trainers")
SEEN = {"max": 520.0, "mean": 290.0, "median": 240.0, "min": 60.0, "std": 95.0}
SEEN |= {"percentile_00_5": 130.0, "percentile_99_5": 470.0}


@dataclass
class Kind:
    """One kind of model and a case for it: sizes are (x, y, z) for images and nnU-Net's order for plans."""

    size: tuple[int, int, int] = (52, 47, 30)
    spacing: tuple[float, float, float] = (0.9, 1.1, 2.0)
    direction: tuple[float, ...] = (1, 0, 0, 0, 1, 0, 0, 0, 1)
    target: list[float] = field(default_factory=lambda: [1.8, 1.0, 1.0])
    patch: list[int] = field(default_factory=lambda: [16, 32, 32])
    kernels: list[Any] = field(default_factory=lambda: [[3, 3, 3]] * 3)
    strides: list[Any] = field(default_factory=lambda: [[1, 1, 1], [2, 2, 2], [2, 2, 2]])
    transpose: list[int] = field(default_factory=lambda: [0, 1, 2])
    channels: dict[str, str] = field(default_factory=lambda: {"0": "MRI"})
    schemes: list[str] = field(default_factory=lambda: ["ZScoreNormalization"])
    masked: bool = False
    labels: dict[str, Any] = field(default_factory=lambda: {"background": 0, "large": 1, "small": 2, "tiny": 3})
    order: list[int] | None = None
    reader: str = "SimpleITKIO"
    network: str = nnunet.PLAIN
    torch_resampling: bool = False
    trainer: str = "nnUNetTrainer"
    folds: tuple[str, ...] = ("0",)
    mirror: tuple[int, ...] | None = (0, 1, 2)
    old: bool = False
    inherits: bool = False
    postprocessing: list[Any] | None = None
    configuration: str = "3d_fullres"


TURNED = sitk.Euler3DTransform((0, 0, 0), 0.2, -0.1, 0.3)
FLIPPED = tuple((np.array(TURNED.GetMatrix()).reshape(3, 3) @ np.array([[0, -1, 0], [0, 0, 1], [-1, 0, 0]])).ravel())
FLAT = {"target": [1.0, 1.0], "patch": [32, 32], "kernels": [[3, 3]] * 3, "strides": [[1, 1], [2, 2], [2, 2]]}
KINDS = {
    "flat": Kind(**FLAT, mirror=(0, 1), configuration="2d", size=(52, 47, 12), spacing=(0.8, 0.7, 3.5)),
    "two_channels": Kind(
        channels={"0": "CT", "1": "T2"}, schemes=["CTNormalization", "ZScoreNormalization"], folds=("0", "2")
    ),
    "regions": Kind(
        labels={"background": 0, "whole": [1, 2, 3], "core": [2, 3], "inner": 3},
        order=[1, 2, 3],
        reader="NibabelIOWithReorient",
        direction=FLIPPED,
        mirror=None,
        inherits=True,
    ),
    "anisotropic": Kind(
        size=(20, 52, 47),
        spacing=(5.6, 0.8, 0.7),
        target=[5.0, 1.0, 1.0],
        patch=[8, 32, 32],
        kernels=[[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        strides=[[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        transpose=[2, 0, 1],
        mirror=(0, 2),
    ),
    "residual": Kind(
        network=nnunet.RESIDUAL,
        torch_resampling=True,
        labels={"background": 0, "large": 1, "small": 2, "tiny": 3, "ignore": 4},
        folds=("all",),
        mirror=(1,),
    ),
    "masked": Kind(masked=True, postprocessing=[[1, 2, 3], 2], schemes=["ZScoreNormalization"]),
    "old_plans": Kind(old=True, channels={"0": "CT"}, schemes=["CTNormalization"], mirror=()),
    "batch_norm": Kind(trainer="nnUNetTrainerBN", schemes=["RescaleTo01Normalization"], mirror=(0,)),
}


def case(kind: Kind, folder: Path, seed: int) -> tuple[list[Path], Path]:
    """Write nested ellipsoids in noise: a file per channel, and their labels."""
    rng = np.random.default_rng(seed)
    place = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in kind.size[::-1]), indexing="ij"), -1)
    labels = np.zeros(place.shape[:3], np.uint8)
    for value, (size, centre) in enumerate([(0.7, (0, 0.1, 0)), (0.45, (0.1, 0, 0.1)), (0.22, (0.1, -0.1, 0.2))], 1):
        labels[((place - centre) ** 2).sum(-1) < size**2] = value
    labels[((place - (-0.6, -0.7, 0.6)) ** 2).sum(-1) < 0.03] = 2
    inside = (place**2).sum(-1) < 0.9
    images = []
    folder.mkdir(parents=True)
    for index in range(len(kind.channels)):
        levels = np.array([100, 220, 330, 480]) if index == 0 else np.array([300, 250, 180, 120])
        array = levels[labels] + rng.normal(0, 12, labels.shape)
        if kind.masked:
            array[~inside] = 0
            array[labels == 3] = 0  # a hole
        images.append(folder / f"case_{index:04d}.nii.gz")
        write(array.astype(np.float32), kind, images[-1])
    truth = folder.with_name("truth.nii.gz")
    write(labels, kind, truth)
    return images, truth


def write(array: np.ndarray, kind: Kind, path: Path) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(kind.spacing)
    image.SetDirection(kind.direction)
    image.SetOrigin((11.0, -7.5, 30.0))
    sitk.WriteImage(image, str(path))


def plans_of(kind: Kind) -> dict[str, Any]:
    """plans.json as nnU-Net 2.x writes it, or as it did before 2.4."""
    plain = kind.network == nnunet.PLAIN
    convolutions = ([2, 2, 2], [2, 2]) if plain else ([1, 2, 3], [1, 1])
    network = nnunet.architecture([8, 16, 32], kind.kernels, kind.strides, *convolutions, kind.network)
    how = nnunet.configuration(kind.patch, kind.target, network, kind.schemes, kind.masked, kind.torch_resampling)
    configurations = {kind.configuration: nnunet.old_form(how, 8, 24) if kind.old else how}
    if kind.inherits:
        configurations = {"base": how, kind.configuration: {"inherits_from": "base", "batch_size": 3}}
    table = nnunet.plans(
        configurations, SEEN, len(kind.channels), kind.transpose, kind.reader, name="Dataset999_Ellipsoids"
    )
    if kind.old:
        table["foreground_intensity_properties_by_modality"] = table.pop("foreground_intensity_properties_per_channel")
    return table


def dataset_of(kind: Kind) -> dict[str, Any]:
    table = nnunet.dataset(kind.labels, kind.channels, kind.order)
    if kind.old:
        table["modality"] = table.pop("channel_names")
    return table


def fit(network: torch.nn.Module, data: np.ndarray, seg: np.ndarray, kind: Kind, steps: int = 80) -> None:
    """Fit a network to one case for a few seconds."""
    rng = np.random.default_rng(0)
    images, truth = torch.from_numpy(np.array(data)), torch.from_numpy(np.array(seg[0]).astype(np.int64)).clamp(min=0)
    if len(kind.patch) == 2:
        images, truth = images.movedim(1, 0), truth  # slices are samples
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    network.train()
    for _ in range(steps):
        if len(kind.patch) == 2:
            pick = rng.integers(0, len(images), 4)
            x, y = images[pick], truth[pick]
            size = x.shape[2:]
        else:
            x, y, size = images[None], truth[None], images.shape[1:]
        pad = [n for s, p in zip(size[::-1], kind.patch[::-1], strict=True) for n in (0, max(p - s, 0))]
        x, y = torch.nn.functional.pad(x, pad), torch.nn.functional.pad(y, pad)
        starts = [int(rng.integers(0, s - p + 1)) for s, p in zip(x.shape[2:], kind.patch, strict=True)]
        cut = tuple(slice(a, a + p) for a, p in zip(starts, kind.patch, strict=True))
        logits, y = network(x[(..., *cut)]), y[(..., *cut)]
        if kind.order:
            regions = [value for name, value in kind.labels.items() if name != "background"]
            members = [value if isinstance(value, list) else [value] for value in regions]
            aim = torch.stack([sum(y == value for value in entry) > 0 for entry in members], 1).float()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, aim)
        else:
            loss = torch.nn.functional.cross_entropy(logits, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    print(f"  loss {loss.item():.3f}")


def make(kind: Kind, out: Path) -> None:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    torch.manual_seed(0)
    images, truth = case(kind, out / "image", 0)
    plans, dataset = plans_of(kind), dataset_of(kind)
    nnunet.write_tables(out / "model", plans, dataset)
    manager = PlansManager(copy.deepcopy(plans))
    configuration = manager.get_configuration(kind.configuration)
    outputs = manager.get_label_manager(dataset).num_segmentation_heads
    data, seg, _ = configuration.preprocessor_class(verbose=False).run_case(
        [str(path) for path in images], str(truth), manager, configuration, dataset
    )
    for fold in kind.folds:
        trainer = recursive_find_trainer_class_by_name(kind.trainer)
        network = trainer.build_network_architecture(
            manager, configuration, len(kind.channels), outputs, enable_deep_supervision=False
        )
        fit(network, data, seg, kind)
        optimizer = torch.optim.SGD(network.parameters(), 1e-2, momentum=0.99)
        path = out / "model" / f"fold_{fold}" / "checkpoint_final.pth"
        path.parent.mkdir()
        content = nnunet.checkpoint(
            network.state_dict(),
            optimizer_state=optimizer.state_dict(),
            init_args={
                "plans": plans,
                "configuration": kind.configuration,
                "fold": fold if fold == "all" else int(fold),
                "dataset_json": dataset,
                "device": torch.device("cpu"),
            },
            trainer_name=kind.trainer,
            inference_allowed_mirroring_axes=kind.mirror,
        )
        torch.save(content, path)
    for mirrored in (False, True) if kind.mirror else (False,):
        folder = out / ("mirrored" if mirrored else "plain")
        folder.mkdir()
        predictor = nnUNetPredictor(use_mirroring=mirrored, device=torch.device("cpu"), allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(out / "model"), kind.folds, "checkpoint_final.pth")
        predictor.predict_from_files_sequential([[str(path) for path in images]], [str(folder / "case")])
        if kind.postprocessing is not None:
            postprocess(kind.postprocessing, folder / "case.nii.gz")
    if kind.postprocessing is not None:
        table = {
            "postprocessing_fns": ["remove_all_but_largest_component_from_segmentation"] * len(kind.postprocessing),
            "postprocessing_kwargs": [{"labels_or_regions": labels} for labels in kind.postprocessing],
            "input_folder": {"mean": float("nan")},
        }
        (out / "model" / "postprocessing.json").write_text(json.dumps(table))


def postprocess(steps: list[Any], path: Path) -> None:
    from nnunetv2.postprocessing.remove_connected_components import remove_all_but_largest_component_from_segmentation

    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)
    for labels in steps:
        array = remove_all_but_largest_component_from_segmentation(array, labels)
    result = sitk.GetImageFromArray(array)
    result.CopyInformation(image)
    sitk.WriteImage(result, str(path))


if __name__ == "__main__":
    target, *wanted = sys.argv[1:]
    torch.set_num_threads(1)
    for name in wanted or KINDS:
        print(name, flush=True)
        make(KINDS[name], Path(target) / name)

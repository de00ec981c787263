"""Make nnU-Net trained-model folders with answers that look like anatomy, without training: run by nnU-Net's Python.

A PlainConvUNet with random (He) weights gives rich features; its last 1x1x1 layer is fitted to a label map by linear
discriminants. So the network costs what a trained one costs, and its label maps have organs, borders and few ties.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from synthetic import nnunet

from benchmarks.serve import serve

RIDGE = 0.1
"""Of the mean variance: keeps weights small, so that rounding in the trunk is not blown up."""
PRIOR = 0.1
"""How much more often frequent structures win: 1 is what is most often right, which is background nearly everywhere."""


def make(
    folder: str,
    image: str,
    labels: str,
    spacing: list[float],
    classes: list[int],
    width: float,
    patch: int,
    threads: int,
    model_spacing: float = 1.5,
) -> dict[str, Any]:
    """Write ``folder/<n>`` for each number of classes; ``image`` (1, I, J, K) in HU and ``labels`` (I, J, K) are files.

    ``n`` classes are the background and the ``n - 1`` largest structures; with 2 all structures are one.
    """
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(threads)
    array = np.load(image).transpose(0, 3, 2, 1)
    anatomy = np.load(labels).transpose(2, 1, 0)
    plans = make_plans(width, patch, model_spacing, _intensities(array[0], anatomy))
    trunk, found = None, {}
    for count in classes:
        target = Path(folder) / str(count)
        (target / "fold_0").mkdir(parents=True, exist_ok=True)
        dataset = make_dataset(count)
        nnunet.write_tables(target, plans, dataset)
        predictor = _predictor(plans, dataset, trunk)
        state = predictor.network.state_dict()
        if trunk is None:
            trunk = {name: value for name, value in state.items() if ".seg_layers." not in name}
            features, where = _features(predictor, array, spacing[::-1])
        truth = _resample(merge(anatomy, count), where)
        found[str(count)] = _fit(predictor.network.decoder.seg_layers[-1], features, truth, count)
        torch.save(nnunet.checkpoint(predictor.network.state_dict()), target / "fold_0" / "checkpoint_final.pth")
    return found


def make_plans(width: float, patch: int, spacing: float, intensities: dict[str, float]) -> dict[str, Any]:
    """A plans file as nnU-Net writes it for a large CT set: six stages, 32 to 320 channels times ``width``."""
    features = [max(round(min(32 * 2**stage, 320) * width), 2) for stage in range(6)]
    strides = [[1, 1, 1]] + [[2, 2, 2]] * 5
    network = nnunet.architecture(features, [[3, 3, 3]] * 6, strides, [2] * 6, [2] * 5)
    how = nnunet.configuration([patch] * 3, [spacing] * 3, network)
    return nnunet.plans({nnunet.FULL: how}, intensities, name="Dataset900_Torso")


def make_dataset(classes: int) -> dict[str, Any]:
    """The dataset file that belongs to it."""
    return nnunet.dataset({"background": 0} | {f"structure_{value}": value for value in range(1, classes)})


def merge(anatomy: np.ndarray, classes: int) -> np.ndarray:
    """A label map with values below ``classes``: all structures as one, or the largest ones numbered by size."""
    counts = np.bincount(anatomy.ravel(), minlength=int(anatomy.max()) + 1)
    counts[0] = 0
    table = np.zeros(len(counts), np.int64)
    if classes == 2:
        table[1:] = 1
    else:
        for number, value in enumerate(np.argsort(-counts, kind="stable")[: classes - 1]):
            table[value] = number + 1 if counts[value] else 0
    return table[anatomy]


def _intensities(array: np.ndarray, anatomy: np.ndarray) -> dict[str, float]:
    values = array[anatomy > 0]
    names = ("percentile_00_5", "median", "percentile_99_5")
    found = dict(zip(names, (float(x) for x in np.percentile(values, [0.5, 50, 99.5]))))
    return found | {name: float(getattr(values, name)()) for name in ("min", "max", "mean", "std")}


def _predictor(plans: dict[str, Any], dataset: dict[str, Any], trunk: dict[str, Any] | None) -> Any:
    """nnU-Net's predictor around a fresh network, with a given trunk where there is one."""
    import torch
    from dynamic_network_architectures.initialization.weight_init import InitWeights_He
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    made = plans["configurations"][nnunet.FULL]["architecture"]
    network = get_network_from_plans(
        made["network_class_name"],
        made["arch_kwargs"],
        made["_kw_requires_import"],
        1,
        len(dataset["labels"]),
        allow_init=False,
        deep_supervision=False,
    )
    network.apply(InitWeights_He(1e-2))
    if trunk is not None:
        network.load_state_dict(network.state_dict() | trunk)
    manager = PlansManager(plans)
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    configuration = manager.get_configuration(nnunet.FULL)
    predictor.manual_initialization(network.eval(), manager, configuration, None, dataset, "nnUNetTrainer", (0, 1, 2))
    return predictor


def _features(predictor: Any, array: np.ndarray, spacing: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """(N, F) inputs of the last layer at random voxels of every patch, and their places (N, 3) in 0..1 of the image."""
    import torch
    from acvl_utils.cropping_and_padding.padding import pad_nd_image
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

    data, _, _ = DefaultPreprocessor(verbose=False).run_case_npy(
        array, None, {"spacing": spacing}, predictor.plans_manager, predictor.configuration_manager, {}
    )
    shape = np.asarray(data.shape[1:])
    patch = predictor.configuration_manager.patch_size
    padded, revert = pad_nd_image(torch.as_tensor(data), patch, "constant", {"value": 0}, True, None)
    before = np.asarray([cut.start for cut in revert[1:]])
    seen: list[Any] = []
    hook = predictor.network.decoder.seg_layers[-1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    random, features, places = np.random.default_rng(0), [], []
    with torch.inference_mode():
        for cut in predictor._internal_get_sliding_window_slicers(padded.shape[1:]):
            predictor.network(padded[cut][None])
            answer = seen.pop()[0].numpy()
            inside = np.stack([random.integers(0, n, 40000) for n in answer.shape[1:]], axis=1)
            at = inside + [s.start for s in cut[1:]] - before
            kept = ((at >= 0) & (at < shape)).all(axis=1)
            features.append(answer[(slice(None), *inside[kept].T)].T)
            places.append((at[kept] + 0.5) / shape)
    hook.remove()
    return np.concatenate(features), np.concatenate(places)


def _resample(labels: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The labels (K, J, I) nearest to places in 0..1 of the image."""
    at = np.minimum((places * labels.shape).astype(int), np.asarray(labels.shape) - 1)
    return labels[tuple(at.T)]


def _fit(layer: Any, features: np.ndarray, truth: np.ndarray, classes: int) -> dict[str, Any]:
    """Linear discriminants with a ridge: unlike regression on one-hot labels, rare structures win somewhere, too."""
    import torch

    x = features.astype(np.float64)
    counts = np.bincount(truth, minlength=classes)
    present = np.flatnonzero(counts)
    means = np.zeros((classes, x.shape[1]))
    for value in present:
        means[value] = x[truth == value].mean(axis=0)
    rest = x - means[truth]
    spread = rest.T @ rest / len(x)
    spread += RIDGE * np.trace(spread) / len(spread) * np.eye(len(spread))
    weight = np.linalg.solve(spread, means.T).T
    bias = -0.5 * (weight * means).sum(axis=1)
    bias[present] += PRIOR * np.log(counts[present] / len(x))
    # What all classes have in common changes no answer, but would cost digits where logits are kept in float16.
    weight[present] -= weight[present].mean(axis=0)
    bias[present] -= bias[present].mean()
    bias[counts == 0] = bias.min() - 10.0  # a class that this image has not never wins
    with torch.no_grad():
        layer.weight.copy_(torch.as_tensor(weight).float().reshape(layer.weight.shape))
        layer.bias.copy_(torch.as_tensor(bias).float())
    answer = (x @ weight.T + bias).argmax(axis=1)
    kept = [float((answer == 0).mean()), float((truth == 0).mean())]
    return {"present": len(present), "won": len(np.unique(answer)), "background": kept}


if __name__ == "__main__":
    serve({"make": make})

"""What training makes small. Logits are (N, K, *patch) or, with deep supervision, (N, heads, K, *patch); targets class indices.

The focal loss is MONAI's. Dice and Tversky are ours, as their sums must go over all processes that train together (as
nnU-Net's do): the loss of a batch does not depend on how many share it. The border-weighted cross-entropy is that of
Ronneberger et al. 2015.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from monai.losses import FocalLoss
from scipy import ndimage

from . import processes
from .network import centre

if TYPE_CHECKING:
    from .config import FitConfig

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
SMOOTH = 1e-5
"""nnU-Net's, added above and below the fraction."""


def make(config: FitConfig, weights: Sequence[float] | None = None) -> DeepSupervision:
    """The loss that the settings name; ``weights`` is one number per class, background first."""
    tensor = None if weights is None else torch.tensor(list(weights), dtype=torch.float32)
    dice, cross = Overlap(config.batch_dice), CrossEntropy(tensor)
    focal = FocalLoss(
        include_background=False,
        to_onehot_y=True,
        gamma=config.focal_gamma,
        weight=None if tensor is None else tensor[1:],
    )
    table: dict[str, Callable[[], Loss]] = {
        "bce": BinaryCrossEntropy,
        "ce": lambda: cross,
        "dice": lambda: dice,
        "dice_ce": lambda: lambda x, y: dice(x, y) + cross(x, y),
        "dice_focal": lambda: lambda x, y: dice(x, y) + focal(x, y[:, None]),
        "tversky": lambda: Overlap(config.batch_dice, config.tversky_alpha, config.tversky_beta),
        "border_ce": lambda: BorderWeighted(config.border_w0, config.border_sigma, tensor),
    }
    return DeepSupervision(table[config.loss]())


class DeepSupervision(torch.nn.Module):
    """A loss on every head, weights 1, 1/2, 1/4, ... summing to 1. Where the answer is smaller than the target, in its centre."""

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        heads = logits.unbind(1) if logits.ndim == target.ndim + 2 else [logits]
        shares = [0.5**i for i in range(len(heads))]
        losses = [
            share / sum(shares) * self._one(head.float(), target) for share, head in zip(shares, heads, strict=True)
        ]
        return torch.stack(losses).sum()

    def _one(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if isinstance(self.loss, BorderWeighted):  # its weights need what lies around the centre
            return self.loss(logits, target)
        return self.loss(logits, centre(target, logits.shape[2:]))


class Overlap:
    """1 - TP / (TP + a FP + b FN), mean over the foreground classes; TP, FP, FN are sums of softmax probabilities.

    With a = b = 1/2 this is the soft Dice of Milletari et al. 2016, in general the Tversky loss of Salehi et al. 2017.

    Args:
        batch: Sums go over the batch, that of all processes; else over each patch.
        alpha: a, the weight of false positives.
        beta: b, the weight of false negatives.
    """

    def __init__(self, batch: bool = True, alpha: float = 0.5, beta: float = 0.5) -> None:
        self.batch, self.alpha, self.beta = batch, alpha, beta

    def __call__(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        shares = logits.softmax(1)
        wanted = torch.zeros_like(shares).scatter_(1, target[:, None], 1.0)
        axes = [0, *range(2, logits.ndim)] if self.batch else list(range(2, logits.ndim))
        sums = torch.stack([part.sum(axes)[..., 1:] for part in (shares * wanted, shares, wanted)])
        hit, said, there = processes.total(sums) if self.batch else sums
        below = 2 * (hit + self.alpha * (said - hit) + self.beta * (there - hit))
        return 1 - ((2 * hit + SMOOTH) / (below + SMOOTH)).mean()


class CrossEntropy:
    """Cross-entropy; with class weights, the weighted mean over voxels, those of all processes."""

    def __init__(self, weights: torch.Tensor | None = None) -> None:
        self.weights = weights

    def __call__(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if self.weights is None:
            return F.cross_entropy(logits, target)
        weights = self.weights.to(logits.device)
        whole = processes.total(weights[target].sum()) / processes.count()
        return F.cross_entropy(logits, target, weights, reduction="sum") / whole


class BinaryCrossEntropy:
    """Each class against the rest, mean over voxels and classes. The largest logit is still the answer."""

    def __call__(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        wanted = F.one_hot(target, logits.shape[1]).movedim(-1, 1).to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, wanted)


class BorderWeighted:
    """Cross-entropy times :func:`border_weights`, mean over voxels (Ronneberger et al. 2015, equations 1 and 2)."""

    def __init__(self, w0: float = 10.0, sigma: float = 5.0, weights: torch.Tensor | None = None) -> None:
        self.w0, self.sigma = w0, sigma
        self.classes = None if weights is None else weights.numpy()

    def __call__(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        maps = [border_weights(y, self.w0, self.sigma, self.classes) for y in target.cpu().numpy()]
        weight = torch.from_numpy(np.stack(maps)).to(logits.device)
        size = logits.shape[2:]
        return (F.cross_entropy(logits, centre(target, size), reduction="none") * centre(weight, size)).mean()


def border_weights(
    classes: np.ndarray, w0: float = 10.0, sigma: float = 5.0, class_weights: np.ndarray | None = None
) -> np.ndarray:
    """``w(x) = w_c(x) + w0 exp(-(d1 + d2)^2 / (2 sigma^2))`` of Ronneberger et al. 2015, (*patch) float32.

    d1 and d2 are the distances in voxels to the two nearest objects; an object is foreground connected by faces, so
    touching objects need a line of background between them in the label. The second term is for background alone.

    Args:
        classes: Class indices (*patch), 0 is background.
        w0: Height.
        sigma: Width in voxels.
        class_weights: ``w_c`` per class; 1 by default.
    """
    weight = np.ones(classes.shape) if class_weights is None else np.asarray(class_weights, float)[classes]
    objects, count = ndimage.label(classes > 0)
    if w0 == 0 or count < 2:
        return weight.astype(np.float32)
    nearest = np.full(classes.shape, np.inf)
    second = nearest.copy()
    reach = int(np.ceil(4 * sigma))  # d1 + d2 beyond it adds less than w0 / 2980
    for index, box in enumerate(ndimage.find_objects(objects), 1):
        near = tuple(slice(max(cut.start - reach, 0), cut.stop + reach) for cut in box)
        distance = ndimage.distance_transform_edt(objects[near] != index)
        first, other = nearest[near], second[near]
        second[near] = np.minimum(other, np.maximum(first, distance))
        nearest[near] = np.minimum(first, distance)
    bump = np.zeros(classes.shape)
    inside = (classes == 0) & np.isfinite(second)
    bump[inside] = w0 * np.exp(-((nearest[inside] + second[inside]) ** 2) / (2 * sigma**2))
    return (weight + bump).astype(np.float32)


def balanced_weights(counts: np.ndarray) -> list[float]:
    """Inverse class frequencies with a mean of 1, from voxels per class (K,); classes that never occur get 0."""
    inverse = np.divide(1.0, counts, out=np.zeros(len(counts)), where=counts > 0)
    return (inverse / inverse.sum() * (inverse > 0).sum()).tolist()

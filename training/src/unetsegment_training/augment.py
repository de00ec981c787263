"""Random changes that a patient, a scanner or a position could have made, on whole batches.

Kinds and probabilities follow nnU-Net (Isensee et al., Nature Methods 2021) in spirit: rotation, scaling, mirroring,
noise, blur, brightness, contrast, gamma. Left-right mirroring alone is used, as bodies are symmetric that way.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F


def augment(x: torch.Tensor, y: torch.Tensor, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Augment images (N, C, I, J, K), first axis left-right, and class indices (N, I, J, K); ``rng`` decides all."""
    grid = F.affine_grid(_affines(len(x), x.shape[2:], rng), [len(x), 1, *x.shape[2:]], align_corners=False)
    classes = int(y.max()) + 1
    x = F.grid_sample(x, grid, align_corners=False)
    masks = F.one_hot(y, classes).movedim(-1, 1).float()
    y = F.grid_sample(masks, grid, align_corners=False).argmax(1)
    return torch.stack([_intensities(image, rng) for image in x]), y


def _affines(count: int, shape: torch.Size, rng: np.random.Generator) -> torch.Tensor:
    """(N, 3, 4) matrices for ``affine_grid``: rotations and scalings in voxels, shifts of some percent."""
    size = np.diag(np.asarray(shape, float))
    result = np.zeros((count, 3, 4))
    for index in range(count):
        matrix = np.eye(3)
        if rng.random() < 0.5:
            matrix = _rotation(np.radians(rng.uniform(-20, 20, 3)))
        if rng.random() < 0.5:
            matrix = matrix * rng.uniform(0.8, 1.25)
        if rng.random() < 0.5:
            matrix = matrix @ np.diag([-1.0, 1.0, 1.0])
        # affine_grid works in -1..1 on each axis and names the last axis x
        result[index, :, :3] = (np.linalg.inv(size) @ matrix @ size)[::-1, ::-1]
        result[index, :, 3] = rng.uniform(-0.06, 0.06, 3)
    return torch.from_numpy(result).float()


def _rotation(angles: np.ndarray) -> np.ndarray:
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        turn, (a, b) = np.eye(3), [i for i in range(3) if i != axis]
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return matrix


def _intensities(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Noise, brightness, blur, contrast and gamma on one image (C, I, J, K) with mean near 0 and deviation near 1."""
    if rng.random() < 0.15:
        noise = torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32))
        image = image + noise * rng.uniform(0, 0.3)
    if rng.random() < 0.2:
        image = image * rng.uniform(0.75, 1.25)
    if rng.random() < 0.2:
        share = rng.uniform(0.3, 0.8)
        padded = F.pad(image[None], (1,) * 6, mode="replicate")
        image = F.avg_pool3d(padded, 3, 1)[0] * share + image * (1 - share)
    if rng.random() < 0.15:
        low, high, mean = image.min(), image.max(), image.mean()
        image = ((image - mean) * rng.uniform(0.75, 1.25) + mean).clamp(float(low), float(high))
    if rng.random() < 0.3:
        low, high, mean, std = image.min(), image.max(), image.mean(), image.std()
        image = ((image - low) / (high - low + 1e-6)) ** rng.uniform(0.7, 1.5)
        image = (image - image.mean()) / (image.std() + 1e-6) * std + mean
    return image

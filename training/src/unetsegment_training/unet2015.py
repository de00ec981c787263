"""The U-Net as it was published (Ronneberger, Fischer, Brox, MICCAI 2015, figure 1), layer for layer, to be described.

``fit`` trains MONAI's form of it (networks ``unet2015`` and ``unet2015-valid``), whose last up-convolution is wider.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class UNet2015(nn.Module):
    """(N, channels, *size) to (N, classes, *smaller): two convolutions of 3 without padding and ReLU per level.

    Args:
        channels: Of the image; the paper has 1.
        classes: Of the answer; the paper has 2.
        features: Per level, from the finest.
        dimensions: 2, as published, or 3.
    """

    def __init__(
        self,
        channels: int = 1,
        classes: int = 2,
        features: Sequence[int] = (64, 128, 256, 512, 1024),
        dimensions: int = 2,
    ) -> None:
        super().__init__()
        convolution, transposed = (
            (nn.Conv2d, nn.ConvTranspose2d) if dimensions == 2 else (nn.Conv3d, nn.ConvTranspose3d)
        )
        self.pool = nn.MaxPool2d(2) if dimensions == 2 else nn.MaxPool3d(2)

        def pair(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(
                convolution(inputs, outputs, 3), nn.ReLU(inplace=True),
                convolution(outputs, outputs, 3), nn.ReLU(inplace=True),
            )  # fmt: skip

        steps = list(zip(features[:-1], features[1:], strict=True))
        self.down = nn.ModuleList(pair(a, b) for a, b in zip((channels, *features[:-1]), features, strict=True))
        self.up = nn.ModuleList(transposed(b, a, 2, stride=2) for a, b in reversed(steps))
        self.merge = nn.ModuleList(pair(2 * a, a) for a, _ in reversed(steps))
        self.head = convolution(features[0], classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of the middle of the image."""
        skipped = []
        for level in self.down[:-1]:
            x = level(x)
            skipped.append(x)
            x = self.pool(x)
        x = self.down[-1](x)
        for up, merge in zip(self.up, self.merge, strict=True):
            x = up(x)
            x = merge(torch.cat([_centre(skipped.pop(), x.shape[2:]), x], 1))
        return self.head(x)


def _centre(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    for axis, n in enumerate(size, start=2):
        x = x.narrow(axis, (x.shape[axis] - n) // 2, n)
    return x

"""The mean of several configurations: probabilities on the image's own grid, averaged there as nnU-Net does.

Configurations see an image on different grids; only there do their answers meet. A package holds networks of one
configuration, so this tells what another one beside it would bring.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from UNetSegmentLib.predict import Predictor
from UNetSegmentLib.predict.preprocess import layout
from UNetSegmentLib.predict.probabilities import Probabilities
from UNetSegmentLib.volume import Grid, LabelMap

from .dataset import Case
from .evaluate import predict


def mean_answer(predictors: Sequence[Predictor], case: Case) -> LabelMap:
    """The labels of the highest mean probability; the predictors have the same outputs."""
    image, _ = case.load()
    total: np.ndarray | None = None
    for predictor in predictors:
        probabilities = predict(predictor, case, image, probabilities="float16").probabilities
        assert probabilities is not None
        network = layout(image.grid, predictor.package.manifest).slices_first()[0].grid
        mine = on_grid(probabilities, network, image.grid)
        total = mine if total is None else total + mine
    manifest = predictors[0].package.manifest
    values = np.array(manifest.outputs, np.uint8 if max(manifest.outputs) < 256 else np.uint16)
    assert total is not None
    return LabelMap(values[total.argmax(axis=0)], image.grid, manifest.labels)


def on_grid(probabilities: Probabilities, network: Grid, grid: Grid) -> np.ndarray:
    """Probabilities (K, I, J, K) float32 on ``grid``, by linear interpolation.

    Args:
        probabilities: Cropped to where some structure is likely; beyond, everything is background.
        network: The whole grid that they were cropped from; beyond it they go on as at its border.
        grid: The image's.
    """
    start = np.rint(probabilities.grid.index_in(network)[:3, 3]).astype(int)
    box = tuple(slice(a, a + n) for a, n in zip(start, probabilities.grid.shape, strict=True))
    matrix = grid.index_in(network)
    result = np.empty((len(probabilities.values), *grid.shape), np.float32)
    for value, channel, place in zip(probabilities.values, probabilities.array, result, strict=True):
        whole = np.full(network.shape, value == 0, np.float32)
        whole[box] = channel
        ndimage.affine_transform(whole, matrix, output_shape=grid.shape, output=place, order=1, mode="nearest")
    return result

"""The mean of several configurations: probabilities on the image's own grid, averaged there as nnU-Net does.

Configurations see an image on different grids; only there do their answers meet. A package holds networks of one
configuration, so this tells what another one beside it would bring.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from UNetSegmentLib.predict import Predictor
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
        mine = on_grid(probabilities, image.grid)
        total = mine if total is None else total + mine
    manifest = predictors[0].package.manifest
    values = np.array(manifest.outputs, np.uint8 if max(manifest.outputs) < 256 else np.uint16)
    assert total is not None
    return LabelMap(values[total.argmax(axis=0)], image.grid, manifest.labels)


def on_grid(probabilities: Probabilities, grid: Grid) -> np.ndarray:
    """Probabilities (K, I, J, K) float32 on ``grid``, by linear interpolation; beyond their box they go on as at its border."""
    matrix = grid.index_in(probabilities.grid)
    return np.stack(
        [
            ndimage.affine_transform(
                channel.astype(np.float32), matrix, output_shape=grid.shape, order=1, mode="nearest"
            )
            for channel in probabilities.array
        ]
    )

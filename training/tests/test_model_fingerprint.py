"""What a model says of the images it was trained on: enough to warn of others."""

import numpy as np
from unetsegment_training.config import FitConfig
from unetsegment_training.dataset import read_dataset
from unetsegment_training.plan import draft_manifest
from UNetSegmentLib import io
from UNetSegmentLib.predict.sanity import check
from UNetSegmentLib.volume import Volume


def test_its_own_training_images_pass_and_a_ct_does_not(balls):
    dataset, _ = read_dataset(balls)
    manifest = draft_manifest(dataset, FitConfig.read(), dataset.cases)
    known = manifest.raw["fingerprint"]
    assert set(known) == {"spacing", "size", "size_mm", "unplaced", "intensity"}
    for case in dataset.cases:
        image = io.read_volume(case.images[0])
        found = {warning.code for warning in check([image], manifest)}
        assert found <= {"field_of_view_small", "labels", "noise"}  # toy images: small, and next to no texture
    ct = np.random.default_rng(0).integers(-1000, 1000, image.array.shape)
    assert "ct_for_mr" in {warning.code for warning in check([Volume(ct, image.grid, ("x",))], manifest)}

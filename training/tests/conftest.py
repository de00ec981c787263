"""A small dataset in Decathlon layout."""

import json

import numpy as np
import pytest
from ballworld import ball_case, write_case


@pytest.fixture
def balls(tmp_path):
    root, rng = tmp_path / "balls", np.random.default_rng(0)
    for n in range(10):
        write_case(root, f"ball_{n:02d}", *ball_case(rng))
    described = {"name": "Balls", "modality": {"0": "MRI"}, "labels": {"0": "background", "1": "Shell", "2": "Core"}}
    (root / "dataset.json").write_text(json.dumps(described | {"licence": "CC0-1.0"}))
    return root

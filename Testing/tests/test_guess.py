"""Volumes are guessed for a model's inputs by name, and only where the names leave no doubt."""

import pytest
from UNetSegmentLib.panel.guess import guess

BRATS = ("T1c contrast-enhanced T1", "T1", "T2", "FLAIR")


@pytest.mark.parametrize(
    ("channels", "volumes", "expected"),
    [
        (BRATS, ["t1", "t1ce", "t2", "flair"], [1, 0, 2, 3]),
        (BRATS, ["BraTS-001-t2f", "BraTS-001-t1n", "BraTS-001-t2w", "BraTS-001-t1c"], [3, 1, 2, 0]),
        (BRATS, ["2: T1 MPRAGE", "9: T1 MPRAGE post Gd", "4: T2 TSE", "5: T2 FLAIR"], [1, 0, 2, 3]),
        (("T1", "T2"), ["MRHead"], [None, None]),
        (("T1", "T2"), ["T1 first", "T1 second", "T2"], [None, 2]),
        (("CT", "PET"), ["4: PET AC", "3: CT Thorax"], [1, 0]),
        (("T1", "FLAIR"), [], [None, None]),
        (("image 1", "image 2"), ["image 2", "image 1"], [1, 0]),
        (("T1", "T1 map"), ["T1"], [None, None]),
    ],
)
def test_names_tell(channels, volumes, expected):
    assert guess(channels, volumes) == expected

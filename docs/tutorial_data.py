"""Lay out cases of the Decathlon's hippocampus as a hospital would have them, mistakes included, for docs/tutorial.md.

python docs/tutorial_data.py Task04_Hippocampus raw

The first 40 cases become one folder each, with the image as NRRD and the expert's segmentation as Slicer saves it: segments
numbered anew in each file, and as small as what they hold.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from UNetSegmentLib import io
from UNetSegmentLib.labels import Label
from UNetSegmentLib.volume import Grid, LabelMap

CASES = 40
NAMES = {1: "Anterior hippocampus", 2: "Posterior hippocampus"}
COLORS = {1: (230, 118, 84), 2: (76, 158, 217)}
MISSPELT, MOVED, SAME, FORGOTTEN = 7, 20, (12, 31), 26


def cropped(expert: LabelMap) -> LabelMap:
    """The smallest box with all segments, on its own grid."""
    inside = np.argwhere(expert.array)
    low, high = inside.min(0), inside.max(0) + 1
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    shift = np.eye(4)
    shift[:3, 3] = low
    grid = Grid(tuple(high - low), expert.grid.ijk_to_ras @ shift)
    return LabelMap(expert.array[box], grid, expert.labels)


def write_case(number: int, image: Path, label: Path, folder: Path) -> None:
    """One case, with the mistake that belongs to its number."""
    folder.mkdir(parents=True)
    sitk.WriteImage(sitk.ReadImage(str(image)), str(folder / "T1.nrrd"), useCompression=True)
    if number == FORGOTTEN:
        return
    expert = io.read_labelmap(label)
    order = (1, 2) if number % 2 else (2, 1)
    names = NAMES | ({2: "Posteror hippocampus"} if number == MISSPELT else {})
    table = np.array([0, order.index(1) + 1, order.index(2) + 1], np.uint8)
    labels = tuple(Label(n, names[value], COLORS[value]) for n, value in enumerate(order, start=1))
    segments = cropped(LabelMap(table[expert.array], expert.grid, labels))
    if number == MOVED:
        moved = segments.grid.ijk_to_ras.copy()
        moved[2, 3] += 0.4
        segments = replace(segments, grid=Grid(segments.grid.shape, moved))
    io.write_labelmap(folder / "Segmentation.seg.nrrd", segments)


def main(source: Path, target: Path) -> None:
    """Write ``target/patient_01`` and so on."""
    images = sorted((source / "imagesTr").glob("hippocampus_*.nii.gz"))[:CASES]
    if len(images) < CASES:
        sys.exit(f"'{source}' has no 40 images in imagesTr; give the folder Task04_Hippocampus of the Decathlon.")
    for number, image in enumerate(images, start=1):
        from_ = images[SAME[0] - 1] if number == SAME[1] else image
        write_case(number, from_, source / "labelsTr" / from_.name, target / f"patient_{number:02d}")
    print(f"wrote {CASES} cases to {target}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

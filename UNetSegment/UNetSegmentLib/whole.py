"""Are image files whole? Readers pass over missing voxels, values that are no numbers, and missing slices in silence."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from .errors import InputError


def check_nifti(path: Path) -> None:
    """Refuse a NIfTI file that is not whole, or whose voxels are not finite.

    SimpleITK's reader fills what is missing with zeros or worse, and turns NaN and infinity into 0, in silence.

    Raises:
        InputError: Voxels are missing, damaged, NaN or infinite, or the file cannot be read.
    """
    broken = InputError(f"'{path.name}' is not whole: voxels are missing or damaged; copy or download it again.")
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as file:
            header = file.read(348)
            order = {(348).to_bytes(4, "little"): "<", (348).to_bytes(4, "big"): ">"}.get(header[:4])
            if order is None:
                return  # what it is instead, the reader tells
            sizes = struct.unpack_from(f"{order}8h", header, 40)
            code, bits = struct.unpack_from(f"{order}2h", header, 70)
            start = max(int(struct.unpack_from(f"{order}f", header, 108)[0]), 348)
            kind = {16: "f4", 64: "f8"}.get(code)
            left = math.prod(sizes[1 : 1 + sizes[0]]) * bits // 8
            if not packed and kind is None:
                left -= path.stat().st_size - start
            elif left > 0:
                file.seek(start)
                while block := file.read(1 << 22):  # to the end, where gzip's checksum is
                    values = block[: max(left, 0)]
                    values = values[: len(values) // 8 * 8] if kind == "f8" else values[: len(values) // 4 * 4]
                    if kind and not np.isfinite(np.frombuffer(values, order + kind)).all():
                        raise InputError(
                            f"'{path.name}' has voxels that are NaN or infinite; replace them by a number first."
                        )
                    left -= len(block)
    except (EOFError, gzip.BadGzipFile, zlib.error, struct.error, ValueError, OverflowError):
        raise broken from None
    except OSError as error:
        raise InputError(f"'{path.name}' cannot be read ({error.strerror or error}).") from None
    if left > 0:
        raise broken


def check_slices(folder: Path, names: tuple[str, ...]) -> None:
    """Refuse a DICOM series with a missing slice, or with slices that are not stacked straight (a tilted gantry).

    Args:
        folder: Where it lies, for the message.
        names: Paths of its files, in order.

    Raises:
        InputError: See above.
    """
    import SimpleITK as sitk

    if len(names) < 2:
        return
    places, normal = [], np.array([0.0, 0.0, 1.0])
    for name in names:
        reader = sitk.ImageFileReader()
        reader.SetFileName(name)
        reader.ReadImageInformation()
        places.append(reader.GetOrigin())
        normal = np.asarray(reader.GetDirection(), float).reshape(3, 3)[:, 2]
    steps = np.diff(np.asarray(places, float), axis=0)
    along = steps @ normal
    usual = float(np.median(along))
    if abs(usual) < 1e-6 or np.abs(along - usual).max() > 0.1 * abs(usual):
        raise InputError(
            f"The DICOM series in '{folder}' has missing, repeated or unevenly spaced slices; "
            "load it in 3D Slicer, which can regularise it, and save it as NRRD."
        )
    if np.abs(steps - along[:, None] * normal).max() > 0.1 * abs(usual):
        raise InputError(
            f"The DICOM series in '{folder}' was taken with a tilted gantry; "
            "load it in 3D Slicer, which can regularise it, and save it as NRRD."
        )

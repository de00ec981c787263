"""Images and label maps from and to files: NRRD, NIfTI, MetaImage, DICOM folders, and Slicer's ``.seg.nrrd``.

Files are LPS with (k, j, i) arrays, as SimpleITK gives them; they are turned into RAS and (i, j, k) here and nowhere
else.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InputError, OutputError
from .labels import Label, Terminology
from .volume import Grid, LabelMap, Volume
from .whole import check_nifti, check_slices

LABELMAP_ENDINGS = (".seg.nrrd", ".nrrd", ".nii.gz", ".nii", ".mha")
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_PREFIX = "UNetSegment_"


def read_volume(path: str | os.PathLike[str], series: str | None = None) -> Volume:
    """Read a scalar 3D image.

    Args:
        path: A file (NRRD, NIfTI, MetaImage, ...) or a folder with one DICOM series.
        series: UID of the DICOM series, where the folder has several.

    Returns:
        One channel (1, I, J, K) in the file's voxel type, named after the file, on a RAS grid.

    Raises:
        InputError: It cannot be read, or is not a scalar 3D image with finite voxels.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"There is no file or folder '{path}'; check the path.")
    image = _read_dicom(path, series) if path.is_dir() else _read(path)
    name = path.name.removesuffix(".gz").rsplit(".", 1)[0] if path.is_file() else path.name
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(
            f"'{path.name}' has {image.GetNumberOfComponentsPerPixel()} values per voxel (a vector or colour image); "
            "give each channel as a scalar image of its own."
        )
    array, grid = _array(image, path.name), _grid(image, path.name)
    if array.dtype.kind not in "buif":
        raise InputError(f"'{path.name}' holds {array.dtype} voxels; give an image of plain numbers.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"'{path.name}' has voxels that are NaN or infinite; replace them by a number first.")
    return Volume(array[None], grid, (name,))


def read_labelmap(path: str | os.PathLike[str]) -> LabelMap:
    """Read a label map; of a ``.seg.nrrd`` also names, colours and terminology.

    Overlapping layers of a ``.seg.nrrd`` are flattened: where segments overlap, the later layer wins, and segments
    are numbered anew if two layers use one value.

    Raises:
        InputError: It cannot be read or does not hold whole numbers from 0 to 65535.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no file '{path}'; check the path.")
    image = _read(path)
    grid, array = _grid(image, path.name), _array(image, path.name)
    layers = array if array.ndim == 4 else array[None]
    if not np.array_equal(layers, np.round(layers)) or layers.min() < 0 or layers.max() > 65535:
        raise InputError(f"'{path.name}' is not a label map: its voxels are not whole numbers from 0 to 65535.")
    header = {key: _text(image, key) for key in image.GetMetaDataKeys()}
    metadata = {key.removeprefix(_PREFIX): text for key, text in header.items() if key.startswith(_PREFIX)}
    found = list(_segments(header))
    if not found:
        values = [int(v) for v in np.unique(layers) if v]
        kind = np.uint8 if max(values, default=0) < 256 else np.uint16
        return LabelMap(layers[-1].astype(kind), grid, tuple(Label(v, str(v)) for v in values), metadata)
    values = [label.value for _, label in found]
    if len(set(values)) != len(values):
        values = list(range(1, len(found) + 1))
    result = np.zeros(grid.shape, np.uint8 if max(values) < 256 else np.uint16)
    for (layer, label), value in zip(found, values, strict=True):
        result[layers[layer] == label.value] = value
    labels = tuple(Label(v, x.name, x.color, x.terminology) for (_, x), v in zip(found, values, strict=True))
    return LabelMap(result, grid, labels, metadata)


def read_segments(path: str | os.PathLike[str]) -> tuple[Label, ...]:
    """Names, colours and terminology of the segments in a ``.seg.nrrd``, from its header alone; empty for other files.

    Values are the header's and may repeat, as segments on different layers can share one; :func:`read_labelmap` tells
    them apart.

    Raises:
        InputError: It cannot be read.
    """
    return tuple(label for _, label in _segments(_read_header(Path(path))))


def read_provenance(path: str | os.PathLike[str]) -> dict[str, str]:
    """How a label map was made, from its header alone.

    A ``.seg.nrrd`` tells model, version and hash, options, software and time; a NIfTI has room for the first three.

    Raises:
        InputError: It cannot be read, or carries nothing of the kind.
    """
    path = Path(path)
    header = _read_header(path)
    found = {key.removeprefix(_PREFIX): text for key, text in header.items() if key.startswith(_PREFIX)}
    note = header.get("descrip", "").split()
    if not found and len(note) == 4 and note[0] == "UNetSegment":
        found = dict(zip(("model", "model_version", "model_hash"), note[1:], strict=True))
    if not found:
        raise InputError(
            f"'{path.name}' does not say how it was made; only .seg.nrrd and NIfTI files that UNetSegment wrote do."
        )
    return found


def _read_header(path: Path) -> dict[str, str]:
    import SimpleITK as sitk

    if not path.is_file():
        raise InputError(f"There is no file '{path}'; check the path.")
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"'{path.name}' cannot be read as an image ({_last_line(error)}).") from None
    return {key: _text(reader, key) for key in reader.GetMetaDataKeys()}


def check_output(path: str | os.PathLike[str]) -> None:
    """Find out before the work whether a label map can be written to ``path``; leaves nothing behind.

    Raises:
        OutputError: Unknown file type, or the folder is missing or read-only.
    """
    path = Path(path)
    if not path.name.lower().endswith(LABELMAP_ENDINGS):
        raise OutputError(f"'{path.name}' has no known ending; use one of {', '.join(LABELMAP_ENDINGS)}.")
    check_writable(path)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise :class:`OutputError` unless a file can be made at ``path``; leaves nothing behind."""
    path = Path(path)
    if path.is_dir():
        raise OutputError(f"'{path}' is a folder; give a file name to write to.")
    if path.exists() and not os.access(path, os.W_OK):
        raise OutputError(f"'{path}' exists and cannot be overwritten; choose another name.")
    with _beside(path):
        pass


def write_labelmap(path: str | os.PathLike[str], labelmap: LabelMap, metadata: Mapping[str, str] | None = None) -> None:
    """Write a label map, whole or not at all.

    Args:
        path: ``.seg.nrrd`` opens in 3D Slicer as a segmentation with names, colours and terminology; ``.nii.gz`` and
            the other endings hold the voxel values; NIfTI also the model's name, version and hash.
        labelmap: What to write.
        metadata: Extra header entries of a ``.seg.nrrd``, on top of the map's own.

    Raises:
        OutputError: The file cannot be written; nothing is left behind.
    """
    import SimpleITK as sitk

    path = Path(path)
    check_output(path)
    image = sitk.GetImageFromArray(labelmap.array.T)
    _place(image, labelmap.grid)
    facts = {**labelmap.metadata, **(metadata or {})}
    if path.name.lower().endswith(".seg.nrrd"):
        for key, text in _header(labelmap, facts).items():
            image.SetMetaData(key, text)
    elif path.name.lower().endswith((".nii", ".nii.gz")) and (note := _note(facts)):
        image.SetMetaData("ITK_FileNotes", note)
    with _beside(path) as part:
        try:
            sitk.WriteImage(image, str(part), useCompression=True)
        except RuntimeError as error:
            raise OutputError(f"'{path}' could not be written ({_last_line(error)}); is the disk full?") from None
        os.replace(part, path)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A temporary file in the folder of ``path`` with the same ending, gone afterwards unless it was moved."""
    ending = next((e for e in LABELMAP_ENDINGS if path.name.lower().endswith(e)), path.suffix)
    try:
        handle, name = tempfile.mkstemp(suffix=ending, prefix=".unetsegment-", dir=path.parent)
    except OSError as error:
        raise OutputError(
            f"Cannot write to the folder '{path.parent}' ({error.strerror}); choose another one."
        ) from None
    os.close(handle)
    part = Path(name)
    try:
        part.chmod(0o666 & ~_umask())
        yield part
    finally:
        part.unlink(missing_ok=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _read(path: Path) -> Any:
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    if path.name.lower().endswith(".nii.gz") and path.with_suffix("").exists():
        # the NIfTI library would take the voxels of a.nii for those of a.nii.gz: read it away from its neighbour
        with tempfile.TemporaryDirectory() as folder:
            return _read(Path(shutil.copy(path, folder)))
    if path.name.lower().endswith((".nii", ".nii.gz")):
        check_nifti(path)
    try:
        return sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(f"'{path.name}' cannot be read as an image ({_last_line(error)}).") from None


def _read_dicom(folder: Path, series: str | None) -> Any:
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    found = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if not found:
        raise InputError(f"The folder '{folder}' holds no DICOM images; choose the folder that has them.")
    if series is None and len(found) > 1:
        raise InputError(
            f"The folder '{folder}' holds {len(found)} DICOM series; choose one by its UID "
            f"(--series UID): {', '.join(found)}."
        )
    if series is not None and series not in found:
        raise InputError(f"The folder '{folder}' has no DICOM series '{series}'; it has {', '.join(found)}.")
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series or found[0])
    check_slices(folder, names)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(names)
    try:
        return reader.Execute()
    except RuntimeError as error:
        raise InputError(f"The DICOM series in '{folder}' cannot be read ({_last_line(error)}).") from None


def _array(image: Any, name: str) -> np.ndarray:
    """(i, j, k) array of a scalar image, or (layer, i, j, k) of one with several values per voxel."""
    import SimpleITK as sitk

    array = sitk.GetArrayFromImage(image)
    if image.GetDimension() == 2:
        array = array[None]
    elif image.GetDimension() == 4 and image.GetSize()[3] == 1:
        array = array[0]
    elif image.GetDimension() != 3:
        raise InputError(f"'{name}' has {image.GetDimension()} dimensions; give a 3D image (one frame of a sequence).")
    return array.transpose(2, 1, 0) if array.ndim == 3 else array.transpose(3, 2, 1, 0)


def _grid(image: Any, name: str) -> Grid:
    size = (*image.GetSize(), 1)[:3]
    direction, spacing, origin = np.eye(3), np.ones(3), np.zeros(3)
    n = min(image.GetDimension(), 3)
    direction[:n, :n] = np.reshape(image.GetDirection(), [image.GetDimension()] * 2)[:n, :n]
    spacing[:n], origin[:n] = image.GetSpacing()[:n], image.GetOrigin()[:n]
    lps = np.eye(4)
    lps[:3, :3], lps[:3, 3] = direction * spacing, origin
    try:
        return Grid(size, _LPS @ lps)
    except InputError as error:
        raise InputError(f"'{name}': {error}") from None


def _place(image: Any, grid: Grid) -> None:
    lps = _LPS @ grid.ijk_to_ras
    image.SetSpacing(grid.spacing)
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / np.asarray(grid.spacing)).ravel().tolist())


def _header(labelmap: LabelMap, metadata: Mapping[str, str]) -> dict[str, str]:
    """The header entries by which Slicer knows a segmentation (see its vtkMRMLSegmentationStorageNode)."""
    extent = " ".join(f"0 {n - 1}" for n in labelmap.grid.shape)
    header = {
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    for index, label in enumerate(labelmap.segments):
        tags = f"TerminologyEntry:{label.terminology.serialized()}|" if label.terminology else "|"
        entries = {
            "ID": f"Segment_{label.value}",
            "Name": label.name,
            "Color": " ".join(f"{c / 255:.6g}" for c in label.color),
            "NameAutoGenerated": "0",
            "ColorAutoGenerated": "0",
            "Extent": extent,
            "LabelValue": str(label.value),
            "Layer": "0",
            "Tags": tags,
        }
        header.update({f"Segment{index}_{key}": text for key, text in entries.items()})
    header.update({f"{_PREFIX}{key}": text.replace("\n", " ") for key, text in metadata.items() if text})
    return header


def _note(metadata: Mapping[str, str]) -> str:
    """Model, version and the hash's beginning for the 79 bytes of NIfTI's ``descrip``; empty where they do not fit."""
    parts = [metadata.get(key, "") for key in ("model", "model_version", "model_hash")]
    note = " ".join(["UNetSegment", *parts[:2], parts[2][:16]])
    return note if all(parts) and len(note.split()) == 4 and note.isascii() and len(note) <= 79 else ""


def _segments(header: Mapping[str, str]) -> Iterator[tuple[int, Label]]:
    index = 0
    while f"Segment{index}_ID" in header:
        entry = {key.split("_", 1)[1]: text for key, text in header.items() if key.startswith(f"Segment{index}_")}
        color = tuple(round(float(c) * 255) for c in entry.get("Color", "0.5 0.7 0.5").split())
        tags = dict(tag.split(":", 1) for tag in entry.get("Tags", "").split("|") if ":" in tag)
        codes = Terminology.parse(tags.get("TerminologyEntry", tags.get("Segmentation.TerminologyEntry", "")))
        value = int(entry.get("LabelValue", index + 1))
        yield int(entry.get("Layer", 0)), Label(value, entry.get("Name", entry["ID"]), color, codes)  # type: ignore[arg-type]
        index += 1


def _text(image: Any, key: str) -> str:
    """A header entry as text; SimpleITK hands bytes that are not UTF-8 back as surrogates, which are replaced."""
    return image.GetMetaData(key).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].removeprefix("sitk::ERROR: ") if lines else type(error).__name__

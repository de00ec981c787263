"""Images and label maps through files: geometry, voxel types, Slicer's own reader, and a sentence for every bad file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from UNetSegmentLib import io
from UNetSegmentLib.errors import InputError, OutputError
from UNetSegmentLib.labels import Code, Label, Terminology
from UNetSegmentLib.volume import Grid, LabelMap

quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LIVER = Terminology(Code("SCT", "123037004", "Anatomical Structure"), Code("SCT", "10200004", "Liver"))
LUNG = Terminology(
    Code("SCT", "123037004", "Anatomical Structure"), Code("SCT", "39607008", "Lung"), Code("SCT", "7771000", "Left")
)


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    """Grids of any size, spacing, place and direction, left-handed ones too."""
    shape = draw(st.tuples(*[st.integers(1, 6)] * 3))
    spacing = draw(st.tuples(*[st.floats(0.2, 8)] * 3))
    origin = draw(st.tuples(*[st.floats(-500, 500)] * 3))
    quaternion = np.array(draw(st.tuples(*[st.floats(-1, 1)] * 4)))
    w, x, y, z = quaternion / np.linalg.norm(quaternion) if np.linalg.norm(quaternion) > 0.1 else (1, 0, 0, 0)
    direction = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    direction[:, 0] *= draw(st.sampled_from((1, -1)))
    return Grid.from_spacing(shape, spacing, origin, direction)


def save(path: Path, array: np.ndarray, grid: Grid | None = None, vector: bool = False) -> Path:
    """Write an (i, j, k) array by SimpleITK, with the geometry worked out here and not by the code under test."""
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0, 3) if vector else array.T, isVector=vector)
    if grid is not None:
        flip = np.array([-1.0, -1.0, 1.0])
        image.SetSpacing([float(s) for s in grid.spacing])
        image.SetOrigin((flip * np.asarray(grid.origin)).tolist())
        image.SetDirection((flip[:, None] * grid.direction).ravel().tolist())
    sitk.WriteImage(image, str(path))
    return path


@quick
@given(
    grid=grids(),
    ending=st.sampled_from((".nrrd", ".nhdr", ".nii.gz", ".nii", ".mha")),
    kind=st.sampled_from(("uint8", "int16", "uint16", "int32", "uint32", "float32", "float64")),
)
def test_an_image_keeps_its_voxels_and_its_place(tmp_path: Path, grid: Grid, ending: str, kind: str) -> None:
    array = (np.arange(np.prod(grid.shape)).reshape(grid.shape) % 200).astype(kind)
    volume = io.read_volume(save(tmp_path / f"image{ending}", array, grid))
    np.testing.assert_array_equal(volume.array[0], array)
    assert volume.array.dtype == np.dtype(kind)
    assert volume.grid.is_close(grid, tolerance=2e-3)  # NIfTI holds its matrix in single precision


@quick
@given(
    grid=grids(),
    ending=st.sampled_from((".seg.nrrd", ".nrrd", ".nii.gz", ".mha")),
    values=st.sets(st.integers(1, 65535), min_size=1, max_size=4),
)
def test_a_label_map_keeps_sparse_values_and_its_place(
    tmp_path: Path, grid: Grid, ending: str, values: set[int]
) -> None:
    labels = tuple(Label(v, f"Größe 肝 {v}", (v % 256, 17, 250), LIVER) for v in sorted(values))
    kind = np.uint8 if max(values) < 256 else np.uint16
    array = np.resize(np.array([0, *sorted(values)], kind), grid.shape)
    io.write_labelmap(tmp_path / f"map{ending}", LabelMap(array, grid, labels))
    again = io.read_labelmap(tmp_path / f"map{ending}")
    np.testing.assert_array_equal(again.array, array)
    assert again.grid.is_close(grid, tolerance=2e-3)
    if ending == ".seg.nrrd":
        assert again.labels == labels
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_metadata_travels_in_a_seg_nrrd(tmp_path: Path) -> None:
    grid = Grid.from_spacing((3, 4, 5), (1, 2, 3))
    labelmap = LabelMap(np.ones(grid.shape, np.uint8), grid, (Label(1, "Liver", (200, 10, 30)),), {"model": "m 1.0.0"})
    io.write_labelmap(tmp_path / "a.seg.nrrd", labelmap, {"seconds": "2.5"})
    assert io.read_labelmap(tmp_path / "a.seg.nrrd").metadata == {"model": "m 1.0.0", "seconds": "2.5"}


def test_overlapping_layers_are_told_apart(tmp_path: Path) -> None:
    array = np.zeros((4, 4, 4, 2), np.uint8)
    array[:2, ..., 0], array[3:, ..., 1] = 1, 1
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0, 3), isVector=True)
    for index in range(2):
        for key, text in {"ID": f"S{index}", "Name": f"n{index}", "LabelValue": "1", "Layer": str(index)}.items():
            image.SetMetaData(f"Segment{index}_{key}", text)
    sitk.WriteImage(image, str(tmp_path / "a.seg.nrrd"))
    labelmap = io.read_labelmap(tmp_path / "a.seg.nrrd")
    assert [label.name for label in labelmap.labels] == ["n0", "n1"]
    assert labelmap.array[0, 0, 0] == 1 and labelmap.array[3, 0, 0] == 2 and labelmap.array[2, 0, 0] == 0


def test_slicers_own_reader_finds_names_colours_terminology_and_geometry(tmp_path: Path) -> None:
    slicer_core = pytest.importorskip("slicer_core")
    vtk_numpy = pytest.importorskip("vtkmodules.util.numpy_support")
    grid = Grid.from_spacing((7, 6, 5), (0.8, 1.5, 3), (10, -20, 30), [[0, 1, 0], [-0.8, 0, 0.6], [0.6, 0, 0.8]])
    array = np.zeros(grid.shape, np.uint16)
    array[1:3, 1:4, 1:2], array[4:6, 2:5, 2:4] = 3, 300
    labels = (Label(3, "Lunge, größer", (51, 102, 204), LUNG), Label(300, "Leber", (255, 0, 51), LIVER))
    path = tmp_path / "a.seg.nrrd"
    io.write_labelmap(path, LabelMap(array, grid, labels))

    scene = slicer_core.vtkMRMLScene()
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    storage = slicer_core.vtkMRMLSegmentationStorageNode()
    scene.AddNode(storage)
    storage.SetFileName(str(path))
    assert storage.ReadData(node)
    segmentation = node.GetSegmentation()
    assert segmentation.GetNumberOfSegments() == 2
    assert segmentation.GetSourceRepresentationName() == "Binary labelmap"
    for index, label in enumerate(labels):
        segment = segmentation.GetNthSegment(index)
        assert segment.GetName() == label.name
        assert np.allclose(np.array(segment.GetColor()) * 255, label.color, atol=0.01)
        assert segment.GetLabelValue() == label.value
        assert label.terminology is not None
        assert _tag(segment) == label.terminology.serialized()
        image = segment.GetRepresentation("Binary labelmap")
        voxels = vtk_numpy.vtk_to_numpy(image.GetPointData().GetScalars())
        assert int((voxels == label.value).sum()) == int((array == label.value).sum())
        matrix = _matrix(image)
        low, high = np.argwhere(array == label.value).min(axis=0), np.argwhere(array == label.value).max(axis=0)
        shape = np.array(image.GetDimensions())
        found = np.argwhere(voxels.reshape(shape[::-1]).T == label.value) + np.array(image.GetExtent()[::2])
        for ijk, corner in ((low, found.min(axis=0)), (high, found.max(axis=0))):
            np.testing.assert_allclose(matrix @ [*corner, 1], grid.ijk_to_ras @ [*ijk, 1], atol=1e-4)


def _tag(segment: object) -> str:
    from vtkmodules.vtkCommonCore import reference

    text = reference("")
    assert segment.GetTag("TerminologyEntry", text)  # type: ignore[attr-defined]
    return text.get()


def _matrix(image: object) -> np.ndarray:
    from vtkmodules.vtkCommonMath import vtkMatrix4x4

    matrix = vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)  # type: ignore[attr-defined]
    return np.array([[matrix.GetElement(r, c) for c in range(4)] for r in range(4)])


def _nonorthogonal(path: Path) -> Path:
    save(path, np.zeros((3, 3, 3), np.uint8))
    text = path.read_bytes().replace(b"(0,1,0)", b"(0.5,1,0)")
    path.write_bytes(text)
    return path


def _cut(path: Path, dtype: type) -> Path:
    """Noise, whose file lacks its last third."""
    save(path, np.random.default_rng(0).integers(0, 99, (12, 12, 12)).astype(dtype))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    return path


def _flipped(path: Path) -> Path:
    """Noise, with one bit of its packed file turned."""
    save(path, np.random.default_rng(0).integers(0, 99, (12, 12, 12)).astype(np.int16))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 8
    path.write_bytes(content)
    return path


BAD = {
    "vector": (lambda p: save(p / "bad.nrrd", np.zeros((3, 3, 3, 3), np.uint8), vector=True), "3 values per voxel"),
    "nan": (lambda p: save(p / "bad.nrrd", np.full((3, 3, 3), np.nan, np.float32)), "NaN or infinite"),
    "inf": (lambda p: save(p / "bad.nii.gz", np.full((3, 3, 3), np.inf)), "NaN or infinite"),
    "cut, whole numbers": (lambda p: _cut(p / "bad.nii.gz", np.int16), "is not whole"),
    "cut, floats": (lambda p: _cut(p / "bad.nii.gz", np.float32), "is not whole"),
    "cut, not packed": (lambda p: _cut(p / "bad.nii", np.uint8), "is not whole"),
    "cut, NRRD": (lambda p: _cut(p / "bad.nrrd", np.int16), "cannot be read"),
    "one bit": (lambda p: _flipped(p / "bad.nii.gz"), "is not whole"),
    "4d": (lambda p: save(p / "bad.nii.gz", np.zeros((3, 3, 3, 2), np.int16)), "4 dimensions"),
    "sheared": (lambda p: _nonorthogonal(p / "bad.nrrd"), "right angles"),
    "text": (lambda p: _text(p / "bad.nii.gz", "not an image"), "cannot be read"),
    "empty": (lambda p: _text(p / "bad.nrrd", ""), "cannot be read"),
    "missing": (lambda p: p / "bad.nrrd", "no file or folder"),
    "no DICOM": (lambda p: _folder(p / "bad"), "no DICOM"),
}


def _text(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_is_refused_by_a_sentence_that_names_it(tmp_path: Path, name: str) -> None:
    make, words = BAD[name]
    with pytest.raises(InputError, match=words) as caught:
        io.read_volume(make(tmp_path))
    assert "bad" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nan.nii", "nan.nii.gz", "cut.nii", "cut.nii.gz"])
def test_a_label_map_in_a_file_that_is_not_whole_is_refused(tmp_path: Path, name: str) -> None:
    """The reader would give zeros for what is missing: a structure that ends too early, and nobody told."""
    path = tmp_path / name
    made = save(path, np.full((3, 3, 3), np.nan)) if "nan" in name else _cut(path, np.uint8)
    with pytest.raises(InputError, match="NaN" if "nan" in name else "is not whole"):
        io.read_labelmap(made)


def test_a_single_slice_is_an_image_one_voxel_thick(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.arange(12, dtype=np.int16).reshape(3, 4)), str(tmp_path / "a.nrrd"))
    assert io.read_volume(tmp_path / "a.nrrd").array.shape == (1, 4, 3, 1)


def dicom(folder: Path, places: list[tuple[float, float, float]], uid: str = "1.2.3") -> Path:
    """Write CT slices at the given positions (LPS, mm)."""
    folder.mkdir(exist_ok=True)
    for index, place in enumerate(places):
        image = sitk.GetImageFromArray(np.full((1, 4, 5), index, np.int16))
        for key, text in {
            "0008|0060": "CT",
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0020|000e": uid,
            "0020|000d": "1.2",
            "0008|0018": f"{uid}.{index + 1}",
            "0020|0013": str(index + 1),
            "0020|0032": "\\".join(map(str, place)),
            "0020|0037": "1\\0\\0\\0\\1\\0",
        }.items():
            image.SetMetaData(key, text)
        image.SetOrigin(place)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(folder / f"{uid}-{index}.dcm"))
        writer.Execute(image)
    return folder


def test_a_dicom_folder_is_one_image(tmp_path: Path) -> None:
    volume = io.read_volume(dicom(tmp_path / "ct", [(1, 2, 3 + 2 * n) for n in range(4)]))
    assert volume.array.shape == (1, 5, 4, 4)
    assert volume.grid.spacing[2] == pytest.approx(2)
    assert volume.grid.origin == pytest.approx((-1, -2, 3))


def test_missing_slices_and_tilted_gantries_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="missing, repeated or unevenly"):
        io.read_volume(dicom(tmp_path / "gap", [(0, 0, 0), (0, 0, 2), (0, 0, 6), (0, 0, 8)]))
    with pytest.raises(InputError, match="tilted gantry"):
        io.read_volume(dicom(tmp_path / "tilt", [(0, n, 2 * n) for n in range(4)]))


def test_several_series_are_listed_and_one_can_be_chosen(tmp_path: Path) -> None:
    dicom(tmp_path / "two", [(0, 0, 2 * n) for n in range(3)], "1.2.3")
    dicom(tmp_path / "two", [(0, 0, 2 * n) for n in range(4)], "1.2.4")
    with pytest.raises(InputError, match="2 DICOM series.*1.2.3") as caught:
        io.read_volume(tmp_path / "two")
    uid = next(u for u in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(tmp_path / "two")) if u.startswith("1.2.4"))
    assert uid in str(caught.value)
    assert io.read_volume(tmp_path / "two", series=uid).array.shape[3] == 4


def test_an_output_that_cannot_be_written_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    grid = Grid.from_spacing((2, 2, 2), (1, 1, 1))
    labelmap = LabelMap(np.zeros(grid.shape, np.uint8), grid)
    (tmp_path / "folder.nrrd").mkdir()
    for name, words in {"a.jpg": "ending", "gone/a.nrrd": "Cannot write", "folder.nrrd": "is a folder"}.items():
        with pytest.raises(OutputError, match=words):
            io.check_output(tmp_path / name)
        with pytest.raises(OutputError, match=words):
            io.write_labelmap(tmp_path / name, labelmap)
    assert [p.name for p in tmp_path.iterdir()] == ["folder.nrrd"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="Cannot write"):
            io.check_output(tmp_path / "a.seg.nrrd")
    finally:
        tmp_path.chmod(0o700)


def test_a_compressed_nifti_is_not_mixed_up_with_its_uncompressed_neighbour(tmp_path: Path) -> None:
    save(tmp_path / "a.nii", np.full((3, 3, 3), 7, np.int16))
    save(tmp_path / "a.nii.gz", np.full((3, 3, 3), 5, np.int16))
    assert (io.read_volume(tmp_path / "a.nii.gz").array == 5).all()
    assert (io.read_volume(tmp_path / "a.nii").array == 7).all()

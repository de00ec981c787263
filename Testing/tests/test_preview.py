"""The picture: any grid, any number of labels, none at all; whole or not written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from UNetSegmentLib.errors import OutputError
from UNetSegmentLib.labels import Label
from UNetSegmentLib.volume import Grid, LabelMap, Volume

pytest.importorskip("matplotlib")
from UNetSegmentLib import preview  # noqa: E402


def case(count: int, shape: tuple[int, int, int] = (24, 20, 12)) -> tuple[Volume, LabelMap]:
    """An image in an oblique, anisotropic, left-handed grid, with ``count`` box-shaped labels along i."""
    tilt = np.array([[-0.8, 0.6, 0], [0.6, 0.8, 0], [0, 0, 1.0]])
    grid = Grid.from_spacing(shape, (1, 1.2, 4), (5, 6, 7), tilt)
    labels = np.zeros(shape, np.uint8)
    if count:
        inner = labels[3:-3, 3:-3, 1:-1]
        inner[...] = 1 + np.arange(inner.size).reshape(inner.shape) * count // inner.size
    names = tuple(Label(n + 1, f"Structure {n + 1}", (n * 37 % 256, n * 91 % 256, 200)) for n in range(count))
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return Volume(image[None], grid, ("T1",)), LabelMap(labels, grid, names)


@pytest.mark.parametrize("count", [0, 1, 7, 117])
def test_any_number_of_labels_gives_a_picture(tmp_path: Path, count: int) -> None:
    preview.draw(*case(count), tmp_path / "a.png", title="Title")
    assert (tmp_path / "a.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_the_surface_shows_every_colour_and_no_other() -> None:
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[2:10, 4:16, 4:16], labels[10:18, 4:16, 4:16] = 1, 2
    picture = preview._surface(labels, np.ones(3), {1: np.array([1.0, 0, 0]), 2: np.array([0, 0, 1.0])}, size=120)
    red = (picture[..., 0] > 0.3) & (picture[..., 2] < 0.3)
    blue = (picture[..., 2] > 0.3) & (picture[..., 0] < 0.3)
    assert red.sum() > 300 and blue.sum() > 300


def test_a_single_slice_and_a_flat_image_give_a_picture(tmp_path: Path) -> None:
    volume, labels = case(0, (24, 20, 1))
    preview.draw(Volume(np.zeros_like(volume.array), volume.grid, ("T1",)), labels, tmp_path / "a.png")
    assert (tmp_path / "a.png").exists()


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        preview.draw(*case(1), tmp_path / "gone" / "a.png")

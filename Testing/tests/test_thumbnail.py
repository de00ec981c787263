"""Pictures of models: only small PNGs are shown, wherever they come from; a catalog's are fetched once and proven."""

import base64
import hashlib
import shutil
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic import catalogs
from synthetic.server import serve
from UNetSegmentLib import cli, package
from UNetSegmentLib.errors import DownloadError, OutputError, PackageError
from UNetSegmentLib.labels import Label
from UNetSegmentLib.package import catalog, thumbnail
from UNetSegmentLib.panel import shelf
from UNetSegmentLib.volume import Grid, LabelMap

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "Resources" / "Models" / "hippocampus-mr-t1"


def png(width=4, height=4, extra=0):
    """A PNG of one grey value, and perhaps a chunk of ``extra`` bytes."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    rows = zlib.compress(b"".join(b"\0" + b"\x80" * width for _ in range(height)))
    more = chunk(b"tEXt", b"x\0" + b"y" * extra) if extra else b""
    return b"\x89PNG\r\n\x1a\n" + head + more + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


pytestmark = pytest.mark.usefixtures("cache")


def entry(tmp_path, told, cut=None):
    """A catalog's entry with this ``thumbnail``, read as the module reads it."""
    raw = catalogs.entry("https://example.org/some.zip", name="some", labels=["a", "b"], thumbnail=told)
    path = catalogs.write(tmp_path / "catalog.json", raw)
    entries, refused = catalog.read(path)
    return (entries or refused)[0]


def test_the_shipped_model_has_one_and_it_is_small():
    path = thumbnail.of_folder(MODEL)
    assert path.name == "thumbnail.png" and path.stat().st_size <= 30_000
    item = next(item for item in shelf.read()[0] if item.name == MODEL.name)
    assert item.thumbnail == path and path.as_uri() in shelf.card(item)


@pytest.mark.parametrize(
    "content",
    [b"", b"GIF89a", png()[:20], png(513, 4), png(4, 100_000), png(0, 4), png(extra=40_000), b"x" * 100]
    + [b"\x89PNG\r\n\x1a\n" + b"\0" * 100],
)
def test_what_is_no_small_png_is_not_shown(tmp_path, content):
    assert thumbnail.is_sound(png(512, 512)) and not thumbnail.is_sound(content)
    place = tmp_path / "model" / thumbnail.PLACE
    place.parent.mkdir(parents=True)
    place.write_bytes(content)
    assert thumbnail.of_folder(tmp_path / "model") is None
    with pytest.raises(PackageError, match="cannot be a model's thumbnail; give a PNG of at most 512 x 512"):
        thumbnail.read(place)
    inside = entry(tmp_path, {"png": base64.b64encode(content).decode()})
    assert isinstance(inside, str) or thumbnail.of_entry(inside) is None


def test_a_picture_in_the_entry_itself(tmp_path, cache):
    found = entry(tmp_path, {"png": base64.b64encode(png()).decode()})
    path = thumbnail.of_entry(found)
    assert path.read_bytes() == png() and path.parent == cache / "thumbnails" and not thumbnail.to_fetch(found)
    assert thumbnail.of_entry(found) == path
    shutil.rmtree(cache)
    cache.write_text("no folder", "utf-8")
    assert thumbnail.of_entry(found) is None


def test_a_picture_at_an_address_is_fetched_once_and_proven(tmp_path):
    with serve(png()) as server:
        found = entry(tmp_path, {"url": server.url, "sha256": hashlib.sha256(png()).hexdigest().upper()})
        assert thumbnail.of_entry(found) is None and thumbnail.to_fetch(found) and not server.requests
        path = thumbnail.fetch(found)
        assert path.read_bytes() == png() and thumbnail.of_entry(found) == path and not thumbnail.to_fetch(found)
        other = entry(tmp_path, {"url": server.url, "sha256": "0" * 64})
        with pytest.raises(DownloadError):
            thumbnail.fetch(other)
        assert thumbnail.of_entry(other) is None
    large = png(extra=40_000)
    with serve(large) as server:
        found = entry(tmp_path, {"url": server.url, "sha256": hashlib.sha256(large).hexdigest()})
        with pytest.raises(DownloadError):
            thumbnail.fetch(found)
        assert thumbnail.of_entry(found) is None
    with serve(b"no picture") as server:
        found = entry(tmp_path, {"url": server.url, "sha256": hashlib.sha256(b"no picture").hexdigest()})
        assert thumbnail.fetch(found) is None and not thumbnail.to_fetch(found)


@pytest.mark.parametrize("told", ["https://example.org/x.png", {"url": "https://example.org/x.png"}, {"png": "?"}, {}])
def test_an_entry_that_tells_it_otherwise_is_refused(tmp_path, told):
    assert "thumbnail" in entry(tmp_path, told)


def test_a_model_that_is_published_brings_its_picture(tmp_path):
    told = thumbnail.as_entry(MODEL)
    assert thumbnail.of_entry(entry(tmp_path, told["thumbnail"])).read_bytes() == (MODEL / thumbnail.PLACE).read_bytes()
    assert thumbnail.as_entry(tmp_path) == {}


def test_a_thumbnail_is_drawn_and_put(tmp_path):
    pytest.importorskip("matplotlib")
    from UNetSegmentLib import preview

    array = np.zeros((20, 24, 18), np.uint8)
    array[4:12, 5:18, 4:14], array[12:16, 5:18, 4:14] = 1, 2
    labels = (Label(0, "background"), Label(1, "a", (200, 0, 0)), Label(2, "b", (0, 0, 200)))
    out = tmp_path / "small.png"
    preview.thumbnail(LabelMap(array, Grid.from_spacing(array.shape, (1, 1, 2)), labels), out)
    assert thumbnail.is_sound(out.read_bytes())
    from matplotlib.image import imread

    picture = imread(out)[..., :3]
    assert picture.shape == (128, 128, 3)
    red, blue = (picture[..., c] > picture[..., 2 - c] + 0.2 for c in (0, 2))
    assert red.sum() > 300 and blue.sum() > 300
    thumbnail.put(tmp_path / "model", thumbnail.read(out))
    assert thumbnail.of_folder(tmp_path / "model").read_bytes() == out.read_bytes()
    preview.thumbnail(LabelMap(np.zeros_like(array), Grid.from_spacing(array.shape, (1, 1, 2)), labels), out)
    assert thumbnail.is_sound(out.read_bytes())  # nothing was found: an empty picture
    with pytest.raises(OutputError, match="cannot be written"):
        preview.thumbnail(LabelMap(array, Grid.from_spacing(array.shape, (1, 1, 1)), labels), tmp_path / "no" / "x.png")


def test_colours_of_a_drawn_picture_follow_the_structures(tmp_path):
    found = entry(tmp_path, {"png": base64.b64encode(png()).decode()})
    item = shelf._offered(found)
    assert len(item.colors) == 2 and item.colors == shelf._offered(replace(found, labels=("a", "b"))).colors
    model = package.load(MODEL).manifest
    assert replace(item, manifest=model).colors == tuple(label.color for label in model.segments)


def test_the_place_for_a_picture_is_checked_before_the_work(tmp_path, capsys):
    image = ROOT / "Resources" / "SampleData" / "hippocampus" / "hippocampus_084_image.nii.gz"
    to = str(tmp_path / "no such folder" / "x.png")
    assert cli.main(["segment", str(image), "-m", "x", "-o", str(tmp_path / "o.nrrd"), "--thumbnail", to]) == 1
    assert "no such folder" in capsys.readouterr().err and not (tmp_path / "o.nrrd").exists()

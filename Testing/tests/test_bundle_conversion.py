"""A MONAI bundle is converted once, into the cache, and left alone."""

import os

import pytest
from synthetic import bundles
from UNetSegmentLib import package
from UNetSegmentLib.errors import OutputError, PackageError

pytestmark = pytest.mark.usefixtures("cache")


def test_conversion_leaves_the_bundle_alone_and_is_done_once(tmp_path, cache):
    folder = bundles.write(tmp_path / "b")
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}
    first, second = package.load(folder), package.load(folder)
    assert first.root == second.root and first.root.parent == cache / "converted"
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()} == before
    first.verify()
    assert first.path("torch").read_bytes() == b"weights"
    assert len(list((cache / "converted").iterdir())) == 1


def test_other_weights_are_another_model(tmp_path, cache):
    folder = bundles.write(tmp_path / "b")
    first = package.load(folder)
    os.replace(bundles.write(tmp_path / "c", weights=b"others!") / "models/model.pt", folder / "models/model.pt")
    second = package.load(folder)
    assert first.root != second.root and first.content_hash != second.content_hash
    second.verify()


def test_a_half_written_conversion_is_made_anew(tmp_path):
    folder = bundles.write(tmp_path / "b")
    first = package.load(folder)
    first.path("torch").unlink()
    assert package.load(folder).path("torch").read_bytes() == b"weights"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_cannot_be_written(tmp_path, cache):
    cache.mkdir()
    cache.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            package.load(bundles.write(tmp_path / "b"))
    finally:
        cache.chmod(0o700)


def test_a_bundle_of_our_own_stays_ours(tmp_path):
    folder = bundles.write(tmp_path / "b")
    (folder / "configs" / "manifest.json").write_text("{}", "utf-8")
    with pytest.raises(
        PackageError, match=r"The manifest of .*b' is not valid \(.* is missing\); correct it, or install"
    ):
        package.load(folder)


def test_nothing_of_the_bundles_own_code_is_looked_at(tmp_path):
    folder = bundles.write(tmp_path / "b")
    (folder / "scripts").mkdir()
    (folder / "scripts" / "__init__.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')", "utf-8")
    package.load(folder)
    assert not (tmp_path / "mark").exists()

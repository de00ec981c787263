"""Tests keep what they compile, convert and download in cache folders of their own."""

import os
import shutil
import tempfile

import pytest


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests():
    folder = tempfile.mkdtemp(prefix="unetsegment-tests-")
    before = os.environ.get("UNETSEGMENT_CACHE")
    os.environ["UNETSEGMENT_CACHE"] = folder
    yield
    if before is None:
        del os.environ["UNETSEGMENT_CACHE"]
    else:
        os.environ["UNETSEGMENT_CACHE"] = before
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder of one test's own, which is not there yet."""
    monkeypatch.setenv("UNETSEGMENT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"

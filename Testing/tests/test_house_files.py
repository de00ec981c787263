"""What ships is what the lists say: CMake, the Extensions Index entry, the icon, the module map."""

import json
import re
import shutil
import struct
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "UNetSegment"


def tracked(*places: str) -> set[str]:
    """The files git knows below ``places``, relative to the repository; a source archive has no git: skip."""
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("needs git and a clone")
    listing = subprocess.run(["git", "ls-files", "-z", *places], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in listing.stdout.split("\0") if name and (ROOT / name).exists()}


def cmake_list(name: str) -> list[str]:
    """The entries of ``set(name ...)`` in the module's CMakeLists.txt."""
    text = (MODULE / "CMakeLists.txt").read_text("utf-8")
    entries = re.search(rf"^set\({name}\n(.*?)\)", text, re.DOTALL | re.MULTILINE).group(1).split()
    return [entry.replace("${MODULE_NAME}", "UNetSegment") for entry in entries]


def shipped_by_module() -> set[str]:
    files = {name.removeprefix("UNetSegment/") for name in tracked("UNetSegment")}
    return {name for name in files if not name.startswith("Testing/") and name != "CMakeLists.txt"}


def test_scripts_list_every_python_file_once():
    listed = cmake_list("MODULE_PYTHON_SCRIPTS")
    assert len(listed) == len(set(listed))
    assert set(listed) == {name for name in shipped_by_module() if name.endswith(".py")}


def test_resources_list_every_other_file_once():
    listed = cmake_list("MODULE_PYTHON_RESOURCES")
    assert len(listed) == len(set(listed))
    assert set(listed) == {name for name in shipped_by_module() if not name.endswith(".py")}


def test_catalog_models_and_sample_data_are_installed():
    assert sorted(cmake_list("EXTENSION_RESOURCES")) == sorted(
        tracked("Resources/Catalog", "Resources/Models", "Resources/SampleData")
    )


def test_every_slicer_test_is_registered_with_ctest():
    registered = re.findall(r"SCRIPT (\S+)\)", (MODULE / "Testing/Python/CMakeLists.txt").read_text("utf-8"))
    names = {Path(name).name for name in tracked("UNetSegment/Testing/Python")}
    assert sorted(registered) == sorted(name for name in names if re.fullmatch(r"test_\w+\.py|\w+Test\.py", name))


def test_extension_index_entry_agrees_with_cmake():
    entry = json.loads((ROOT / "UNetSegment.json").read_text("utf-8"))
    cmake = (ROOT / "CMakeLists.txt").read_text("utf-8")
    assert "schema-v1.0.1.json" in entry["$schema"] and entry["category"] == "Segmentation"
    assert re.search(r"set\(EXTENSION_DEPENDS (.*?)\)", cmake).group(1).split() == entry["build_dependencies"]
    assert re.search(r"project\((\w+)\)", cmake).group(1) == "UNetSegment"
    homepage = re.search(r'EXTENSION_HOMEPAGE "(.*?)"', cmake).group(1)
    assert entry["scm_url"] == f"{homepage}.git"
    for url in re.findall(r'EXTENSION_(?:ICONURL|SCREENSHOTURLS) "(.*?)"', cmake):
        assert (ROOT / url.split("/main/")[1]).is_file(), url


@pytest.mark.parametrize("place", ["UNetSegment.png", "UNetSegment/Resources/Icons/UNetSegment.png"])
def test_icon_is_128_pixels_square(place):
    header = (ROOT / place).read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">II", header[16:24]) == (128, 128)


def test_module_map_names_every_file_of_the_library():
    named = set(re.findall(r"^\| `([\w/]+\.py)` \|", (ROOT / "docs" / "modules.md").read_text("utf-8"), re.MULTILINE))
    library = MODULE / "UNetSegmentLib"
    there = {path.relative_to(library).as_posix() for path in library.rglob("*.py")}
    assert named == there


def test_the_page_about_the_panel_names_every_control():
    panel = ElementTree.parse(MODULE / "Resources" / "UI" / "UNetSegment.ui").getroot()
    words = [e.text for e in panel.iterfind(".//widget/property[@name='text']/string") if e.text]
    page = (ROOT / "docs" / "panel.md").read_text("utf-8")
    assert "Apply" in words and len(words) > 15
    assert [each for each in words if f"*{each}" not in page and f"`{each}`" not in page] == []


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/models.md", "docs/modules.md", "docs/panel.md"])
def test_links_to_files_lead_somewhere(page):
    text = (ROOT / page).read_text("utf-8")
    targets = [t for t in re.findall(r"\]\(([^)#]+)\)", text) if not t.startswith(("http", "mailto"))]
    assert [t for t in targets if not ((ROOT / page).parent / t).exists()] == []


def test_make_targets_in_the_documents_exist():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for page in ("README.md", "CONTRIBUTING.md"):
        assert set(re.findall(r"^make ([a-z-]+)", (ROOT / page).read_text("utf-8"), re.MULTILINE)) <= targets

"""The arrows between the rooms: who may import what, read from the source without running it."""

import ast
import sys
from pathlib import Path

import pytest

MODULE = Path(__file__).resolve().parents[2] / "UNetSegment"
LIBRARY = MODULE / "UNetSegmentLib"
LIBRARY_FILES = sorted(LIBRARY.rglob("*.py"))
TRAINING_FILES = sorted((MODULE.parent / "training" / "src").rglob("*.py"))

HOST = {"slicer", "vtk", "qt", "ctk"}
ENGINES = {"torch", "monai", "openvino", "safetensors", "onnx"}
FOUNDATION = {"errors", "labels", "later", "volume"}
MAY_USE = {
    "errors": set(),
    "labels": {"errors"},
    "later": set(),
    "volume": {"errors", "labels"},
    "io": FOUNDATION | {"whole"},
    "whole": {"errors"},
    "preview": FOUNDATION,
    "package": FOUNDATION,
    "predict": FOUNDATION | {"package"},
    "refine": FOUNDATION | {"package"},
    "worker": FOUNDATION | {"package", "predict", "refine"},
    "scene": FOUNDATION | {"package", "predict", "refine", "worker"},
    "panel": FOUNDATION | {"package", "predict", "refine", "worker"},
    "cli": FOUNDATION | {"cli_models", "io", "preview", "package", "predict", "refine"},
    "cli_models": FOUNDATION | {"io", "package"},
}
"""Room -> rooms of the library it may import, besides itself."""


def room(path: Path) -> str:
    parts = path.relative_to(LIBRARY).with_suffix("").parts
    return parts[0]


def imports(path: Path, at_load: bool = False) -> list[tuple[str, int]]:
    """(dotted name, line) of the imports in a file, relative ones resolved; ``at_load``: those that importing it runs."""
    found: list[tuple[str, int]] = []
    package = ["UNetSegmentLib", *path.relative_to(LIBRARY).parent.parts] if path.is_relative_to(LIBRARY) else []

    def visit(node: ast.AST) -> None:
        if at_load and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        if at_load and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                visit(other)
            return
        if isinstance(node, ast.Import):
            found.extend((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            found.extend((f"{name}.{alias.name}", node.lineno) for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text("utf-8")))
    return found


def named(path: Path) -> str:
    return path.relative_to(MODULE.parent).as_posix()


def tops(path: Path, at_load: bool = False) -> set[str]:
    return {name.split(".")[0] for name, _ in imports(path, at_load)}


@pytest.mark.parametrize("path", LIBRARY_FILES, ids=named)
def test_rooms_import_only_towards_the_inside(path):
    if path == LIBRARY / "__init__.py":
        assert tops(path) <= set(sys.stdlib_module_names)
        return
    assert room(path) in MAY_USE, f"{named(path)} is in a room without arrows; add it to MAY_USE and docs/modules.md"
    allowed = MAY_USE[room(path)] | {room(path), "__version__"}
    wrong = [
        f"line {line}: {name}"
        for name, line in imports(path)
        if name.startswith("UNetSegmentLib.") and name.split(".")[1] not in allowed
    ]
    assert wrong == []


@pytest.mark.parametrize("path", LIBRARY_FILES, ids=named)
def test_slicer_and_qt_stay_in_scene_and_panel(path):
    if room(path) not in ("scene", "panel"):
        assert tops(path) & HOST == set()


@pytest.mark.parametrize("path", LIBRARY_FILES, ids=named)
def test_scene_knows_no_qt_and_panel_state_is_plain(path):
    if room(path) == "scene" or path == LIBRARY / "panel" / "state.py":
        assert tops(path) & {"qt", "ctk"} == set()


@pytest.mark.parametrize("path", LIBRARY_FILES, ids=named)
def test_engines_stay_in_the_backends(path):
    allowed = room(path) == "predict" and "backends" in path.parts or room(path) in ("package", "worker")
    if not allowed:
        assert tops(path) & ENGINES == set()


@pytest.mark.parametrize("path", LIBRARY_FILES, ids=named)
def test_loading_a_file_imports_nothing_heavy(path):
    allowed = set(sys.stdlib_module_names) | {"numpy", "UNetSegmentLib"}
    if room(path) in ("scene", "panel"):
        allowed |= HOST
    assert tops(path, at_load=True) <= allowed


def test_loading_the_module_imports_nothing_third_party():
    path = MODULE / "UNetSegment.py"
    allowed = set(sys.stdlib_module_names) | HOST | {"UNetSegmentLib", "SampleData"}
    assert tops(path, at_load=True) <= allowed
    assert tops(path) & ENGINES == set()


@pytest.mark.parametrize("path", TRAINING_FILES, ids=named)
def test_training_knows_neither_slicer_nor_the_rooms_above_predict(path):
    assert tops(path) & HOST == set()
    rooms = {name.split(".")[1] for name, _ in imports(path) if name.startswith("UNetSegmentLib.")}
    assert rooms <= FOUNDATION | {"io", "package", "predict"}


def loaded_by(path: Path) -> set[str]:
    """The library's files, relative to it, that loading a file loads with it."""
    found: set[Path] = set()

    def load(path: Path) -> None:
        for name, _ in imports(path, at_load=True):
            parts = name.split(".")
            for end in range(1, len(parts) + 1) if parts[0] == LIBRARY.name else ():
                place = MODULE.joinpath(*parts[:end])
                for file in (place / "__init__.py", place.with_suffix(".py")):
                    if file.is_file() and file not in found:
                        found.add(file)
                        load(file)

    load(path)
    return {path.relative_to(LIBRARY).as_posix() for path in found}


def test_slicer_starts_without_what_only_a_run_or_another_window_needs():
    loaded = loaded_by(MODULE / "UNetSegment.py")
    assert {"panel/panel.py", "package/manifest.py", "predict/gather.py"} <= loaded
    later = {"predict/predictor.py", "predict/preprocess.py", "worker/client.py", "worker/memory.py", "scene/run.py"}
    later |= {"panel/models.py", "package/download.py", "package/bundle.py", "package/store.py", "io.py"}
    assert loaded & later == set()


def test_slicer_starts_without_numpy():
    """Slicer itself reads NumPy when it is first used, as loading it takes longer than loading this module."""
    path = MODULE / "UNetSegment.py"
    for file in (path, *(LIBRARY / name for name in loaded_by(path))):
        names = [name for name, _ in imports(file, at_load=True) if name.startswith(("numpy", "vtk.util"))]
        assert names == [], named(file)

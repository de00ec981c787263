"""The extension configures, builds its file tree and installs, with a small stand-in for Slicer's CMake package."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTED = "lib/Slicer-5.13/qt-scripted-modules"

# Slicer's own macros compile and copy; these check what they are given and install it where Slicer does.
SLICER_CONFIG = f"""
set(Slicer_USE_FILE "${{CMAKE_CURRENT_LIST_DIR}}/use.cmake")
set(Slicer_EXTENSION_GENERATE_CONFIG "${{CMAKE_CURRENT_LIST_DIR}}/nothing.cmake")
set(Slicer_EXTENSION_CPACK "${{CMAKE_CURRENT_LIST_DIR}}/nothing.cmake")
set(Slicer_QTSCRIPTEDMODULES_LIB_DIR "{SCRIPTED}")
set(Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR "{SCRIPTED}")
"""
SLICER_USE = """
macro(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(MODULE "WITH_GENERIC_TESTS" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  foreach(file ${MODULE_SCRIPTS} ${MODULE_RESOURCES})
    if(NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${file})
      message(FATAL_ERROR "nonexistent ${file}")
    endif()
    get_filename_component(folder ${file} DIRECTORY)
    install(FILES ${file} DESTINATION ${Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR}/${folder})
  endforeach()
endmacro()
function(slicer_add_python_unittest)
  cmake_parse_arguments(UNIT "" "SCRIPT;TESTNAME_PREFIX" "SLICER_ARGS" ${ARGN})
  if(NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${UNIT_SCRIPT})
    message(FATAL_ERROR "nonexistent test ${UNIT_SCRIPT}")
  endif()
endfunction()
"""


def run(*command: object) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def cmake():
    program = shutil.which("cmake", path=Path(sys.executable).parent) or shutil.which("cmake")
    if program is None:
        pytest.skip("needs CMake")
    version = re.search(r"(\d+)\.(\d+)", subprocess.run([program, "--version"], capture_output=True, text=True).stdout)
    if (int(version.group(1)), int(version.group(2))) < (3, 28):
        pytest.skip(f"needs CMake 3.28, as Slicer's extension template does; this is {version.group()}")
    return program


def test_extension_configures_and_installs_where_the_library_looks(cmake, tmp_path):
    slicer, build, prefix = tmp_path / "slicer", tmp_path / "build", tmp_path / "prefix"
    slicer.mkdir()
    (slicer / "SlicerConfig.cmake").write_text(SLICER_CONFIG)
    (slicer / "use.cmake").write_text(SLICER_USE)
    (slicer / "nothing.cmake").write_text("")
    options = [f"-DSlicer_DIR={slicer}", f"-DCMAKE_INSTALL_PREFIX={prefix}", "-DBUILD_TESTING=ON"]
    run(cmake, "-S", ROOT, "-B", build, *options)
    run(cmake, "--install", build)

    def below(folder: Path, pattern: str) -> set[str]:
        return {p.relative_to(folder).as_posix() for p in folder.glob(pattern) if p.is_file()}

    for tree in (build / SCRIPTED, prefix / SCRIPTED):
        for place in ("Resources/Models/**/*", "Resources/SampleData/**/*"):
            assert below(tree, place) == below(ROOT, place) != set()
    code = {name for name in below(ROOT / "UNetSegment", "UNetSegmentLib/**/*") if "__pycache__" not in name}
    assert below(prefix / SCRIPTED, "UNetSegmentLib/**/*") == code
    assert (prefix / SCRIPTED / "UNetSegment.py").is_file()

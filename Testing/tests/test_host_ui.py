"""The panel's Designer file names only what Slicer's widgets have."""

from pathlib import Path

import pytest
import slicer
from host.qtmodules import ui_problems

FILES = sorted((Path(__file__).parents[2] / "UNetSegment" / "Resources" / "UI").glob("*.ui"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_designer_file(path):
    assert ui_problems(path.read_text(encoding="utf8")) == []
    assert slicer.util.loadUI(str(path)).isWidgetType()


def test_misspelt_property_and_double_name_are_told():
    text = """<ui version="4.0"><widget class="QWidget" name="a"><widget class="QLabel" name="a">
    <property name="txt"><string>x</string></property></widget></widget></ui>"""
    assert ui_problems(text) == ["two widgets are called a", "a (QLabel) has no property txt"]

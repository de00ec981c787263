"""Codes by name, and none where the name is not in the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from unetsegment_training.dataset import DatasetError
from unetsegment_training.terminology import TABLE, Terms, add_codes


@pytest.mark.parametrize(
    ("name", "kind", "side"),
    [
        ("Left kidney", "64033007", "7771000"),
        ("kidney_right", "64033007", "24028007"),
        ("Kidneys", "64033007", None),
        ("spleen", "78961009", None),
        ("urinary bladder", "89837001", None),
        ("left suprarenal gland", "23451007", "7771000"),
        ("Thorax", "51185008", None),
    ],
)
def test_names_have_codes(name: str, kind: str, side: str | None) -> None:
    codes = Terms(TABLE).find(name)
    assert codes is not None and codes["type"]["value"] == kind and codes["type"]["scheme"] == "SCT"
    assert codes.get("modifier", {}).get("value") == side


@pytest.mark.parametrize("name", ["Tumour", "left spleen", "kidney lesion", "Anterior hippocampus", "left", "", "!?"])
def test_nothing_is_guessed(name: str) -> None:
    assert Terms(TABLE).find(name) is None


def test_the_card_wins_and_background_has_none() -> None:
    mine = {"category": {}, "type": {}}
    labels = [
        {"value": 0, "name": "Tissue"},
        {"value": 1, "name": "Liver", "terminology": mine},
        {"value": 2, "name": "Liver"},
        {"value": 3, "name": "Shell"},
    ]
    add_codes(labels)
    assert [label.get("terminology", {}).get("type", {}).get("meaning") for label in labels] == [
        None,
        None,
        "Liver",
        None,
    ]
    assert labels[1]["terminology"] is mine


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    code = {"CodeMeaning": "Shell", "CodingSchemeDesignator": "99X", "CodeValue": "1"}
    table.write_text(json.dumps({"SegmentationCodes": {"Category": [code | {"Type": [code, code]}]}}))
    assert Terms(table).find("shell")["type"] == {"scheme": "99X", "value": "1", "meaning": "Shell"}
    twice = [code, code | {"CodeValue": "2"}]
    table.write_text(json.dumps({"SegmentationCodes": {"Category": [code | {"Type": twice}]}}))
    assert Terms(table).find("shell") is None
    for text in ("{", "[]", '{"SegmentationCodes": 1}'):
        table.write_text(text)
        with pytest.raises(DatasetError, match="is not a terminology"):
            Terms(table)
    with pytest.raises(DatasetError, match="cannot be read"):
        Terms(tmp_path / "none.json")

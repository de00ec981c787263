"""Codes by name, and none where the name is not in the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from unetsegment_training.cli import main
from unetsegment_training.dataset import DatasetError
from unetsegment_training.terminology import TABLE, Terms, add_codes
from UNetSegmentLib import package


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


@pytest.mark.slow
def test_pack_writes_codes_and_says_what_has_none(
    balls: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("background", "Left kidney", "Shell")
    labels = [{"value": value, "name": name} for value, name in enumerate(names)]
    card = {"name": "balls", "title": "Balls", "version": "1.0.0", "description": "Balls.", "intended_use": "Tests."}
    (tmp_path / "card.json").write_text(json.dumps(card | {"labels": labels}))
    sizes = ["--epochs", "1", "--filters", "8,16,16", "--patch", "16,16,16", "--batch", "2", "--device", "cpu"]
    assert main(["fit", str(balls), str(tmp_path / "run"), *sizes]) == 0
    pack = ["pack", str(balls), str(tmp_path / "run"), str(tmp_path / "m"), "--card", str(tmp_path / "card.json")]
    assert main([*pack, "--terminology", str(tmp_path / "none.json")]) == 1
    assert "cannot be read" in capsys.readouterr().err and not (tmp_path / "m").exists()
    assert main(pack) == 0
    said = capsys.readouterr().out
    assert "terminology of 'Left kidney': Kidney (SCT 64033007), Left (SCT 7771000)" in said
    assert "terminology of 'Shell': none" in said
    kidney, shell = package.load(tmp_path / "m").manifest.segments
    assert kidney.terminology is not None and kidney.terminology.type.value == "64033007"
    assert shell.terminology is None

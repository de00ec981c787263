"""What the panel says and allows, without Qt and without a scene."""

import pytest
from synthetic import packages
from UNetSegmentLib.package import Manifest
from UNetSegmentLib.panel import outcome, state, structures
from UNetSegmentLib.predict.reports import ANYWAY, InputWarning


def manifest(*channels, **changes):
    """Of a model with these channels; T1 by default."""
    raw = packages.manifest(**changes)
    raw["channels"] = [raw["channels"][0] | {"name": name, "title": name} for name in channels or ("T1",)]
    return Manifest.from_dict(raw)


def warning(code, channel="T1", message=f"Volume 'head' looks odd; {ANYWAY}."):
    return InputWarning(channel, code, message)


def test_a_volume_and_a_model_can_be_run():
    view = state.view(manifest(), ["head"], device="CPU")
    assert (view.apply_text, view.apply_enabled, view.apply_hint, view.output_hint) == ("Apply", True, "", "")
    assert [row.visible for row in view.inputs] == [True, False, False, False] and view.inputs[0].hint == ""
    assert view.inputs[0].tip.startswith("head · The volume") and view.model_tip.startswith(manifest().title + " · ")
    assert view.options == "Options: CPU" and view.structures == "Structures: all 2" and view.inputs_enabled


@pytest.mark.parametrize(
    ("place", "words", "how"),
    [
        ("apply_tip", "Choose a model.", {"manifest": None}),
        ("model_line", "It is damaged.", {"manifest": None, "model_problem": "It is damaged."}),
        ("model_line", "It has no weights.", {"warnings": [warning("model", "", "It has no weights.")]}),
        ("model_line", "needs 5 volumes, more than the panel has rows", {"manifest": manifest(*"abcde")}),
        ("inputs", "Choose the T1 volume to segment.", {"chosen": [None]}),
        ("inputs", "No image is loaded; load one first", {"chosen": [None], "has_volumes": False}),
        ("inputs", "Only colour images or label", {"chosen": [None], "has_volumes": False, "has_others": True}),
        ("inputs", "This model needs 2 volumes: T1, T2. Choose the T2 volume.", {"manifest": manifest("T1", "T2")}),
        ("inputs", "It has no voxels.", {"warnings": [warning("refused", message="It has no voxels.")]}),
        ("output_hint", "It is locked.", {"obstacles": {"output": "It is locked.", "region": "It is elsewhere."}}),
        ("apply_hint", "It is elsewhere.", {"obstacles": {"region": "It is elsewhere."}}),
        ("apply_hint", "No structure is chosen", {"kept": set()}),
    ],
)
def test_what_stops_a_run_is_said_where_it_belongs(place, words, how):
    choices = {"manifest": manifest(), "chosen": ["head"]} | how
    view = state.view(**choices)
    assert not view.apply_enabled and words in view.apply_tip and view.apply_text == "Apply"
    assert words in " ".join(row.hint for row in view.inputs) if place == "inputs" else words in getattr(view, place)
    running = state.view(**choices, running=True)
    assert running.apply_enabled and running.apply_text == "Cancel" and not running.inputs_enabled


def test_what_looks_wrong_stands_under_its_input_and_stops_nothing():
    two, chosen = manifest("T1", "T2"), ["head", "neck"]
    view = state.view(two, chosen, warnings=[warning("same_image", ""), warning("noise")])
    assert view.apply_enabled
    assert view.inputs[0].hint == "! Looks odd." and view.inputs[1].hint == "! Volume 'head' looks odd."
    asked = state.view(two, chosen, warnings=[warning("constant")], asking=True)
    assert asked.apply_text == "Segment anyway" and asked.apply_enabled
    stopped = state.view(two, chosen, asking=True, obstacles={"output": "It is locked."})
    assert stopped.apply_text == "Apply" and not stopped.apply_enabled


def test_a_choice_of_folds_is_that_of_the_model():
    one = manifest()
    assert state.fold_choices(one) == () and state.wanted_folds(one, "2") == "all"
    many = manifest(
        files={f"onnx.{n}" if n else "onnx": {"path": f"{n}", "sha256": "0" * 64, "size": 1} for n in range(3)}
    )
    assert [value for _, value in state.fold_choices(many)] == ["all", "first", *many.folds[1:]]
    assert state.wanted_folds(many, many.folds[2]) == many.folds[2] and state.wanted_folds(many, "9") == "all"


def test_wanted_structures_are_kept_by_model_and_name():
    model = manifest()
    text = structures.remember("", "a", model, {300})
    assert structures.wanted(text, "a", model) == {300} and structures.wanted(text, "b", model) is None
    assert structures.title(model, {300}) == "Structures: 1 of 2"
    assert structures.remember(text, "a", model, {3, 300}) == ""
    for damaged in ("[]", "{", '{"a": 3}'):
        assert structures.wanted(damaged, "a", model) is None


@pytest.mark.parametrize(
    ("ml", "words"), [(0, "0.00 ml"), (0.0123, "0.012 ml"), (1.838, "1.84 ml"), (15.2, "15.2 ml"), (1519.6, "1520 ml")]
)
def test_volumes_have_three_digits(ml, words):
    assert outcome.millilitres(ml) == words


def test_a_card_says_what_came_out():
    labels = manifest().segments
    ran = {"seconds": "12.34", "device": "cpu", "precision": "bf16", "notes": "Patches < 2."}
    card = outcome.card("head", "Liver (CT)", labels, {3: 1.5, 300: 0}, ran, [warning("noise")], "12:00")
    assert card.title == "12:00 · head → Liver" and "12.3 s" in card.line and "CPU bf16" in card.line
    assert card.rows == (("Dim structure", "1.50 ml"), ("Bright structure", "0.00 ml"))
    assert "looks odd." in card.html() and "anyway" not in card.html() and "Patches &lt; 2." in card.html()

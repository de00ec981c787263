"""Whether the largest component is kept: decided by hand-made answers of which the right decision is known."""

import numpy as np
import pytest
from unetsegment_training.components import sentences, try_components
from UNetSegmentLib.labels import Label
from UNetSegmentLib.predict.postprocess import postprocess
from UNetSegmentLib.volume import dice

ONE, TWO = Label(1, "Liver"), Label(2, "Kidneys")
SIZE = (16, 12, 10)


def case(*blocks):
    """A label map of blocks ((i0, i1), (j0, j1), (k0, k1), value)."""
    array = np.zeros(SIZE, np.uint8)
    for i, j, k, value in blocks:
        array[slice(*i), slice(*j), slice(*k)] = value
    return array


LIVER = ((1, 7), (1, 7), (1, 7), 1)
SPECK = ((12, 14), (8, 10), (7, 9), 1)
KIDNEYS = [((9, 11), (1, 4), (1, 4), 2), ((13, 15), (1, 4), (1, 4), 2)]


def tried(pairs, *segments):
    return try_components(lambda: iter(pairs), segments)


def test_a_speck_in_many_cases_goes_and_the_numbers_are_those_of_the_masks():
    truth = case(LIVER)
    pairs = [(case(LIVER, SPECK) if n < 7 else truth, truth) for n in range(10)]
    (trial,) = tried(pairs, ONE)
    spoilt = dice(pairs[0][0] == 1, truth == 1)
    assert trial.kept and trial.better == 7 and trial.worse == 0
    assert trial.before["Liver"] == pytest.approx(0.7 * spoilt + 0.3) and trial.after["Liver"] == 1
    assert trial.gain == pytest.approx(0.7 * (1 - spoilt)) and trial.interval[0] > 0
    assert trial.p == pytest.approx(2.0**-7)  # all seven that differ gain
    np.testing.assert_array_equal(postprocess(pairs[0][0], [trial.step("here")]), truth)
    assert "kept" in sentences([trial])[0] and "7 cases better" in trial.step("here")["reason"]


def test_a_speck_in_few_cases_is_no_proof():
    truth = case(LIVER)
    (trial,) = tried([(case(LIVER, SPECK) if n < 3 else truth, truth) for n in range(10)], ONE)
    assert not trial.kept and trial.gain > 0 and trial.why == "the gain is not more than noise"


def test_four_of_many_cases_are_no_proof_and_five_are():
    """Exact: 1/16 and 1/32, whatever the number of cases that stay as they are."""
    truth = case(LIVER)
    for count, kept in ((4, False), (5, True)):
        (trial,) = tried([(case(LIVER, SPECK) if n < count else truth, truth) for n in range(40)], ONE)
        assert trial.p == pytest.approx(0.5**count) and trial.kept == kept


def test_a_structure_of_two_parts_keeps_both():
    truth = case(*KIDNEYS)
    (trial,) = tried([(truth, truth)] * 10, TWO)
    assert not trial.kept and trial.after["Kidneys"] == pytest.approx(2 / 3) and "would fall" in trial.why
    assert trial.worse == 10


def test_one_label_may_lose_its_speck_where_all_together_may_not():
    """As one foreground the kidneys, apart from the liver, would go; the liver alone only loses its speck."""
    truth = case(LIVER, *KIDNEYS)
    together, liver, kidneys = tried([(case(LIVER, *KIDNEYS, SPECK), truth)] * 10, ONE, TWO)
    assert together.labels == [1, 2] and not together.kept and "Kidneys would fall" in together.why
    assert liver.kept and liver.after == {"Liver": 1.0} and list(liver.before) == ["Liver"]
    assert not kidneys.kept and "Kidneys would fall" in kidneys.why


def test_labels_alone_are_tried_after_the_step_for_all():
    """The speck touches nothing: as one foreground it goes, and then nothing is left for the liver alone to gain."""
    inside = ((3, 5), (3, 5), (3, 5), 2)
    truth = case(LIVER, inside)
    together, liver, kidneys = tried([(case(LIVER, inside, SPECK), truth)] * 10, ONE, TWO)
    assert together.kept and together.after == {"Liver": 1.0, "Kidneys": 1.0}
    assert not liver.kept and liver.why == "nothing would change" and not kidneys.kept


def test_gains_that_come_with_losses_count_against_each_other():
    """A liver in two parts in one case costs more than nine small specks bring."""
    apart = case(LIVER, ((9, 15), (1, 6), (1, 7), 1))
    small = ((12, 13), (8, 9), (7, 8), 1)
    pairs = [(case(LIVER, small), case(LIVER))] * 9 + [(apart, apart)]
    (trial,) = tried(pairs, ONE)
    assert trial.better == 9 and trial.worse == 1 and trial.gain < 0 and not trial.kept


def test_corners_connect_as_in_nnunet():
    touching = case(((1, 4), (1, 4), (1, 4), 1), ((4, 7), (4, 7), (4, 7), 1))
    (trial,) = tried([(touching, touching)] * 10, ONE)
    assert trial.why == "nothing would change" and sentences([trial]) == ["Largest component: would change nothing."]


def test_a_label_that_is_not_there_is_no_obstacle():
    truth = case(LIVER)
    trials = tried([(case(LIVER, SPECK), truth)] * 10, ONE, TWO)
    assert [trial.kept for trial in trials] == [True, False, False]
    assert trials[0].after["Kidneys"] == 1.0

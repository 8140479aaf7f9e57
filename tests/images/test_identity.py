"""One spelling of an id, words that name nobody, and spellings that look alike."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.images.identity import alike, alike_persons, folded, is_missing, names_nobody

VISIBLE = st.text("abcXYZ019éñüßЖ中²①-_./", min_size=1, max_size=12)
UNSEEN = st.sampled_from(
    ["\u200b", "\u200d", "\u2060", "\ufeff", "\u00ad", "\u034f", "\ufe0f", "\u202e", "\0", "\x1b"]
)
PADDING = st.text(" \t\r\n\0\u00a0\u3000\u200b", max_size=4)


@given(st.text(max_size=20))
def test_folding_a_folded_id_changes_nothing(text):
    assert folded(folded(text)) == folded(text)


@given(VISIBLE, st.data())
def test_what_is_not_seen_and_the_unicode_form_make_no_other_person(name, data):
    """Every spelling of one visible name, decomposed or composed, padded or strewn with unseen letters, is one id."""
    spelt = unicodedata.normalize(data.draw(st.sampled_from(["NFC", "NFD"])), name)
    for place in sorted(data.draw(st.lists(st.integers(0, len(spelt)), max_size=4)), reverse=True):
        spelt = spelt[:place] + data.draw(UNSEEN) + spelt[place:]
    assert folded(data.draw(PADDING) + spelt + data.draw(PADDING)) == folded(name)


@given(VISIBLE, VISIBLE)
def test_two_visible_names_are_never_joined(one, other):
    """Joining two persons is the worse error: a name of these letters is its own fold, so no two of them meet."""
    assert folded(one) == unicodedata.normalize("NFC", one)
    assert (folded(one) == folded(other)) == (one == other)


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (["7", "7.0", "007", "8"], (("007", "7", "7.0"),)),
        (["p1", "P1", "p2"], (("P1", "p1"),)),
        (["p1", "p01", "p10"], (("p01", "p1"),)),
        (["a b", "a_b", "a-b", "ab"], (("a b", "a-b", "a_b"),)),
        (["\uff17", "7"], (("7", "\uff17"),)),
        (["x²", "x2"], (("x2", "x²"),)),
        (["1.1", "1.10", "11"], ()),
        (["patient-00001", "patient-00010"], ()),
    ],
)
def test_look_alikes_are_found_and_not_joined(names, groups):
    assert alike(names) == groups
    assert len({folded(name) for name in names}) == len(names)


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (["10_left", "10_right", "13_left"], (("10_left", "10_right"),)),
        (["P_01_LEFT_CC", "P_1_RIGHT_MLO", "P_2_LEFT_CC"], (("P_01_LEFT_CC", "P_1_RIGHT_MLO"),)),
        (["12-OD", "12 os", "12"], (("12", "12 os", "12-OD"),)),
        (["left", "right", "cc 1 ill", "cc 2 ill"], ()),
        (["1left", "1right"], ()),
        (["OAS1_0028_MR1", "OAS1_0028_MR2", "OAS1_0029_MR1"], (("OAS1_0028_MR1", "OAS1_0028_MR2"),)),
        (["case101_day20", "case101_day22"], (("case101_day20", "case101_day22"),)),
        (["sub-1_ses-01", "sub-1_ses-02", "sub-2"], (("sub-1_ses-01", "sub-1_ses-02"),)),
        (["MR1", "MR2", "scan-1", "scan-2", "LUNG1-001", "LUNG1-002"], ()),
    ],
)
def test_ids_with_a_side_a_view_or_a_session_are_found_and_not_joined(names, groups):
    """A public set has four PatientIDs for each woman, one a view: a guarantee for each would be a quarter of one."""
    assert alike_persons(names) == groups
    assert alike(names) == (), "classes and sites may be sides"


@pytest.mark.parametrize(
    "word",
    ["", " ", "nan", "NaN", "NA", "n/a", "#N/A", "None", "null", "NULL ", "\u200b", "<NA>", "#REF!", "n.a."],
)
def test_a_missing_value_is_missing_and_names_nobody(word):
    assert is_missing(word)
    assert names_nobody(word)


@pytest.mark.parametrize("word", ["-1", "-1.0", "unknown", "UNKNOWN", "?", "Anonymous"])
def test_a_word_for_nobody_is_a_value_and_no_person(word):
    assert names_nobody(word)
    assert not is_missing(word)


@pytest.mark.parametrize("word", ["0", "1", "nano", "Nana", "p-1", "none1"])
def test_ids_that_hold_such_words_name_somebody(word):
    assert not names_nobody(word)


@pytest.mark.parametrize("word", ["Removed", " ANON ", "De-Identified", "not available", "anonymous", "UNK"])
def test_words_of_those_who_took_the_names_away_name_nobody(word):
    """A public mammography set has `removed` in every row: all its women would be one patient."""
    assert names_nobody(word)
    assert not names_nobody(f"{word} 1"), "a number tells persons apart"

"""What is agreed on: one hash, and another for anything that differs."""

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.secure_aggregation.round.rounds import make_round, make_terms

from wardround.errors import FederationError
from wardround.secure_aggregation.canonical import canonical
from wardround.secure_aggregation.integers.ring import Ring
from wardround.secure_aggregation.round.cohort import transcript_of
from wardround.secure_aggregation.round.transcript import NO_ENTRY, LedgerMark, Member, Summed, Terms, Transcript

SCALARS = (
    st.binary(max_size=3)
    | st.text("ab0", max_size=3)
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=6)


def typed(value):
    """A value with its kinds, so that 1 and 1.0, and 0.0 and -0.0, are told apart."""
    return tuple(map(typed, value)) if isinstance(value, tuple) else (type(value).__name__, repr(value))


@given(VALUES, VALUES)
def test_two_values_have_the_same_bytes_only_when_they_are_the_same(one, other):
    assert (canonical(one) == canonical(other)) == (typed(one) == typed(other))


@given(VALUES, VALUES)
def test_no_value_s_bytes_are_the_beginning_of_another_s(one, other):
    assert canonical(one) == canonical(other) or not canonical(one).startswith(canonical(other))


@pytest.mark.parametrize(("one", "other"), [(("ab", "c"), ("a", "bc")), (1, 1.0), ("1", 1), ("a", b"a"), ((), "")])
def test_lengths_and_kinds_stand_before_contents(one, other):
    assert canonical(one) != canonical(other)


@pytest.mark.parametrize("value", [True, float("nan"), float("inf"), {"bits": 31}, [{"bits": 31}]])
def test_what_nobody_can_agree_on_has_no_bytes(value):
    with pytest.raises(ValueError, match="canonical field"):
        canonical(value)


OTHER_TERMS = {
    "run": "run-2", "study": "ac" * 32, "round": 2, "attempt": 2, "model": "ce" * 32, "hospitals": 4, "length": 9,
    "ring": Ring(31), "code_version": "0.1.1", "summed": Summed.COUNT,
    "mechanism": {**make_terms().mechanism, "noise_multiplier": 1.0000000000000002},
}  # fmt: skip
OTHER_MEMBER = {
    "hospital": "hospital 02b",
    "identity": b"i" * 32,
    "round_key": b"r" * 32,
    "ledger": LedgerMark(1, "b" * 64),
    "seen": (("hospital 01", LedgerMark(1, "c" * 64)),),
}


def test_every_field_is_among_those_changed_below():
    assert set(OTHER_TERMS) == {field.name for field in fields(Terms)}
    assert set(OTHER_MEMBER) == {field.name for field in fields(Member)}


@pytest.mark.parametrize("name", OTHER_TERMS)
def test_a_change_of_any_term_changes_the_hash(name):
    transcript = make_round().transcript
    changed = replace(transcript, terms=replace(transcript.terms, **{name: OTHER_TERMS[name]}))
    assert changed.digest != transcript.digest
    assert changed.terms.digest != transcript.terms.digest


@pytest.mark.parametrize("parameter", [*make_terms().mechanism, "one more"])
def test_a_change_of_any_parameter_of_the_mechanism_changes_the_hash(parameter):
    terms = make_terms()
    changed = replace(terms, mechanism={**terms.mechanism, parameter: 7})
    assert changed.digest != terms.digest


@pytest.mark.parametrize("name", OTHER_MEMBER)
def test_a_change_of_any_member_changes_the_hash(name):
    transcript = make_round().transcript
    members = (*transcript.members[:2], replace(transcript.members[2], **{name: OTHER_MEMBER[name]}))
    assert replace(transcript, members=members).digest != transcript.digest
    assert replace(transcript, members=transcript.members[:2]).digest != transcript.digest


def test_the_order_of_hearing_does_not_count():
    transcript = make_round(5).transcript
    assert transcript_of(transcript.terms, transcript.members[::-1]) == transcript
    backwards = dict(reversed(transcript.terms.mechanism.items()))
    assert replace(transcript.terms, mechanism=backwards).digest == transcript.terms.digest
    with pytest.raises(ValueError, match="sorted"):
        Transcript(transcript.terms, transcript.members[::-1])


def test_terms_cannot_be_changed_behind_their_hash():
    mechanism = {"noise_multiplier": 1.0}
    terms = make_terms(mechanism=mechanism)
    mechanism["noise_multiplier"] = 0.0
    assert terms.mechanism == {"noise_multiplier": 1.0}
    with pytest.raises(TypeError):
        terms.mechanism["noise_multiplier"] = 0.0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"round": -1}, "round must be at least 0, got -1"),
        ({"attempt": 0}, "attempt must be at least 1"),
        ({"length": 0}, "length must be at least 1"),
        ({"hospitals": 0}, "hospitals must be at least 1"),
        ({"run": ""}, "run must not be empty"),
        ({"code_version": ""}, "code_version must not be empty"),
        ({"study": "AB" * 32}, "study must be a hash of 64"),
        ({"model": "ab"}, "model must be a hash of 64"),
    ],
)
def test_terms_that_say_nothing_are_refused(changes, sentence):
    with pytest.raises(FederationError, match=sentence):
        make_terms(**changes)


@pytest.mark.parametrize("name", ["", " a", "a ", "a\nb", "a\u202eb", "x" * 101])
def test_a_name_that_two_people_may_read_differently_is_refused(name):
    with pytest.raises(FederationError, match="printable"):
        replace(make_round().transcript.members[0], hospital=name)


@pytest.mark.parametrize("name", ["identity", "round_key"])
def test_a_key_or_a_hash_of_another_length_is_refused(name):
    member = make_round().transcript.members[0]
    with pytest.raises(FederationError, match="must be"):
        replace(member, **{name: getattr(member, name)[:-1]})


def test_every_number_and_hash_of_a_ledger_changes_the_hash():
    transcript = make_round().transcript
    last = transcript.members[2]
    (first, seen), *rest = last.seen
    marks = [replace(seen, entries=seen.entries + 1), replace(seen, head="e" * 64)]
    for change in (
        {"ledger": replace(last.ledger, entries=9)},
        {"ledger": replace(last.ledger, head="e" * 64)},
        *({"seen": ((first, mark), *rest)} for mark in marks),
    ):
        members = (*transcript.members[:2], replace(last, **change))
        assert replace(transcript, members=members).digest != transcript.digest


@pytest.mark.parametrize(
    ("entries", "head"),
    [(0, "a" * 64), (1, NO_ENTRY), (-1, "a" * 64), (1, "A" * 64), (1, ""), (1 << 63, "a" * 64)],
)
def test_a_place_that_no_ledger_has_is_refused(entries, head):
    with pytest.raises(FederationError, match="must"):
        LedgerMark(entries, head)


@pytest.mark.parametrize("names", [("b", "a"), ("a", "a"), ("hospital 02",)])
def test_what_was_seen_of_others_is_sorted_once_each_and_of_others(names):
    with pytest.raises(FederationError, match="must name each once, sorted, and not its own"):
        replace(make_round().transcript.members[2], seen=tuple((name, LedgerMark(0, NO_ENTRY)) for name in names))


@pytest.mark.parametrize("name", ["hospital", "identity", "round_key"])
def test_nobody_stands_twice_in_a_cohort(name):
    transcript = make_round().transcript
    first, second, third = transcript.members
    twice = replace(second, seen=(), **{name: getattr(first, name)})
    with pytest.raises(FederationError, match="stands twice"):
        Transcript(transcript.terms, (first, twice, third))

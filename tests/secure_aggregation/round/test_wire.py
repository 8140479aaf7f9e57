"""Announcements and confirmations as bytes: one form each, and nothing but a sentence for whatever else arrives."""

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.cases import family
from tests.secure_aggregation.round.rounds import make_round
from tests.secure_aggregation.round.test_transcript import VALUES, typed

from wardround.errors import FederationError
from wardround.secure_aggregation.canonical import canonical, parsed
from wardround.secure_aggregation.keys.pins import Pins
from wardround.secure_aggregation.round import confirmation, round_key
from wardround.secure_aggregation.round.confirmation import Agreed, Confirmation, confirm
from wardround.secure_aggregation.round.round_key import Announcement

ROUND = make_round(3)
ANNOUNCED = ROUND.announcements[2]  # it has seen two others
CONFIRMED = confirm(ROUND.transcript, ROUND.identities[2])
SENT: dict[str, tuple[Any, Any]] = {
    "announcement": (Announcement, ANNOUNCED),
    "confirmation": (Confirmation, CONFIRMED),
}
MESSAGES = pytest.mark.parametrize("what", list(SENT))
FORM = 8


def use(what, read):
    """What a hospital does with a message that it could read."""
    if what == "announcement":
        announcements = [*ROUND.announcements[:2], read]
        return ROUND.rule.form(ROUND.transcript.terms, announcements, ROUND.announcements[0])
    others = [confirm(ROUND.transcript, identity) for identity in ROUND.identities[:2]]
    return Agreed(ROUND.transcript, (*others, read))


def refused(what, content):
    """Whether it is refused when it is read, or when it is used; a message that is read has this one form."""
    kind, _ = SENT[what]
    try:
        read = kind.from_bytes(content)
    except FederationError:
        return True
    assert read.to_bytes() == content
    try:
        use(what, read)
    except FederationError:
        return True
    return False


@MESSAGES
def test_a_message_comes_back_as_it_was_sent_and_is_used(what):
    kind, sent = SENT[what]
    assert kind.from_bytes(sent.to_bytes()) == sent
    assert not refused(what, sent.to_bytes())
    assert len(sent.to_bytes()) < 800


@given(VALUES)
def test_canonical_bytes_are_read_as_what_was_written(value):
    assume(not exceeds_16_bytes(value))
    assert typed(parsed(canonical(value))) == typed(value)


def exceeds_16_bytes(value):
    """True if a value holds an integer that no message has, and that the reader refuses."""
    if isinstance(value, tuple):
        return any(map(exceeds_16_bytes, value))
    return isinstance(value, int) and abs(value) >= 2**127


@pytest.mark.parametrize("value", [2**127, -(2**127), (1, (2**127,))])
def test_an_integer_of_more_than_16_bytes_is_refused(value):
    with pytest.raises(ValueError, match="kind and length"):
        parsed(canonical(value))


@pytest.mark.parametrize("value", [2**127 - 1, 1 - 2**127])
def test_an_integer_of_16_bytes_is_read(value):
    assert parsed(canonical(value)) == value


@MESSAGES
def test_a_truncated_or_longer_message_is_refused(what):
    kind, sent = SENT[what]
    content = sent.to_bytes()
    for length in range(len(content)):
        with pytest.raises(FederationError, match="must be whole and in the format"):
            kind.from_bytes(content[:length])
    for behind in (b"\0", content, canonical(0)):
        with pytest.raises(FederationError, match="must be whole and in the format"):
            kind.from_bytes(content + behind)


@MESSAGES
@pytest.mark.parametrize("step", family([7, 1]))  # one bit of each byte, and every bit
def test_a_flipped_bit_is_refused(what, step):
    content = SENT[what][1].to_bytes()
    for place in range(0, 8 * len(content), step):
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        assert refused(what, bytes(changed)), place


@MESSAGES
@given(content=st.binary(max_size=200), behind_form=st.booleans())
def test_any_other_bytes_are_refused(what, content, behind_form):
    form = SENT[what][1].to_bytes()[:FORM]
    assert refused(what, form + content if behind_form else content)


def fields_of(what):
    return parsed(SENT[what][1].to_bytes()[FORM:])


def variants(value):
    """A value with one part of it, at any depth, replaced by something of another kind, or left out, or doubled."""
    yield from (other for other in (b"", "", 0, 1.5, -1, (), ((),), 2**100) if typed(other) != typed(value))
    if isinstance(value, tuple):
        yield (*value, 0)
        for place, part in enumerate(value):
            yield (*value[:place], *value[place + 1 :])
            for other in variants(part):
                yield (*value[:place], other, *value[place + 1 :])


@MESSAGES
def test_fields_of_other_kinds_are_refused(what):
    form = SENT[what][1].to_bytes()[:FORM]
    tried = [form + canonical(fields) for fields in variants(fields_of(what))]
    assert len(tried) > 30
    assert all(refused(what, content) for content in tried)


@MESSAGES
@given(fields=VALUES)
def test_other_fields_are_refused(what, fields):
    assert refused(what, SENT[what][1].to_bytes()[:FORM] + canonical(fields))


@MESSAGES
@pytest.mark.parametrize("content", [None, 7, "text", [b"a"], bytearray(8), memoryview(b"wrannc\0\1")])
def test_what_is_no_bytes_is_refused(what, content):
    with pytest.raises(FederationError, match="must be whole"):
        SENT[what][0].from_bytes(content)


@MESSAGES
def test_one_message_is_not_another(what):
    other = next(sent for name, (_, sent) in SENT.items() if name != what)
    assert refused(what, other.to_bytes())


@MESSAGES
def test_a_message_that_is_too_large_is_not_even_parsed(what, monkeypatch):
    kind, sent = SENT[what]
    most = {"announcement": round_key, "confirmation": confirmation}[what].MOST_BYTES
    monkeypatch.setattr(
        "wardround.secure_aggregation.round.wire.parsed", lambda content: pytest.fail("it was parsed")
    )
    with pytest.raises(FederationError, match="must be whole"):
        kind.from_bytes(sent.to_bytes()[:FORM] + bytes(most))


NUMBER = b"i" + (2).to_bytes(8, "big")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "fewer bytes"),
        (b"b" + (1 << 63).to_bytes(8, "big"), "fewer bytes"),
        (b"l" + (1 << 63).to_bytes(8, "big"), "fewer bytes"),
        (b"x" + bytes(8), "kind and length"),
        (b"i" + bytes(8), "kind and length"),
        (b"i" + (17).to_bytes(8, "big") + b"\x01" * 17, "kind and length"),
        (b"f" + (4).to_bytes(8, "big") + bytes(4), "kind and length"),
        (b"s" + (1).to_bytes(8, "big") + b"\xff", "utf-8"),
        ((b"l" + (1).to_bytes(8, "big")) * 5000 + b"b" + bytes(8), "kind and length"),
        (canonical(1) + b"\0", "behind the value"),
    ],
)
def test_bytes_of_no_value_are_refused(content, why):
    with pytest.raises(ValueError, match=why):
        parsed(content)


@MESSAGES
def test_a_hash_or_a_signature_of_another_length_is_refused_when_it_is_read(what):
    kind, sent = SENT[what]
    *first, last = fields_of(what)
    content = sent.to_bytes()[:FORM] + canonical((*first, last[:-1]))
    with pytest.raises(FederationError, match="must be whole"):
        kind.from_bytes(content)
    other, middle, signature = fields_of(what)
    with pytest.raises(FederationError, match="must be whole"):
        kind.from_bytes(sent.to_bytes()[:FORM] + canonical((other, middle + b"x", signature)))


def test_a_second_form_of_a_message_is_refused():
    content = ANNOUNCED.to_bytes()
    entries = canonical(ANNOUNCED.member.ledger.entries)
    longer = NUMBER + b"\0" + entries[-1:]
    assert content.count(entries) >= 1
    assert parsed(longer) == parsed(entries)
    with pytest.raises(FederationError, match="must be whole"):
        Announcement.from_bytes(content.replace(entries, longer))


def test_what_is_refused_is_not_repeated_at_length():
    long = "x" * 500_000
    content = ANNOUNCED.to_bytes()[:FORM] + canonical(
        ((long, b"k" * 32, b"r" * 32, (1, long), ()), b"t" * 32, b"s" * 64)
    )
    with pytest.raises(FederationError) as error:
        Announcement.from_bytes(content)
    assert len(str(error.value)) < 400


def test_a_message_that_was_read_is_not_yet_trusted():
    with pytest.raises(FederationError, match="must be pinned here"):
        Announcement.from_bytes(ANNOUNCED.to_bytes()).check(ROUND.transcript.terms, Pins())

"""A message is whole, of its kind, of its place and signed, or it is refused before anybody interprets a byte of it."""

import struct

import pytest
from tests.secure_aggregation.round.rounds import make_round

from wardround.errors import FederationError
from wardround.reproduce.encrypted_sum.signed_parts import Kind, SignedParts

PARTS = [b"first", b"", b"third part"]
FOLLOWS = bytes(range(32))


@pytest.fixture(scope="module")
def told():
    return make_round(3)


@pytest.fixture(scope="module")
def content(told):
    return SignedParts.signed(Kind.UPLOAD, PARTS, FOLLOWS, told.transcript, told.identities[1]).to_bytes()


def read(content, kind=Kind.UPLOAD, num_parts=3, most_bytes=10):
    return SignedParts.from_bytes(content, kind, num_parts, most_bytes)


def test_what_arrives_is_what_was_sent(told, content):
    message = read(content)
    message.check(told.transcript, FOLLOWS)
    assert (message.hospital, list(message.parts)) == ("hospital 01", PARTS)
    assert message.to_bytes() == content


def test_no_byte_can_be_changed(told, content):
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1
        with pytest.raises(FederationError):
            read(bytes(changed)).check(told.transcript, FOLLOWS)


def test_one_kind_cannot_be_relabelled_as_another(told, content):
    relabelled = content[:8] + bytes([Kind.KEY]) + content[9:]
    with pytest.raises(FederationError, match="must carry its signature"):
        read(relabelled, Kind.KEY).check(told.transcript, FOLLOWS)


def test_what_it_follows_cannot_be_exchanged(told, content):
    other = bytes(reversed(FOLLOWS))
    with pytest.raises(FederationError, match="must carry its signature"):
        read(content.replace(FOLLOWS, other)).check(told.transcript, other)


def test_bytes_cannot_move_from_one_part_to_the_next(told):
    one, other = (
        SignedParts.signed(Kind.KEY, parts, FOLLOWS, told.transcript, told.identities[0])
        for parts in ([b"ab", b"c"], [b"a", b"bc"])
    )
    assert one.digest != other.digest


@pytest.mark.parametrize(
    "options", [{"kind": Kind.OPENING}, {"num_parts": 2}, {"num_parts": 4}, {"most_bytes": 9}]
)
def test_another_kind_number_or_size_is_refused_as_a_form(content, options):
    with pytest.raises(FederationError, match="must be whole"):
        read(content, **options)


@pytest.mark.parametrize("cut", [0, 1, 30, -1])
def test_a_part_of_the_bytes_is_refused(content, cut):
    with pytest.raises(FederationError, match="must be whole"):
        read(content[:cut])
    with pytest.raises(FederationError, match="must be whole"):
        read(content + b"\0")


def test_a_length_beyond_the_bytes_takes_no_memory(content):
    at = content.index(struct.pack(">I", 5) + b"first")
    claimed = content[:at] + struct.pack(">I", 2**32 - 1) + content[at + 4 :]
    with pytest.raises(FederationError, match="must be whole"):
        read(claimed, most_bytes=2**40)


def test_it_stands_for_its_round_its_hospital_and_what_it_follows_only(told, content):
    message = read(content)
    with pytest.raises(FederationError, match="another transcript"):
        message.check(make_round(3, attempt=2).transcript, FOLLOWS)
    with pytest.raises(FederationError, match="rests on others"):
        message.check(told.transcript, bytes(32))
    forged = (
        SignedParts.signed(Kind.UPLOAD, PARTS, FOLLOWS, told.transcript, told.identities[2])
        .to_bytes()
        .replace(b"hospital 02", b"hospital 01")
    )
    with pytest.raises(FederationError, match="must carry its signature"):
        read(forged).check(told.transcript, FOLLOWS)

"""Signed requests and answers: what was changed, swapped or signed by another opens as nothing but an error."""

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.errors import raises_code

from wardround.errors import FederationError
from wardround.federation.wire.signatures import UNKNOWN_COORDINATOR, Arrived, CoordinatorKeys, HospitalKeys
from wardround.secure_aggregation.keys.identity import Identity, SigningKey
from wardround.secure_aggregation.keys.secret import system_entropy

KEY, STRANGER = (SigningKey.new(system_entropy) for _ in range(2))
NORTH, SOUTH = (HospitalKeys(Identity(name, SigningKey.new(system_entropy))) for name in ("north", "south"))
KEYS = CoordinatorKeys(KEY, {keys.identity.hospital: keys.identity.key.public for keys in (NORTH, SOUTH)})
UNSIGNED = "federation-answer-signature"


def requests(body=b"body", exchange=7):
    return KEYS.sign(body, ["north", "south"], exchange)


@given(body=st.binary(max_size=60), exchange=st.integers(0, 2**64 - 1), reply=st.binary(max_size=60))
def test_a_signed_request_and_its_answer_open_as_they_were_written(body, exchange, reply):
    north, _ = requests(body, exchange)
    opened = NORTH.open(Arrived.of(north.content), [KEY.public])
    assert (opened.body, opened.exchange, opened.coordinator) == (body, exchange, KEY.public)
    answer = NORTH.sign(Arrived.of(north.content), reply)
    assert KEYS.open(answer, north) == reply
    again = requests(body, exchange)[0].content
    assert (again, NORTH.sign(Arrived.of(again), reply)) == (north.content, answer)


@settings(deadline=None)
@given(data=st.data())
def test_bytes_that_were_changed_open_as_an_error(data):
    [north, _] = requests()
    answer = NORTH.sign(Arrived.of(north.content), b"reply")
    for content, opens in (
        (north.content, lambda changed: NORTH.open(Arrived.of(changed), [KEY.public])),
        (answer, lambda changed: KEYS.open(changed, north)),
    ):
        position = data.draw(st.integers(0, len(content) - 1))
        changed = data.draw(
            st.sampled_from(
                [
                    content[:position],
                    content + b"\0",
                    content[:position] + bytes([content[position] ^ data.draw(st.integers(1, 255))])
                    + content[position + 1 :],
                ]
            )
        )  # fmt: skip
        try:
            opens(changed)
        except FederationError:
            continue
        raise AssertionError(f"{changed!r} was opened")


def test_a_request_of_another_key_or_for_another_hospital_is_refused():
    north, south = requests()
    with raises_code(FederationError, UNKNOWN_COORDINATOR):
        NORTH.open(Arrived.of(north.content), [STRANGER.public])
    with raises_code(FederationError, "federation-request-signature"):
        NORTH.open(Arrived.of(south.content), [KEY.public])


def test_an_answer_fits_its_own_request_alone():
    """Swapped between hospitals, between requests, and between exchanges with one body; and signed by another."""
    north, south = requests()
    [later, _] = requests(exchange=8)
    [other, _] = requests(b"other")
    answer = NORTH.sign(Arrived.of(north.content), b"reply")
    for request in (south, later, other):
        with raises_code(FederationError, UNSIGNED):
            KEYS.open(answer, request)
    for forged in (SOUTH.sign(Arrived.of(north.content), b"reply"), b"", answer[:68], answer[68:]):
        with raises_code(FederationError, UNSIGNED):
            KEYS.open(forged, north)
    with raises_code(FederationError, UNSIGNED):
        CoordinatorKeys(KEY, {}).open(answer, north)

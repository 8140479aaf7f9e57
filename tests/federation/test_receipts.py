import math
from dataclasses import fields, replace
from typing import Any

import pytest

from wardround.errors import FederationError
from wardround.federation.messages import Receipt
from wardround.federation.receipts import PURPOSE, check_receipt, sign_receipt, signed_fields
from wardround.federation.wire.limits import Limits
from wardround.federation.wire.tables import decode_reply, encode_reply
from wardround.secure_aggregation.keys.identity import Identity, SigningKey
from wardround.types import HospitalName

NORTH = Identity("north", SigningKey.new(lambda count: bytes(range(count))))
SOUTH = Identity("south", SigningKey.new(lambda count: bytes(range(1, count + 1))))
RECEIPT = Receipt("study", HospitalName("north"), 3, 1, 2.5, 1e-5, "0" * 64)


@pytest.mark.parametrize("epsilon", [0.0, 2.5, math.inf])
def test_a_signed_receipt_is_checked_after_its_journey(epsilon):
    signed = sign_receipt(replace(RECEIPT, epsilon_spent=epsilon), NORTH)
    arrived = decode_reply(encode_reply(signed), Limits())
    assert arrived == signed
    assert isinstance(arrived, Receipt)
    check_receipt(arrived, NORTH.key.public)


OTHERS: dict[str, Any] = {
    "study": "another",
    "hospital": "south",
    "releases": 2,
    "counts": 0,
    "epsilon_spent": 2.4999999999999996,
    "delta": 1e-6,
    "ledger_head": "1" * 64,
    "evaluations": 1,
    "evaluation_epsilon": 0.5,
    "public_key": SOUTH.key.public,
    "signature": bytes(64),
}


@pytest.mark.parametrize("name", [field.name for field in fields(Receipt)])
def test_a_receipt_with_another_value_in_any_field_is_refused(name):
    signed = sign_receipt(RECEIPT, NORTH)
    changed = replace(signed, **{name: OTHERS[name]})
    assert changed != signed
    for pinned in (NORTH.key.public, SOUTH.key.public):
        with pytest.raises(FederationError):
            check_receipt(changed, pinned)
    assert (signed_fields(changed) == signed_fields(signed)) == (name == "signature")


def test_a_receipt_without_a_key_or_of_another_hospital_is_refused():
    with pytest.raises(FederationError):
        check_receipt(RECEIPT, NORTH.key.public)
    with pytest.raises(FederationError):
        check_receipt(sign_receipt(RECEIPT, NORTH), SOUTH.key.public)
    with pytest.raises(FederationError):
        sign_receipt(RECEIPT, SOUTH)


def test_a_receipt_that_shows_another_key_than_signed_it_is_refused():
    shown = replace(RECEIPT, public_key=SOUTH.key.public)
    receipt = replace(shown, signature=NORTH.key.sign(PURPOSE, *signed_fields(shown)))
    for pinned in (NORTH.key.public, SOUTH.key.public):
        with pytest.raises(FederationError):
            check_receipt(receipt, pinned)

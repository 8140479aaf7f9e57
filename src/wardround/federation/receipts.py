"""A receipt under a hospital's signature: what its ledger was charged for a study, for others to check."""

from dataclasses import fields, replace
from typing import Final

from wardround.accounting.numbers import number_to_json
from wardround.errors import FederationError
from wardround.federation.messages import Receipt
from wardround.secure_aggregation.canonical import Field
from wardround.secure_aggregation.keys.identity import Identity
from wardround.secure_aggregation.keys.pins import verify

PURPOSE: Final = "wardround/v1/receipt"


def sign_receipt(receipt: Receipt, identity: Identity) -> Receipt:
    """Returns the receipt with the hospital's public key and its signature.

    Raises:
        FederationError: the receipt names another hospital than the identity.
    """
    if receipt.hospital != identity.hospital:
        raise FederationError(
            f"A receipt must name the hospital that signs it, {identity.hospital!r}, got {receipt.hospital!r}. "
            "Each hospital signs its own."
        )
    unsigned = replace(receipt, public_key=identity.key.public, signature=b"")
    return replace(unsigned, signature=identity.key.sign(PURPOSE, *signed_fields(unsigned)))


def check_receipt(receipt: Receipt, pinned: bytes) -> None:
    """Refuses a receipt that the hospital's pinned key did not sign as it is.

    `pinned` is the public key of the hospital that the receipt names, 32 bytes.

    Raises:
        FederationError: the receipt carries another key, no signature, or was changed.
    """
    if receipt.public_key != pinned or not verify(pinned, receipt.signature, PURPOSE, *signed_fields(receipt)):
        raise FederationError(
            f"The receipt of {receipt.hospital} must carry the signature of its pinned key, and does not. "
            "Ask the hospital for it again; if it fails again, compare fingerprints by telephone."
        )


def signed_fields(receipt: Receipt) -> tuple[Field, ...]:
    """Returns the values that are signed: of all fields but the signature, in order."""
    # An infinite epsilon is a word; canonical bytes of a word and of a number differ.
    words = {name: number_to_json(getattr(receipt, name)) for name in ("epsilon_spent", "evaluation_epsilon")}
    values = vars(receipt) | words | {"delta": float(receipt.delta)}
    return tuple(values[field.name] for field in fields(receipt) if field.name != "signature")

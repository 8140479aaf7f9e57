"""A courier's certificate, bound to a hospital's key by one signature.

A courier has an identity of its own, such as the certificate in a start-up kit, and another party may have issued it.
The hospital signs the certificate with the key that people compared. The check of the signature needs no trust in the
party that issued the certificate.

    HOSPITAL.certificate.json    hospital, SHA-256 of the certificate (DER), signature; public
"""

import json
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from wardround.boundary.documents import Unfit, load_json, read_regular
from wardround.errors import FederationError
from wardround.secure_aggregation.keys.identity import Identity
from wardround.secure_aggregation.keys.key_files import write_key_file
from wardround.secure_aggregation.keys.pins import Pins, verify

_PURPOSE: Final = "wardround/v1/certificate"
_MOST_BYTES = 1 << 14


def bind_certificate(identity: Identity, certificate: Path, out: Path) -> None:
    """Writes a hospital's signature that a certificate (PEM) is its own.

    Raises:
        FederationError: the file is no certificate, or was issued to another name.
    """
    found = _digest_of(certificate, identity.hospital)
    signature = identity.key.sign(_PURPOSE, identity.hospital, found)
    content = {"format": _PURPOSE, "hospital": identity.hospital, "certificate_sha256": found.hex()}
    write_key_file(
        out, (json.dumps(content | {"signature": signature.hex()}, indent=2) + "\n").encode(), replace=True
    )


def check_certificate(pins: Pins, certificate: Path, binding: Path) -> str:
    """Returns the hospital whose pinned key signed that the certificate (PEM) is its own.

    Raises:
        FederationError: the certificate is another, its hospital is not pinned, or the signature is not by its key.
    """
    try:
        match load_json(binding, _MOST_BYTES):
            case {"format": kind, "hospital": str(hospital), "signature": str(signed)} if kind == _PURPOSE:
                signature = bytes.fromhex(signed)
            case _:
                raise Unfit("it lacks a field")
    except (OSError, ValueError) as error:
        raise FederationError(
            f"{binding} must be a file of `wardround consortium bind` ({error}); ask the hospital for it again.",
            code="federation-enrolment-file",
        ) from None
    found = _digest_of(certificate, hospital)
    if not verify(pins.public_of(hospital), signature, _PURPOSE, hospital, found):
        raise FederationError(
            f"{certificate} must be signed with the pinned key of {hospital} in {binding}, and is not: it is another "
            "certificate, or another party's signature. Do not use it; make the kit again.",
            code="federation-certificate-signature",
        )
    return hospital


def _digest_of(path: Path, hospital: str) -> bytes:
    """Returns the SHA-256 of a hospital's certificate in DER, 32 bytes."""
    try:
        certificate = x509.load_pem_x509_certificate(read_regular(path, _MOST_BYTES))
    except (OSError, ValueError) as error:
        raise FederationError(
            f"{path} must be a certificate in PEM ({error}); give client.crt of the hospital's kit.",
            code="federation-certificate",
        ) from None
    names = [name.value for name in certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
    if names != [hospital]:
        raise FederationError(
            f"{path} must be issued to {hospital}, and is issued to {', '.join(map(str, names)) or 'nobody'}; take the "
            "kit of this hospital.",
            code="federation-certificate-name",
        )
    return certificate.fingerprint(SHA256())

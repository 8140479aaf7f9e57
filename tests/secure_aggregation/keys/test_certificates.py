"""A courier's certificate is bound to one hospital and its pinned key; every other one is refused with a code."""

import json

import pytest
from tests.certificates import self_signed
from tests.errors import raises_code

from wardround.errors import FederationError
from wardround.secure_aggregation.keys.certificates import bind_certificate, check_certificate
from wardround.secure_aggregation.keys.identity import Identity, SigningKey
from wardround.secure_aggregation.keys.pins import Pins
from wardround.secure_aggregation.keys.secret import system_entropy

NORTH, SOUTH = (Identity(name, SigningKey.new(system_entropy)) for name in ("north", "south"))
PINS = Pins({each.hospital: each.key.public for each in (NORTH, SOUTH)})


@pytest.fixture
def issue(tmp_path):
    return lambda name, file: self_signed(tmp_path / file, name)


def test_a_certificate_that_its_hospital_signed_is_bound(issue, tmp_path):
    certificate = issue("north", "client.crt")
    bind_certificate(NORTH, certificate, tmp_path / "bound")
    assert check_certificate(PINS, certificate, tmp_path / "bound") == "north"


def test_another_certificate_or_signature_is_refused(issue, tmp_path):
    certificate = issue("north", "client.crt")
    bind_certificate(NORTH, certificate, tmp_path / "bound")
    with raises_code(FederationError, "federation-certificate-signature"):
        check_certificate(PINS, issue("north", "exchanged.crt"), tmp_path / "bound")
    bind_certificate(Identity("north", SOUTH.key), certificate, tmp_path / "of another key")
    with raises_code(FederationError, "federation-certificate-signature"):
        check_certificate(PINS, certificate, tmp_path / "of another key")
    with raises_code(FederationError, "federation"):
        check_certificate(Pins({"south": SOUTH.key.public}), certificate, tmp_path / "bound")


def test_a_certificate_of_another_hospital_is_refused_on_both_sides(issue, tmp_path):
    south = issue("south", "south.crt")
    with raises_code(FederationError, "federation-certificate-name"):
        bind_certificate(NORTH, south, tmp_path / "bound")
    bind_certificate(SOUTH, south, tmp_path / "bound")
    content = json.loads((tmp_path / "bound").read_text())
    (tmp_path / "bound").write_text(json.dumps(content | {"hospital": "north"}))
    with raises_code(FederationError, "federation-certificate-name"):
        check_certificate(PINS, south, tmp_path / "bound")


@pytest.mark.parametrize("content", ["", "[]", '{"format": "wardround/v1/certificate"}', "\0"])
def test_what_is_no_binding_or_no_certificate_is_refused(issue, tmp_path, content):
    (tmp_path / "file").write_text(content)
    with raises_code(FederationError, "federation-enrolment-file"):
        check_certificate(PINS, issue("north", "client.crt"), tmp_path / "file")
    with raises_code(FederationError, "federation-certificate"):
        bind_certificate(NORTH, tmp_path / "file", tmp_path / "bound")

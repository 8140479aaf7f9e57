"""`wardround consortium`: a coordinator and two hospitals from nothing to pinned keys, in the words of the page."""

import io
import json
import sys

import pytest
from tests.certificates import self_signed
from tests.hospital.deployed import SITE

from wardround.secure_aggregation.keys.identity import SigningKey
from wardround.secure_aggregation.keys.pins import Pins


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fingerprint(said):
    assert said.code == 0, said.err
    return json.loads(said.out)["fingerprint"]


def test_a_coordinator_and_two_hospitals_know_each_other(wardround, here):
    coordinator = fingerprint(wardround("consortium", "init", "Lungs", "--json"))
    answers = {}
    for name in ("north", "south"):
        assert fingerprint(wardround("consortium", "invite", name, "--json")) == coordinator
        said = wardround(
            "consortium",
            "accept",
            f"{name}.invitation.json",
            "--home",
            name,
            "--fingerprint",
            coordinator,
            "--json",
        )
        answers[name] = fingerprint(said)
    for home, names in (("consortium", ("north", "south")), ("north", ("south",)), ("south", ("north",))):
        for name in names:
            said = wardround(
                "consortium", "pin", f"{name}.answer.json", "--home", home, "--fingerprint", answers[name]
            )
            assert f"{name} is pinned in {home}" in said.out
            assert f"fingerprint: {answers[name]}" in said.out
    public = {name: SigningKey.read(here / name / "identity.pem").public for name in ("north", "south")}
    assert Pins.read(here / "consortium" / "pins.toml").keys == public


def test_no_key_is_pinned_without_a_fingerprint(wardround, here, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    fingerprint(wardround("consortium", "init", "Lungs", "--json"))
    wardround("consortium", "invite", "north")
    said = wardround("consortium", "accept", "north.invitation.json", "--home", "north")
    assert (said.code, said.error.code) == (2, "federation-no-fingerprint")
    assert not (here / "north").exists()
    said = wardround("consortium", "pin", "north.invitation.json", "--fingerprint", "0")
    assert (said.code, said.error.code) == (2, "federation-enrolment-file")


def test_an_invitation_of_another_hospital_than_the_site_is_refused(wardround, here):
    coordinator = fingerprint(wardround("consortium", "init", "Lungs", "--json"))
    wardround("consortium", "invite", "north")
    (here / "home").mkdir()
    site = '[hospital]\nname = "North"\n[site]\nlayout = "phantom"\n'
    (here / "home" / "site.toml").write_text(site)
    accept = ("consortium", "accept", "north.invitation.json", "--home", "home", "--fingerprint", coordinator)
    assert wardround(*accept).error.code == "federation-hospital-name"
    assert not (here / "home" / "identity.pem").exists()
    (here / "home" / "site.toml").write_text(site.replace("North", "north"))
    assert wardround(*accept).code == 0


def test_a_kits_certificate_is_bound_to_its_hospital(wardround, here):
    coordinator = fingerprint(wardround("consortium", "init", "Lungs", "--json"))
    wardround("consortium", "invite", "north")
    options = ("--home", "north", "--fingerprint", coordinator, "--json")
    answer = fingerprint(wardround("consortium", "accept", "north.invitation.json", *options))
    wardround("consortium", "pin", "north.answer.json", "--fingerprint", answer)
    (here / "north" / "site.toml").write_text(SITE.format(name="north", seed=1))
    certificate = str(self_signed(here / "client.crt", "north"))
    assert wardround("consortium", "bind", certificate, "--home", "north").code == 0
    said = wardround("consortium", "bound", "north.certificate.json", certificate)
    assert (said.code, said.out) == (0, f"{certificate} is the certificate of north, by its pinned key.\n")
    said = wardround(
        "consortium", "bound", "north.certificate.json", str(self_signed(here / "exchanged.crt", "north"))
    )
    assert (said.code, said.error.code) == (2, "federation-certificate-signature")

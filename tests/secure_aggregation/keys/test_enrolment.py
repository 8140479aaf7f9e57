"""Enrolment files: signed with the key they name, pinned after a fingerprint was heard, and never a second key."""

import json
from typing import get_args

import pytest
from tests.errors import raises_code

from wardround.config.site import HospitalId
from wardround.errors import FederationError
from wardround.secure_aggregation.keys.enrolment import (
    HOSPITAL_NAME,
    Invitation,
    accept_invitation,
    begin_consortium,
    invite,
    pin_answer,
    read_enrolment,
    write_enrolment,
)
from wardround.secure_aggregation.keys.identity import SigningKey, spoken_fingerprint
from wardround.secure_aggregation.keys.pins import Pins
from wardround.secure_aggregation.keys.secret import system_entropy


@pytest.fixture
def enrolled(tmp_path):
    """A coordinator, its invitation of north, and north's answer; each as the other party reads it."""
    begin_consortium(tmp_path / "consortium", "Lungs")
    invitation = invite(tmp_path / "consortium", "north")
    write_enrolment(tmp_path / "invitation", invitation)
    read = read_enrolment(tmp_path / "invitation")
    assert read == invitation
    answer = accept_invitation(tmp_path / "north", invitation, spoken_fingerprint(invitation.public_key))
    write_enrolment(tmp_path / "answer", answer)
    assert read_enrolment(tmp_path / "answer") == answer
    return tmp_path, invitation, answer


def heard(answer):
    return spoken_fingerprint(answer.public_key)


def test_both_sides_pin_each_other_in_files_for_their_owner_alone(enrolled):
    folder, invitation, answer = enrolled
    pin_answer(folder / "consortium", answer, heard(answer))
    pin_answer(folder / "consortium", answer, heard(answer))
    theirs = Pins.read(folder / "consortium" / "pins.toml")
    ours = Pins.read(folder / "north" / "coordinators.toml")
    assert theirs == Pins({"north": answer.public_key}, frozenset(["north"]))
    assert ours == Pins({"Lungs": invitation.public_key}, frozenset(["Lungs"]))
    assert SigningKey.read(folder / "north" / "identity.pem").public == answer.public_key
    for home in ("consortium", "north"):
        assert (folder / home).stat().st_mode & 0o777 == 0o700
        assert {path.stat().st_mode & 0o777 for path in (folder / home).iterdir()} == {0o600}


def test_another_hospital_pins_the_same_answer(enrolled):
    folder, _, answer = enrolled
    invitation = invite(folder / "consortium", "south")
    accept_invitation(folder / "south", invitation, spoken_fingerprint(invitation.public_key))
    pin_answer(folder / "south", answer, heard(answer))
    assert Pins.read(folder / "south" / "pins.toml").keys == {"north": answer.public_key}
    with raises_code(FederationError, "federation-own-key"):
        pin_answer(folder / "north", answer, heard(answer))


def test_accepting_again_keeps_the_key(enrolled):
    folder, invitation, answer = enrolled
    again = accept_invitation(folder / "north", invitation, spoken_fingerprint(invitation.public_key))
    assert again == answer


def test_another_fingerprint_pins_nothing(enrolled):
    folder, invitation, answer = enrolled
    with raises_code(FederationError, "federation-fingerprint"):
        pin_answer(folder / "consortium", answer, spoken_fingerprint(invitation.public_key))
    with raises_code(FederationError, "federation-fingerprint"):
        accept_invitation(folder / "south", invitation, heard(answer))
    assert not (folder / "consortium" / "pins.toml").exists()
    assert not (folder / "south").exists()


def test_a_second_key_under_a_pinned_name_is_refused(enrolled):
    folder, _, answer = enrolled
    pin_answer(folder / "consortium", answer, heard(answer))
    invitation = invite(folder / "consortium", "north")
    other = accept_invitation(folder / "impostor", invitation, spoken_fingerprint(invitation.public_key))
    with raises_code(FederationError, "federation-pinned-other"):
        pin_answer(folder / "consortium", other, heard(other))
    begin_consortium(folder / "second", "Lungs")
    second = invite(folder / "second", "north")
    with raises_code(FederationError, "federation-pinned-other"):
        accept_invitation(folder / "north", second, spoken_fingerprint(second.public_key))


def test_an_answer_to_another_coordinator_is_refused(enrolled):
    folder, _, answer = enrolled
    begin_consortium(folder / "second", "Lungs")
    with raises_code(FederationError, "federation-other-invitation"):
        pin_answer(folder / "second", answer, heard(answer))


@pytest.mark.parametrize("name", ["North", "n orth"])
def test_a_name_that_reads_like_a_pinned_one_is_refused(enrolled, name):
    folder, _, answer = enrolled
    pin_answer(folder / "consortium", answer, heard(answer))
    invitation = invite(folder / "consortium", name)
    other = accept_invitation(folder / "other", invitation, spoken_fingerprint(invitation.public_key))
    with raises_code(FederationError, "federation-names-alike"):
        pin_answer(folder / "consortium", other, heard(other))


@pytest.mark.parametrize("file", ["invitation", "answer"])
@pytest.mark.parametrize("key", ["consortium", "invitation", "hospital", "public_key", "signature"])
def test_a_file_that_was_changed_is_refused(enrolled, file, key):
    folder, _, _ = enrolled
    content = json.loads((folder / file).read_text())
    if key not in content:
        return
    content[key] = ("0" if content[key][0] != "0" else "1") + content[key][1:]
    (folder / file).write_text(json.dumps(content))
    with raises_code(FederationError, "federation-enrolment-signature"):
        read_enrolment(folder / file)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": 1}', '{"format": "wardround/v1/invitation"}', '"' + "a" * 20_000 + '"']
)
def test_a_file_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "file").write_text(content)
    with raises_code(FederationError, "federation-enrolment-file"):
        read_enrolment(tmp_path / "file")


@pytest.mark.parametrize("point", [(1).to_bytes(32, "little"), bytes(32), (2**255 - 20).to_bytes(32, "little")])
def test_a_key_of_small_order_is_refused(tmp_path, point):
    """Every message has a signature that holds under such a key."""
    write_enrolment(tmp_path / "file", Invitation("Lungs", "north", point, bytes(64)))
    with raises_code(FederationError, "federation-small-order"):
        read_enrolment(tmp_path / "file")


def test_a_consortium_is_begun_once(enrolled):
    folder, _, _ = enrolled
    with pytest.raises(FederationError, match="must not exist yet"):
        begin_consortium(folder / "consortium", "Lungs")
    with raises_code(FederationError, "federation-no-consortium"):
        invite(folder / "north", "south")


@pytest.mark.parametrize("name", ["../north", "north/south", "-north", "Zürich", " north", "n" * 65, ""])
def test_a_name_that_is_no_file_name_is_refused_on_both_sides(tmp_path, name):
    """An answer is written beside, under the name that the invitation gives."""
    begin_consortium(tmp_path / "consortium", "Lungs")
    with pytest.raises(FederationError):
        invite(tmp_path / "consortium", name)
    key = SigningKey.new(system_entropy)
    signature = key.sign("wardround/v1/invitation", "Lungs", name, key.public)
    write_enrolment(tmp_path / "file", Invitation("Lungs", name, key.public, signature))
    with pytest.raises(FederationError):
        read_enrolment(tmp_path / "file")


def test_names_are_those_of_a_site():
    assert get_args(HospitalId)[1].metadata[0].pattern == HOSPITAL_NAME

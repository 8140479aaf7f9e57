"""Receipts that hospitals did not sign as they are, in a record signed by its maker, each beside a valid neighbour."""

import json
import shutil
from dataclasses import replace

import pytest
from tests.errors import raises_code

from wardround.accounting.numbers import number_from_json
from wardround.coordinator.observer import Silent
from wardround.errors import RecordError
from wardround.federation.messages import Receipt
from wardround.federation.receipts import PURPOSE, sign_receipt, signed_fields
from wardround.records.folder import RunRecord
from wardround.records.signer import RECEIPTS, RECORD, Signer
from wardround.secure_aggregation.keys.identity import Identity, SigningKey
from wardround.secure_aggregation.keys.pins import Pins
from wardround.secure_aggregation.keys.secret import system_entropy
from wardround.simulation.own_key import own_key, own_pin
from wardround.simulation.run import run_study
from wardround.simulation.verification import verify_run
from wardround.types import HospitalName

pytestmark = pytest.mark.thorough

NAMES = ("north", "south", "west")
SMALL_ORDER = {"0": bytes(32), "1": b"\1" + bytes(31), "-1": (2**255 - 20).to_bytes(32, "little")}


@pytest.fixture(scope="module")
def keys():
    return {name: Identity(name, SigningKey.new(system_entropy)) for name in NAMES}


@pytest.fixture(scope="module")
def honest(tiny_study, keys, tmp_path_factory):
    """The record of a run between hospitals, made from a simulated one: three receipts instead of a ledger."""
    run = tmp_path_factory.mktemp("between") / "run"
    study = tiny_study(hospitals={"count": 3, "names": list(NAMES)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wardround.coordinator.recording.report_on", lambda *_: None)
        patch.setattr("wardround.simulation.run.report_on", lambda *_: None)
        run_study(study, run, Silent())
    ledgers = RunRecord.read(run).certificate["ledgers"]
    assert isinstance(ledgers, dict)
    receipts = {}
    for name, ledger in ledgers.items():
        spent = number_from_json(ledger["epsilon_spent"])
        receipt = Receipt(study.digest, HospitalName(name), 4, 1, spent, float(ledger["delta"]), ledger["head"])
        receipts[name] = sign_receipt(receipt, keys[name])
    write(run, receipts)
    return run


def receipts_of(run):
    found = json.loads((run / RECEIPTS).read_text())
    for receipt in found.values():
        receipt |= {name: bytes.fromhex(receipt[name]) for name in ("public_key", "signature")}
    return {name: Receipt(**receipt) for name, receipt in found.items()}


def write(run, receipts):
    """The receipts, in a record that its maker signs as it is then."""
    contents = {name: receipt.to_json() for name, receipt in receipts.items()}
    write_text(run, json.dumps(contents, indent=2))


def write_text(run, text):
    (run / RECEIPTS).write_text(text)
    sign(run)


def sign(run):
    record = RunRecord.read(run)
    signer = Signer(own_key(), str(record.certificate["study_digest"]), "")
    signer.begin(run, {})
    for line in (run / "rounds.jsonl").read_bytes().splitlines(keepends=True):
        signer.add_round(line)
    there = {path.name: path for path in (run / "checkpoints").iterdir()}
    for name, path in there.items():
        signer.checkpoint(name, path.read_bytes(), set(there))
    (run / RECORD).write_bytes(signer.finish(run, (run / "certificate.json").read_bytes()))


def edited(**changes):
    def mutate(run, keys):
        receipts = receipts_of(run)
        write(run, receipts | {"north": replace(receipts["north"], **changes)})

    return mutate


def signed_anew(**changes):
    """An edited receipt under a key that nobody pinned."""

    def mutate(run, keys):
        receipts = receipts_of(run)
        stranger = Identity("north", SigningKey.new(system_entropy))
        write(run, receipts | {"north": sign_receipt(replace(receipts["north"], **changes), stranger)})

    return mutate


def told_otherwise(**changes):
    """A receipt that the hospital itself signed, of other charges or of another study."""

    def mutate(run, keys):
        receipts = receipts_of(run)
        write(run, receipts | {"north": sign_receipt(replace(receipts["north"], **changes), keys["north"])})

    return mutate


def missing(run, keys):
    receipts = receipts_of(run)
    del receipts["north"]
    write(run, receipts)


def no_file(run, keys):
    (run / RECEIPTS).unlink()
    sign(run)


def doubled(run, keys):
    """One hospital's receipt for two."""
    receipts = receipts_of(run)
    write(run, receipts | {"south": receipts["north"]})


def one_key_for_two(run, keys):
    receipts = receipts_of(run)
    write(run, receipts | {"south": sign_receipt(receipts["south"], Identity("south", keys["north"].key))})


def of_a_stranger(run, keys):
    receipts = receipts_of(run)
    stranger = Identity("east", SigningKey.new(system_entropy))
    write(
        run, receipts | {"east": sign_receipt(replace(receipts["north"], hospital=HospitalName("east")), stranger)}
    )


def with_a_field_more(run, keys):
    contents = json.loads((run / RECEIPTS).read_text())
    contents["north"]["note"] = "x"
    write_text(run, json.dumps(contents))


def without_a_field(run, keys):
    contents = json.loads((run / RECEIPTS).read_text())
    del contents["north"]["counts"]
    write_text(run, json.dumps(contents))


def no_hexadecimal(run, keys):
    contents = json.loads((run / RECEIPTS).read_text())
    contents["north"]["signature"] = "zz"
    write_text(run, json.dumps(contents))


HOSTILE = {
    "edited charges": (edited(epsilon_spent=0.01), "record-receipt"),
    "edited releases": (edited(releases=1), "record-receipt"),
    "edited head": (edited(ledger_head="0" * 64), "record-receipt"),
    "no signature": (edited(signature=b""), "record-receipt"),
    "signature of zeros": (edited(signature=bytes(64)), "record-receipt"),
    "signed by a stranger": (signed_anew(), "record-receipt"),
    "missing": (missing, "record-receipt"),
    "no file": (no_file, "record-receipt"),
    "doubled": (doubled, "record-receipt"),
    "one key for two": (one_key_for_two, "record-receipt"),
    "of a stranger": (of_a_stranger, "record-receipt"),
    "of another study": (told_otherwise(study="0" * 64), "record-receipt"),
    "of more charges than the certificate": (told_otherwise(epsilon_spent=9.0), "record-certificate"),
    "of more releases than the certificate": (told_otherwise(releases=40), "record-certificate"),
    "a field more": (with_a_field_more, "record-receipt"),
    "a field less": (without_a_field, "record-receipt"),
    "no hexadecimal digits": (no_hexadecimal, "record-receipt"),
    **{
        f"small order {name}": (edited(public_key=key, signature=bytes(64)), "record-receipt")
        for name, key in SMALL_ORDER.items()
    },
}


def pins_of(keys):
    return {name: identity.key.public for name, identity in keys.items()}


@pytest.mark.parametrize("pinned", [True, False], ids=["pinned", "not pinned"])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_receipt_is_refused_and_its_neighbour_read(honest, keys, tmp_path, name, pinned):
    mutate, code = HOSTILE[name]
    run = tmp_path / "run"
    shutil.copytree(honest, run)
    trusted = own_pin() | (pins_of(keys) if pinned else {})
    write(run, receipts_of(run))  # by the same way, nothing changed
    assert verify_run(run, trusted).signed.is_finished
    mutate(run, keys)
    if name == "signed by a stranger" and not pinned:
        assert "north" in " ".join(verify_run(run, trusted).unchecked)
        return
    with raises_code(RecordError, code):
        verify_run(run, trusted)


def test_receipts_are_held_against_pins_and_their_absence_is_said(honest, keys, tmp_path, wardround):
    Pins(pins_of(keys)).write(tmp_path / "pins.toml")
    with_pins = wardround("verify", honest, "--pins", tmp_path / "pins.toml")
    assert with_pins.code == 0, with_pins.err
    assert "3 hospitals signed" in with_pins.out
    assert "not checked" not in with_pins.out
    without = wardround("verify", honest)
    assert without.code == 0
    assert "receipts: the keys of north, south, west are not pinned here (--pins)" in without.out


@pytest.mark.parametrize("purpose", ["wardround/v1/record", "wardround/v1/identity", f"{PURPOSE}x"])
def test_a_signature_for_another_purpose_is_none(honest, keys, tmp_path, purpose):
    run = tmp_path / "run"
    shutil.copytree(honest, run)
    receipts = receipts_of(run)
    signature = keys["north"].key.sign(purpose, *signed_fields(receipts["north"]))
    write(run, receipts | {"north": replace(receipts["north"], signature=signature)})
    with raises_code(RecordError, "record-receipt"):
        verify_run(run, own_pin() | pins_of(keys))

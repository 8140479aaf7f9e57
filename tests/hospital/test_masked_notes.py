"""Ledgers and notes of hospitals in masked rounds: announced sealed, kept between rounds, and a lost one is found."""

import stat
from dataclasses import replace

import pytest
from tests.errors import raises_code
from tests.hospital.masked_rounds import announce, ends_the_run, expected_total, fails_at, residue_bytes
from tests.hospital.test_masked_killed import Killed

from wardround.errors import LedgerError, PrivacyError, RecordError
from wardround.hospital.known_ledgers import sealed_head
from wardround.ledger.entry import GENESIS
from wardround.secure_aggregation.round.round_key import Announcement
from wardround.secure_aggregation.round.transcript import LedgerMark
from wardround.secure_aggregation.round.witness import WITNESSES


def test_the_coordinator_sees_in_the_witnesses_what_the_hospitals_see(make_masked):
    masked = make_masked()
    for round in (1, 2):
        masked.ask(round)
    fails_at(masked.parties["hospital-2"], "upload")  # a round of four, whose noise has another variance
    masked.ask(3)
    seen = masked.aggregator.witnesses
    assert list(seen) == [1, 2, 3]
    for name, party in masked.parties.items():
        if name != "hospital-2":
            assert party.notes.witness == seen[1].plus(seen[2]).plus(seen[3])
    assert seen[3].coordinates == WITNESSES
    assert min(one.p_value for one in seen.values()) > 1e-4


def test_no_round_counts_twice_in_what_a_hospital_has_seen_of_the_witnesses(make_masked):
    masked = make_masked()
    for round in (1, 2, 3):
        masked.ask(round)
    party, seen = masked.parties["hospital-1"], dict(masked.aggregator.witnesses)
    masked.ask(3)
    assert party.notes.witness == seen[1].plus(seen[2]).plus(seen[3])
    for round in (2, 3):  # as from a checkpoint that is older by two rounds
        masked.ask(round)
    assert party.notes.witness == seen[2].plus(seen[3])


def test_a_sum_of_an_attempt_that_was_not_charged_is_not_taken_in(make_masked):
    """Else whoever relays could write into a hospital's notes that others were charged, and stop it later."""
    masked = make_masked()
    parties = list(masked.parties.values())
    keys = [announce(party, masked.request()) for party in parties]
    for party in parties:
        party.confirm(keys)
    total = expected_total(masked, masked.request(), masked.channel.hospitals)
    with raises_code(PrivacyError, "privacy-not-charged"):
        parties[0].receive(residue_bytes(masked.mechanism, total))
    with raises_code(PrivacyError, "privacy-not-charged"):
        parties[0].upload()
    assert parties[0].notes.peers == {}


def test_an_upload_whose_charge_was_undone_does_not_leave(make_masked):
    masked = make_masked()
    parties = list(masked.parties.values())
    keys = [announce(party, masked.request()) for party in parties]
    confirmed = [party.confirm(keys) for party in parties]

    def undone():
        with masked.federation.transaction():
            parties[0].admit(confirmed)
            raise Killed

    with pytest.raises(Killed):
        undone()
    assert masked.charges("hospital-1") == 0
    with raises_code(LedgerError, "ledger-charge-missing"):
        parties[0].upload()
    assert not masked.uploads
    parties[0].admit(confirmed)
    assert isinstance(parties[0].upload(), bytes)


def test_notes_are_the_hospital_s_own(make_masked, tmp_path):
    make_masked().ask()
    for path in (tmp_path / "notes").glob("*.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_ledger_that_was_put_back_is_found_on_resume(make_masked, make_federation):
    masked = make_masked()
    masked.ask(1)
    emptied = make_federation(hospitals=5, plan=masked.federation.plan)
    with pytest.raises(LedgerError, match="older copy"):
        make_masked(federation=emptied)


def test_a_hospital_that_lost_ledger_and_notes_is_refused_by_the_others(
    make_masked, make_federation, tmp_path, caplog
):
    masked = make_masked()
    for round in (1, 2):
        masked.ask(round)
    emptied = make_federation(hospitals=5, plan=masked.federation.plan)
    agents = masked.federation.agents
    agents["hospital-3"] = replace(agents["hospital-3"], account=emptied.agents["hospital-3"].account)
    (tmp_path / "notes" / "hospital-3.json").unlink()
    again = make_masked(federation=masked.federation)
    with ends_the_run(caplog, "ledger of hospital-3 must reach charge 2, as it did before, and ends at 1"):
        again.ask(3)
    assert not again.uploads


def announced_by(party, request):
    return Announcement.from_bytes(announce(party, request))


def test_a_ledger_s_head_is_announced_sealed(make_masked):
    masked = make_masked()
    north, south = (masked.parties[name] for name in ("hospital-1", "hospital-2"))
    account = masked.federation.agents["hospital-1"].account
    began = LedgerMark(1, sealed_head(account.position()[1], north._identity))
    assert announced_by(north, masked.request()).member.ledger == began
    assert sealed_head(GENESIS, north._identity) == GENESIS, "an empty ledger has nothing to hide"
    masked.ask(1)
    head = account.position()[1]
    announced = announced_by(north, masked.request(2)).member.ledger.head
    assert announced == sealed_head(head, north._identity) != head
    assert announced != sealed_head(head, south._identity), "it takes the hospital's key to make it"
    assert announced == announced_by(north, masked.request(3)).member.ledger.head


def test_damaged_notes_are_a_sentence(make_masked, tmp_path):
    masked = make_masked()
    masked.ask()
    (tmp_path / "notes" / "hospital-3.json").write_text("{}")
    with pytest.raises(RecordError, match="start a new run"):
        make_masked(federation=masked.federation)

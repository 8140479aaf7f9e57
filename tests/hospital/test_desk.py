"""The desk of a hospital: accepted studies alone are answered, and what goes wrong is a code."""

import json
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save
from tests.cases import examples, family
from tests.errors import raises_code
from tests.hospital.deployed import COORDINATOR, finished, make_folders, study_of

from wardround.config.site import read_policy, read_site
from wardround.errors import FederationError, LedgerError, MachineError
from wardround.federation.messages import (
    Answer,
    Failure,
    FailureCode,
    Hello,
    Receipt,
    Received,
    Request,
    Signed,
    Stage,
)
from wardround.federation.wire.limits import Limits
from wardround.federation.wire.signatures import CoordinatorKeys
from wardround.federation.wire.tables import decode_reply, encode_request
from wardround.hospital import desk as desk_module
from wardround.hospital.accepted import accept, accepted_digests
from wardround.hospital.desk import Desk
from wardround.hospital.kept import replies
from wardround.secure_aggregation.keys.identity import SigningKey
from wardround.secure_aggregation.keys.pins import Pins
from wardround.secure_aggregation.keys.secret import system_entropy
from wardround.work import Announce, Confirm, GiveReceipt, GradientSum, SayHello

ALONE = {"plan": "dp-sgd", "noise_multiplier": 2.0, "delta": 1e-3, "trust": "nobody", "num_patients": 36}
SIGNED = 68
MASKED = study_of({**ALONE, "trust": None, "sum": "masked"}, {"rounds": 2})
ONE, OTHER = (study_of(ALONE, {"rounds": 2}, description=text) for text in ("one", "other"))


@pytest.fixture
def north(tmp_path):
    return make_folders(tmp_path)[0]["north"]


def accepted(folder, study):
    accept(folder, read_site(folder / "site.toml"), read_policy(folder / "policy.toml"), study, by="a person")


def signed(folder, study, work=None, round=0, exchange=1, key=COORDINATOR, hospital="north"):
    """A signed request, and the keys that open its answer."""
    keys = CoordinatorKeys(key, {"north": SigningKey.read(folder / "identity.pem").public})
    [request] = keys.sign(
        encode_request(Request(study.digest, round, 1, work or SayHello())), [hospital], exchange
    )
    return request, keys


def asked(desk, study, work=None, round=0, **options):
    request, keys = signed(desk.folder, study, work, round, **options)
    answer = desk.answer(request.content)
    return decode_reply(keys.open(answer, replace(request, hospital="north")), Limits())


def test_a_study_that_was_not_accepted_is_refused_and_opens_nothing(north):
    with Desk(north) as desk:
        assert asked(desk, ONE) == Failure(FailureCode.REFUSED_STUDY, Stage.ADMISSION)
        assert not (north / "ledger.sqlite").exists()
        accepted(north, OTHER)
        assert asked(desk, ONE) == Failure(FailureCode.REFUSED_STUDY, Stage.ADMISSION)
        accepted(north, ONE)
        assert isinstance(asked(desk, ONE), Hello), "no restart is needed"


def test_two_accepted_studies_are_answered_side_by_side_from_one_ledger(north):
    accepted(north, ONE)
    accepted(north, OTHER)
    with Desk(north) as desk:
        weights = desk.open(ONE.digest).agent.workbench.initial_weights
        for study in (ONE, OTHER, ONE, OTHER):
            assert isinstance(asked(desk, study, GradientSum(weights), 1), Answer)
        for study in (ONE, OTHER):
            receipt = asked(desk, study, GiveReceipt())
            assert isinstance(receipt, Receipt)
            assert receipt.releases == 1


CNN = {"name": "small_cnn"}
THREADS = {
    "a linear head": (ONE, "", 1),
    "a network": (study_of(ALONE, {"rounds": 2}, model=CNN), "", 3),
    "a network with a seed": (study_of(ALONE, {"rounds": 2}, model=CNN, seed=1), "", 1),
    "a policy": (ONE, "threads = 2\n", 2),
}


@pytest.mark.parametrize("kind", family(THREADS, keep=["a linear head"]))
def test_bits_and_small_products_take_one_thread_unless_told(north, kind):
    """With a seed the hospitals' threads are compared: machines of two sizes would differ by their cores alone."""
    study, policy, expected = THREADS[kind]
    with (north / "policy.toml").open("a") as file:
        file.write(policy)
    accepted(north, study)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with Desk(north) as desk:
            assert asked(desk, study).threads == expected
    finally:
        torch.set_num_threads(before)


def test_the_same_bytes_after_a_restart_have_the_same_bytes_at_no_charge(north):
    accepted(north, ONE)
    with Desk(north) as desk:
        weights = desk.open(ONE.digest).agent.workbench.initial_weights
        message = signed(north, ONE, GradientSum(weights), 1)[0].content
        first = desk.answer(message)
    with Desk(north) as desk:
        assert desk.answer(message) == first
        assert asked(desk, ONE, GiveReceipt()).releases == 1


@pytest.mark.parametrize("next_study", [ONE, OTHER], ids=["this study", "the next one"])
def test_a_ledger_put_back_with_its_mark_is_refused_by_notes(north, next_study):
    """Answers that were sent would lose their charge: in their own study, and in every later one."""
    files, copies = [north / "ledger.sqlite", north / "ledger.sqlite.mark"], []
    for study in (ONE, OTHER):
        accepted(north, study)
    with Desk(north) as desk:
        weights = desk.open(ONE.digest).agent.workbench.initial_weights
        desk.open(OTHER.digest)
        for round in (1, 2):
            copies = [file.read_bytes() for file in files]
            assert isinstance(asked(desk, ONE, GradientSum(weights), round, exchange=round), Answer)
    for file, copy in zip(files, copies, strict=True):
        file.write_bytes(copy)
    with Desk(north) as desk:
        refused = Failure(FailureCode.REFUSED_STUDY, Stage.ADMISSION)
        assert asked(desk, next_study, GradientSum(weights), 1, exchange=9) == refused
        with raises_code(LedgerError, "ledger-older"):
            desk.open(next_study.digest)


@pytest.mark.parametrize("message", [b"", b"garbage", b"wardround\0" + bytes(40)])
def test_garbage_is_refused(north, message):
    with Desk(north) as desk:
        reply = decode_reply(desk.answer(message)[SIGNED:], Limits())
    assert reply == Failure(FailureCode.REFUSED_POLICY, Stage.ADMISSION)


@pytest.mark.parametrize(
    ("file", "content", "code"),
    [
        ("policy.toml", "[policy]\nepsilon_limit = 1.0\ndelta = 1e-3\n", FailureCode.REFUSED_BUDGET),
        ("policy.toml", "[policy]\nepsilon_limit = 50.0\ndelta = 1e-5\n", FailureCode.REFUSED_STUDY),
        ("ledger.sqlite", "no ledger", FailureCode.REFUSED_STUDY),
    ],
    ids=["no budget", "forbidden", "no ledger"],
)
def test_a_study_that_cannot_be_opened_is_a_code(north, file, content, code):
    accepted(north, ONE)
    (north / file).write_text(content)
    with Desk(north) as desk:
        assert asked(desk, ONE) == Failure(code, Stage.ADMISSION)
        assert asked(desk, ONE) == Failure(code, Stage.ADMISSION)


def test_keys_that_the_hospital_does_not_know_or_allow_are_refused(north):
    accepted(north, ONE)
    refused = Failure(FailureCode.REFUSED_COORDINATOR, Stage.ADMISSION)
    with Desk(north) as desk:
        assert asked(desk, ONE, key=SigningKey.new(system_entropy)) == refused
        assert not (north / "ledger.sqlite").exists()
        policy = (north / "policy.toml").read_text()
        (north / "policy.toml").write_text(policy + f'coordinators = ["{"0" * 64}"]\n')
        assert asked(desk, ONE) == refused
        (north / "policy.toml").write_text(policy + f'coordinators = ["{COORDINATOR.public.hex()}"]\n')
        assert isinstance(asked(desk, ONE), Hello)
        (north / "coordinators.toml").unlink()
        assert asked(desk, ONE) == refused, "no restart is needed"


def test_a_request_for_another_hospital_is_refused(north):
    accepted(north, ONE)
    with Desk(north) as desk:
        assert asked(desk, ONE, hospital="south") == Failure(FailureCode.REFUSED_SIGNATURE, Stage.ADMISSION)


def test_yesterdays_request_is_refused_also_after_a_restart(north):
    """Round 1 again after round 2 would be a release that nobody asked for, and charged."""
    accepted(north, ONE)
    with Desk(north) as desk:
        work = GradientSum(desk.open(ONE.digest).agent.workbench.initial_weights)
        for round in (1, 2):
            assert isinstance(asked(desk, ONE, work, round, exchange=round), Answer)
    for _ in range(2):
        with Desk(north) as desk:
            replayed = asked(desk, ONE, work, 1, exchange=1)
            assert replayed == Failure(FailureCode.REFUSED_REPLAY, Stage.ADMISSION)
            assert asked(desk, ONE, GiveReceipt(), exchange=2).releases == 2


def test_a_coordinator_of_other_studies_is_refused_by_a_study_that_another_one_runs(north):
    """Both are pinned; the first that asks has the study, also after a restart, until its line is removed."""
    accepted(north, ONE)
    accepted(north, OTHER)
    second = SigningKey.new(system_entropy)
    Pins.read(north / "coordinators.toml").with_pin("second", second.public).write(north / "coordinators.toml")
    with Desk(north) as desk:
        work = GradientSum(desk.open(ONE.digest).agent.workbench.initial_weights)
        assert isinstance(asked(desk, ONE), Hello)
        assert isinstance(asked(desk, OTHER, key=second), Hello)
    for _ in range(2):
        with Desk(north) as desk:
            refused = asked(desk, ONE, work, 1, exchange=9, key=second)
            assert refused == Failure(FailureCode.REFUSED_COORDINATOR, Stage.ADMISSION)
            assert asked(desk, ONE, GiveReceipt(), exchange=2).releases == 0
    Pins({"second": second.public}).write(north / "coordinators.toml")
    with Desk(north) as desk:
        assert isinstance(asked(desk, ONE, key=second), Hello), "the first one's line was removed"


def test_an_earlier_model_is_not_put_in_place_of_a_later_one_after_a_restart(north):
    accepted(north, ONE)
    with Desk(north) as desk:
        workbench = desk.open(ONE.digest).agent.workbench
        earlier, later = (
            finished(ONE, workbench.network, workbench.initial_weights * size) for size in (1, np.float32(2))
        )
        assert asked(desk, ONE, earlier, exchange=1) == Received()
        assert asked(desk, ONE, later, exchange=2) == Received()
    with Desk(north) as desk:
        assert asked(desk, ONE, earlier, exchange=1) == Failure(FailureCode.REFUSED_REPLAY, Stage.ADMISSION)
    assert (north / "finished" / ONE.digest / "model.safetensors").read_bytes() == later.model


def test_a_disk_on_which_an_exchange_cannot_be_noted_is_a_code(north, monkeypatch):
    accepted(north, ONE)
    with Desk(north) as desk:
        work = GradientSum(desk.open(ONE.digest).agent.workbench.initial_weights)

        def full(path, content, *, replace):
            raise MachineError("The disk is full.")

        monkeypatch.setattr(replies, "write_key_file", full)
        assert asked(desk, ONE, work, 1) == Failure(FailureCode.INTERNAL, Stage.ADMISSION)
        monkeypatch.undo()
        assert isinstance(asked(desk, ONE, work, 1, exchange=1), Answer)
    assert list(json.loads((north / "memory" / ONE.digest / "exchanges.json").read_text()).values()) == [1]


def test_a_message_with_any_byte_changed_is_refused_and_costs_nothing(north):
    accepted(north, ONE)
    with Desk(north) as desk:
        work = GradientSum(desk.open(ONE.digest).agent.workbench.initial_weights)
        request, keys = signed(north, ONE, work, 1)

        @examples(60)
        @given(position=st.integers(0, len(request.content) - 1), flip=st.integers(1, 255), cut=st.booleans())
        def mutated(position, flip, cut):
            changed = bytearray(request.content)
            changed[position] ^= flip
            answer = desk.answer(bytes(changed[:position] if cut else changed))
            assert isinstance(decode_reply(answer[SIGNED:], Limits()), Failure)
            with raises_code(FederationError, "federation-answer-signature"):
                keys.open(answer, request)

        mutated()
        assert asked(desk, ONE, GiveReceipt()).releases == 0
        assert isinstance(asked(desk, ONE, work, 1), Answer), "the next honest round works"


class Noon(datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 1, 5, 12, 30, 15)


def test_quiet_hours_refuse_with_the_time_to_ask_again(north, monkeypatch):
    accepted(north, ONE)
    policy = (north / "policy.toml").read_text()
    monkeypatch.setattr(desk_module, "datetime", Noon)
    with Desk(north) as desk:
        (north / "policy.toml").write_text(policy + 'quiet_hours = ["07:00", "18:30"]\n')
        assert asked(desk, ONE) == Failure(FailureCode.QUIET_HOURS, Stage.ADMISSION, 6 * 3600 - 15)
        assert not (north / "ledger.sqlite").exists()
        step = asked(desk, ONE, Confirm((b"one",)), 1)
        assert step == Failure(FailureCode.REFUSED_POLICY, Stage.ADMISSION), "a step of an attempt is no new one"
        (north / "policy.toml").write_text(policy + 'quiet_hours = ["18:30", "12:30"]\n')
        assert isinstance(asked(desk, ONE), Hello)


def test_an_offered_study_is_accepted_by_rule_where_the_policy_says_so(north):
    (north / "offered").mkdir()
    (north / "offered" / "one.toml").write_text(ONE.to_toml())
    (north / "offered" / "broken.toml").write_text("no study")
    policy = (north / "policy.toml").read_text()
    refused = Failure(FailureCode.REFUSED_STUDY, Stage.ADMISSION)
    with Desk(north) as desk:
        for rule in ("", "accept_by_rule = true\nmost_epsilon = 0.1\n"):
            (north / "policy.toml").write_text(policy + rule)
            assert asked(desk, ONE) == refused
        assert not accepted_digests(north)
        (north / "policy.toml").write_text(policy + "accept_by_rule = true\nmost_epsilon = 40.0\n")
        assert asked(desk, OTHER) == refused, "it is not offered"
        assert isinstance(asked(desk, ONE), Hello)
    assert 'by = "policy.toml"' in (north / "accepted" / f"{ONE.digest}.toml").read_text()


WRONG: tuple[dict[str, bytes], ...] = (
    {"model": b"another"},
    {"card": b"{}"},
    {"card": b"\xff"},
    {"certificate": b"[]"},
    {"certificate": b""},
)


def test_a_finished_model_that_its_card_and_certificate_do_not_name_is_not_kept(north):
    accepted(north, ONE)
    with Desk(north) as desk:
        workbench = desk.open(ONE.digest).agent.workbench
        whole = finished(ONE, workbench.network, workbench.initial_weights)
        no_tensors = finished(ONE, workbench.network, model=b"no tensors")
        of_another = finished(ONE, workbench.network, model=save({"other": workbench.initial_weights}))
        for wrong in (no_tensors, of_another):
            assert asked(desk, ONE, wrong) == Failure(FailureCode.PROTOCOL, Stage.ADMISSION)
        for wrong in WRONG:
            assert asked(desk, ONE, replace(whole, **wrong)) == Failure(FailureCode.PROTOCOL, Stage.ADMISSION)
        assert not (north / "finished").exists()
        assert asked(desk, ONE, whole) == asked(desk, ONE, whole) == Received()
        larger = replace(whole, model=bytes(desk.open(ONE.digest).limits.model_bytes + 1))
        assert asked(desk, ONE, larger) == Failure(FailureCode.REFUSED_POLICY, Stage.ADMISSION)
    kept = north / "finished" / ONE.digest
    assert (kept / "model.safetensors").read_bytes() == whole.model
    assert {path.stat().st_mode & 0o777 for path in kept.iterdir()} == {0o600}


FORBIDDING = {
    "most_epsilon": ("policy.toml", "most_epsilon = 0.001\n"),
    "plans": ("policy.toml", 'plans = ["clipped-update"]\n'),
    "least_noise_multiplier": ("policy.toml", "least_noise_multiplier = 3.0\n"),
    "epsilon_limit": ("policy.toml", ("epsilon_limit = 50.0", "epsilon_limit = 40.0")),
    "a pin": ("pins.toml", ("south", "another")),
    "acceptance": (f"accepted/{MASKED.digest}.toml", None),
    "another site": ("site.toml", ("seed = 0", "seed = 5")),
    "a cohort": ("site.toml", ('name = "north"', 'name = "north"\ncohort = "cohort.txt"')),
}


@pytest.mark.parametrize("what", FORBIDDING)
def test_what_a_person_forbids_while_a_study_runs_is_refused_from_the_next_message_on(north, what):
    """Nothing is charged for it, and the study goes on when it is allowed again."""
    accepted(north, MASKED)
    file, change = FORBIDDING[what]
    path = north / file
    with Desk(north) as desk:
        weights = desk.open(MASKED.digest).agent.workbench.initial_weights
        announced = Announce(GradientSum(weights), 1, 3)
        assert isinstance(asked(desk, MASKED, announced, 1), Signed)
        before = path.read_text()
        match change:
            case None:
                path.unlink()
            case str():
                path.write_text(before + change)
            case (old, new):
                assert old in before
                path.write_text(before.replace(old, new))
        for work in (SayHello(), announced):
            refused = asked(desk, MASKED, work, int(work is announced), exchange=2)
            assert refused == Failure(FailureCode.REFUSED_STUDY, Stage.ADMISSION)
        path.write_text(before)
        assert isinstance(asked(desk, MASKED, announced, 1, exchange=3), Signed)
        assert asked(desk, MASKED, GiveReceipt(), exchange=3).releases == 0


def test_a_closed_desk_leaves_the_threads_of_the_process(north):
    before = torch.get_num_threads()
    with (north / "policy.toml").open("a") as file:
        file.write(f"threads = {before + 1}\n")
    accepted(north, ONE)
    with Desk(north) as desk:
        desk.open(ONE.digest)
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before

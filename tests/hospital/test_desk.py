"""The desk of a hospital: accepted studies alone are answered, and what goes wrong is a code."""

import pytest
from tests.hospital.deployed import make_folders, study_of

from wardround.config.site import read_policy, read_site
from wardround.federation.messages import Answer, Failure, FailureCode, Hello, Receipt, Request, Stage
from wardround.federation.wire.limits import Limits
from wardround.federation.wire.tables import decode_reply, encode_request
from wardround.hospital.accepted import accept
from wardround.hospital.desk import Desk
from wardround.work import GiveReceipt, GradientSum, SayHello

ALONE = {"plan": "dp-sgd", "noise_multiplier": 2.0, "delta": 1e-3, "trust": "nobody", "num_patients": 36}
ONE, OTHER = (study_of(ALONE, {"rounds": 2}, description=text) for text in ("one", "other"))


@pytest.fixture
def north(tmp_path):
    return make_folders(tmp_path)[0]["north"]


def accepted(folder, study):
    accept(folder, read_site(folder / "site.toml"), read_policy(folder / "policy.toml"), study, by="a person")


def asked(desk, study, work=None, round=0):
    message = encode_request(Request(study.digest, round, 1, work or SayHello()))
    return decode_reply(desk.answer(message), Limits())


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


def test_the_same_bytes_after_a_restart_have_the_same_bytes_at_no_charge(north):
    accepted(north, ONE)
    with Desk(north) as desk:
        weights = desk.open(ONE.digest).agent.workbench.initial_weights
        message = encode_request(Request(ONE.digest, 1, 1, GradientSum(weights)))
        first = desk.answer(message)
    with Desk(north) as desk:
        assert desk.answer(message) == first
        assert asked(desk, ONE, GiveReceipt()).releases == 1


@pytest.mark.parametrize("message", [b"", b"garbage", b"wardround\0" + bytes(40)])
def test_garbage_is_refused(north, message):
    with Desk(north) as desk:
        reply = decode_reply(desk.answer(message), Limits())
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

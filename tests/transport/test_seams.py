"""Seams that were exploited once, each over a socket: a code, nothing charged, and the next honest round works.

The numbers are those of the trial's table. A tenth row, the bookkeeping, is held by `test_consortium` (by name, not
simulated) and by `tests/hospital/test_agreed_files.py` (sites with other readers have one study).
"""

import signal
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from tests.federation.test_wire_hostile import closed, opened
from tests.hospital.deployed import COORDINATOR, make_folders, study_of
from tests.transport.consortium import MASKED, Forked
from tests.transport.hosted import agent_of, hosted
from tests.transport.sockets import connected, frame_from

from wardround.config.site import read_policy, read_site
from wardround.federation.messages import Answer, Failure, FailureCode, Hello, Receipt, Request, Stage
from wardround.federation.wire.limits import Limits
from wardround.federation.wire.signatures import CoordinatorKeys
from wardround.federation.wire.tables import decode_reply, encode_request
from wardround.hospital.accepted import FOLDER, accept
from wardround.secure_aggregation.keys.identity import SigningKey
from wardround.transport.frames import Kind, framed
from wardround.work import Announce, Confirm, CountClasses, GiveReceipt, GradientSum, SayHello, Upload

ALONE = {"plan": "dp-sgd", "noise_multiplier": 4.0, "delta": 1e-3, "trust": "nobody", "num_patients": 36}
STUDY = study_of(ALONE, {"rounds": 3})
SIZE = 32 * 32 * 2 + 2
WEIGHTS = np.zeros(SIZE, dtype=np.float32)
POLICY = Failure(FailureCode.REFUSED_POLICY, Stage.ADMISSION)
REFUSED = Failure(FailureCode.REFUSED_STUDY, Stage.ADMISSION)


class North:
    """One hospital behind its socket, and a coordinator that signs whatever it is told to."""

    def __init__(self, home):
        self.home, self.exchange = home, 0
        self.keys = CoordinatorKeys(COORDINATOR, {"north": SigningKey.read(home / "identity.pem").public})

    def accept(self, study):
        site, policy = read_site(self.home / "site.toml"), read_policy(self.home / "policy.toml")
        accept(self.home, site, policy, study, by="a person")

    def write_accepted(self, study):
        """Puts a study where accepted ones lie, past every check."""
        (self.home / FOLDER).mkdir(exist_ok=True)
        (self.home / FOLDER / f"{study.digest}.toml").write_text(study.to_toml())

    def say(self, body) -> Any:  # a reply or a failure
        """The reply to a body under a signature that holds."""
        self.exchange += 1
        [request] = self.keys.sign(body, ["north"], self.exchange)
        with connected(self.home / "agent.sock") as client:
            client.sendall(framed(request.content))
            kind, answer = Kind.WORKING, b""
            while kind is Kind.WORKING:  # a busy machine
                kind, answer = frame_from(client)
        return decode_reply(self.keys.open(answer, request), Limits())

    def ask(self, work, round=0, attempt=1, study=STUDY) -> Any:
        return self.say(encode_request(Request(study.digest, round, attempt, work)))

    def releases(self, study=STUDY):
        receipt = self.ask(GiveReceipt(), study=study)
        assert isinstance(receipt, Receipt)
        return receipt.releases


@pytest.fixture
def north(tmp_path):
    return North(make_folders(tmp_path)[0]["north"])


@contextmanager
def works_before_and_after(north, study=STUDY):
    """Round 1 is answered, then what is tried costs nothing, and round 2 is answered."""
    assert isinstance(north.ask(GradientSum(WEIGHTS), 1, study=study), Answer)
    yield
    assert north.releases(study) == 1
    assert isinstance(north.ask(GradientSum(WEIGHTS), 2, study=study), Answer)
    assert north.releases(study) == 2


def with_vector(kind, values):
    """An honest request of round 2 with another vector in the place of its weights."""
    header, _ = opened(encode_request(Request(STUDY.digest, 2, 1, GradientSum(WEIGHTS))))
    work = {**header["work"], "weights": {kind: len(values)}}
    content = np.asarray(values).tobytes()
    return closed({**header, "work": work}, content + bytes(-len(content) % 8))


VECTORS = {
    "longer": ("float32", np.zeros(SIZE + 1, np.float32)),
    "shorter": ("float32", np.zeros(SIZE - 1, np.float32)),
    "none": ("float32", np.zeros(0, np.float32)),
    "float64": ("float64", np.zeros(SIZE)),
    "all NaN": ("float32", np.full(SIZE, np.nan, np.float32)),
    "all infinite": ("float32", np.full(SIZE, np.inf, np.float32)),
}


def test_1_a_round_is_answered_once_and_requests_that_are_wrong_are_not(north):
    north.accept(STUDY)
    with agent_of(north.home), works_before_and_after(north):
        again = north.ask(GradientSum(WEIGHTS), 1)
        assert isinstance(again, Answer)
        spare = Failure(FailureCode.REFUSED_SPARE, Stage.ADMISSION)
        assert north.ask(GradientSum(WEIGHTS + np.float32(1)), 1) == spare
        assert north.ask(GradientSum(WEIGHTS), 1, 2) == spare
        for kind, values in VECTORS.values():
            assert north.say(with_vector(kind, values)) == POLICY
        two = with_vector("float32", WEIGHTS).replace(b'{"float32":%d}' % SIZE, b'{"float32":[%d,1]}' % (SIZE - 4))
        assert north.say(two) == POLICY, "two axes"
        assert north.ask(CountClasses()) == POLICY
        assert north.ask(Announce(GradientSum(WEIGHTS), 1, 3), 2) == POLICY
        assert north.ask(Upload((b"one",)), 2) == POLICY


def test_an_agent_whose_study_the_policy_forbids_is_there_and_answers_with_the_code(north):
    """Not gone, which would name no reason; and allowed again, it answers without being started again."""
    north.accept(STUDY)
    policy = north.home / "policy.toml"
    allowed = policy.read_text()
    policy.write_text(allowed + "least_hospitals = 9\n")
    agent = Forked(["agent", "--home", str(north.home)])
    try:
        assert "accepted, waiting at" in agent.stdout.readline()
        assert north.ask(SayHello()) == REFUSED
        policy.write_text(allowed)
        assert isinstance(north.ask(SayHello()), Hello)
    finally:
        agent.send_signal(signal.SIGTERM)
        agent.stdout.close()
        code = agent.wait(60)
    assert code == 0


@pytest.mark.thorough
@pytest.mark.parametrize(
    "privacy",
    [
        {"trust": None, "sum": "simulated"},
        {"trust": "coordinator"},
        {"plan": "none", "trust": None, "noise_multiplier": None, "delta": None, "num_patients": None},
    ],
    ids=["a rehearsal", "noise at the coordinator", "no noise"],
)
def test_2_a_study_whose_noise_is_not_in_what_leaves_is_not_opened(north, privacy):
    north.accept(STUDY)
    wrong = study_of(ALONE | privacy, {"rounds": 3})
    with agent_of(north.home), works_before_and_after(north):
        north.write_accepted(wrong)
        assert north.ask(SayHello(), study=wrong) == REFUSED
        assert north.ask(GradientSum(WEIGHTS), 1, study=wrong) == REFUSED


@pytest.mark.thorough
def test_3_a_studys_own_limit_does_not_raise_the_hospitals(north):
    (north.home / "policy.toml").write_text("[policy]\nepsilon_limit = 4.0\ndelta = 1e-3\n")
    north.accept(STUDY)
    greedy = study_of({**ALONE, "noise_multiplier": 0.5, "epsilon_limit": 1000.0}, {"rounds": 3})
    with agent_of(north.home), works_before_and_after(north):
        north.accept(greedy)
        budget = Failure(FailureCode.REFUSED_BUDGET, Stage.ADMISSION)
        assert north.ask(GradientSum(WEIGHTS), 1, study=greedy) == budget


SITE = '[hospital]\nname = "north"\n[site]\nlayout = "folder"\npath = "pictures"\npatients = "one-per-picture"\n'


@pytest.mark.thorough
def test_4_a_seeded_study_of_real_pictures_is_not_opened(north, make_pictures):
    make_pictures(north.home / "pictures")
    (north.home / "site.toml").write_text(SITE)
    data = {"classes": ["ill", "well"]}
    real, seeded = (study_of(ALONE, {"rounds": 3}, data=data, **seed) for seed in ({}, {"seed": 7}))
    north.accept(real)
    with agent_of(north.home), works_before_and_after(north, real):
        north.write_accepted(seeded)
        assert north.ask(SayHello(), study=seeded) == REFUSED
        assert north.ask(GradientSum(WEIGHTS), 1, study=seeded) == REFUSED


@pytest.mark.thorough
def test_5_sites_number_classes_as_the_study_does_or_are_refused(north, make_pictures):
    """A site with one class takes part; one with a class of its own does not."""
    make_pictures(north.home / "pictures")
    (north.home / "site.toml").write_text(SITE)
    first, other, wider = (
        study_of(ALONE, {"rounds": 3}, data={"classes": names})
        for names in (["ill", "well"], ["well", "zoster"], ["zoster", "well", "ill"])
    )
    for study in (first, wider):
        north.accept(study)
    with agent_of(north.home), works_before_and_after(north, first):
        north.write_accepted(other)
        assert north.ask(SayHello(), study=other) == REFUSED
        hello = north.ask(SayHello(), study=wider)
        assert isinstance(hello, Hello)
        assert hello.classes == ("zoster", "well", "ill")


@pytest.mark.thorough
def test_6_and_7_a_hospital_has_its_own_pictures_alone_and_a_further_patient_starts_at_zero(north):
    """The union of the trial's sites was 1,000 patients; one more made its ledger refuse for ever."""
    site = (north.home / "site.toml").read_text()
    following = study_of(ALONE, {"rounds": 3}, description="the next one")
    north.accept(STUDY)
    with agent_of(north.home):
        assert isinstance(north.ask(GradientSum(WEIGHTS), 1), Answer)
    (north.home / "site.toml").write_text(site.replace("patients = 12", "patients = 13"))
    north.accept(following)
    with agent_of(north.home):
        assert isinstance(north.ask(GradientSum(WEIGHTS), 1, study=following), Answer)
        assert (north.releases(following), north.releases()) == (1, 1)


@pytest.mark.thorough
def test_8_an_answer_that_was_lost_is_sent_again_also_after_a_restart(north):
    north.accept(STUDY)
    lost: list[bytes] = []

    def courier(answer):
        def handed(message):
            reply = answer(message)
            if not lost:
                lost.append(reply)
                return b""
            return reply

        return handed

    body = encode_request(Request(STUDY.digest, 1, 1, GradientSum(WEIGHTS)))
    with agent_of(north.home, courier), pytest.raises(Exception, match="must be signed"):
        north.say(body)
    with agent_of(north.home):
        found = north.say(body)
        sent: Any = decode_reply(lost[0][68:], Limits())
        assert np.array_equal(found.update, sent.update)
        assert north.releases() == 1
        assert isinstance(north.ask(GradientSum(WEIGHTS), 2), Answer)


class Watched:
    """A channel that notes the work of each exchange, and the hospitals asked together."""

    def __init__(self, inner):
        self.inner, self.exchanges = inner, []

    @property
    def hospitals(self):
        return self.inner.hospitals

    def ask(self, requests, deadline_s):
        [work] = {type(request.work) for request in requests.values()}
        self.exchanges.append((work, len(requests)))
        return self.inner.ask(requests, deadline_s)


@pytest.mark.thorough
def test_9_a_masked_round_takes_three_exchanges_each_with_all_hospitals(consortium, without_charts):
    between, seen = consortium(MASKED, {"rounds": 2}), []
    between.accept()

    def watched(channel):
        seen.append(Watched(channel))
        return seen[0]

    with hosted(between):
        between.run(watched)
    rounds = [one for one in seen[0].exchanges if one[0] in (Announce, Confirm, Upload)]
    assert rounds == [(Announce, 3), (Confirm, 3), (Upload, 3)] * 2

"""Requests to a deployed hospital, as bytes: hostile ones are refused at no charge, and the next honest round works."""

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.federation.test_wire_hostile import closed, opened, put
from tests.hospital.deployed import make_folders, open_from, study_of

from wardround.federation.messages import Answer, Failure, FailureCode, Request, Stage
from wardround.federation.wire.limits import Limits
from wardround.federation.wire.tables import decode_reply, encode_request
from wardround.hospital.replies import Replies
from wardround.ledger.account import Ledger
from wardround.work import (
    Announce,
    Confirm,
    CountClasses,
    CountPatients,
    FittedHead,
    GradientSum,
    HeadFit,
    LocalSteps,
    LocalUpdate,
    Receive,
    Selection,
    SelectiveUpdate,
    Upload,
)

REFUSED = Failure(FailureCode.REFUSED_POLICY, Stage.ADMISSION)
SIZE = 32 * 32 * 2 + 2
WEIGHTS = np.linspace(-0.01, 0.01, SIZE, dtype=np.float32)
NOTHING = np.zeros(0, dtype=np.float32)
DPSGD = {"plan": "dp-sgd", "noise_multiplier": 40.0, "delta": 1e-3, "trust": "nobody", "num_patients": 30}
LOCAL = {"strategy": "fedavg", "rounds": 300, "local_steps": 2, "learning_rate": 0.5, "momentum": 0.0}
STUDIES: dict[str, dict[str, Any]] = {
    "gradients": {"privacy": DPSGD, "federation": {"rounds": 300}},
    "adaptive": {"privacy": DPSGD | {"clipping": "adaptive"}, "federation": {"rounds": 300}},
    "local": {"privacy": DPSGD, "federation": LOCAL},
    "counted": {"privacy": DPSGD | {"num_patients": None}, "federation": LOCAL},
    "updates": {
        "privacy": {"plan": "clipped-update", "noise_multiplier": 40.0, "delta": 1e-3, "trust": "nobody"},
        "federation": LOCAL,
    },
    "selective": {
        "privacy": DPSGD,
        "federation": {"strategy": "selective", "rounds": 900, "learning_rate": 0.5, "momentum": 0.0},
    },
    "head": {
        "privacy": {"plan": "output-perturbation", "epsilon": 8.0, "delta": 1e-3, "num_patients": 30}
        | {"trust": "nobody"},
        "federation": {"strategy": "one-shot"},
    },
}
STEPS = {
    "local": LocalSteps(2, 0.5, 0.0, 10.0),
    "counted": LocalSteps(2, 0.5, 0.0, 7.25),
    "updates": LocalSteps(2, 0.5, 0.0, None),
    "selective": LocalSteps(1, 0.5, 0.0, 10.0),
}
SELECTION = Selection(np.arange(SIZE), 0.1, False, 0.0, 0.001)
HONEST: dict[str, Any] = {
    "gradients": GradientSum(WEIGHTS),
    "adaptive": GradientSum(WEIGHTS, 1.0),
    "local": LocalUpdate(WEIGHTS, STEPS["local"]),
    "counted": LocalUpdate(WEIGHTS, STEPS["counted"]),
    "updates": LocalUpdate(WEIGHTS, STEPS["updates"]),
    "selective": SelectiveUpdate(WEIGHTS, STEPS["selective"], SELECTION),
    "head": FittedHead(HeadFit(0.01, 1.0, 10.0)),
}


class Outside:
    """One deployed hospital, asked in bytes; an honest round has a number of its own."""

    def __init__(self, folder, name, **privacy):
        tables = STUDIES[name]
        self.study = study_of(tables["privacy"] | privacy, tables["federation"])
        self.folder, self.honest, self.round = folder, HONEST[name], 0
        self.turns = 3 if name == "selective" else 1  # one hospital of three has a turn
        self.stack = ExitStack()
        self.start()

    def start(self):
        """Starts the hospital, again after it was stopped or killed."""
        self.stack.close()
        self.hospital = self.stack.enter_context(open_from(self.folder, self.study))

    def request(self, work=None, *, round=None, attempt=1):
        """A request of the round after the last honest one."""
        following = self.round * self.turns + 1 if round is None else round
        return Request(self.study.digest, following, attempt, work or self.honest)

    def ask(self, asked):
        """The reply, as a value."""
        message = encode_request(asked) if isinstance(asked, Request) else asked
        return decode_reply(self.hospital.answer(message), Limits())

    def charges(self):
        """Entries of the hospital's ledger."""
        return self.hospital.agent.ledger.position()[0]

    def works(self):
        """The next honest round is answered, and charged once."""
        before = self.charges()
        reply = self.ask(self.request())
        assert isinstance(reply, Answer), reply
        assert self.charges() == before + 1
        self.round += 1


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """A hospital of each study, started when it is first asked for and shared by the rows of the table."""
    made: dict[str, Outside] = {}

    def get(name):
        if name not in made:
            made[name] = Outside(make_folders(tmp_path_factory.mktemp("hospitals"))[0]["north"], name)
        return made[name]

    yield get
    for each in made.values():
        each.stack.close()


def changed(field, value):
    """An honest request with another value in its header."""

    def message(out):
        header, behind = opened(encode_request(out.request()))
        return closed(put(header, field.split("."), value), behind)

    return message


def with_weights(array):
    """An honest request with other weights; not every one of them can be written by `encode_request`."""

    def message(out):
        header, _ = opened(encode_request(out.request()))
        kind = {"work": {**header["work"], "weights": {str(array.dtype): array.size}}}
        return closed({**header, **kind}, array.tobytes() + bytes(-array.nbytes % 8))

    return message


def with_value(value):
    """Honest weights with one that is no number."""
    weights = WEIGHTS.copy()
    weights[7] = value
    return with_weights(weights)


def steps(name, **changes):
    """An honest request with other local steps."""
    return lambda out: replace(HONEST[name], steps=replace(STEPS[name], **changes))


def selection(**changes):
    return lambda out: replace(HONEST["selective"], selection=replace(SELECTION, **changes))


def work(value):
    return lambda out: value


def at_round(number, asked=None):
    return lambda out: out.request(asked, round=number)


MALFORMED = {
    "nothing": lambda out: b"",
    "cut": lambda out: encode_request(out.request())[:-8],
    "longer": lambda out: encode_request(out.request()) + bytes(8),
    "weights of one more": with_weights(np.append(WEIGHTS, np.float32(0))),
    "weights of one less": with_weights(WEIGHTS[:-1]),
    "no weights": with_weights(NOTHING),
    "weights in two axes": changed("work.weights", {"float32": [2, SIZE // 2]}),
    "double precision": with_weights(WEIGHTS.astype(np.float64)),
    "whole numbers": with_weights(WEIGHTS.astype(np.int64)),
    "NaN": with_value(np.nan),
    "infinity": with_value(np.inf),
    "minus infinity": with_value(-np.inf),
    "attempt 0": changed("attempt", 0),
    "attempt -1": changed("attempt", -1),
    "attempt of another type": changed("attempt", 1.0),
}
OTHER_PLACE = {
    "another study": lambda out: replace(out.request(), study="0" * 64),
    "the round before the first": at_round(0),
    "a round after the last": at_round(301),
}
OTHERS = {kind.name: work(value) for kind, value in {type(each): each for each in HONEST.values()}.items()}
MASKED = {
    "announce": work(Announce(GradientSum(WEIGHTS), 1, 3)),
    "confirm": work(Confirm((b"one",))),
    "upload": work(Upload((b"one",))),
    "receive": work(Receive(b"total")),
}
ROWS: dict[str, dict[str, Any]] = {
    "gradients": {
        **MALFORMED,
        **OTHER_PLACE,
        **MASKED,
        **{name: asked for name, asked in OTHERS.items() if name != GradientSum.name},
        "a count": at_round(0, CountPatients()),
        "counts by class": at_round(0, CountClasses()),
        "a norm that does not adapt": work(GradientSum(WEIGHTS, 1.0)),
    },
    "adaptive": {
        "no norm": work(GradientSum(WEIGHTS)),
        "a huge norm": work(GradientSum(WEIGHTS, 1e9)),
        "a tiny norm": work(GradientSum(WEIGHTS, 1e-9)),
        "a norm that follows from no sum": lambda out: out.request(GradientSum(WEIGHTS, 1.2), round=2),
        "a norm that is no number": changed("work.clipping_norm", "nan"),
    },
    "local": {
        "one step": steps("local", steps=1),
        "a million steps": steps("local", steps=10**6),
        "another learning rate": steps("local", learning_rate=1e6),
        "an infinite learning rate": changed("work.steps.learning_rate", "infinity"),
        "momentum": steps("local", momentum=0.9),
        "another divisor": steps("local", denominator=1e-9),
        "no divisor": steps("local", denominator=None),
        "a pull": steps("local", proximal=0.1),
        "a correction": steps("local", correction=WEIGHTS),
        "a velocity": steps("local", velocity=WEIGHTS),
        "a velocity in return": steps("local", keep_velocity=True),
        "weights of classes": steps("local", class_weights=(1.0, 0.5)),
        "shares of classes": steps("local", class_sampling=(1.0, 0.5)),
    },
    "counted": {
        "a count in round 1": lambda out: out.request(CountPatients()),
        "counts by class": at_round(0, CountClasses()),
        "a divisor below one patient": steps("counted", denominator=0.5),
        "an infinite divisor": changed("work.steps.denominator", "infinity"),
    },
    "updates": {
        "a divisor": steps("updates", denominator=10.0),
        "a million steps": steps("updates", steps=10**6),
        "a velocity in return": steps("updates", keep_velocity=True),
    },
    "selective": {
        "all changes": selection(fraction=1.0),
        "a draw of them": selection(random=True),
        "another threshold": selection(threshold=0.5),
        "another size": selection(truncation=1.0),
        "more steps": steps("selective", steps=2),
        "another hospital's turn": lambda out: out.request(round=out.request().round + 1),
    },
    "head": {
        "another regularisation": work(FittedHead(HeadFit(1e-9, 1.0, 10.0))),
        "another norm": work(FittedHead(HeadFit(0.01, 1e9, 10.0))),
        "another number": work(FittedHead(HeadFit(0.01, 1.0, 1.0))),
        "no number": work(FittedHead(HeadFit(0.01, 1.0, None))),
    },
}  # fmt: skip


@pytest.mark.parametrize(("name", "row"), [(name, row) for name, rows in ROWS.items() for row in rows])
def test_a_hostile_request_is_refused_at_no_charge_and_the_next_honest_round_works(outside, name, row):
    out = outside(name)
    asked, before = ROWS[name][row](out), out.charges()
    if not isinstance(asked, Request | bytes):
        asked = out.request(asked)
    assert out.ask(asked) == REFUSED
    assert out.charges() == before
    if name == "head":  # it has one round
        assert not out.hospital.agent.refuses(out.request())
    else:
        out.works()


def test_a_head_is_answered_after_all_of_that(outside):
    outside("head").works()


def test_a_count_is_answered_once(outside):
    out = outside("counted")
    first, charges = out.ask(out.request(CountPatients(), round=0)), out.charges()
    assert isinstance(first, Answer)
    assert out.ask(out.request(CountPatients(), round=0)).update == first.update
    assert out.charges() == charges


def test_norms_that_follow_from_sums_are_asked_for(outside):
    out = outside("adaptive")
    for factor in (
        np.exp(0.1),
        np.exp(-0.1),
    ):  # the rate, times the share of patients that the quantile leaves out
        out.works()
        round = out.request().round
        reply = out.ask(out.request(GradientSum(WEIGHTS, float(factor ** (round - 1)))))
        assert isinstance(reply, Answer)
        out.round += 1


# Repetitions ---------------------------------------------------------------------------------------------------------

OTHER_CONTENT = Failure(FailureCode.REFUSED_ATTEMPT, Stage.ADMISSION)
NO_SPARE = Failure(FailureCode.REFUSED_SPARE, Stage.ADMISSION)
OTHER = GradientSum(-WEIGHTS)


@pytest.fixture
def fresh(tmp_path):
    """A factory of a hospital with a folder of its own."""
    with ExitStack() as stack:

        def make(name="gradients", **privacy):
            out = Outside(make_folders(tmp_path)[0]["north"], name, **privacy)
            stack.callback(out.stack.close)
            return out

        yield make


@pytest.mark.parametrize("name", ["gradients", "local", "selective"])
def test_a_repeated_request_has_the_same_bytes_at_no_charge_after_a_restart_as_well(fresh, name):
    out = fresh(name)
    message = encode_request(out.request())
    reply = out.hospital.answer(message)
    for _ in range(2):
        assert out.hospital.answer(message) == reply
        out.start()
    assert out.hospital.answer(message) == reply
    assert out.charges() == 1
    out.round += 1
    out.works()


def test_an_attempt_has_one_content_and_attempts_ascend(fresh):
    out = fresh(spare_attempts=1)
    first = out.ask(out.request(attempt=2))
    for attempt, work in ((2, OTHER), (1, None), (1, OTHER)):
        assert out.ask(out.request(work, attempt=attempt)) == OTHER_CONTENT
        out.start()
    assert out.charges() == 1
    second = out.ask(out.request(OTHER, attempt=3))
    assert isinstance(second, Answer)
    assert not np.array_equal(first.update, second.update)
    assert out.charges() == 2
    out.round += 1
    out.works()


@pytest.mark.parametrize("spare", [0, 1, 2])
def test_attempts_beyond_the_spare_ones_are_refused_and_the_next_round_works(fresh, spare):
    out = fresh(spare_attempts=spare)
    replies = [out.ask(out.request(attempt=attempt)) for attempt in range(1, 5)]
    assert [isinstance(reply, Answer) for reply in replies] == [attempt <= spare for attempt in range(4)]
    assert set(replies[spare + 1 :]) == {NO_SPARE}
    assert out.charges() == 1 + spare
    out.round += 1
    out.works()
    assert out.ask(out.request(round=out.round, attempt=9)) == NO_SPARE, "they are of the study, not of a round"


class Killed(BaseException):
    """The process ends here."""


def killed_at(out, monkeypatch, place, when):
    """Asks an honest request of a hospital that is killed before or after a step, and starts it again."""
    owner, step = place
    original = getattr(owner, step)

    def dying(self, *args, **keywords):
        if when == "after":
            original(self, *args, **keywords)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(owner, step, dying)
        with pytest.raises(Killed):
            out.ask(out.request())
    out.start()


def test_a_hospital_killed_before_its_charge_answers_when_it_is_asked_again(fresh, monkeypatch):
    out = fresh()
    killed_at(out, monkeypatch, (Ledger, "charge"), "before")
    assert out.ask(out.request(OTHER)) == OTHER_CONTENT, "what the attempt asks for is on disk before its charge"
    assert out.charges() == 0
    out.works()


@pytest.mark.parametrize("spare", [0, 1])
def test_a_charge_without_a_kept_reply_is_an_attempt_and_the_next_one_is_charged(fresh, monkeypatch, spare):
    out = fresh(spare_attempts=spare)
    killed_at(out, monkeypatch, (Replies, "keep"), "before")
    assert out.charges() == 1
    again = out.ask(out.request())
    assert isinstance(again, Answer) if spare else again == NO_SPARE
    assert out.charges() == 1 + spare
    out.round += 1
    out.works()


def test_a_hospital_killed_before_it_sends_sends_what_it_kept(fresh, monkeypatch):
    out = fresh()
    killed_at(out, monkeypatch, (Replies, "keep"), "after")
    assert isinstance(out.ask(out.request()), Answer)
    assert out.charges() == 1


def test_only_the_last_reply_is_kept(fresh):
    out = fresh(spare_attempts=1)
    out.works()
    out.works()
    assert isinstance(out.ask(out.request(round=1)), Answer), "it is gone, so this is an attempt that is charged"
    assert out.charges() == 3
    assert out.ask(out.request(round=2)) == NO_SPARE


@pytest.mark.parametrize("name", ["gradients", "local", "updates", "counted"])
def test_all_that_a_hospital_can_be_charged_for_stays_within_the_promise(fresh, name):
    """Every round and every spare attempt, of a count where there is one: the promise covers what the ledger holds."""
    out = fresh(name, spare_attempts=2, noise_multiplier=None, epsilon=3.0)
    study = out.study.model_copy(update={"federation": out.study.federation.model_copy(update={"rounds": 3})})
    out.study = study
    out.start()
    if name == "counted":
        for attempt in (1, 2, 3, 4):
            out.ask(out.request(CountPatients(), round=0, attempt=attempt))
    for round in (1, 2, 3, 4):
        for attempt in (1, 2, 3, 4):
            out.ask(out.request(round=round, attempt=attempt))
    ledger, plan = out.hospital.agent.ledger, out.hospital.agent.plan
    assert out.charges() == 3 + 2 + (name == "counted")
    assert ledger.spent() <= plan.epsilon <= 3.0
    assert plan.epsilon > 2.9

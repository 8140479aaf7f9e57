"""Requests to a deployed hospital, as bytes: hostile ones are refused at no charge, and the next honest round works."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.federation.test_wire_hostile import closed, opened, put
from tests.hospital.deployed import make_folders
from tests.hospital.outside import HONEST, NOTHING, REFUSED, SELECTION, SIZE, STEPS, WEIGHTS, Outside

from wardround.federation.messages import Answer, Request
from wardround.federation.wire.tables import encode_request
from wardround.work import (
    Announce,
    Confirm,
    CountClasses,
    CountPatients,
    FittedHead,
    GradientSum,
    HeadFit,
    Receive,
    Upload,
)


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

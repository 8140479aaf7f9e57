"""Options of commands that do not hold."""

import pytest
from tests.simulation.bad_input.refusals import refusal

from wardround.errors import DataError

ASKED = ("--patients", 1000, "--hospitals", 5, "--delta", 1e-5, "--rounds", 10)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (ASKED, "Exactly one of epsilon and noise_multiplier"),
        ((*ASKED, "--epsilon", 1, "--noise-multiplier", 1), "Exactly one of epsilon and noise_multiplier"),
        ((*ASKED, "--epsilon", 0), "epsilon must be"),
        ((*ASKED, "--epsilon", 1, "--delta", 1), "delta must"),
        ((*ASKED, "--epsilon", 1, "--sampling-prob", 1.5), "sampling_prob must"),
        ((*ASKED, "--epsilon", 1, "--trust", "everybody"), "--trust must be one of coordinator"),
        ((*ASKED, "--epsilon", 1, "--accountant", "abacus"), "--accountant must be one of pld"),
        ((*ASKED, "--epsilon", 1, "--colluders", 5), "honest"),
        ((*ASKED, "--epsilon", 1, "--rounds", 0), "rounds must be >= 1"),
    ],
)
def test_a_plan_that_cannot_be_made_is_refused(wardround, options, part):
    assert part in refusal(wardround("plan", *options))


@pytest.mark.parametrize(
    "arguments",
    [("run",), ("plan", "--patients", "many"), ("plan",), ("no-such-command",), ("run", "--no-such-option")],
)
def test_a_command_used_wrongly_exits_with_2_and_its_usage(wardround, arguments):
    ended = wardround(*arguments)
    assert ended.code == 2
    assert "Usage:" in ended.err
    assert "Traceback" not in ended.err


def test_data_check_of_nothing_is_refused(wardround, tmp_path):
    refusal(wardround("data", "check", tmp_path / "none"), DataError, "data")
    assert "must look like" in refusal(wardround("data", "check", tmp_path))
    assert "layout must be one of" in refusal(wardround("data", "check", tmp_path, "--layout", "abacus"))


def test_data_check_names_what_is_odd(wardround, pictures):
    (pictures / "ill" / "p00" / "letter.jpeg").write_bytes(b"Dear colleague,\n")
    ended = wardround("data", "check", pictures, "--layout", "folder", "--json")
    assert ended.code == 0, ended.err
    assert "unreadable" in ended.out

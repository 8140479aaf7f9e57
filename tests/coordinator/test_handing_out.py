"""The hospitals that have taken the model, from a file that may be damaged."""

import json

import pytest

from wardround.coordinator.handing_out import TAKEN, hand_out
from wardround.coordinator.observer import Silent
from wardround.federation.channel import InProcessChannel
from wardround.federation.messages import Received
from wardround.types import HospitalName

NAMES = (HospitalName("north"), HospitalName("south"))


@pytest.mark.parametrize("damaged", ["", "{", "{}", "3", "[[1]]", '[1, "north"]'])
def test_what_a_damaged_file_does_not_say_is_handed_out_again(tmp_path, damaged):
    for name in ("model.safetensors", "model.json", "certificate.json"):
        (tmp_path / name).write_bytes(b"{}")
    (tmp_path / TAKEN).write_text(damaged)
    hand_out(
        "ab" * 32, InProcessChannel(NAMES, lambda asked: dict.fromkeys(asked, Received())), tmp_path, Silent()
    )
    assert json.loads((tmp_path / TAKEN).read_text()) == list(NAMES)

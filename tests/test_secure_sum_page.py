"""The tables of the page on masks are those of the committed measurement; its headlines follow from the mechanism."""

import json
import math
from dataclasses import replace

import pytest
from benchmarks.secure_sum import (
    CLOSES,
    HOSPITALS,
    LENGTHS,
    MORE_PATIENTS,
    NOISE_MULTIPLIER,
    OPENS,
    PAGE,
    PATIENTS,
    PREDICTED,
    RESULT,
)
from benchmarks.secure_sum_ours import PARTS, attempt, mechanism_for, rings_for
from benchmarks.secure_sum_report import markdown, write_page

from wardround.secure_aggregation.ring import Ring
from wardround.secure_aggregation.witness import WITNESSES


def upload_size(length, bits):
    """What the page promises: packed parameters, witnesses and check; header, name and signature."""
    return math.ceil((length + WITNESSES + math.ceil(128 / bits)) * bits / 8) + 51 + len("hospital 0") + 64


@pytest.fixture
def table():
    return json.loads(RESULT.read_text())


def test_the_page_shows_what_was_measured(table):
    assert f"{OPENS}\n{markdown(table)}\n{CLOSES}" in PAGE.read_text()


def test_a_new_measurement_replaces_the_tables_and_nothing_else(table, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{OPENS}\nold\n{CLOSES}\nafter\n")
    for quiet in (True, False):
        write_page(page, table | {"quiet": quiet})
        text = page.read_text()
        assert text.startswith("before\n")
        assert text.endswith("\nafter\n")
        assert "old" not in text
        assert ("not to be quoted" in text) == (not quiet)


def test_headlines_are_of_the_ring_that_a_run_of_so_many_patients_chooses(table):
    for length, row in table["sizes"].items():
        mechanism = mechanism_for(int(length), HOSPITALS, NOISE_MULTIPLIER)
        assert row["ring_bits"] == mechanism.for_patients(table["settings"]["patients_a_round"]).ring.bits
        for bits, one in row["rings"].items():
            assert one["largest_sample"] == replace(mechanism, ring=Ring(int(bits))).largest_sample
            assert one["upload_bytes"] == upload_size(int(length), int(bits))
            assert one["upload_ratio_float32"] == one["upload_bytes"] / (4 * int(length))
        head = row["rings"][str(row["ring_bits"])]
        assert row["upload_bytes"] == head["upload_bytes"]
        assert row["upload_ratio_float32"] == head["upload_ratio_float32"]
        assert row["hospital_seconds"] == head["hospital_seconds"]["median"]
        assert row["mask_seconds"] == head["masks_seconds"]["median"]


@pytest.mark.parametrize("length", LENGTHS)
def test_a_run_of_so_many_patients_a_round_sends_less_than_single_precision_and_one_of_more_does_not(length):
    mechanism = mechanism_for(length, HOSPITALS, NOISE_MULTIPLIER)
    rings = {count: mechanism.for_patients(count).ring.bits for count in (PATIENTS, 325, 326, MORE_PATIENTS, 667)}
    assert rings == {PATIENTS: 31, 325: 31, 326: 32, MORE_PATIENTS: 32, 667: 33}
    assert upload_size(length, 31) < 0.971 * 4 * length
    assert 1 < upload_size(length, 32) / (4 * length) < 1.0015
    assert upload_size(32_898, 31) > 4 * 32_898
    assert upload_size(32_899, 31) <= 4 * 32_899
    assert [ring.bits for ring in rings_for(mechanism, (PATIENTS, MORE_PATIENTS))] == [31, 32, 64]
    assert PREDICTED[length]["upload_ratio_float32"] == pytest.approx(
        upload_size(length, 31) / (4 * length), abs=5e-5
    )


def test_seconds_are_judged_on_a_quiet_machine_only(table):
    for row in table["sizes"].values():
        for name, target in row["targets"].items():
            if name.endswith("seconds"):
                assert (target["met"] is None) == (not table["quiet"])


def test_what_is_timed_is_a_whole_attempt():
    measured = attempt(3_000, 3, 1.0, (20, 5_000))
    assert len(measured) == 3
    for bits, one in measured.items():
        assert one["upload_bytes"] == upload_size(3_000, int(bits))
        assert one["hospital_seconds"] == pytest.approx(sum(one[f"{part}_seconds"] for part in PARTS))
        assert one["keys_bytes_received"] == 2 * one["keys_bytes_sent"] > 0

"""The tables of the page on masks are those of the committed measurement; its headlines follow from the mechanism."""

import json

import pytest
from benchmarks.secure_sum import CLOSES, HOSPITALS, NOISE_MULTIPLIER, OPENS, PAGE, PATIENTS, RESULT
from benchmarks.secure_sum_ours import PARTS, attempt, mechanism_for
from benchmarks.secure_sum_report import markdown, write_page

from wardround.secure_aggregation.ring import Ring
from wardround.secure_aggregation.witness import WITNESSES


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


def test_headlines_are_of_the_ring_that_a_study_of_so_many_patients_takes(table):
    for length, row in table["sizes"].items():
        mechanism = mechanism_for(int(length), HOSPITALS, NOISE_MULTIPLIER)
        taken = Ring.for_sums_up_to(mechanism.largest_total(table["settings"]["patients_a_round"]))
        assert row["ring_bits"] == taken == Ring.BITS_32
        assert row["rings"]["32"]["largest_sample"] >= PATIENTS
        assert row["ring_bits_of_a_run"] == mechanism.ring
        head = row["rings"][str(row["ring_bits"])]
        assert row["upload_bytes"] == head["upload_bytes"]
        assert row["hospital_seconds"] == head["hospital_seconds"]["median"]


def test_seconds_are_judged_on_a_quiet_machine_only(table):
    for row in table["sizes"].values():
        for name, target in row["targets"].items():
            if name.endswith("seconds"):
                assert (target["met"] is None) == (not table["quiet"])


def test_what_is_timed_is_a_whole_attempt():
    length, name, signature, header, check = 3_000, len("hospital 0"), 64, 51, 16
    for bits, one in attempt(length, 3, 1.0).items():
        size = int(bits) // 8
        assert one["upload_bytes"] == (length + WITNESSES) * size + check + header + name + signature
        assert one["hospital_seconds"] == pytest.approx(sum(one[f"{part}_seconds"] for part in PARTS))
        assert one["keys_bytes_received"] == 2 * one["keys_bytes_sent"] > 0

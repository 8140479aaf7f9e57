"""The tables of the page on masks are those of the committed measurement; its headlines follow from the mechanism."""

import json
import math
import sys
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
    PEERS,
    PREDICTED,
    RESULT,
    _missing,
)
from benchmarks.secure_sum_ours import PARTS, attempt, mechanism_for, rings_for
from benchmarks.secure_sum_peers import openfhe
from benchmarks.secure_sum_report import markdown, write_page

from wardround.secure_aggregation.integers.ring import Ring
from wardround.secure_aggregation.round.witness import WITNESSES


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
    page.write_text(f"before\n{OPENS}\nsuperseded\n{CLOSES}\nafter\n")
    for quiet in (True, False):
        write_page(page, table | {"quiet": quiet})
        text = page.read_text()
        assert text.startswith("before\n")
        assert text.endswith("\nafter\n")
        assert "superseded" not in text
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


OPENFHE = {
    **{
        f"{part}_seconds": {"median": n + 1.0, "least": n + 0.5, "most": n + 1.5}
        for n, part in enumerate(("hospital", "sum", "keys", "encrypt", "add", "partial", "fuse"))
    },
    "upload_bytes": 70_000_001, "ciphertext_bytes": 46_000_001, "partial_bytes": 24_000_000,
    "download_bytes": 460_000_010, "upload_ratio_float32": 24.1, "measured_parameters": 725_061, "version": "1.5",
}  # fmt: skip


@pytest.mark.parametrize("is_there", [True, False])
def test_openfhe_has_its_costs_or_its_absence_on_the_page(table, is_there):
    for row in table["sizes"].values():
        row["peers"].pop("openfhe", None)
        if is_there:
            row["peers"]["openfhe"], row["over_openfhe_bytes"] = OPENFHE, 24.0
    text = markdown(table | {"skipped": {} if is_there else {"openfhe": "not in python"}})
    rows = [line for line in text.splitlines() if "OpenFHE threshold BFV 1.5" in line]
    costs = [line for line in text.splitlines() if line.startswith("Threshold BFV at")]
    assert len(rows) == len(costs) == len(table["sizes"]) * is_there
    assert ("Left out, as they were absent: OpenFHE threshold BFV." in text) == (not is_there)
    for line in costs:
        for cost in ("3,000", "4,000", "5,000", "6,000", "7,000", "46,000,001", "24,000,000", "460,000,010"):
            assert cost in line
    assert ["(scaled)" in line for line in rows] == [False, True][: len(rows)]


@pytest.mark.parametrize("python", ["/no/such/python", sys.executable])
def test_a_python_without_openfhe_is_said(python, monkeypatch):
    monkeypatch.setitem(PEERS, "openfhe", "openfhe_that_is_not_here")
    text = _missing("openfhe", python)
    assert text is not None
    assert python in text


def test_openfhe_s_row_counts_whole_ciphertexts():
    pytest.importorskip("openfhe", reason="OpenFHE has no wheel for this Python")
    one, other = openfhe(20_000, 3), openfhe(8 * 8192, 3)
    assert (one["ciphertexts"], other["ciphertexts"]) == (3, 8)
    assert one["ciphertext_bytes"] / 3 == pytest.approx(other["ciphertext_bytes"] / 8, abs=16)
    for found in (one, other):
        assert found["upload_bytes"] == found["ciphertext_bytes"] + found["partial_bytes"]
        assert found["download_bytes"] == 3 * found["ciphertext_bytes"]


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

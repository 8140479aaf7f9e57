"""The tables of the page are those of the committed measurement."""

import json

from benchmarks.simulation import CLOSES, OPENS, PAGE, RESULT, markdown, write_page
from benchmarks.simulation_ours import scale_study

from wardround.config.privacy import DPSGD


def test_the_page_shows_what_was_measured():
    assert f"{OPENS}\n{markdown(json.loads(RESULT.read_text()))}\n{CLOSES}" in PAGE.read_text()


def test_a_new_measurement_replaces_the_tables_and_nothing_else(tmp_path):
    table = json.loads(RESULT.read_text())
    page = tmp_path / "page.md"
    page.write_text(f"before\n{OPENS}\nold\n{CLOSES}\nafter\n")
    for quiet in (True, False):
        write_page(page, table | {"quiet": quiet})
        text = page.read_text()
        assert text.startswith("before\n")
        assert text.endswith("\nafter\n")
        assert "old" not in text
        assert ("not to be quoted" in text) == (not quiet)


def test_the_same_sums_are_formed_for_every_number_of_hospitals(tmp_path):
    plans = [scale_study(hospitals, 4, str(tmp_path)).privacy for hospitals in (1, 10, 10_000)]
    assert all(isinstance(plan, DPSGD) and plan.sum == "simulated" for plan in plans)

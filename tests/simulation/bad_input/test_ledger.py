"""Ledgers that are exhausted or no ledgers, through the command line."""

import pytest
from PIL import Image
from tests.cases import family
from tests.simulation.bad_input.refusals import contents, refusal

from wardround.errors import BudgetExhausted
from wardround.ledger.file import LedgerFile
from wardround.ledger.place import own_ledger


@pytest.fixture
def limited(own_state):
    """A lasting ledger in which a person may spend 8, just what the tiny study costs."""
    with LedgerFile(own_ledger()) as ledger:
        ledger.set_limit(8.0, 1e-3, by="a test", reason="one study")


def test_a_ledger_is_about_persons_and_not_about_a_data_set(study_file, wardround, refused, tmp_path):
    """Other pictures of the same persons are charged to the same accounts, of seeded studies as well."""
    path = tmp_path / "ledger.sqlite"
    with LedgerFile(path) as ledger:
        ledger.set_limit(8.0, 1e-3, by="a test", reason="one study")
    first = wardround("run", study_file(privacy={"ledger": str(path)}), "--out", tmp_path / "first")
    assert first.code == 0, first.err
    phantom = {"patients": 40, "max_images": 2, "sites": 2, "image_size": 32, "seed": 1}
    other = study_file(privacy={"ledger": str(path)}, data={"phantom": phantom})
    refused(other, kind=BudgetExhausted, code="budget-exhausted")


@pytest.mark.usefixtures("limited")
@pytest.mark.parametrize("num_patients", family([None, 20]), ids=["counted", "public size"])
def test_an_exhausted_ledger_refuses_the_next_study(of_pictures, wardround, refused, tmp_path, num_patients):
    private = {"num_patients": num_patients}
    first = of_pictures(privacy=private, study={"seed": None})
    ended = wardround("run", first, "--out", tmp_path / "first")
    assert ended.code == 0, ended.err
    second = of_pictures(privacy=private, study={"seed": None, "name": "second"})
    refused(second, kind=BudgetExhausted, code="budget-exhausted")


@pytest.mark.usefixtures("limited")
def test_an_exhausted_ledger_leaves_the_earlier_run_as_it_was(of_pictures, wardround, tmp_path):
    path = of_pictures(study={"seed": None})
    out = tmp_path / "out"
    ended = wardround("run", path, "--out", out)
    assert ended.code == 0, ended.err
    before = contents(out)
    refusal(wardround("run", path, "--out", out, "--fresh"), BudgetExhausted, "budget-exhausted")
    assert contents(out) == before


@pytest.mark.usefixtures("limited")
def test_a_seeded_study_repeats_its_releases_on_an_exhausted_ledger_and_no_other_does(
    of_pictures, wardround, tmp_path
):
    path, out = of_pictures(), tmp_path / "out"
    for _ in range(2):
        ended = wardround("run", path, "--out", out, "--fresh")
        assert ended.code == 0, ended.err
    before = contents(out)
    other = of_pictures(study={"seed": 8})
    refusal(wardround("run", other, "--out", out, "--fresh"), BudgetExhausted, "budget-exhausted")
    assert contents(out) == before


@pytest.mark.usefixtures("limited")
def test_changed_pictures_are_the_same_persons_and_leave_the_earlier_run_as_it_was(
    of_pictures, wardround, pictures, tmp_path
):
    path, out = of_pictures(study={"seed": None}), tmp_path / "out"
    ended = wardround("run", path, "--out", out)
    assert ended.code == 0, ended.err
    before = contents(out)
    Image.new("L", (32, 32), 7).save(pictures / "ill" / "p00" / "view.png")
    refusal(wardround("run", path, "--out", out, "--fresh"), BudgetExhausted, "budget-exhausted")
    assert contents(out) == before


def test_a_cap_without_room_for_one_round_is_refused(study_file, refused):
    refused(study_file(privacy={"epsilon_limit": 0.5}), kind=BudgetExhausted, code="budget-exhausted")


def test_a_ledger_in_a_missing_folder_is_refused(study_file, refused, tmp_path):
    path = study_file(privacy={"ledger": str(tmp_path / "none" / "ledger.sqlite")})
    assert "must lie in a folder that exists" in refused(path)


def test_a_file_that_is_no_ledger_is_refused(study_file, refused, tmp_path):
    (tmp_path / "ledger.sqlite").write_bytes(b"not a database, but long enough to look at" * 9)
    path = study_file(privacy={"ledger": str(tmp_path / "ledger.sqlite")})
    assert "must be an intact SQLite file" in refused(path)

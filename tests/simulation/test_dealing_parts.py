"""Test and validation parts: drawn by own id, exact, or published; nobody in two of them without a word."""

import os
from pathlib import Path

import pytest
from tests.simulation.dealt import crowd, everywhere, ids, image_set, patient, places, split, study_of

from wardround.accounting.terms import Division
from wardround.agreed.plans import division_of
from wardround.errors import DataError
from wardround.images.load import load_images
from wardround.images.patients import Patient
from wardround.images.rows.recipe import PictureRecipe
from wardround.simulation.dealing import Scheme, Split, check_disjoint
from wardround.types import HospitalName

DATA = Path(os.environ.get("WARDROUND_DATA", Path(__file__).resolve().parents[2] / ".." / "shared" / "data"))
CHEST = DATA / "chest_xray"
EVERY_SCHEME = sorted(Scheme)


@pytest.mark.parametrize("part", ["stratified", "published"])
def test_parts_by_another_rule_are_called_a_fixed_division(part):
    assert division_of(study_of(Scheme.EVEN, test=part)) is Division.FIXED


def test_a_stratified_part_moves_others():
    known, fewer = (places(split(image_set(crowd().patients[first:]), test="stratified")) for first in (0, 1))
    assert sum(known[one] != place for one, place in fewer.items()) > 5


def test_the_test_patients_do_not_depend_on_the_scheme():
    assert len({tuple(ids(split(crowd(), scheme).test)) for scheme in EVERY_SCHEME}) == 1


def test_a_stratified_test_part_has_the_fraction_of_each_label():
    labels = [one.label for one in split(crowd(100, ill=0.3), test_fraction=0.2, test="stratified").test]
    assert (labels.count(0), labels.count(1)) == (14, 6)


def test_the_published_split_parts_the_images_and_is_marked_when_people_are_on_both_sides():
    both = patient(0, splits=("train", "test", "train"))
    rest = [patient(i, splits=("train",)) for i in range(1, 6)]
    result = split(image_set([both, *rest, patient(6, splits=("test",))]), test="published", count=2)
    assert ids(result.test) == ["p0000", "p0006"]
    assert result.leaking
    assert "1 patient is in both" in result.note
    assert result.test[0].rows == (1,)
    trained = [one for group in result.hospitals.values() for one in group if one.id == "p0000"]
    assert [one.rows for one in trained] == [(0, 2)]


def test_a_clean_published_split_is_not_marked():
    patients = [patient(i, splits=("train" if i else "test",)) for i in range(6)]
    result = split(image_set(patients), test="published", count=2)
    assert (result.leaking, result.note) == (False, "")


def test_a_person_on_both_sides_is_an_error_unless_the_split_says_it_leaks():
    hospitals: dict[HospitalName, tuple[Patient, ...]] = {HospitalName("a"): (patient(1),)}
    check_disjoint(Split((patient(1),), hospitals, leaking=True, note="leaking"))
    with pytest.raises(DataError, match="1 are both"):
        check_disjoint(Split((patient(1),), hospitals, leaking=False, note=""))


@pytest.mark.thorough
@pytest.mark.real_data
@pytest.mark.skipif(not CHEST.is_dir(), reason="the real chest X-rays lie beside the project; here they do not")
def test_the_published_chest_xray_split_leaks_264_people_and_a_new_one_none(tmp_path):
    everyone = load_images("chest_xray", CHEST, recipes=[PictureRecipe(8, 1)], cache_dir=tmp_path)
    published = split(everyone, test="published")
    assert published.leaking
    assert "264 patients are in both" in published.note
    assert sum(len(one.images) for one in published.test) == 624 - 5, "copies inside one patient"
    fresh = split(everyone)
    assert (fresh.leaking, len(set(everywhere(fresh)))) == (False, 2775)


@pytest.mark.parametrize("scheme", EVERY_SCHEME)
def test_validation_patients_are_in_no_hospital_and_leave_the_test_patients_as_they_are(scheme):
    people = crowd()
    without, aside = split(people, scheme), split(people, scheme, validation_fraction=0.25)
    assert aside.test == without.test
    assert without.validation == ()
    assert len(aside.validation) == pytest.approx(0.25 * (100 - len(aside.test)), abs=12)
    assert not set(ids(aside.validation)) & set(everywhere(aside))
    assert aside.validation == split(people, Scheme.EVEN, validation_fraction=0.25).validation


def test_a_stratified_validation_part_has_its_fraction_of_each_label():
    aside = split(crowd(200, ill=0.3), validation_fraction=0.25, test="stratified")
    assert len(aside.validation) == 40
    assert sum(patient.label for patient in aside.validation) == pytest.approx(0.3 * len(aside.validation), abs=1)


def test_validation_patients_of_a_published_split_come_from_its_training_part():
    people = image_set(patient(i, i % 2, splits=("test" if i < 20 else "train",)) for i in range(100))
    aside = split(people, test="published", validation_fraction=0.25)
    assert ids(aside.test) == [f"p{i:04d}" for i in range(20)]
    assert len(aside.validation) == pytest.approx(20, abs=12)
    assert not set(ids(aside.validation)) & set(everywhere(aside))


def test_a_validation_part_without_anybody_is_refused():
    with pytest.raises(DataError, match="validation") as caught:
        split(crowd(), validation_fraction=0.001)
    assert caught.value.code == "data-part-empty"


def test_a_validation_patient_in_a_hospital_is_refused():
    with pytest.raises(DataError, match="in no hospital"):
        check_disjoint(Split((), {HospitalName("a"): (patient(1),)}, False, "", validation=(patient(1),)))

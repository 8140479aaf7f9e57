"""Patients to hospitals: everybody in exactly one place, which no other patient has a say in; the same by seed."""

from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats
from tests.errors import raises_code
from tests.simulation.dealt import crowd, everywhere, ids, image_set, patient, places, split, study_of

from wardround.accounting.terms import Division
from wardround.agreed.plans import division_of
from wardround.boundary.text import counted
from wardround.config.data import DataSection, HospitalsSection
from wardround.errors import DataError
from wardround.images.patients import Patient
from wardround.simulation.dealing import Scheme, Split, check_disjoint
from wardround.types import HospitalName

EVERY_SCHEME = sorted(Scheme)
BY_OWN_ID = sorted(scheme for scheme in Scheme if division_of(study_of(scheme)) is Division.BY_OWN_ID)
EXACT = sorted(set(Scheme) - set(BY_OWN_ID))


@given(
    scheme=st.sampled_from([Scheme.EVEN, Scheme.DIRICHLET, Scheme.LABEL_SHARDS]),
    labels=st.lists(st.integers(0, 2), min_size=16, max_size=60),
    count=st.integers(1, 6),
    alpha=st.sampled_from([1e-3, 0.1, 1.0, 1e3]),
    fraction=st.floats(0.1, 0.3),
    seed=st.integers(0, 2**40),
)
def test_everybody_is_in_exactly_one_place(scheme, labels, count, alpha, fraction, seed):
    everyone = image_set(patient(i, label) for i, label in enumerate(labels))
    options = {
        "split_seed": seed,
        "count": count,
        "alpha": alpha,
        "test_fraction": fraction,
        "shards_per_hospital": 1,
    }
    with suppress(DataError):  # of few patients none may be for testing, or too few for the exact sizes of shards
        result = split(everyone, scheme, **options)
        assert sorted(everywhere(result)) == ids(everyone.patients)
        assert len(result.hospitals) == count


def test_the_schemes_by_own_id_are_these():
    assert BY_OWN_ID == ["dirichlet", "even", "site"]


@pytest.mark.parametrize("scheme", BY_OWN_ID)
@given(
    labels=st.lists(st.integers(0, 2), min_size=12, max_size=40),
    left_out=st.sets(st.integers(0, 39), min_size=1, max_size=5),
    fractions=st.tuples(st.floats(0.1, 0.9), st.sampled_from([0.0, 0.3])),
    seed=st.integers(0, 2**40),
)
def test_whoever_is_left_out_all_others_keep_their_places(scheme, labels, left_out, fractions, seed):
    people = [patient(i, label, f"site-{i % 3}") for i, label in enumerate(labels)]
    test, validation = fractions
    options = {
        "split_seed": seed, "count": 3, "test_fraction": test, "validation_fraction": validation,
        "names": ("site-0", "site-1", "site-2"),
    }  # fmt: skip
    with suppress(DataError):  # by chance nobody may be for testing
        known = split(image_set(people), scheme, **options)
        fewer = split(image_set(one for i, one in enumerate(people) if i not in left_out), scheme, **options)
        assert list(fewer.hospitals) == list(known.hospitals)
        assert places(fewer).items() <= places(known).items()


@pytest.mark.parametrize("scheme", EXACT)
def test_exact_sizes_move_others_and_are_called_a_fixed_division(scheme):
    moved = []
    for left_out in range(10):
        known = places(split(crowd(), scheme))
        fewer = places(split(image_set(p for i, p in enumerate(crowd().patients) if i != left_out), scheme))
        moved.append(sum(known.get(one) != place for one, place in fewer.items()))
    assert max(moved) > 10


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_sizes_are_met_exactly_and_the_rest_is_named_as_unused(sizes, seed):
    everyone = crowd(200)
    result = split(everyone, Scheme.SIZES, sizes=tuple(sizes), split_seed=seed, test="stratified")
    assert [len(group) for group in result.hospitals.values()] == sizes
    assert len(set(everywhere(result))) == len(everywhere(result)) == 40 + sum(sizes)
    unused = 160 - sum(sizes)
    said = (
        f"{counted(unused, 'patient is in no hospital and is', 'patients are in no hospital and are')} not used."
    )
    assert result.note == (said if unused else "")


def pictured(counts):
    """Patients with so many images each, of two labels."""
    return image_set(patient(i, i % 2, splits=(None,) * many) for i, many in enumerate(counts))


@given(
    counts=st.lists(st.integers(1, 7), min_size=30, max_size=80),
    wanted=st.integers(7, 25),
    count=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_hospitals_get_about_as_many_images_of_whole_patients_or_are_refused(counts, wanted, count, seed):
    everyone = pictured(counts)
    options = {"images": wanted, "count": count, "split_seed": seed}
    left = sum(counts) - sum(len(one.images) for one in split(everyone, split_seed=seed).test)
    if left < count * wanted:
        with pytest.raises(DataError, match="images enough"):
            split(everyone, Scheme.IMAGES, **options)
        return
    result = split(everyone, Scheme.IMAGES, **options)
    assert len(result.hospitals) == count
    assert len(set(everywhere(result))) == len(everywhere(result))
    dealt = [sum(len(one.images) for one in group) for group in result.hospitals.values()]
    assert all(abs(images - wanted) <= max(counts) for images in dealt)
    assert abs(sum(dealt) - count * wanted) <= max(counts) / 2
    assert {one.id: len(one.images) for group in result.hospitals.values() for one in group}.items() <= {
        one.id: len(one.images) for one in everyone.patients
    }.items()


def test_a_patient_with_more_images_than_a_hospital_is_refused():
    with pytest.raises(DataError, match="every hospital must have a patient"):
        split(pictured([20] * 20), Scheme.IMAGES, images=5, count=4)


@given(count=st.integers(1, 5), seed=st.integers(0, 99))
def test_by_site_everybody_is_where_the_data_says(count, seed):
    everyone = crowd(100, sites=count)
    result = split(everyone, Scheme.SITE, split_seed=seed)
    assert sorted(everywhere(result)) == ids(everyone.patients)
    for name, group in result.hospitals.items():
        assert {one.site for one in group} == {name}


@pytest.mark.parametrize("scheme", EVERY_SCHEME)
def test_the_same_seed_gives_the_same_split_and_another_gives_another(scheme):
    first, again, other = (split(crowd(), scheme, split_seed=seed) for seed in (7, 7, 8))
    assert first == again
    assert list(first.hospitals) == list(again.hospitals)
    assert everywhere(first) != everywhere(other)


def test_parts_and_even_hospitals_have_their_shares_of_each_label_in_expectation():
    result = split(crowd(6000, ill=0.5), count=3, test_fraction=0.2, validation_fraction=0.25)
    found = [len([one for one in part if one.label == label])
             for label in (0, 1) for part in (result.test, result.validation, *result.hospitals.values())]  # fmt: skip
    shares = np.array([0.2, 0.2, 0.2, 0.2, 0.2] * 2) * 3000
    assert stats.chisquare(found, shares).pvalue > 1e-4
    assert stats.chisquare(found, shares * np.array([1.15, *[1 - 0.15 / 4] * 4] * 2)).pvalue < 1e-4


def test_a_class_is_shared_out_by_its_own_draw_whatever_other_classes_there_are():
    everyone = [patient(i, i % 3) for i in range(900)]
    three = places(split(image_set(everyone), Scheme.DIRICHLET))
    two = places(split(image_set(one for one in everyone if one.label < 2), Scheme.DIRICHLET))
    assert two.items() <= three.items()
    shares = [np.array([sum(three[one.id] == f"hospital-{h}" for one in everyone if one.label == label)
                        for h in range(1, 5)]) for label in range(3)]  # fmt: skip
    assert stats.chi2_contingency(np.array(shares)[:, np.sum(shares, axis=0) > 0]).pvalue < 1e-4


def test_a_small_alpha_makes_hospitals_differ_more_than_a_large_one():
    def spread(alpha):
        groups = split(crowd(600, ill=0.5), Scheme.DIRICHLET, alpha=alpha, count=6).hospitals.values()
        return np.std([np.mean([one.label for one in group]) for group in groups if group])

    assert spread(0.1) > 4 * spread(100.0)


def test_one_shard_each_gives_hospitals_of_nearly_one_label():
    aside = {"shards_per_hospital": 1, "test": "stratified"}
    groups = split(crowd(100, ill=0.5), Scheme.LABEL_SHARDS, **aside).hospitals.values()
    assert sorted({one.label for one in group} == {0} for group in groups) == [False, False, True, True]


def test_names_are_padded_so_that_they_sort():
    assert list(split(crowd(), count=3).hospitals) == ["hospital-1", "hospital-2", "hospital-3"]
    names = list(split(crowd(), count=12).hospitals)
    assert (names[0], names[-1]) == ("hospital-01", "hospital-12")
    assert names == sorted(names)


def test_a_patient_keeps_all_images_in_a_new_split():
    everyone = image_set(patient(i, i % 2, splits=("train", "test")) for i in range(20))
    result = split(everyone)
    assert not result.leaking
    groups = [result.test, *result.hospitals.values()]
    assert all(len(one.images) == 2 for group in groups for one in group)


def test_a_patient_with_two_sites_cannot_be_split_by_site():
    torn = patient(0, site="north")
    torn = replace(torn, images=(*torn.images, replace(torn.images[0], site="south")), sites=("north", "south"))
    everyone = image_set([torn, *(patient(i, site=f"site-{i % 2}") for i in range(1, 20))])
    with raises_code(DataError, "data-several-sites"):
        split(everyone, Scheme.SITE)
    assert len(set(everywhere(split(everyone)))) == 20


def test_a_site_must_be_known_for_everybody():
    with pytest.raises(DataError, match="that of 1 of 20 patients is missing"):
        split(image_set(patient(i, site="north" if i else None) for i in range(20)), Scheme.SITE)


@pytest.mark.parametrize("scheme", BY_OWN_ID)
def test_a_hospital_without_anybody_to_train_on_is_there_all_the_same(scheme):
    everyone = image_set(patient(i, site="big" if i else "small") for i in range(20))
    result = split(everyone, scheme, count=30, test_fraction=0.5, names=("big", "none", "small"))
    assert not all(result.hospitals.values())
    assert len(result.hospitals) == (3 if scheme is Scheme.SITE else 30)


def test_a_site_that_the_study_does_not_list_is_an_error():
    with pytest.raises(DataError) as caught:
        split(crowd(sites=3), Scheme.SITE, names=("site-0", "site-2"))
    assert caught.value.code == "data-site-not-listed"
    assert "site-1" in str(caught.value)


@pytest.mark.parametrize(
    ("scheme", "options", "said"),
    [
        (Scheme.EVEN, {"test_fraction": 0.001}, "the test part must have at least one patient"),
        (Scheme.EVEN, {"test_fraction": 0.001, "test": "stratified"}, "at least one patient, got 0"),
        (Scheme.EVEN, {"test_fraction": 0.999, "test": "stratified"}, "and 0 to train on"),
        (Scheme.LABEL_SHARDS, {"count": 61}, "needs 122"),
        (Scheme.SIZES, {"sizes": ()}, "sizes must name"),
        (Scheme.SIZES, {"sizes": (5, 0)}, "sizes must name"),
        (
            Scheme.SIZES,
            {"sizes": (50, 31), "test": "stratified"},
            "80 are left to train on and the scheme sizes needs 81",
        ),
        (Scheme.EVEN, {"test": "published"}, "names no test part"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(scheme, options, said):
    with pytest.raises(DataError, match=said):
        split(crowd(), scheme, **options)


@pytest.mark.parametrize(
    ("section", "options"),
    [
        (DataSection, {"test_fraction": 0.0}), (DataSection, {"test_fraction": 1.0}),
        (DataSection, {"test_fraction": float("nan")}), (DataSection, {"validation_fraction": -0.1}),
        (DataSection, {"validation_fraction": 1.0}), (HospitalsSection, {"count": 0}),
        (HospitalsSection, {"alpha": 0.0}), (HospitalsSection, {"alpha": float("inf")}),
        (HospitalsSection, {"shards_per_hospital": 0}), (HospitalsSection, {"split_seed": -1}),
        (HospitalsSection, {"scheme": "images", "images": 0}),
    ],
)  # fmt: skip
def test_numbers_that_share_nothing_out_are_refused_by_the_study(section, options):
    with pytest.raises(ValidationError):
        section(**options)


def test_a_person_in_two_hospitals_is_an_error_with_a_number_and_no_name():
    one, two = patient(1), patient(2)
    hospitals: dict[HospitalName, tuple[Patient, ...]] = {HospitalName("a"): (one, two), HospitalName("b"): (two,)}
    with pytest.raises(DataError, match="1 are in two or more") as caught:
        check_disjoint(Split((), hospitals, leaking=True, note=""))
    assert "p0002" not in str(caught.value)

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import DataError
from wardround.training.metrics.classification import evaluate
from wardround.training.metrics.groups import each_group


class Rows(list[int]):
    """Stands for metrics: the rows they were computed from."""

    def to_json(self):
        return {"rows": list(self)}


def rows_by_value(patients, values, least):
    return each_group(np.array(patients), {"c": values}, lambda rows: Rows(rows.tolist()), min_patients=least)["c"]


def by_group(scores, labels, patients, groups, *, generator, num_resamples, **keys):
    def of(rows):
        return evaluate(
            scores[rows], labels[rows], patients[rows], generator=generator, num_resamples=num_resamples
        )

    return each_group(patients, groups, of, **keys)


def scored(pictures=120, seed=0):
    rng = np.random.default_rng(seed)
    positive = rng.random(pictures)
    scores = np.stack([1 - positive, positive], axis=1)
    return scores, (rng.random(pictures) < positive).astype(np.int64), np.arange(pictures) // 2


def test_each_value_has_the_metrics_of_its_own_pictures():
    scores, labels, patients = scored()
    sex = np.where(patients % 3 == 0, "F", "M")
    found = by_group(
        scores, labels, patients, {"sex": sex.tolist()}, generator=np.random.default_rng(1), num_resamples=20
    )["sex"]
    rng = np.random.default_rng(1)
    for value in ("F", "M"):
        mine = sex == value
        expected = evaluate(scores[mine], labels[mine], patients[mine], generator=rng, num_resamples=20)
        assert found.shown[value] == expected
    assert (found.together, found.num_together, found.reason) == (None, 0, None)


@given(
    st.lists(st.tuples(st.integers(0, 30), st.sampled_from("abcde")), min_size=1, max_size=120), st.integers(1, 8)
)
def test_no_number_and_no_difference_of_numbers_is_about_fewer_patients_than_the_minimum(pairs, least):
    patients = np.array([patient for patient, _ in pairs])
    groups = rows_by_value(patients, [value for _, value in pairs], least)
    shown = [*groups.shown.values(), *([] if groups.together is None else [groups.together])]
    assert all(len(np.unique(patients[rows])) >= least for rows in shown)
    rows = sorted(row for part in shown for row in part)
    assert len(set(rows)) == len(rows)
    hidden = set(range(len(pairs))) - set(rows)
    if hidden:
        # What is hidden is the whole column: nothing stands beside it that could be taken away.
        assert not groups.shown
        assert len(np.unique(patients)) < least


def test_values_with_too_few_patients_are_scored_together():
    values = ["a"] * 20 + ["b"] * 6 + ["c"] * 5
    groups = rows_by_value(range(31), values, 10)
    assert list(groups.shown) == ["a"]
    assert groups.together == list(range(20, 31))
    assert (
        groups.reason == "2 values are not shown apart: numbers about fewer than 10 patients would reveal people"
    )


def test_the_smallest_other_value_joins_what_would_still_be_too_few():
    values = ["a"] * 20 + ["b"] * 15 + ["rare"] * 3
    groups = rows_by_value(range(38), values, 10)
    assert list(groups.shown) == ["a"]
    assert groups.together == list(range(20, 38))
    assert "rare" not in json.dumps(groups.to_json())


def test_many_pictures_of_few_patients_are_few():
    groups = rows_by_value([0] * 50 + list(range(1, 31)), ["a"] * 50 + ["b"] * 30, 10)
    assert (groups.shown, groups.num_together) == ({}, 2)


def test_a_test_set_with_too_few_patients_shows_no_groups():
    groups = rows_by_value(range(4), ["a", "b", "a", "b"], 10)
    assert (groups.shown, groups.together) == ({}, None)
    assert groups.reason is not None


def test_groups_survive_json():
    scores, labels, patients = scored()
    sites = ["north" if p < 55 else "south" for p in patients.tolist()]
    found = by_group(
        scores, labels, patients, {"site": sites}, generator=np.random.default_rng(0), num_resamples=20
    )
    back = json.loads(json.dumps(found["site"].to_json(), allow_nan=False))
    assert back["shown"] == {}
    assert back["together"]["n_patients"] == 60
    assert back["min_patients"] == 10


def test_a_column_without_one_value_a_picture_is_refused():
    with pytest.raises(DataError, match="'sex' must have one value a picture, got 1 for 3"):
        each_group(np.arange(3), {"sex": ["F"]}, lambda rows: Rows(rows))


def test_a_minimum_below_one_is_refused():
    with pytest.raises(DataError, match="at least 1 patient"):
        rows_by_value(range(3), "abc", 0)

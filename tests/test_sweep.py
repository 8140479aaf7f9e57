"""`[sweep]`: one file, every combination of its values, and a refusal for whatever it does not know."""

import itertools
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.config import parse_study, read_study
from wardround.config.sweep import parse_sweep, read_sweep
from wardround.errors import StudyError

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "sweeps" / "epsilon.toml"


@pytest.fixture
def sweep(tiny):
    def parse(own, *, repeats=None, **sections):
        return parse_sweep(tiny(**sections) | {"sweep": own}, repeats=repeats)

    return parse


def runs_of(sweep):
    return {name: study for configuration in sweep.configurations for name, study in configuration.runs.items()}


@given(
    epsilons=st.lists(st.sampled_from([0.25, 0.5, 1, 2.5, 8]), min_size=1, max_size=4, unique=True),
    counts=st.lists(st.integers(2, 6), min_size=1, max_size=3, unique=True),
    repeats=st.integers(1, 3),
)
def test_every_combination_is_there_once_and_differs_from_the_file_by_its_values_alone(
    tiny, epsilons, counts, repeats
):
    own = {"privacy.epsilon": epsilons, "hospitals.count": counts, "repeats": repeats}
    sweep = parse_sweep(tiny() | {"sweep": own})
    found = [tuple(configuration.values.values()) for configuration in sweep.configurations]
    assert found == list(itertools.product(epsilons, counts))
    assert all(len(configuration.runs) == repeats for configuration in sweep.configurations)
    assert len(runs_of(sweep)) == repeats * len(found)
    for configuration in sweep.configurations:
        (name, first), *_ = configuration.runs.items()
        epsilon, count = configuration.values["privacy.epsilon"], configuration.values["hospitals.count"]
        sections = {"study": {"name": name}, "privacy": {"epsilon": epsilon}, "hospitals": {"count": count}}
        assert first == parse_study(tiny(**sections))


def test_keys_may_stand_in_quotes_or_not(sweep):
    quoted = sweep({"privacy.epsilon": [1, 2], "data.phantom.patients": [40, 50]})
    nested = sweep({"privacy": {"epsilon": [1, 2]}, "data": {"phantom": {"patients": [40, 50]}}})
    assert quoted == nested
    assert [study.site.phantom.patients for study in runs_of(quoted).values()] == [40, 50, 40, 50]


def test_repeats_differ_in_split_weights_and_seed_and_in_nothing_else(sweep):
    first, second, third = runs_of(sweep({"repeats": 3})).values()
    for shift, study in ((1, second), (2, third)):
        assert study.hospitals.split_seed == first.hospitals.split_seed + shift
        assert study.model.init_seed == first.model.init_seed + shift
        assert study.study.seed == first.study.seed + shift
        back = {
            "study": study.study.model_copy(update={"seed": first.study.seed, "name": first.study.name}),
            "hospitals": study.hospitals.model_copy(update={"split_seed": first.hospitals.split_seed}),
            "model": study.model.model_copy(update={"init_seed": first.model.init_seed}),
        }
        assert study.model_copy(update=back) == first


def test_an_unseeded_study_stays_unseeded(sweep):
    assert {study.study.seed for study in runs_of(sweep({"repeats": 2}, study={"seed": None})).values()} == {None}


def test_the_command_may_ask_for_other_repeats(sweep):
    assert len(runs_of(sweep({"repeats": 3}, repeats=2))) == 2


def test_a_plain_study_is_a_sweep_of_itself(tiny):
    assert runs_of(parse_sweep(tiny())) == {"tiny": parse_study(tiny())}


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("privacy.epsilom", "did you mean privacy.epsilon?"),
        ("hospital.count", "did you mean hospitals.count?"),
        ("repeat", "did you mean repeats?"),
        ("epsilon", "did you mean privacy.epsilon?"),
        ("privacy", "unknown key privacy"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(sweep, key, said):
    with pytest.raises(StudyError, match="in \\[sweep\\]") as refused:
        sweep({key: [1, 2]})
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"privacy.epsilon": 2}, "a list of values"),
        ({"privacy.epsilon": []}, "a list of values"),
        ({"privacy.epsilon": [2, 2.0]}, "values that differ"),
        ({"study.name": ["a", "b"]}, "must not vary study.name"),
        ({"performance.threads": [1, 2]}, "must not vary performance.threads"),
        ({"repeats": 0}, "at least 1"),
        ({"repeats": True}, "at least 1"),
        ({"charge": "yes"}, "true or false"),
        ({"privacy.epsilon": [2, -1]}, "with privacy.epsilon = -1"),
        ({"model.name": ["linear", "linnear"]}, "model.name"),
    ],
)
def test_a_sweep_that_does_not_hold_is_refused(sweep, own, said):
    with pytest.raises(StudyError) as refused:
        sweep(own)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("own", "privacy", "said"),
    [
        ({}, {}, "privacy.epsilon_limit"),
        ({"hospitals.count": [2, 3]}, {"epsilon_limit": 20.0}, "hospitals.count is varied"),
        ({"hospitals.split_seed": [2, 3]}, {"epsilon_limit": 20.0}, "hospitals.split_seed is varied"),
        ({"data.test_fraction": [0.2, 0.3]}, {"epsilon_limit": 20.0}, "data.test_fraction is varied"),
        ({"privacy.delta": [1e-3, 1e-4]}, {"epsilon_limit": 20.0}, "privacy.delta is varied"),
        ({"federation.strategy": ["fedsgd", "pooled"]}, {"epsilon_limit": 20.0}, "pooled"),
    ],
)
def test_a_ledger_a_hospital_is_enough_only_for_patients_who_stay(sweep, own, privacy, said):
    with pytest.raises(StudyError) as refused:
        sweep(own | {"charge": True}, privacy=privacy)
    assert said in str(refused.value)


def test_patients_stay_where_they_are_when_all_runs_are_charged(sweep):
    studies = runs_of(sweep({"repeats": 3, "charge": True}, privacy={"epsilon_limit": 30.0})).values()
    assert len({(study.hospitals, study.data) for study in studies}) == 1
    assert len({study.model.init_seed for study in studies}) == 3


@given(texts=st.lists(st.text("aZ09 /.\\:-_é", min_size=1, max_size=90), min_size=2, max_size=2, unique=True))
def test_names_are_plain_folder_names_and_no_two_are_alike(tiny, texts):
    own = {"model.weights": texts, "repeats": 2}
    alike = len({re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-") for text in texts}) < 2
    if alike:
        with pytest.raises(StudyError, match="differ in letters and digits"):
            parse_sweep(tiny() | {"sweep": own})
        return
    names = list(runs_of(parse_sweep(tiny() | {"sweep": own})))
    assert len(set(names)) == 4
    for name in names:
        assert len(name) <= 64
        assert Path(name).name == name
        assert name.isascii()
        assert name == name.lower()


def test_a_single_run_of_a_sweep_is_refused_with_the_command_for_many(wardround, tmp_path):
    path = tmp_path / "sweep.toml"
    path.write_text(EXAMPLE.read_text())
    with pytest.raises(StudyError, match=f"wardround compare {path}"):
        read_study(path)
    for command in (("run", path, "--out", tmp_path / "run"), ("check", path)):
        ended = wardround(*command)
        assert ended.code == 2
        assert "wardround compare" in ended.err
    assert not (tmp_path / "run").exists()


def test_the_example_is_private_unseeded_and_has_somebody_to_choose_by():
    sweep = read_sweep(EXAMPLE)
    studies = runs_of(sweep).values()
    assert len(sweep.configurations) == 6
    assert len(studies) == 18
    for study in studies:
        assert study.privacy.plan == "dp-sgd"
        assert study.study.seed is None
        assert study.data.validation_fraction > 0

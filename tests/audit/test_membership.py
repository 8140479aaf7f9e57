"""Membership inference: figures by hand, shadow heads against the study's own federation, and what noise takes away."""

import numpy as np
import pytest

from wardround.agreed.plans import plan_of
from wardround.audit.membership import attacked, discriminant, likelihood_ratio, relative, scores_of
from wardround.audit.model import Leak, audit_model, why_no_model
from wardround.audit.shadows import Training, models_of, shadow_confidence, some
from wardround.config import parse_study
from wardround.coordinator.observer import Silent
from wardround.simulation.materials import gather
from wardround.training.patients import united
from wardround.types import HospitalName


def study_of(tmp_path, *, private, patients=120, model="features", **privacy):
    given: dict[str, object] = {"plan": "none"}
    if private:
        given = {
            "plan": "dp-sgd", "noise_multiplier": 1.5, "delta": 1e-5, "clipping_norm": 0.25, "sampling_prob": 1.0,
            "num_patients": round(0.8 * patients), "sum": "simulated", **privacy,
        }  # fmt: skip
    return parse_study(
        {
            "study": {"name": "leaks", "seed": 1},
            "data": {
                "layout": "phantom", "image_size": 32,
                "phantom": {"patients": patients, "max_images": 3, "image_size": 32},
            },
            "hospitals": {"count": 2},
            "model": {"name": model},
            "privacy": given,
            "federation": {"strategy": "fedsgd", "rounds": 12, "learning_rate": 4.0, "momentum": 0.9},
            "performance": {"threads": 1, "cache": str(tmp_path)},
        }
    )  # fmt: skip


def training_of(study, rounds=(6, 12)):
    materials = gather(study, Silent())
    return Training(study, plan_of(study), materials, united(list(materials.hospitals.values())), rounds)


def worlds(shift, shadows=200, patients=300):
    """Shadow models under which phi of a patient who is in lies higher by `shift` of its own spread."""
    generator = np.random.default_rng(4)
    inclusion = generator.random((shadows + 1, patients)) < 0.5
    usual, spread = 4 * generator.normal(size=patients), generator.uniform(0.2, 2, size=patients)
    phi = usual + spread * (generator.normal(size=inclusion.shape) + shift * inclusion)
    return phi[0], phi[1:], inclusion[0], inclusion[1:]


def test_true_positives_are_counted_above_the_others_that_the_rate_allows():
    scores = np.concatenate([np.arange(100.0), np.full(50, 98.5), np.full(50, 200.0)])
    found = attacked("by hand", scores, np.arange(200) >= 100)
    least, percent = found.at
    assert (least.reached, least.true_positives) == (0.0, 0.5)
    assert (percent.reached, percent.true_positives) == (0.01, 1.0)
    assert found.auroc == pytest.approx((0.99 + 1) / 2)
    assert least.low == pytest.approx(0.3983, abs=1e-3)  # Clopper-Pearson of 50 of 100
    assert least.high == pytest.approx(1 - least.low)


def test_lira_finds_patients_whom_a_common_threshold_does_not():
    target, shadows, truth, inclusion = worlds(1.5)
    found = {
        name: attacked(name, scores, truth).auroc
        for name, scores in scores_of(target[None], shadows[:, None], inclusion).items()
    }
    assert found["LiRA"] == pytest.approx(0.856, abs=0.05)  # Phi(1.5 / sqrt(2))
    assert found["LiRA"] > found["loss threshold"] + 0.1
    assert found["RMIA"] > found["loss threshold"] + 0.1


def test_no_attack_finds_members_where_nothing_differs():
    target, shadows, truth, inclusion = worlds(0.0)
    for scores in (likelihood_ratio(target, shadows, inclusion), relative(target, shadows, inclusion)):
        assert attacked("none", scores, truth).auroc == pytest.approx(0.5, abs=0.1)


def test_models_that_never_differ_tell_nothing():
    """As of updates of which one number leaves, where each model is the first one."""
    _, _, _, inclusion = worlds(0.0, shadows=8, patients=20)
    phi = np.broadcast_to(np.arange(20.0), (8, 3, 20))
    assert discriminant(phi, inclusion).tolist() == [0.0, 0.0, 1.0]
    scores = scores_of(phi[0], phi, inclusion)
    assert all(np.isfinite(found).all() for found in scores.values())


def test_the_rounds_that_tell_most_have_the_largest_weight():
    generator = np.random.default_rng(5)
    inclusion = generator.random((100, 50)) < 0.5
    phi = generator.normal(size=(100, 2, 50))
    phi[:, 0] += 2.0 * inclusion
    weights = discriminant(phi, inclusion)
    assert weights[0] == 1.0
    assert abs(weights[1]) < 0.1


def test_shadow_heads_train_as_the_study_does(tmp_path):
    """Without noise, a shadow of some patients is the federation of these patients, at every round looked at."""
    training = training_of(study_of(tmp_path, private=False))
    size = len(training.pool)
    is_in = np.random.default_rng(0).permuted(np.tile(np.arange(size) < size // 2, (2, 1)), axis=1)
    found = shadow_confidence(training, is_in, 0, lambda done, total: None)
    for shadow, members in zip(found, is_in, strict=True):
        hospitals = {
            HospitalName(name): some(training.pool, np.flatnonzero(members)[k::2])
            for k, name in enumerate(("a", "b"))
        }
        models = list(models_of(training.study, training.plan, training.materials, hospitals, "test"))
        np.testing.assert_allclose(shadow[0], training.confidence(models[5]), atol=1e-3)
        np.testing.assert_allclose(shadow[1], training.confidence(models[11]), atol=1e-3)


@pytest.mark.parametrize("centre_rounds", [0, 3])
def test_the_clip_of_shadow_heads_is_that_of_the_study(tmp_path, centre_rounds):
    """The centre is that of the study as well."""
    study = study_of(tmp_path, private=True, noise_multiplier=1e-6, num_patients=96)
    section = study.federation.model_copy(update={"centre_rounds": centre_rounds})
    study = study.model_copy(update={"federation": section})
    training = training_of(study, rounds=(12,))
    everyone = np.ones((1, len(training.pool)), dtype=bool)
    [[found]] = shadow_confidence(training, everyone, 0, lambda done, total: None)
    *_, model = models_of(study, training.plan, training.materials, training.materials.hospitals, "test")
    np.testing.assert_allclose(found, training.confidence(model), atol=0.02)


def test_a_network_without_encodings_is_trained_by_the_federation(tmp_path):
    training = training_of(study_of(tmp_path, private=False, patients=40, model="linear"), rounds=(2,))
    found = shadow_confidence(training, np.ones((1, len(training.pool)), dtype=bool), 0, lambda done, total: None)
    assert found.shape == (1, 1, len(training.pool))


@pytest.mark.thorough
def test_noise_takes_away_what_the_attacks_see(tmp_path):
    leaks = dict[bool, Leak]()
    for private in (False, True):
        study = study_of(tmp_path, private=private, patients=400)
        leak, attacks = audit_model(study, Silent(), shadows=32, alpha=0.01, seed=3)
        assert isinstance(leak, Leak)
        leaks[private] = leak
        assert [one.contradictions for one in attacks] == [(), ()]
        assert leaks[private].groups.keys() >= {"site: site-1"}
        assert not leaks[private].real
    without, within = ({one.attack: one.auroc for one in leaks[private].figures} for private in (False, True))
    assert without["LiRA"] > within["LiRA"] + 0.1
    assert within["LiRA"] == pytest.approx(0.5, abs=0.05)


def test_a_study_without_one_model_is_named():
    study = parse_study(
        {
            "study": {"name": "alone", "seed": 1}, "data": {"layout": "phantom"}, "hospitals": {"count": 2},
            "model": {"name": "linear"}, "privacy": {"plan": "none"},
            "federation": {"strategy": "alone", "rounds": 1, "learning_rate": 1.0},
        }
    )  # fmt: skip
    assert "alone" in why_no_model(study)

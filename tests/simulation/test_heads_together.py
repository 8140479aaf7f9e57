"""Heads trained together in shared passes: the runs they stand for, with noise of the plan's size, never released."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from tests.cases import family
from tests.charges import charges_in
from tests.errors import raises_code

from wardround.agreed.plans import plan_of
from wardround.coordinator.observer import Silent
from wardround.errors import StudyError
from wardround.privacy.plans.calibrate import in_the_open, not_private
from wardround.randomness import Randomness
from wardround.report.numbers import headline_of, numbers_of
from wardround.simulation import references
from wardround.simulation.materials import gather
from wardround.simulation.references import NUM_REPEATS, run_reference
from wardround.simulation.run import run_study
from wardround.simulation.sweeps import together
from wardround.simulation.sweeps.together import Head, share_passes, trained_together

ROUNDS = 6
ALIKE = ["repeats", "no-privacy", "pooled", "pooled-no-privacy"]


def charges(path):
    found = charges_in(path / "ledger.sqlite").items()
    return {name: [(charge.release, charge.attempt, charge.event) for charge in each] for name, each in found}


@pytest.fixture(scope="module")
def head_study(tiny_study):
    def make(privacy=None, **federation):
        rounds = {"rounds": ROUNDS, "evaluate_every": ROUNDS} | federation
        return tiny_study(model={"name": "features"}, privacy=privacy or {}, federation=rounds)

    return make


@pytest.fixture(scope="module")
def materials(head_study):
    return gather(head_study(), Silent())


@pytest.fixture
def models_of(monkeypatch):
    """The models that a reference run is measured by, of a run made alone."""

    def of(name, study, materials):
        found = {}
        monkeypatch.setattr(
            references, "_row", lambda name, own, models, *_, **__: found.update(models) or {}, raising=True
        )
        run_reference(name, study, plan_of(study), materials, Silent())
        return list(found.values())

    return of


def test_a_head_trained_beside_others_is_the_run_made_alone(head_study, materials, models_of):
    """Without noise, for two learning rates at once, to the rounding of single precision."""
    rates = (0.5, 8.0)
    alone = [models_of("no-privacy", head_study(learning_rate=rate), materials)[0] for rate in rates]
    heads = []
    for rate in rates:
        study = head_study(learning_rate=rate, score_rounds=0)
        heads.append(Head("reference/no-privacy", study, not_private(plan_of(study), ROUNDS)))
    found = trained_together(heads, materials, Silent())
    for one, other in zip(found, alone, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * float(np.abs(other).max()))
    assert not np.allclose(found[0], found[1], rtol=0.1)


def test_heads_on_centred_rows_are_the_runs_made_alone(head_study, materials, models_of):
    """Almost without noise: each has a centre, of its own first rounds, and is a head on rows as they are."""
    privacy = {"epsilon": None, "noise_multiplier": 1e-6, "num_patients": 32, "sum": "simulated"}
    study = head_study(privacy, learning_rate=2.0, score_rounds=0, centre_rounds=2)
    [alone] = models_of("pooled", study, materials)
    without = head_study(privacy, learning_rate=2.0, score_rounds=0, centre_rounds=0)
    [plain] = models_of("pooled", without, materials)
    heads = [Head(f"{number}", study, in_the_open(plan_of(study), ROUNDS)) for number in range(2)]
    for one in trained_together(heads, materials, Silent()):
        np.testing.assert_allclose(one, alone, rtol=1e-3, atol=1e-3 * float(np.abs(alone).max()))
    assert np.abs(plain - alone).max() > 0.1 * np.abs(alone).max()


@pytest.mark.parametrize("privacy", family([{"sum": "masked"}, {}, {"trust": "nobody"}]))
def test_the_noise_of_repeats_has_the_size_of_the_runs_own(head_study, materials, privacy):
    """One round at rate 1, momentum 0: weights are noise / n; 2/3 and 3/2 of the plan's noise would be refused."""
    study = head_study(
        {"num_patients": 32} | privacy,
        rounds=1, learning_rate=1.0, momentum=0.0, average_last=0.0, score_rounds=0,
    )  # fmt: skip
    plan: Any = plan_of(study)
    own = in_the_open(plan, 1)
    heads = [Head(f"reference/repeats/{i}", study, own) for i in range(40)]
    silent = Head("x", study, not_private(own, 1))
    *drawn, still = trained_together([*heads, silent], materials, Silent())
    values = (np.stack(drawn) - still).ravel() * 32
    honest = {"nobody": 1 / 3}.get(str(plan.trust), 2 / 3)  # three hospitals, one colluder
    std = plan.training.noise.noise_multiplier * plan.training.clip.norm / math.sqrt(honest)
    assert float(np.std(values)) == pytest.approx(std, rel=6 / math.sqrt(2 * values.size))
    assert 6 / math.sqrt(2 * values.size) < 1 / 3


def test_repeats_are_counted_anew_where_patients_are(head_study, materials):
    study = head_study(rounds=1, score_rounds=0)
    sizes = [
        together._size(Head(f"{i}", study, in_the_open(plan_of(study), 1)), 32, Randomness(i, "count"))
        for i in range(4)
    ]
    assert len(set(sizes)) == 4


def test_a_head_study_has_repeats_by_default_and_can_leave_them(head_study):
    assert head_study().federation.compare == ("repeats",)
    assert head_study(compare=[]).federation.compare == ()
    assert head_study(strategy="alone").federation.compare == ()


def test_the_model_that_is_released_is_the_run_without_repeats(head_study, tmp_path):
    """Repeats add a row beside the run: its model, charges and promise are the same, and the report has the spread."""
    bare = run_study(head_study(compare=[]), tmp_path / "bare", Silent())
    record: Any = run_study(head_study(compare=ALIKE), tmp_path / "run", Silent())
    assert (record.path / "model.safetensors").read_bytes() == (bare.path / "model.safetensors").read_bytes()
    assert charges(record.path) == charges(bare.path)
    assert record.certificate["statement"] == bare.certificate["statement"]
    row = record.results["references"]["repeats"]
    assert row["released"].startswith("without protection")
    assert len(row["headlines"]) == NUM_REPEATS == row["metrics"]["models"]
    found: Any = numbers_of(record)
    assert found.repeats.mean == pytest.approx(row["metrics"]["auroc"])
    assert found.repeats.spread == pytest.approx(float(np.std(row["headlines"], ddof=1)))
    assert {each.key for each in found.comparisons} == {"federated", *ALIKE} - {"repeats"}
    assert {each.how for each in found.comparisons if not each.private} == {references._FITTED}
    assert found.repeats.values == tuple(row["headlines"])
    assert "outside the guarantee" in found.repeats.sentence(0.5)
    assert headline_of(record) == headline_of(bare)


def test_references_of_all_patients_take_one_pass(head_study, materials, monkeypatch):
    """No run is made alone, each private reference has its own row, and the pass is made once."""
    passes, private = [], ["repeats", "pooled"]

    def counted(heads, *rest):
        passes.append(len(heads))
        return trained_together(heads, *rest)

    monkeypatch.setattr(references, "trained_together", counted)
    study = head_study(compare=ALIKE)
    rows = references.run_together(private, study, plan_of(study), materials, Silent())
    assert passes == [NUM_REPEATS + 1]
    assert {name: row["private"] for name, row in rows.items()} == dict.fromkeys(private, True)


# Without privacy: the best of the family, fitted to the end -------------------------------------------------------


@pytest.fixture
def fitted_models(monkeypatch, head_study, materials):
    """The models of a reference without privacy, by hospital, (class, feature)."""

    def of(name):
        found = {}
        with monkeypatch.context() as patch:
            patch.setattr(references, "_row", lambda name, own, models, *_, **__: found.update(models) or {})
            study = head_study()
            references.fitted_reference(name, study, plan_of(study), materials, {})
        return {hospital: np.asarray(model).reshape(2, -1) for hospital, model in found.items()}

    return of


def weighted_rows(materials, patients):
    """Rows, labels and weights of the patients' pictures; a patient's weights add up to one."""
    rows = materials.workbench.kept_inputs.numpy()[patients.rows].astype(np.float64)
    return rows, patients.labels, np.repeat(1 / patients.counts, patients.counts)


def test_a_reference_without_privacy_is_logistic_regression(fitted_models, materials):
    """Its scores are scikit-learn's, on the rows of all patients, each of weight one over all pictures.

    Of two classes theirs is the difference of two rows of weights, which has the least norm where these are opposite.
    """
    [model] = fitted_models("no-privacy").values()
    rows, labels, weights = weighted_rows(materials, references.pooled(materials.hospitals))
    known = LogisticRegression(C=2 / references.PENALTY, fit_intercept=False, tol=1e-8, max_iter=10_000)
    known.fit(rows, labels, sample_weight=weights)
    scores = known.decision_function(rows)
    np.testing.assert_allclose(rows @ (model[1] - model[0]), scores, atol=0.02 * float(np.std(scores)))


def test_the_descent_without_noise_is_no_better_on_its_own_patients(
    fitted_models, models_of, head_study, materials
):
    """The reference has the least penalised loss of the family, well below that of the clipped descent."""
    everyone = weighted_rows(materials, references.pooled(materials.hospitals))
    [best] = fitted_models("pooled-no-privacy").values()
    [descent] = models_of("pooled-no-privacy", head_study(), materials)

    def loss(model):
        rows, labels, weights = everyone
        odds = log_softmax(rows @ model.T, axis=1)
        return -(weights * odds[np.arange(len(labels)), labels]).sum() + references.PENALTY / 2 * (model**2).sum()

    assert loss(best) < 0.9 * loss(descent.reshape(2, -1))


def test_heads_alone_without_privacy_are_fitted_to_their_own_patients(fitted_models, materials):
    found = fitted_models("alone-no-privacy")
    assert set(found) == set(materials.hospitals)
    for name, patients in materials.hospitals.items():
        rows, labels, _ = weighted_rows(materials, patients)
        assert np.mean((rows @ found[name].T).argmax(axis=1) == labels) > 0.9, "it knows its own patients"
    together = fitted_models("no-privacy"), fitted_models("pooled-no-privacy")
    np.testing.assert_array_equal(*(next(iter(one.values())) for one in together))


def test_other_studies_are_compared_with_the_same_training(head_study, tiny_study, materials):
    """Studies without the recipe, and heads that matrix products do not train (grades, voxels)."""
    assert references.is_fitted(head_study(), materials)
    assert not references.is_fitted(head_study({"clipping": "adaptive"}, learning_rate=1.0), materials)
    assert not references.is_fitted(tiny_study(model={"name": "linear"}), materials)
    other: Any = SimpleNamespace(workbench=SimpleNamespace(trains_head=False))
    assert not references.is_fitted(head_study(), other)


@pytest.mark.parametrize(
    ("privacy", "federation"),
    family(
        [
            ({"trust": "coordinator"}, {}),
            ({"sampling_prob": 0.5}, {}),
            ({"clipping": "adaptive"}, {"learning_rate": 1.0}),
        ]
    ),
)
def test_runs_that_cannot_share_a_pass_are_repeated_one_by_one(head_study, materials, privacy, federation):
    study = head_study(privacy, rounds=2, compare=["repeats"], **federation)
    assert not share_passes(study, plan_of(study), materials)
    row: Any = run_reference("repeats", study, plan_of(study), materials, Silent())
    assert len(row["headlines"]) == NUM_REPEATS
    assert row["epsilon"] <= 8 + 1e-9


def test_repeats_of_several_models_are_refused(head_study):
    study = head_study(strategy="alone", compare=["repeats"])
    with raises_code(StudyError, "study-repeats"):
        references.check_references(study, plan_of(study))

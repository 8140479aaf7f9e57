"""What a study will promise and take, foreseen without opening a picture."""

import math

import pytest
import torch
from tests.errors import raises_code
from torch import nn

from wardround.agreed.network import build_network
from wardround.agreed.plans import plan_of
from wardround.coordinator.observer import Silent
from wardround.errors import BudgetExhausted, DataError, ModelError, PrivacyError
from wardround.images.entries import Target
from wardround.models.network import Network
from wardround.simulation import estimate as estimates
from wardround.simulation.forecast import seconds
from wardround.simulation.references import NUM_REPEATS
from wardround.simulation.run import run_study
from wardround.training.workbench import Workbench


def estimate(study):
    return estimates.estimate(study)


def test_what_is_foreseen_is_what_the_run_certifies(tiny_study, finished):
    from wardround.records.folder import RunRecord

    found = estimate(tiny_study())
    record = RunRecord.read(finished)
    assert record.certificate["statement"] == found.statement.to_json()
    assert record.certificate["insiders"] == [row.to_json() for row in found.insiders]
    assert record.results["parameters"] == found.parameters


def test_phantoms_are_counted_by_their_listing(tiny_study):
    found = estimate(tiny_study())
    assert found.patients == 40
    assert 40 <= found.pictures <= 80


def test_a_folder_is_counted_and_no_picture_opened(tiny_study, make_pictures, tmp_path):
    make_pictures(tmp_path, patients=12)
    for path in tmp_path.rglob("*.png"):
        path.write_bytes(b"no picture at all")
    found = estimate(tiny_study(data={"layout": "folder", "path": str(tmp_path)}))
    assert (found.patients, found.pictures) == (12, 12)
    assert found.seconds is not None


def test_without_a_folder_the_promise_is_foreseen_and_nothing_else(tiny_study):
    found = estimate(tiny_study(data={"layout": "folder"}))
    assert (found.patients, found.pictures, found.seconds) == (None, None, None)
    assert 7.9 < found.statement.epsilon <= 8


@pytest.mark.parametrize(
    ("sections", "code"),
    [
        ({"data": {"test": "published"}}, "data-no-published-split"),
        ({"privacy": {"epsilon_limit": 0.01}}, "budget-exhausted"),
        ({"hospitals": {"count": 2, "scheme": "sizes", "sizes": [30, 30]}}, "data-too-few-patients"),
        ({"hospitals": {"scheme": "images", "images": 50}}, "data-too-few-images"),
        ({"hospitals": {"scheme": "images", "images": 16}, "data": {"test_fraction": 0.5}}, "data-too-few-images"),
        ({"hospitals": {"scheme": "site", "count": 3}}, "data-site-count"),
        ({"data": {"test_fraction": 1e-9}}, "data-part-empty"),
        ({"data": {"test_fraction": 1 - 1e-9}}, "data-part-empty"),
        (
            {
                "privacy": {"plan": "local-pictures", "clipping_norm": None, "sum": None},
                "model": {"name": "small_cnn"},
            },
            "privacy-noised-pictures",
        ),
        ({"hospitals": {"names": ["a" * 101, "b", "c"]}, "privacy": {"sum": "masked"}}, "data-hospital-names"),
        ({"data": {"task": "classification"}}, "data-task"),
        ({"data": {"volume_size": [8, 8, 8]}}, "data-volume-size"),
        ({"data": {"volume_size": [1024, 1024, 1024]}}, "data"),
    ],
)
def test_what_a_run_refuses_of_listed_patients_and_the_network_is_refused_beforehand(
    tiny_study, tmp_path, sections, code
):
    study = tiny_study(**sections)
    kind = {"budget-exhausted": BudgetExhausted, "privacy-noised-pictures": PrivacyError}.get(code, DataError)
    with raises_code(kind, code):
        run_study(study, tmp_path / "run", Silent())
    with raises_code(kind, code):
        estimate(study)


@pytest.mark.parametrize("content", ["a copy", "unreadable"])
def test_a_picture_that_run_drops_does_not_take_its_site_with_it(tiny_study, make_pictures, tmp_path, content):
    """One patient stands at two sites, at one of them with a picture of no use: check and run refuse it."""
    data = make_pictures(tmp_path / "data", patients=12)
    pictures = sorted(data.rglob("*.png"))
    second = pictures[0].with_name("second.png")
    second.write_bytes(pictures[0].read_bytes() if content == "a copy" else b"no picture at all")
    rows = [(path, f"site-{number % 2}") for number, path in enumerate(pictures)] + [(second, "site-1")]
    lines = [
        f"{path.relative_to(data)},{path.parent.name},{path.parent.parent.name},{site}" for path, site in rows
    ]
    (data / "manifest.csv").write_text("\n".join(["image,patient,label,site", *lines]) + "\n")
    study = tiny_study(
        data={"layout": "manifest", "path": str(data), "skip_unreadable": True, "phantom": None},
        hospitals={"count": 2, "scheme": "site"},
    )
    with raises_code(DataError, "data-several-sites"):
        estimate(study)
    with raises_code(DataError, "data-several-sites"):
        run_study(study, tmp_path / "run", Silent(), rehearsal=True)


def test_copies_inside_patients_may_bring_a_hospital_to_its_number_of_images_and_are_not_judged(
    tiny_study, make_pictures, tmp_path
):
    """A patient has more listed images than a hospital is to have, and one when copies are dropped."""
    make_pictures(tmp_path, patients=12)
    one = next(tmp_path.rglob("*.png"))
    for number in range(8):
        one.with_name(f"copy-{number}.png").write_bytes(one.read_bytes())
    study = tiny_study(
        data={"layout": "folder", "path": str(tmp_path), "phantom": None},
        hospitals={"count": 2, "scheme": "images", "images": 2},
    )
    estimate(study)
    run_study(study, tmp_path / "run", Silent(), rehearsal=True)


def test_a_subtype_study_has_three_classes(tiny_study):
    two, three = (
        estimate(tiny_study(data={"layout": "chest_xray", "task": task})).parameters
        for task in ("binary", "subtype")
    )
    assert three * 2 == two * 3


@pytest.mark.parametrize("number", [2, 4])
def test_without_a_folder_the_schedule_is_that_of_the_classes_in_the_study(tiny_study, number):
    named = {"layout": "folder", "classes": [f"class-{one}" for one in range(number)], "phantom": None}
    schedule = estimate(tiny_study(data=named, model={"name": "features", "encoder": "hog"})).schedule
    assert schedule is not None
    assert schedule.classes == number


def test_comparisons_take_their_time_as_well(tiny_study, monkeypatch):
    monkeypatch.setattr("wardround.simulation.estimate.probe", lambda *_: (1.0, 0))
    alone = estimate(tiny_study())
    five = estimate(tiny_study(federation={"compare": ["pooled", "alone", "no-privacy", "pooled-no-privacy"]}))
    assert five.seconds == pytest.approx(5 * alone.seconds)
    repeated = estimate(tiny_study(federation={"compare": ["repeats", "no-privacy"]}))
    assert repeated.seconds == pytest.approx((2 + NUM_REPEATS) * alone.seconds)


def test_local_steps_take_their_time_as_well(tiny_study, monkeypatch):
    monkeypatch.setattr("wardround.simulation.estimate.local_probe", lambda *_: 1.0)
    nobody = {"privacy": {"trust": "nobody"}}
    one = estimate(tiny_study(**nobody, federation={"strategy": "fedavg", "local_steps": 1}))
    three = estimate(tiny_study(**nobody, federation={"strategy": "fedavg", "local_steps": 3}))
    assert three.seconds == pytest.approx(3 * one.seconds)


def test_json_has_no_infinity(tiny_study):
    found = estimate(tiny_study(privacy={"plan": "none", "epsilon": None, "delta": None, "clipping_norm": None}))
    assert found.statement.epsilon == math.inf
    assert "inf" not in [str(value) for value in found.to_json().values()]


@pytest.mark.parametrize(
    ("sections", "error"),
    [
        ({"model": {"name": "small_cnn", "weights": "/none.safetensors"}}, ModelError),
        ({"data": {"layout": "folder", "path": "/"}}, DataError),
    ],
    ids=["weights", "layout"],
)
def test_what_run_would_refuse_unseen_is_refused(tiny_study, tmp_path, sections, error):
    if "data" in sections:
        (tmp_path / "one-class").mkdir()
        sections = {"data": {"layout": "folder", "path": str(tmp_path)}}
    with pytest.raises(error):
        estimate(tiny_study(**sections))
    with pytest.raises(error):
        run_study(tiny_study(**sections), tmp_path / "out", Silent())


MASKED: dict[str, dict[str, object]] = {
    "privacy": {"trust": "secure-aggregation", "sum": "masked"},
    "federation": {"compare": []},
}


def test_masked_sums_take_the_time_of_what_a_hospital_does_and_references_that_of_common_batches(
    tiny_study, monkeypatch
):
    monkeypatch.setattr("wardround.simulation.estimate.probe", lambda *_: (1.0, 0))
    simulated = estimate(tiny_study(federation={"compare": []})).seconds
    monkeypatch.setattr("wardround.simulation.estimate.masked_probe", lambda *_: (10.0, 0.0))
    assert estimate(tiny_study(**MASKED)).seconds == pytest.approx(10 * simulated)
    beside = estimate(tiny_study(privacy=MASKED["privacy"], federation={"compare": ["pooled"]}))
    assert beside.seconds == pytest.approx(11 * simulated)
    monkeypatch.setattr("wardround.simulation.estimate.masked_probe", lambda *_: (10.0, 7.0))
    study = tiny_study(**MASKED)
    added = estimate(study).seconds - 10 * simulated
    assert added == pytest.approx(7 * study.hospitals.count * study.rounds), (
        "noise of every hospital, in every round"
    )


def test_what_is_timed_for_masked_sums_is_what_will_be_called(tiny_study, monkeypatch):
    called = []
    for name in ("patient_gradients", "gradient_sums"):
        real = getattr(Workbench, name)

        def noted(self, *args, _name=name, _real=real):
            called.append(_name)
            return _real(self, *args)

        monkeypatch.setattr(Workbench, name, noted)
    found = estimate(tiny_study(privacy=MASKED["privacy"], federation={"compare": []}))
    assert found.seconds > 0
    assert "patient_gradients" in called


def test_a_masked_head_is_timed_by_its_products(tiny_study, monkeypatch):
    monkeypatch.setattr(Workbench, "patient_gradients", None)
    found = estimate(tiny_study(**MASKED, model={"name": "features"}))
    assert 0 < found.seconds < 60, "four rounds of forty patients"


def test_local_steps_of_several_hospitals_are_timed_on_a_core(tiny_study, monkeypatch):
    """A time that batches were summed in on every core would be shared among these cores a second time."""
    monkeypatch.setattr("wardround.training.workbench._PICTURES_AT_ONCE", 2)
    monkeypatch.setattr(seconds, "at_work_of", lambda *_: 2)
    monkeypatch.setattr(seconds, "least_seconds", lambda step, _: float(step() is None) + 1.0)
    batches: list[int] = []

    def in_turn(_bench, _step, shared):
        batches.append(len(shared))
        return [[] for _ in shared]

    monkeypatch.setattr(Workbench, "_in_turn", in_turn)
    study = tiny_study(privacy={"trust": "nobody"}, federation={"strategy": "fedavg", "local_steps": 1})
    plan, network = plan_of(study), build_network(study, target=Target.CLASSES, num_classes=2, shape=(1, 32, 32))
    found = seconds.local_probe(study, plan, network, Target.CLASSES, (1, 32, 32), 10)
    assert batches == [1]
    assert found == 1.0 / 2 / 2, "two pictures a batch, and two hospitals at one time"


def test_made_up_encodings_of_a_frozen_network_differ():
    """As those of real pictures do."""
    network = Network("frozen", nn.Linear(4, 3), nn.Linear(3, 2), encode_once=True)
    assert len(torch.unique(seconds._inputs(network, torch.ones(5, 4)), dim=0)) == 5

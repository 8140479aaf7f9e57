"""A reproduction from the command line to the page, on tiny phantoms; and that nothing shrinks or passes unsaid."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from wardround.accounting.statement import Statement
from wardround.config.privacy import DPSGD
from wardround.coordinator.observer import Silent
from wardround.errors import DataError, StudyError
from wardround.noisers import ByEachHospital
from wardround.records.folder import RunRecord
from wardround.reproduce import dopamine, epsilons, exchange, linear, repaired, yuan
from wardround.reproduce.as_published.statement import no_guarantee
from wardround.reproduce.catalogue import REPRODUCTIONS, reproduction
from wardround.reproduce.loops import Loop, run_loops
from wardround.reproduce.page import render
from wardround.reproduce.request import Request, Scale
from wardround.reproduce.table import PHANTOMS, Figure, Origin, Row, Score, Shrunk, Table, by_setting
from wardround.simulation.run import run_study

SMALLEST = 0.004


@pytest.fixture
def here(monkeypatch):
    """Ordinary studies in this process, one after the other: what is tested is the table."""
    ran = []

    def run_many(studies, out, observer, *, workers=None):
        for name, study in studies.items():
            if not (out / name / "certificate.json").exists():
                ran.append(name)
                run_study(study, out / name, Silent())
        return {name: RunRecord.read(out / name) for name in studies}

    monkeypatch.setattr(repaired, "run_many", run_many)
    return ran


@pytest.fixture
def ask(tmp_path, cache, here):
    def request(scale=SMALLEST, **keys):
        return Request(None, tmp_path / "out", Scale(scale), Silent(), workers=1, cache=cache, **keys)

    return request


@pytest.fixture
def one_group(monkeypatch):
    """Tables of one group of two hospitals, with few steps."""
    monkeypatch.setattr(yuan, "GROUPS", ((2, 500),))
    for name, fewest in (("COUNTS", (2,)), ("CYCLES", 2), ("STEPS", 3)):
        monkeypatch.setattr(exchange, name, fewest)
    for name in ("SGD", "OPEN_SGD"):  # each round is a ledger's transaction
        monkeypatch.setattr(linear, name, {**getattr(linear, name), "rounds": 5, "evaluate_every": 5})


def promise(**keys):
    fields: dict[str, Any] = dict(
        epsilon=2.0, delta=1e-5, sampler="", mechanism="", noise_multiplier=1.0, bound=1.0, releases=1,
        released_what="", released_to="", noiser=ByEachHospital(2),
    )  # fmt: skip
    return Statement(**(fields | keys))


def small_table(**keys):
    nothing = no_guarantee("it is <b>void</b>.", "no", "the model")
    rows = (
        Row("a", "ring", Origin.PUBLISHED, {"accuracy": Score(0.9)}, nothing, "epsilon 8"),
        Row("a", "ring", Origin.REPAIRED, {"accuracy": Score.of([0.8, 0.9])}, promise()),
        Row("b", "ring", Origin.REPAIRED, {"accuracy": Score(0.7)}, promise()),
    )
    fields: dict[str, Any] = dict(
        name="small",
        title="A <i>title</i>",
        source="S",
        data="real",
        metrics=(("accuracy", "accuracy"),),
        rows=rows,
    )
    return Table(**(fields | keys))


# Yuan's table, whole


@pytest.mark.thorough
def test_yuans_table_has_every_row_with_what_it_guarantees(ask, one_group, here):
    table = yuan.table_1(ask())

    assert PHANTOMS in table.data
    assert {entry.name for entry in table.shrunk} >= {"local epochs", "side of a picture, pixels"}
    mine = [row for row in table.rows if row.setting == "2 x 500"]
    assert {row.origin for row in mine} == set(Origin)
    for sigma in ("0.600", "1.994", "7.032"):
        for what in (yuan.BEFORE, yuan.UPLOADED):
            row = next(row for row in mine if row.name == f"ring, sigma {sigma}, {what}")
            assert row.origin is Origin.AS_PUBLISHED
            assert not row.holds
            assert row.claimed
            assert row.epsilon == "infinity"
    promised = {row.name: row for row in mine if row.holds}
    for epsilon in (8, 2, 0.5):
        for method in ("together (fedsgd)", "the ring"):
            row = promised[f"{method}, epsilon {epsilon}"]
            assert row.unit == "patient"
            assert 0.9 * epsilon <= row.statement.epsilon <= epsilon
    assert promised["averaging, a hospital at epsilon 8"].unit == "hospital"
    assert promised["averaging, a hospital at epsilon 8"].statement.epsilon <= 8
    assert "majority class, accuracy" in table.baselines
    json.dumps(table.to_json())

    ran = list(here)
    again = yuan.table_1(ask())
    assert here == ran, "what is finished is not run again"
    assert again.to_json() == table.to_json()


@pytest.mark.slow
def test_yuans_figure_holds_alone_beside_together(ask, one_group):
    table = yuan.figure_4(ask(repeats=2))
    alone = next(row for row in table.rows if row.name == "alone" and row.origin is Origin.AS_PUBLISHED)
    assert alone.scores["accuracy"].repeats == 2
    assert alone.scores["accuracy"].deviation is not None


@pytest.mark.slow
def test_ways_of_exchange_have_the_same_promise(ask, one_group):
    table = exchange.comparison(ask())
    promised = [row for row in table.rows if row.holds]
    assert len(promised) == 6
    assert all(7.2 <= row.statement.epsilon <= 8 and row.unit == "patient" for row in promised)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", sorted(REPRODUCTIONS.keys() - {"yuan-table1", "yuan-fig5", "deepee-segmentation"})
)
def test_every_reproduction_runs_on_phantoms(name, ask, one_group):
    table = reproduction(name).run(ask())
    assert table.name == name
    assert render(table).startswith("<!doctype html>")
    for row in table.rows:
        assert row.holds or row.statement.epsilon == math.inf


@pytest.mark.slow
def test_the_command_runs_each_study_in_a_process_of_its_own(wardround, tmp_path, one_group):
    out = tmp_path / "out"
    ended = wardround("reproduce", "deepee-pneumonia", "--scale", SMALLEST, "--out", out, "--workers", 1, "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["rows"] == json.loads((out / "table.json").read_text())["rows"]
    assert (out / "runs" / "deepee-eps8-r1" / "ledger.sqlite").exists()
    assert "No data was given" in (out / "reproduction.html").read_text()


def test_the_command_lists_what_there_is(wardround):
    assert set(json.loads(wardround("reproduce", "--list", "--json").out)) == set(REPRODUCTIONS)
    assert "yuan-table1" in wardround("reproduce", "--list").out
    refused = wardround("reproduce", "yuan-table2")
    assert refused.code == 2
    assert "NAME must be one of" in refused.err


def test_a_table_is_shown_in_a_file_at_its_whole_width(wardround, tmp_path, monkeypatch):
    some = epsilons.lines()[:8] + epsilons.lines()[-8:]
    monkeypatch.setattr(epsilons, "lines", lambda: some)
    ended = wardround("reproduce", "epsilons", "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert "analytic Gaussian, delta 1e-05" in ended.out
    assert "Singh" in ended.out
    assert "reproduction.html" in ended.out


# The parts


@pytest.mark.parametrize("scale", [0.0, -1.0, 1.5, math.nan])
def test_a_scale_that_is_none_is_refused(scale):
    with pytest.raises(StudyError, match="--scale must be"):
        Scale(scale)


def test_at_scale_1_nothing_shrinks_and_below_it_everything_says_so():
    whole, small = Scale(1.0), Scale(0.1)
    for scale in (whole, small):
        scale.count("epochs", 40)
        scale.side("side", 224, least=32)
        scale.said("network", "resnet18", "resnet18" if scale.value == 1 else "small_cnn")
    assert whole.shrunk == ()
    assert small.shrunk == (
        Shrunk("epochs", "40", "4"), Shrunk("side", "224", "32"), Shrunk("network", "resnet18", "small_cnn"),
    )  # fmt: skip
    assert Scale(1.0).count("images", 500, by=0.01) == 500


def test_fewer_than_one_repeat_is_refused(ask):
    with pytest.raises(DataError, match="--repeats must be at least 1"):
        ask(repeats=0)


def test_repeats_differ_by_split_and_first_weights_only(ask):
    group = linear.Group("g", "g", {"count": 2}, ask().pictures(32, 50))
    row = linear.row(ask(repeats=2), group, "n", "k", linear.OPEN, linear.OPEN_SGD)
    one, two = row.studies.values()
    assert (one.hospitals.split_seed, two.hospitals.split_seed) == (0, 1)
    assert (one.model.init_seed, two.model.init_seed) == (0, 1)
    assert one.study.seed is None
    assert one.federation == two.federation


def test_a_row_without_a_promise_cannot_show_a_number():
    row, kept, _ = small_table().rows
    assert (row.epsilon, row.delta, row.unit) == ("infinity", "–", "–")
    assert row.guarantee == "no guarantee (claimed: epsilon 8): it is <b>void</b>"
    assert (kept.epsilon, kept.delta, kept.unit) == ("2.00", "1e-05", "patient")
    assert kept.to_json()["guarantee"].startswith("epsilon = 2.00 at delta = 1e-05 for one patient")


def test_the_page_escapes_and_says_all():
    page = render(small_table(shrunk=(Shrunk("epochs", "40", "4"),), notes=("Mind this.",)))
    assert "<i>title</i>" not in page
    assert "<b>void</b>" not in page
    for text in (
        "epochs",
        "Mind this.",
        "0.850 ± 0.071",
        "infinity",
        "2.00",
        "<svg",
        "Adding or removing one patient",
    ):
        assert text in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert "Nothing: the published settings were run." in render(small_table())


def test_a_figure_has_one_line_a_method_and_origin():
    figure = by_setting(small_table().rows, "accuracy", "accuracy")
    assert figure.ticks == ("a", "b")
    assert [(series.label, series.x) for series in figure.series] == [
        ("ring (published)", (0.0,)), ("ring (ours, repaired)", (0.0, 1.0)),
    ]  # fmt: skip
    assert isinstance(figure, Figure)


def count_body(cohort, settings, generator):
    settings["ran"].append(1)
    return {"x": {"accuracy": 0.5}}


def test_a_loop_is_run_again_exactly_when_something_of_it_changed(tiny_study, tmp_path):
    study = tiny_study(privacy={"plan": "none", "epsilon": None, "clipping_norm": None})
    ran: list[int] = []

    class Settings(dict[str, Any]):
        def items(self):
            return [(key, value) for key, value in super().items() if key != "ran"]

        def keys(self):
            return [key for key, _ in self.items()]

        def __iter__(self):
            return iter(self.keys())

    def go(**changed):
        settings = Settings({"ran": ran} | changed)
        return run_loops({"one": Loop(study, count_body, settings)}, tmp_path, Silent(), workers=1)

    assert go(rate=1)["one"]["x"] == {"accuracy": 0.5}
    go(rate=1)
    assert len(ran) == 1
    go(rate=2)
    assert len(ran) == 2


def test_dopamines_studies_keep_the_published_numbers(ask):
    sections = {"data": ask().pictures(32, 100), "hospitals": {"count": 10}, "model": {"name": "linear"}}
    studies = {
        key: next(iter(row.studies.values()))
        for key, row in dopamine._studies(ask(), sections, 3001, 5800, 100, 0.002).items()
    }
    assert set(studies) == set(dopamine.FIGURE_1)
    ours = studies["Dopamine"]
    assert isinstance(ours.privacy, DPSGD)
    assert (ours.privacy.noise_multiplier, ours.privacy.sampling_prob, ours.rounds) == (1.15, 0.03425, 3001)
    assert ours.privacy.colluders == 1
    federated, central = studies["FPDP"].privacy, studies["CDP"].privacy
    assert isinstance(federated, DPSGD)
    assert federated.trust == "nobody"
    assert isinstance(central, DPSGD)
    assert central.clipping_norm == 2.0
    assert all(studies[key].privacy.plan == "none" for key in ("C", "F"))


def test_a_reason_is_said_once_and_rows_name_it_by_number():
    table = small_table()
    void = next(row for row in table.rows if not row.holds)
    again = replace(table, rows=(*table.rows, void))
    assert again.reasons == table.reasons == ("It is <b>void</b>.",)
    assert again.said(void).endswith("[1]")
    assert next(again.said(row) for row in table.rows if row.holds).startswith("epsilon = 2.00")
    assert len(again.sentences) == len(table.sentences)

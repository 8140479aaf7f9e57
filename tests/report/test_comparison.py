"""The comparison: means and ranges, the best by validation alone, and a page that asks nobody for anything."""

import json
import re
from xml.etree import ElementTree

import pytest
from tests.errors import raises_code
from tests.report.conftest import LEDGER, ONE_MODEL, ROUNDS

from wardround.accounting.events import GaussianEvent, SelfComposedEvent, to_json
from wardround.errors import RecordError
from wardround.report.comparison import ADD_UP, DEALT_ANEW, NOT_CHARGED, Charge, lines_of
from wardround.report.guarantee import Guarantee
from wardround.report.side_by_side import Entry, overview_of
from wardround.report.write import write_comparison

STUDY = """\
[study]
name = "lungs"
[data]
path = "/srv/anna/radiographs"
test_fraction = 0.2
[hospitals]
split_seed = {seed}
"""


@pytest.fixture
def entry(make_record):
    def make(
        epsilon, repeat=0, *, test=0.8, validation=None, seed=0, hospitals=2, source="", bend=None, name=None
    ):
        def bent(certificate, results):
            promise = f"epsilon = {epsilon:g} at delta = 1e-05 for one patient"
            certificate["statement"]["epsilon"] = epsilon
            certificate |= {"short": promise, "sentence": promise}
            certificate["event"] = to_json(SelfComposedEvent(GaussianEvent(1.0), 10))
            results["metrics"] = ONE_MODEL | {"auroc": test}
            results["references"] = {}
            results["shortcut_auroc"] = 0.61
            results["hospitals"] = [results["hospitals"][0] | {"name": f"h{n}"} for n in range(hospitals)]
            if validation is not None:
                metrics = {"metrics": ONE_MODEL | {"auroc": validation}}
                results["validation"] = {"patients": 20, "images": 40} | metrics
            if bend is not None:
                bend(certificate, results)

        values = {"privacy.epsilon": epsilon, "hospitals.count": hospitals}
        configuration = name or f"lungs_{epsilon}_{hospitals}"
        own = LEDGER | {"held_out": f"by {seed}"}
        record = make_record(bent, study=STUDY.format(seed=seed), rounds=ROUNDS, own=own)
        return Entry(f"{configuration}_r{repeat}", configuration, source, values, record)

    return make


def page_of(overview, folder):
    write_comparison(overview, folder)
    return (folder / "comparison.html").read_text()


def test_a_row_is_the_mean_and_the_range_over_its_runs(entry):
    overview = overview_of("lungs", [entry(1.0, r, test=v) for r, v in enumerate((0.7, 0.8, 0.9))])
    [row] = overview.rows
    score = row.scores["auroc"]
    assert score.mean == pytest.approx(0.8)
    assert (score.low, score.high) == (0.7, 0.9)
    assert score.sd == pytest.approx(0.1)
    assert row.shortcut is not None
    assert row.shortcut.values == (0.61,) * 3
    assert row.majority is not None
    assert row.majority.values == (0.6,) * 3
    assert [(round, score.values) for round, score in row.curve] == [(2, (0.8,) * 3), (4, (0.88,) * 3)]
    assert len(row.runs) == 3


def test_the_loosest_of_the_repeats_is_what_a_configuration_promises(entry):
    overview = overview_of("lungs", [entry(e, r, name="same") for r, e in enumerate((1.0, 1.5, 1.2))])
    assert overview.rows[0].guarantee.epsilon == 1.5
    assert overview.rows[0].promise == "epsilon = 1.5 at delta = 1e-05 for one patient"


def test_the_best_is_named_by_validation_and_not_by_test(entry):
    overview = overview_of("lungs", [entry(1.0, test=0.95, validation=0.7), entry(2.0, test=0.6, validation=0.9)])
    assert overview.best == "lungs_2.0_2"
    assert "not used" in overview.choice
    assert "chance" not in overview.choice


def test_a_best_that_another_reaches_in_a_run_may_be_chance(entry):
    entries = [entry(1.0, r, validation=v) for r, v in enumerate((0.70, 0.90))]
    entries += [entry(2.0, r, validation=v) for r, v in enumerate((0.78, 0.79))]
    overview = overview_of("lungs", entries)
    assert overview.best == "lungs_1.0_2"
    assert "may be chance" in overview.choice


@pytest.mark.parametrize("second", [None, 0.9])
def test_nothing_is_called_best_unless_every_run_has_validation_patients(entry, second):
    overview = overview_of("lungs", [entry(1.0, test=0.99), entry(2.0, validation=second)])
    assert overview.best is None
    assert "validation_fraction" in overview.choice


def test_runs_on_different_data_have_no_best(entry):
    first, second = entry(1.0, validation=0.7), entry(2.0, validation=0.9)
    second.record.own.update(dataset="another", held_out="others")
    overview = overview_of("lungs", [first, second])
    assert overview.best is None
    assert "different held-out patients" in overview.choice
    assert not overview.dealt_anew


def test_one_run_shows_its_interval_and_several_their_range(entry):
    [alone] = overview_of("lungs", [entry(1.0)]).rows
    assert alone.scores["auroc"].interval == (0.83, 0.92)
    assert alone.rounds == 4
    [twice] = overview_of("lungs", [entry(1.0, r, test=v) for r, v in enumerate((0.7, 0.9))]).rows
    assert twice.scores["auroc"].interval is None


def _untold(own):
    del own["dataset"], own["held_out"]


@pytest.mark.parametrize(
    ("seed", "change", "differs"),
    [
        (0, None, False),
        (1, None, True),
        (1, lambda own: own.update(held_out="by 0"), False),
        (0, lambda own: own.update(held_out="others"), True),
        (0, _untold, True),
    ],
)
def test_different_held_out_patients_are_not_comparable(entry, tmp_path, seed, change, differs):
    """Nothing is called best across them."""
    first = entry(1.0, validation=0.7)
    second = entry(2.0, validation=0.8, seed=seed)
    if change is not None:
        change(second.record.own)
    overview = overview_of("lungs", [first, second])
    assert bool(overview.not_comparable) is differs
    assert (overview.best is None) is differs
    assert ("Different held-out patients" in page_of(overview, tmp_path)) is differs
    assert any("Not comparable" in line for line in lines_of(overview)) is differs
    assert ("ledger.json" in overview.not_comparable) is (change is _untold)


def test_settings_that_differ_are_shown_unless_the_labels_have_them(entry, tmp_path):
    first, second = entry(1.0), entry(2.0, seed=3)
    overview = overview_of("lungs", [first, second])
    assert overview.settings == {"hospitals.split_seed": ("0", "3")}
    page = page_of(overview, tmp_path)
    assert "hospitals.split_seed" in page
    assert "/srv/anna" not in page
    labelled = [Entry(e.run, e.configuration, "", {"hospitals.split_seed": n}, e.record) for n, e in
                enumerate((first, second))]  # fmt: skip
    assert overview_of("lungs", labelled).settings == {}


def test_the_folder_of_an_own_encoder_is_not_shown_and_its_hash_is(entry, tmp_path):
    entries = [entry(1.0), entry(2.0)]
    for name, one in zip("ab", entries, strict=True):
        encoder = f'[model.own_encoder]\nfile = "/home/anna/{name}/enc.onnx"\nsha256 = "{name * 64}"\n'
        object.__setattr__(one.record, "study", one.record.study + encoder)
    overview = overview_of("lungs", entries)
    assert list(overview.settings) == ["model.own_encoder.sha256"]
    assert "/home/anna" not in page_of(overview, tmp_path)
    assert "/home/anna" not in (tmp_path / "comparison.json").read_text()


def test_a_run_without_test_figures_is_not_compared(entry):
    with raises_code(RecordError, "record-not-measured"):
        overview_of("lungs", [entry(1.0, bend=lambda certificate, results: results.update(metrics=None))])


def test_without_privacy_may_be_best_and_the_best_private_one_is_named_beside_it(entry, bends):
    def open_(certificate, results):
        bends["not private"](certificate, results)

    overview = overview_of(
        "lungs", [entry(1.0, validation=0.7), entry(2.0, validation=0.8), entry(3.0, validation=0.9, bend=open_)]
    )
    assert overview.best == "lungs_3.0_2"
    assert "Of those with privacy, privacy.epsilon = 2.0" in overview.choice


@pytest.mark.parametrize("seeds", [(0, 0), (0, 1)])
def test_patients_dealt_anew_are_said_to_be_tested_on_and_trained_on(entry, seeds, tmp_path):
    overview = overview_of("lungs", [entry(1.0, r, seed=s) for r, s in enumerate(seeds)])
    assert overview.dealt_anew is (seeds[0] != seeds[1])
    assert (DEALT_ANEW in json.dumps(overview.to_json())) is overview.dealt_anew
    assert (DEALT_ANEW in page_of(overview, tmp_path)) is overview.dealt_anew
    assert (DEALT_ANEW in lines_of(overview)) is overview.dealt_anew


@pytest.mark.parametrize("both", [False, True])
def test_a_record_from_before_held_out_patients_were_told_is_not_said_to_be_dealt_anew(entry, both):
    entries = [entry(1.0, r) for r in range(2)]
    for one in entries[not both :]:
        del one.record.own["held_out"]
    assert not overview_of("lungs", entries).dealt_anew


def test_runs_that_do_not_tell_their_patients_are_not_said_to_be_dealt_anew(entry):
    entries = [entry(1.0, r, seed=r) for r in range(2)]
    for one in entries:
        _untold(one.record.own)
    assert not overview_of("lungs", entries).dealt_anew


@pytest.mark.parametrize("places", [("one", "one"), ("one", "two")])
def test_several_costs_are_said_to_add_up_on_page_terminal_and_json(entry, tmp_path, places):
    entries = [entry(1.0, r) for r in range(2)]
    for one, place in zip(entries, places, strict=True):
        one.record.own["dataset"] = place
        object.__setattr__(one.record, "study", one.record.study.replace("/srv/anna", f"/srv/{place}"))
    overview = overview_of("lungs", entries)
    several = len(set(places)) > 1
    assert len(overview.together) == 1 + several
    assert (ADD_UP in json.dumps(overview.to_json())) is several
    assert (ADD_UP in page_of(overview, tmp_path)) is several
    assert (ADD_UP in lines_of(overview)) is several


@pytest.fixture
def grid(entry):
    return [
        entry(e, r, test=0.6 + 0.02 * e + 0.01 * r, validation=0.6 + 0.03 * e, hospitals=h, seed=r)
        for e in (1.0, 4.0, 8.0)
        for h in (2, 5)
        for r in range(2)
    ]


def test_the_page_says_what_must_be_said_beside_every_epsilon(grid, tmp_path):
    charge = Charge(20.0, Guarantee(17.123, 1e-5, "patient"))
    overview = overview_of("lungs", grid, charge=charge, missing={"lungs_x": "the budget is spent."})
    page = page_of(overview, tmp_path)
    text = re.sub(r"<[^>]*>", " ", page).replace("&#39;", "'")
    assert NOT_CHARGED in text
    assert "the budget is spent." in text
    assert "Brightness and border numbers alone" in text
    assert "Always the commonest class" in text
    for said in (page, *lines_of(overview), json.dumps(overview.to_json(), ensure_ascii=False)):
        promises = said.replace("privacy.epsilon = ", "")  # a setting, and no promise
        for match in re.finditer(r"(?:epsilon|ε) = \d[\d.]*", promises):
            after = promises[match.end() : match.end() + 40]
            assert re.match(r" at (δ|delta) = 1e-05,? for one patient", after), promises[match.start() :][:80]


def test_the_charts_are_well_formed_described_and_ask_for_nothing(grid, tmp_path):
    page = page_of(overview_of("lungs", grid), tmp_path)
    charts = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(charts) == 8, "every run, epsilon, hospitals and rounds, each for two widths"
    labels = [ElementTree.fromstring(chart).get("aria-label") for chart in charts]
    for part in ("every run", "against ε at δ = 1e-05, for one patient", "against hospitals", "against round"):
        assert sum(part in str(label) for label in labels) == 2
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?![^\"':]*/report\.html)", page)
    assert not re.search(r"url\(|@import|<script|https?://(?!www\.w3\.org)", page)
    assert not re.findall(r"#(?:0072b1|e69f01|009e74|cc79a8|56b4ea|7a6a01|101011)", page), "colours are the page's"


def test_more_series_than_colours_are_still_told_apart(entry, tmp_path):
    overview = overview_of("lungs", [entry(float(e), hospitals=2 + e) for e in range(1, 9)])
    page = page_of(overview, tmp_path)
    assert all(f"hospitals.count = {2 + e}" in page for e in range(1, 9))
    assert "stroke-dasharray" in page


def test_untrusted_text_stays_text(entry, tmp_path):
    nasty = "<script>alert(1)</script>"
    overview = overview_of(nasty, [entry(1.0, source=nasty)], missing={nasty: nasty})
    page = page_of(overview, tmp_path)
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_one_run_alone_and_no_looks_still_make_a_page(entry, tmp_path):
    only = entry(1.0)
    record = type(only.record)(**(vars(only.record) | {"rounds": ()}))
    overview = overview_of("lungs", [Entry(only.run, only.configuration, "", {}, record)])
    page = page_of(overview, tmp_path)
    assert "During training" not in page
    assert "nothing to choose" in page


def test_the_json_is_the_overview_and_holds_no_nan(grid, tmp_path):
    overview = overview_of("lungs", grid)
    write_comparison(overview, tmp_path)
    read = json.loads((tmp_path / "comparison.json").read_text(), parse_constant=lambda text: pytest.fail(text))
    assert read == json.loads(json.dumps(overview.to_json()))
    assert len(read["configurations"]) == 6
    assert read["together"][0]["runs"] == 12

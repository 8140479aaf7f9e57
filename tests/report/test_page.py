import re
from html.parser import HTMLParser

import pytest
from scipy.stats import binomtest
from tests.cases import family
from tests.report.conftest import SHOWN

from wardround.errors import MachineError
from wardround.report.contents import ReliabilityBin
from wardround.report.numbers import summary_of_run
from wardround.report.write import write_report

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """The elements of a page, each with its attributes and all text in it; refuses a page that is not closed."""

    def __init__(self, html):
        super().__init__()
        self.elements: list[dict[str, str]] = []
        self._open: list[dict[str, str]] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, **{key: value or "" for key, value in attrs}, "text": ""}
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.elements.append({"tag": tag, **{key: value or "" for key, value in attrs}, "text": ""})

    def handle_endtag(self, tag):
        assert self._open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self._open:
            element["text"] += data

    def all(self, tag):
        return [e for e in self.elements if e["tag"] == tag]

    @property
    def text(self):
        return " ".join(self.all("body")[0]["text"].split())


@pytest.fixture(scope="module")
def unbent_pages():
    """The page of the record that nothing bends, once it was asked for; not to be changed."""
    return []


@pytest.fixture
def page_of(make_record, unbent_pages):
    def page(*arguments, **keywords):
        if arguments or keywords:
            return Page(write_report(make_record(*arguments, **keywords)).read_text())
        if not unbent_pages:
            unbent_pages.append(Page(write_report(make_record()).read_text()))
        return unbent_pages[0]

    return page


def says_its_condition(text):
    text = text.replace("\xa0", " ")
    return bool(re.search(r"(δ|delta) = 1e-05", text)) and "patient" in text


def test_a_fixed_division_is_part_of_the_promise_on_the_page(page_of):
    def fixed(certificate, results):
        certificate["statement"]["division"] = "fixed"

    words = "with all their images, for this fixed division of the patients"
    assert words in page_of(fixed).text
    assert "fixed division" not in page_of().text


def test_no_epsilon_stands_without_its_delta_and_unit(page_of):
    page = page_of()
    numbers = re.compile(r"(?<![\d.])(3\.46|5\.13|2\.23)(?!\d)")
    # Whatever holds one of this run's epsilons and is the smallest element that does, with what it is labelled by.
    seen = [
        e for e in page.elements if numbers.search(e["text"]) and e["tag"] in ("td", "p", "span", "blockquote")
    ]
    assert seen
    for element in seen:
        said = f"{element['text']} {element.get('data-label', '')}"
        assert says_its_condition(said) or element.get("class") == "basis", said
    for cell in page.all("td"):
        if cell.get("class") == "eps":
            assert says_its_condition(cell["data-label"])
    headers = [e["text"] for e in page.all("th") if "ε" in e["text"]]
    assert len(headers) == 3
    assert all(map(says_its_condition, headers))
    charts = [e for e in page.all("svg") if numbers.search(e["text"])]
    assert charts
    assert all(says_its_condition(e["text"]) and says_its_condition(e["aria-label"]) for e in charts)


def test_a_private_run_carries_no_stamp(page_of):
    assert not page_of().all("aside")


def test_a_seeded_run_is_stamped_and_calls_nothing_protected(page_of, bends):
    page = page_of(bends["seeded"])
    assert "Reproducible, not private" in page.all("aside")[0]["text"]
    assert "this run protects nobody" in page.text
    assert not [e for e in page.elements if e.get("class") == "yes"]


def test_a_run_without_privacy_says_so_and_says_infinity(page_of, bends):
    page = page_of(bends["not private"])
    assert "No privacy guarantee" in page.all("aside")[0]["text"]
    assert "ε = ∞ at any δ, for one patient" in page.text
    assert "infinity" in page.text
    assert "δ = 0.5" not in page.text  # the delta of a record that promises nothing
    assert "at most 9" not in page.text


@pytest.mark.usefixtures("without_charts")
def test_a_stopped_run_says_after_which_round_and_why(page_of):
    def bend(certificate, results):
        certificate |= {"rounds": 2, "stopped": "Every hospital must have budget left, but 2 of 2 refused."}

    page = page_of(bend)
    assert "Stopped after 2 of 4 rounds" in page.all("aside")[0]["text"]
    assert "2 of 2 refused" in page.text
    assert "for what was released until the run stopped" in page.text


def test_a_leaking_split_is_a_warning_and_nobody_claims_never_trained_on(page_of):
    def bend(certificate, results):
        results["test"] |= {"leaking": True, "note": "3 patients are in both."}

    page = page_of(bend)
    assert "The test split leaks" in page.all("aside")[0]["text"]
    assert "3 patients are in both." in page.text
    assert "never trained on" not in page.text


PLACES = ["name", "hospital", "adversary", "sentence", "note", "class", "released", "study"]


@pytest.mark.parametrize("places", family([PLACES, *([place] for place in PLACES)]), ids=["everywhere", *PLACES])
def test_untrusted_text_stays_text(page_of, places):
    evil = {place: f"<script>alert('{place}')</script>" for place in places}

    def bend(certificate, results):
        if "name" in evil:
            certificate["study"] = evil["name"]
        if "hospital" in evil:
            certificate["ledgers"][evil["hospital"]] = certificate["ledgers"].pop("north")
            results["hospitals"][0]["name"] = evil["hospital"]
        if "adversary" in evil:
            certificate["insiders"][0]["adversary"] = evil["adversary"]
        if "sentence" in evil:
            certificate["sentence"] = evil["sentence"]
        if "note" in evil:
            results["test"]["note"] = evil["note"]
        if "class" in evil:
            results["classes"][1] = evil["class"]
        if "released" in evil:
            results["released"][0]["what"] = evil["released"]

    study = f'[study]\ndescription = "{evil["study"]}"\n' if "study" in evil else "[study]\n"
    page = page_of(bend, study=study)
    for text in evil.values():
        assert text in page.text
    assert not page.all("script")


def test_a_dollar_in_a_name_is_not_mathematics(page_of):
    def bend(certificate, results):
        certificate["insiders"][0]["adversary"] = r"$\frac$ & co"

    assert r"$\frac$ & co" in "".join(e["text"] for e in page_of(bend).all("svg"))


def test_the_page_asks_nobody_for_anything(make_record):
    html = write_report(make_record()).read_text()
    assert not re.search(r"https?:|//|\bsrc=|\bhref=.(?!#)|url\(|@import|<script|<link", html)
    assert "default-src 'none'" in html


def test_charts_are_described_and_their_fonts_and_colours_are_the_page_s(page_of):
    charts = page_of().all("svg")
    assert len(charts) == 6
    assert all(e["role"] == "img" and len(e["aria-label"]) > 40 for e in charts)
    styles = [e["style"] for e in page_of().elements if "style" in e]
    assert styles
    assert not any("DejaVu" in style or re.search(r"#[0-9a-f]{6}", style) for style in styles)


def test_no_id_is_used_twice(page_of):
    ids = [e["id"] for e in page_of().elements if "id" in e]
    assert len(ids) == len(set(ids))


@pytest.mark.thorough
def test_the_same_record_gives_the_same_page(make_record):
    record = make_record()
    assert write_report(record).read_bytes() == write_report(record).read_bytes()


def test_every_comparison_stands_beside_the_commonest_class(page_of):
    page = page_of()
    assert "Always the commonest class" in page.text
    assert "released without protection" in page.text
    assert "mean and range of 2 models" in page.text


CALIBRATION = {
    "released": True, "error": 0.0312, "brier": 0.11,
    "bins": [
        {"count": 0, "mean_confidence": None, "accuracy": None},
        {"count": 20, "mean_confidence": 0.7, "accuracy": 0.65},
        {"count": 80, "mean_confidence": 0.95, "accuracy": 0.9},
    ],
}  # fmt: skip
POINT = {
    "class": "lesion", "asked_sensitivity": 0.9, "score": -0.5, "accuracy": 0.8, "reason": "",
    "sensitivity": 0.88, "sensitivity_interval": {"low": 0.81, "high": 0.93}, "specificity": 0.75,
    "specificity_interval": {"low": 0.7, "high": 0.8},
}  # fmt: skip


@pytest.mark.usefixtures("without_charts")
def test_a_radiologist_finds_thresholds_calibration_and_the_wrong_calls(page_of):
    def bend(certificate, results):
        results |= {"operating_points": [POINT], "calibration": CALIBRATION}

    text = page_of(bend).text
    assert "it found 88 of 100 such test images, and called 25 of 100 others by mistake" in text
    assert "“lesion”, set to find 90.0 % of them" in text
    assert "0.880 0.810 to 0.930" in text
    # Of 100, 10 have it: 8.8 / (8.8 + 22.5), 67.5 / (67.5 + 1.2), and so at the ends of both intervals.
    assert "PPV 0.281 0.231 to 0.341 NPV 0.983 0.971 to 0.990" in text
    assert "On average they are 3.1 % away from the share that was right" in text
    assert "own.html" in text


@pytest.mark.parametrize(("right", "pictures"), [(0, 3), (2, 7), (19, 20), (50, 50)])
def test_the_interval_of_a_bin_is_wilsons(right, pictures):
    ours = ReliabilityBin(pictures, 0.5, right / pictures).interval
    known = binomtest(right, pictures).proportion_ci(method="wilson")
    assert ours == pytest.approx((known.low, known.high), abs=1e-6)


@pytest.mark.usefixtures("without_charts")
def test_a_page_says_what_is_not_claimed_and_that_a_further_run_is_charged(page_of):
    text = page_of(lambda certificate, results: None).text
    assert "That no patient can be found in the model." in text
    assert "A further run is charged again" in text

    def none(certificate, results):
        certificate["seeded"] = certificate["statement"]["seeded"] = True

    assert "bit for bit" in page_of(none).text


def test_printed_pages_keep_tables_whole_and_closed_parts_open(page_of):
    """The layout of a phone is for screens: a sheet of A4 is about as wide as one held across."""
    [style] = page_of().all("style")
    assert "@media (max-width" not in style["text"]
    printed = style["text"].partition("@media print")[2]
    assert "details::details-content" in printed
    assert ".scroll { overflow: visible; }" in printed
    assert "table:not(:has(tbody tr:nth-child(9))) { break-inside: avoid; }" in printed


@pytest.mark.usefixtures("without_charts")
def test_outstanding_references_are_named(page_of):
    def bend(certificate, results):
        results |= {"references": {}, "compare": ["pooled", "alone"]}

    assert "Not there yet: pooled, alone." in page_of(bend).text
    assert "Not there yet" not in page_of(lambda certificate, results: None).text


@pytest.mark.thorough
def test_without_references_the_run_still_stands_beside_the_commonest_class(page_of):
    def bend(certificate, results):
        results["references"] = {}

    page = page_of(bend)
    assert "No reference runs were asked for" in page.text
    assert "Always the commonest class" in page.text


def test_an_auroc_that_the_test_set_cannot_give_is_a_dash(page_of):
    def bend(certificate, results):
        results["metrics"] |= {"auroc": None, "auroc_interval": None, "sensitivity": None}
        results["references"] = {}

    rounds = [{"round": 4, "epsilon": 3.4567, "metrics": {"models": 1, "shown": SHOWN[:1], "auroc": None}}]
    page = page_of(bend, rounds=rounds)
    assert "the test patients show one class only" in page.text
    assert "None" not in page.text


def test_a_run_that_stopped_before_its_first_look_has_no_chart_of_rounds(page_of):
    page = page_of(rounds=())
    assert "No round was evaluated." in page.text


def test_hospitals_alone_show_their_range(page_of):
    def bend(certificate, results):
        results |= {"metrics": results["references"]["alone"]["metrics"], "references": {}}
        certificate["statement"]["trust"] = "nobody"
        certificate["insiders"] = certificate["insiders"][:1]

    looks = {"models": 2, "shown": SHOWN[:1], "auroc": 0.7, "auroc_range": [0.6, 0.8]}
    page = page_of(
        bend,
        study='[federation]\nstrategy = "alone"\n',
        rounds=[{"round": i, "epsilon": 1.0 * i, "metrics": looks} for i in (1, 2)],
    )
    assert "range over the 2 models 0.731 to 0.752" in page.text
    assert "Each hospital alone, with privacy this run" in page.text
    assert "Band: from the worst to the best." in page.text


def test_more_than_two_classes_are_named(page_of):
    def bend(certificate, results):
        results |= {"classes": ["clear", "bacteria", "virus"], "operating_points": [POINT], "references": {}}
        results["metrics"] |= {"sensitivity": None, "specificity": None}

    page = page_of(bend)
    assert not [e for e in page.all("td") if e.get("data-label") == "Sensitivity" and e["text"] == "–"]
    assert "mean over the classes clear, bacteria, virus" in page.text
    assert "The others are taken to be mixed as in the test images." in page.text


def test_what_was_noticed_in_the_data_is_counted(page_of):
    assert "3 patients whose pictures carry two labels" in page_of().text


@pytest.mark.usefixtures("without_charts")
def test_a_failed_write_leaves_the_earlier_page(make_record, monkeypatch):
    record = make_record()
    before = write_report(record).read_bytes()
    monkeypatch.setattr("os.fsync", _no_space)
    with pytest.raises(MachineError):
        write_report(record)
    assert (record.path / "report.html").read_bytes() == before


def _no_space(_):
    raise OSError(28, "No space left on device")


@pytest.mark.usefixtures("without_charts")
def test_of_thousands_of_hospitals_a_hundred_are_shown_and_the_rest_said(page_of):
    def many(certificate, results):
        row, ledger = results["hospitals"][0], certificate["ledgers"]["north"]
        results["hospitals"] = [row | {"name": f"h{n:04d}", "patients": 1 + n % 7} for n in range(2_000)]
        certificate["ledgers"] = {f"h{n:04d}": ledger for n in range(2_000)}

    page = page_of(many)
    shown = [e["text"] for e in page.all("th") if re.fullmatch(r"h\d{4}", e["text"])]
    assert shown == [f"h{n:04d}" for n in range(100)]
    assert "The first 100 of 2,000 hospitals, which hold 1 to 7 patients each" in page.text
    assert "The first 100 of" not in page_of().text


@pytest.mark.usefixtures("without_charts")
def test_a_masked_run_shows_that_all_its_noise_was_there(page_of):
    def masked(certificate, results):
        certificate["witness"] = {"coordinates": 61440, "ratio": 1.0031, "p_value": 0.412}

    text = page_of(masked).text.replace("\xa0", " ")
    assert (
        "Noise witness61,440 coordinates carried noise alone; their variance was 1.003 times what all shares give "
        "(p = 0.41)."
    ) in text
    assert "witness" not in page_of().text.lower()


@pytest.mark.usefixtures("without_charts")
def test_a_masked_run_shows_what_was_sent_and_which_rounds_were_begun_again(page_of, make_record):
    sentence = "Each hospital sends 17.8 kB a round under masks."

    def masked(certificate, results):
        results["upload"] = {"sentence": sentence, "bytes": 17804}

    assert f"What is sent{sentence}" in page_of(masked).text
    assert summary_of_run(make_record(masked))["upload"] == {"sentence": sentence, "bytes": 17804}
    assert "What is sent" not in page_of(lambda _, results: results.update(upload=None)).text
    assert summary_of_run(make_record())["upload"] is None
    once = ({"round": 1, "attempts": 2, "missing": ["north"]},)
    twice = (*once, {"round": 2, "attempts": 3, "missing": ["north", "south"]})
    assert "In 1 round a hospital was missing: 1 attempt ended with nothing opened" in page_of(rounds=once).text
    assert "In 2 rounds a hospital was missing: 3 attempts ended with nothing opened" in page_of(rounds=twice).text
    assert "a hospital was missing" not in page_of().text

"""The report as one self-contained page: no script, no request, nothing that a hospital would have to allow."""

from collections.abc import Mapping
from importlib import resources

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from wardround.noisers import Trust
from wardround.report.charts import comparison_chart, insiders_chart, rounds_chart
from wardround.report.contents import Report, Score

_TRUST = {
    Trust.COORDINATOR: "The coordinator. It sees every hospital's sum before it adds the noise.",
    Trust.SECURE_AGGREGATION: "Enough of the hospitals. Each adds a share of the noise, and only the sum of all "
    "shares and updates is revealed.",
    Trust.NOBODY: "Nobody but the patient's own hospital, which adds all of the noise before anything leaves.",
}


def render(report: Report) -> str:
    """The page. Everything that came with the study is text in it, never markup."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"decimals": decimals, "percent": percent, "spread": spread, "duration": duration}
    environment.filters["capitalize_first"] = capitalize_first
    charts = {
        "rounds_chart": rounds_chart(report),
        "comparison_chart": comparison_chart(report),
        "insiders_chart": insiders_chart(report),
    }
    # The style sheet and the charts are ours: the charts' own texts were escaped when they were written as XML.
    markup: Mapping[str, object] = {
        name: chart and Markup(f"{chart.wide}{chart.narrow}") for name, chart in charts.items()
    }
    style = Markup(page_file("report.css"))
    page = environment.from_string(page_file("report.html.j2"))
    return page.render(r=report, s=report.statement, g=report.guarantee, trust=_TRUST, style=style, **markup)


def decimals(value: float | None) -> str:
    """Three decimals, or a dash for what the test set cannot tell.

    >>> decimals(0.93264), decimals(None)
    ('0.933', '–')
    """
    return "–" if value is None else f"{value:.3f}"


def percent(value: float | None) -> str:
    """A share as a percentage.

    >>> percent(0.56)
    '56.0 %'
    """
    return "–" if value is None else f"{100 * value:.1f} %"


def spread(score: Score) -> str:
    """The interval or range of a score; empty when it has none.

    >>> spread(Score(0.9, 0.85, 0.94))
    '0.850 to 0.940'
    """
    return "" if score.low is None or score.high is None else f"{score.low:.3f} to {score.high:.3f}"


def capitalize_first(text: str) -> str:
    """A text whose first letter is a capital; the rest stays as it is, unlike with `str.capitalize`.

    >>> capitalize_first("one noised count, by PLD")
    'One noised count, by PLD'
    """
    return text[:1].upper() + text[1:]


def duration(seconds: float) -> str:
    """A time a person can picture.

    >>> duration(16.4), duration(400), duration(9000)
    ('16 seconds', '7 minutes', '2.5 hours')
    """
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def page_file(name: str) -> str:
    """A template or style sheet that comes with this package."""
    return (resources.files("wardround.report") / name).read_text(encoding="utf-8")

"""The report as one self-contained page: no script, no request, nothing that a hospital would have to allow."""

from markupsafe import Markup

from wardround.boundary.pages import prepared, rendered
from wardround.noisers import Trust
from wardround.report.canvas import Chart
from wardround.report.charts import calibration_chart, comparison_chart, insiders_chart, rounds_chart
from wardround.report.comparison import ADD_UP, DEALT_ANEW, NOT_CHARGED, Overview, Spread
from wardround.report.comparison_charts import curves_chart, epsilon_chart, hospitals_chart, spread_chart
from wardround.report.contents import Report, Score

_TRUST = {
    Trust.COORDINATOR: "The coordinator. It sees every hospital's sum before it adds the noise.",
    Trust.SECURE_AGGREGATION: "Enough of the hospitals. Each adds a share of the noise, and only the sum of all "
    "shares and updates is revealed.",
    Trust.NOBODY: "Nobody but the patient's own hospital, which adds all of the noise before anything leaves.",
}

_RUN = "report.html.j2"

_SHARES = (0.5, 0.1, 0.01)
"""Shares of images with the finding, for which predictive values are shown."""


def render(report: Report) -> str:
    """Returns the page. Everything that came with the study is text in it, never markup."""
    return filled(
        "wardround.report", _RUN, r=report, s=report.statement, g=report.guarantee, trust=_TRUST,
        rounds_chart=markup_of(rounds_chart(report)), comparison_chart=markup_of(comparison_chart(report)),
        insiders_chart=markup_of(insiders_chart(report)), calibration_chart=markup_of(calibration_chart(report)),
        shares=_SHARES,
    )  # fmt: skip


def prepare() -> None:
    """Compiles the template of `render`, a third of the time that a process takes for its first page."""
    prepared("wardround.report", _RUN, decimals, percent, spread)


def filled(room: str, template: str, /, **values: object) -> str:
    """Returns a page of a package; its template has this module's filters."""
    return rendered(room, template, decimals, percent, spread, **values)


def markup_of(chart: Chart | None) -> Markup | None:
    """Returns a chart as markup: its texts were escaped when they were written as XML."""
    return None if chart is None else Markup(f"{chart.wide}{chart.narrow}")


def decimals(value: float | None) -> str:
    """Returns three decimals, or a dash for what the test set cannot tell.

    >>> decimals(0.93264), decimals(None)
    ('0.933', '–')
    """
    return "–" if value is None else f"{value:.3f}"


def percent(value: float | None) -> str:
    """Returns a share as a percentage.

    >>> percent(0.56)
    '56.0 %'
    """
    return "–" if value is None else f"{100 * value:.1f} %"


def spread(score: Score) -> str:
    """Returns the interval or range of a score; empty when it has none.

    >>> spread(Score(0.9, 0.85, 0.94))
    '0.850 to 0.940'
    """
    return "" if score.low is None or score.high is None else f"{score.low:.3f} to {score.high:.3f}"


_GUESSED = {"accuracy": {"auroc": Spread((0.5,)), "quadratic_kappa": Spread((0.0,))}}
"""The scores of always the commonest class beside its accuracy."""


def render_comparison(overview: Overview) -> str:
    """Returns the page. Everything that came with the studies is text in it, never markup."""
    drawers = {
        "spread": spread_chart,
        "epsilon": epsilon_chart,
        "hospitals": hospitals_chart,
        "curves": curves_chart,
    }
    conditions = {row.guarantee.condition for row in overview.rows if row.guarantee.holds}
    return filled(
        "wardround.report",
        "comparison.html.j2",
        o=overview,
        runs=sum(len(row.runs) for row in overview.rows),
        repeats=max(len(row.runs) for row in overview.rows),
        validated=any(row.validation is not None for row in overview.rows),
        condition=conditions.pop() if len(conditions) == 1 else "",
        baselines=[(one.name, {**_GUESSED.get(one.key, {}), one.key: one.spread}) for one in overview.baselines],
        charts={name: markup_of(drawn(overview)) for name, drawn in drawers.items()},
        not_charged=NOT_CHARGED,
        add_up=ADD_UP,
        dealt_anew=DEALT_ANEW,
    )

"""The comparison as one self-contained page, in the manner of a run's report."""

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from wardround.report.canvas import Chart
from wardround.report.comparison import DEALT_ANEW, NOT_CHARGED, Overview, Spread
from wardround.report.comparison_charts import curves_chart, epsilon_chart, hospitals_chart, spread_chart
from wardround.report.page import decimals, page_file

_CHANCE, _NOTHING = Spread((0.5,)), Spread((0.0,))


def render_comparison(overview: Overview) -> str:
    """The page. Everything that came with the studies is text in it, never markup."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["decimals"] = decimals
    # The style sheet and the charts are ours: the charts' own texts were escaped when they were written as XML.
    charts = {
        "spread": _markup(spread_chart(overview)),
        "epsilon": _markup(epsilon_chart(overview)),
        "hospitals": _markup(hospitals_chart(overview)),
        "curves": _markup(curves_chart(overview)),
    }
    return environment.from_string(page_file("comparison.html.j2")).render(
        o=overview,
        runs=sum(len(row.runs) for row in overview.rows),
        repeats=max(len(row.runs) for row in overview.rows),
        validated=any(row.validation is not None for row in overview.rows),
        condition=_condition(overview),
        baselines=baselines_of(overview),
        charts=charts,
        not_charged=NOT_CHARGED,
        dealt_anew=DEALT_ANEW,
        style=Markup(page_file("report.css")),
    )


def _condition(overview: Overview) -> str:
    """What stands beside every epsilon; empty where they differ in that."""
    conditions = {row.guarantee.condition for row in overview.rows if row.guarantee.holds}
    return conditions.pop() if len(conditions) == 1 else ""


def baselines_of(overview: Overview) -> list[tuple[str, dict[str, Spread]]]:
    """What is reached without learning from the pictures: title, and figures by key of their measure."""
    found = []
    if location := _all([row.location for row in overview.rows]):
        found.append(("Where the regions usually lie, without any picture", {"dice": location}))
    if shortcut := _all([row.shortcut for row in overview.rows]):
        found.append(("Six brightness and border numbers alone", {"auroc": shortcut}))
    if majority := _all([row.majority for row in overview.rows]):
        found.append(
            ("Always the commonest class", {"auroc": _CHANCE, "quadratic_kappa": _NOTHING, "accuracy": majority})
        )
    return found


def _all(spreads: list[Spread | None]) -> Spread | None:
    """Over all runs of all configurations, each different value once."""
    values = dict.fromkeys(value for spread in spreads if spread is not None for value in spread.values)
    return Spread(tuple(values)) if values else None


def _markup(chart: Chart | None) -> Markup | None:
    return None if chart is None else Markup(f"{chart.wide}{chart.narrow}")

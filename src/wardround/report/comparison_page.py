"""The comparison as one self-contained page, in the manner of a run's report."""

from wardround.report.comparison import DEALT_ANEW, NOT_CHARGED, Overview, Spread
from wardround.report.comparison_charts import curves_chart, epsilon_chart, hospitals_chart, spread_chart
from wardround.report.page import markup_of, rendered

_CHANCE, _NOTHING = Spread((0.5,)), Spread((0.0,))


def render_comparison(overview: Overview) -> str:
    """Returns the page. Everything that came with the studies is text in it, never markup."""
    drawers = {
        "spread": spread_chart,
        "epsilon": epsilon_chart,
        "hospitals": hospitals_chart,
        "curves": curves_chart,
    }
    conditions = {row.guarantee.condition for row in overview.rows if row.guarantee.holds}
    return rendered(
        "comparison.html.j2",
        o=overview,
        runs=sum(len(row.runs) for row in overview.rows),
        repeats=max(len(row.runs) for row in overview.rows),
        validated=any(row.validation is not None for row in overview.rows),
        condition=conditions.pop() if len(conditions) == 1 else "",
        baselines=_baselines(overview),
        charts={name: markup_of(drawn(overview)) for name, drawn in drawers.items()},
        not_charged=NOT_CHARGED,
        dealt_anew=DEALT_ANEW,
    )


def _baselines(overview: Overview) -> list[tuple[str, dict[str, Spread]]]:
    """Returns baselines that learn nothing from the pictures: title, and figures by key of their measure."""
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
    """Returns the spread over all runs of all configurations, each different value once."""
    values = dict.fromkeys(value for spread in spreads if spread is not None for value in spread.values)
    return Spread(tuple(values)) if values else None

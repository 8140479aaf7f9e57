"""The comparison as lines for a terminal."""

from wardround.report.comparison import DEALT_ANEW, NOT_CHARGED, Overview, Row, Spread


def lines_of(overview: Overview) -> list[str]:
    """Returns a table, and under it the caveats that belong to it."""
    title = overview.headline.title
    validated = any(row.validation is not None for row in overview.rows)
    header = ["configuration", "runs", "promise", *[f"{title}, validation"] * validated, f"{title}, test"]
    table = [header, *(_cells(overview, row, validated=validated) for row in overview.rows)]
    widths = [max(len(cells[column]) for cells in table) for column in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip() for cells in table
    ]
    lines += ["", *_baselines(overview), overview.choice, NOT_CHARGED]
    lines += [one.sentence() for one in overview.together]
    lines += [DEALT_ANEW] * overview.dealt_anew
    lines += [] if overview.charge is None else [overview.charge.sentence()]
    return lines + [f"{name} is not here: {why}" for name, why in overview.missing.items()]


def _cells(overview: Overview, row: Row, *, validated: bool) -> list[str]:
    guarantee = row.guarantee
    seeded = " [seeded]" if row.seeded else ""
    promise = (
        f"epsilon = {guarantee.value} at delta = {guarantee.delta:g} for one {guarantee.whom}{seeded}"
        if guarantee.holds
        else f"none: epsilon = infinity for one {guarantee.unit}{seeded}"
    )
    scores = [_spread(row.validation)] if validated else []
    return [row.label, str(len(row.runs)), promise, *scores, _spread(row.scores.get(overview.headline.key))]


def _baselines(overview: Overview) -> list[str]:
    """Returns baselines that learn nothing from the pictures, over all runs."""
    named = (
        ("accuracy of always the commonest class", [row.majority for row in overview.rows]),
        ("AUROC of brightness and border numbers alone", [row.shortcut for row in overview.rows]),
        ("Dice of where the regions usually lie", [row.location for row in overview.rows]),
    )
    lines = []
    for title, spreads in named:
        values = [value for spread in spreads if spread is not None for value in spread.values]
        if values:
            lines.append(f"{title}: {_spread(Spread(tuple(values)))}")
    return lines


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "–"
    return f"{spread.mean:.3f}" + (f" [{spread.low:.3f} .. {spread.high:.3f}]" if spread.high > spread.low else "")

"""Runs from Python: `run` trains a study and returns a `Run`, which shows its headline and plots in a notebook.

import wardround

run = wardround.run("study.toml")
run                                   # promise, figures, plots
run.model().predict("pictures/")      # answers for new pictures
"""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wardround.config import Study, parse_study, read_study
from wardround.records.folder import RunRecord

if TYPE_CHECKING:
    from rich.console import RenderableType

    from wardround.inference.model import Model
    from wardround.report.contents import Report, Score

_STYLE = (
    "--font: system-ui, sans-serif; --ink: #1b2428; --muted: #5b686e; --rule: #dde2e1; --card: #ffffff; "
    "--private: #0b6aa3; --open: #b84e00; --band: #d6e6f1; background: #ffffff; color: #1b2428; padding: 1em"
)
_CELL = "style='text-align:left;padding:0 1em 0 0'"


@dataclass(frozen=True)
class Run:
    """A finished run: its promise, its figures and its model.

    In a notebook it shows the promise, the metrics with their intervals and the report's plots; on a terminal, with
    Rich, the same as a table; `print` gives lines.

    Attributes:
        record: the files of the run, read.
    """

    record: RunRecord

    @classmethod
    def read(cls, path: str | Path) -> "Run":
        """Returns the finished run in a folder, once its signature by this person's own key holds.

        Raises:
            RecordError: there is no finished run, or a file of it was changed after it was signed.
        """
        from wardround.records.signed import verified
        from wardround.simulation.own_key import own_pin

        return cls(verified(Path(path), own_pin()))

    @property
    def path(self) -> Path:
        """The folder of the run."""
        return self.record.path

    @property
    def statement(self) -> str:
        """The guarantee in one line: epsilon, delta, the unit, the accountant."""
        return str(self.record.certificate["short"])

    @property
    def report(self) -> Path | None:
        """The report's page; None where it was not written, because the extra `report` is not installed."""
        page = self.path / "report.html"
        return page if page.exists() else None

    def summary(self) -> dict[str, object]:
        """Returns the figures as `wardround report --json` prints them."""
        from wardround.report.numbers import summary_of_run

        return summary_of_run(self.record)

    def model(self, member: str | None = None) -> "Model":
        """Returns the trained model, ready to predict; see `wardround.load`."""
        from wardround.inference.model import load

        return load(self.path, member)

    def __str__(self) -> str:
        return "\n".join(
            [self.statement, *(f"{title}: {value}" for title, value in self._figures()), str(self.path)]
        )

    def __rich__(self) -> "RenderableType":
        """Returns the promise and the figures as a table."""
        from rich.table import Table
        from rich.text import Text

        from wardround.boundary.text import shown

        table = Table(title=Text(shown(self._report().name)), caption=Text(self.statement), show_header=False)
        for title, value in (*self._figures(), ("run", str(self.path))):
            table.add_row(Text(shown(title)), Text(shown(value)))
        return table

    def _repr_html_(self) -> str:
        """Returns the promise, the figures and the plots, for notebooks."""
        rows = "".join(
            f"<tr><th {_CELL}>{escape(title)}</th><td {_CELL}>{escape(value)}</td></tr>"
            for title, value in self._figures()
        )
        page = f"<p>report: {escape(str(self.report))}</p>" if self.report is not None else ""
        return (
            f"<div style='{_STYLE}'><p><b>{escape(self._report().name)}</b>: {escape(self.statement)}</p>"
            f"<table>{rows}</table>{''.join(self._charts())}{page}</div>"
        )

    def _report(self) -> "Report":
        from wardround.report.numbers import numbers_of

        return numbers_of(self.record)

    def _figures(self) -> list[tuple[str, str]]:
        """Returns the metrics on held-out patients with their intervals, and the references beside them."""
        found = self._report()
        if found.quality is None:
            return []
        rows = [(measure.title, _said(measure.score)) for measure in found.quality.measures]
        if found.quality.majority_accuracy is not None:
            rows.append(("Accuracy of the commonest class", f"{found.quality.majority_accuracy:.3f}"))
        if found.repeats is not None:
            rows.append((f"{found.quality.headline.title}, repeats of the noise", found.repeats.sentence(None)))
        return rows + [
            (f"{row.quality.headline.title}, {row.text}", _said(row.quality.headline.score))
            for row in found.comparisons
            if not row.is_main
        ]

    def _charts(self) -> list[str]:
        try:
            from wardround.report.charts import calibration_chart, comparison_chart, insiders_chart, rounds_chart
        except ImportError:
            return []  # without the extra `report` there are figures and no plots
        found = self._report()
        drawn = (rounds_chart(found), comparison_chart(found), calibration_chart(found), insiders_chart(found))
        return [chart.wide for chart in drawn if chart is not None]


def run(
    study: Study | str | Path | Mapping[str, Any],
    out: str | Path | None = None,
    *,
    data: str | Path | None = None,
    fresh: bool = False,
    rehearsal: bool = False,
    quiet: bool = False,
) -> Run:
    """Trains a study in a simulation, from the pictures to the report, as `wardround run` does.

    Args:
        study: a study file's path, a `Study`, or the tables of one.
        out: the run's folder; `runs/NAME` by default.
        data: the data folder; it goes before `[site] path`.
        fresh: replace an earlier run in that folder; its ledger is kept, and an unfinished run is given up in it.
        rehearsal: charge a throw-away ledger in the run's folder, and stamp the run so.
        quiet: show no progress.

    Returns:
        The finished run.

    Raises:
        WardroundError: anything in the study, the pictures, the ledger or the folder that does not hold; each error
            has a stable `code`.

    Guarantee:
        That of the run's statement (`Run.statement`), charged to this person's lasting ledger unless it is a
        rehearsal.
    """
    from rich.console import Console

    from wardround.cli.terminal import Terminal
    from wardround.coordinator.observer import Silent
    from wardround.simulation.run import run_study

    overrides: dict[str, dict[str, Any]] | None = None
    if data is not None:
        overrides = {"site": {"path": str(Path(data).resolve())}}
    resolved = _resolved(study, overrides)
    folder = Path("runs") / resolved.study.name if out is None else Path(out)
    if quiet:
        return Run(run_study(resolved, folder, Silent(), fresh=fresh, rehearsal=rehearsal))
    with Terminal(Console(stderr=True)) as terminal:
        return Run(run_study(resolved, folder, terminal, fresh=fresh, rehearsal=rehearsal))


def _resolved(study: Study | str | Path | Mapping[str, Any], overrides: dict[str, dict[str, Any]] | None) -> Study:
    if isinstance(study, str | Path):
        return read_study(Path(study), overrides)
    tables = dict(study) if isinstance(study, Mapping) else study.model_dump(mode="json", exclude_none=True)
    if isinstance(study, Study) and overrides is None:
        return study
    for name, values in (overrides or {}).items():
        tables[name] = {**tables.get(name, {}), **values}
    return parse_study(tables)


def _said(score: "Score") -> str:
    if score.value is None:
        return "not defined"
    around = "" if score.low is None or score.high is None else f" ({score.low:.3f} to {score.high:.3f})"
    return f"{score.value:.3f}{around}"

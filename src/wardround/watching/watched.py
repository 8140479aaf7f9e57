"""A simulated run while it goes on, for the person at this machine.

Figures are those of the run's own record (`rounds.jsonl`), which its readers get as well: epsilon, and metrics of
patients set aside, released without protection. Stages and times are of this process, and in no record.
"""

import math
import time
from functools import cached_property
from pathlib import Path

from wardround.agreed.plans import plan_of
from wardround.config import Study
from wardround.records.json_object import JsonObject
from wardround.records.reading import read_lines
from wardround.records.signer import HISTORY
from wardround.watching.views import RunView, spent_by


class Watched:
    """An observer of a run; `view` returns the run as it is now.

    Args:
        run: folder of the run.
        study: of the run.
    """

    def __init__(self, run: Path, study: Study) -> None:
        self._run, self._study = run, study
        self._stage, self._done, self._total = "beginning", 0, 0
        self._began, self._first = time.monotonic(), 0
        self._trains = False

    def stage(self, text: str) -> None:
        """See `Observer`."""
        self._trains |= text.startswith("training")  # before that, the folder may hold an earlier run
        self._stage, self._done, self._total = text, 0, 0

    def progress(self, done: int, total: int, detail: str = "") -> None:
        """See `Observer`."""
        del detail
        if self._total == 0:
            self._began, self._first = time.monotonic(), done
        self._done, self._total = done, total

    def view(self) -> RunView:
        """Returns the run as it is now.

        Raises:
            RecordError: a line of its history is damaged.
        """
        lines = read_lines(self._run / HISTORY) if self._trains else []
        measured = [JsonObject(line, HISTORY) for line in lines if "metrics" in line]
        figures = _figures(measured[-1]) if measured else ()
        spent_round, spent = spent_by(lines)
        epsilon, delta = self._promised
        last = JsonObject(lines[-1] if lines else {}, HISTORY)
        return RunView(
            study=self._study.study.name,
            stage=self._stage,
            done=self._done,
            total=self._total,
            round=last.integer("round") if lines else 0,
            rounds=self._study.rounds,
            epsilon_spent=spent,
            spent_round=spent_round,
            epsilon=epsilon,
            delta=delta,
            figures=figures,
            curve=tuple(
                (line.integer("round"), value)
                for line in measured
                for title, value in _figures(line)
                if title == figures[0][0]
            )
            if figures
            else (),
            measured_on=measured[-1].text("measured_on", "test") if measured else "",
            hospitals=self._study.hospitals.count,
            missing=last.texts("missing"),
            seconds_left=self._left(),
        )

    @cached_property
    def _promised(self) -> tuple[float, float]:
        plan = plan_of(self._study)
        return plan.epsilon, plan.delta

    def _left(self) -> float | None:
        """Returns the seconds that the stage goes on at the pace so far; None where that is not known."""
        steps = self._done - self._first
        if steps <= 0 or self._done >= self._total:
            return None
        return (time.monotonic() - self._began) / steps * (self._total - self._done)


def _figures(line: JsonObject) -> tuple[tuple[str, float], ...]:
    metrics = line.section("metrics")
    found = ((one.text("title"), metrics.maybe_number(one.text("key"))) for one in metrics.objects("shown"))
    return tuple((title, value) for title, value in found if value is not None and math.isfinite(value))

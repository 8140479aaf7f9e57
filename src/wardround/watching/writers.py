"""Epsilon and metrics of each round, for TensorBoard or MLflow while the run goes on.

Released, to the readers of these files or of that server: numbers of `rounds.jsonl` and the digest of the study, which
the run's record holds as well. Epsilon is the statement's; metrics are of patients set aside, without protection.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from wardround.boundary.extras import needed
from wardround.boundary.private import make_private_folder
from wardround.boundary.text import shown
from wardround.config import Study
from wardround.records.reading import read_lines
from wardround.records.signer import HISTORY

_EVERY_S = 1.0


class Writer(Protocol):
    """Takes the numbers of rounds, in their order."""

    def write(self, round: int, numbers: Mapping[str, float]) -> None:
        """Writes the numbers of one round."""

    def close(self) -> None:
        """Ends the run."""


class TensorBoard:
    """Event files beside the run's folder, in RUN.tensorboard.

    Raises:
        MissingExtra: the package `tensorboard` is not installed.
    """

    def __init__(self, run: Path, study: Study) -> None:
        del study
        with needed("tensorboard", "`--log tensorboard`"):
            from torch.utils.tensorboard import SummaryWriter
        folder = run.absolute().with_name(f"{run.absolute().name}.tensorboard")
        make_private_folder(folder)
        self._to: Any = SummaryWriter(str(folder))

    def write(self, round: int, numbers: Mapping[str, float]) -> None:
        """See `Writer`."""
        for key, value in numbers.items():
            self._to.add_scalar(key, value, round)

    def close(self) -> None:
        """See `Writer`."""
        self._to.close()


class MLflow:
    """A run of MLflow, where its own settings (`MLFLOW_TRACKING_URI`) lead.

    Raises:
        MissingExtra: the package `mlflow` is not installed.
    """

    def __init__(self, run: Path, study: Study) -> None:
        del run
        with needed("mlflow", "`--log mlflow`"):
            mlflow: Any = import_module("mlflow")
        self._to = mlflow
        mlflow.start_run(run_name=study.study.name)
        mlflow.log_param("study_digest", study.digest)

    def write(self, round: int, numbers: Mapping[str, float]) -> None:
        """See `Writer`."""
        self._to.log_metrics(dict(numbers), step=round)

    def close(self) -> None:
        """See `Writer`."""
        self._to.end_run()


WRITERS: Mapping[str, Callable[[Path, Study], Writer]] = {"mlflow": MLflow, "tensorboard": TensorBoard}


class Rounds:
    """An observer that hands the lines of a run's history to writers, and says once where one fails.

    Args:
        run: folder of the run.
        writers: that take them.
        say: takes the sentence about a writer that failed; the run goes on without it.
    """

    def __init__(self, run: Path, writers: Sequence[Writer], say: Callable[[str], None]) -> None:
        self._run, self._writers, self._say = run, list(writers), say
        self._trains, self._written, self._at = False, 0, 0.0

    def stage(self, text: str) -> None:
        """See `Observer`."""
        self._trains |= text.startswith("training")  # before that, the folder may hold an earlier run
        self._flush()

    def progress(self, done: int, total: int, detail: str = "") -> None:
        """See `Observer`."""
        del done, total, detail
        if time.monotonic() - self._at > _EVERY_S:
            self._flush()

    def close(self) -> None:
        """Writes what is left and ends the writers."""
        self._flush()
        for writer in tuple(self._writers):
            self._try(writer, writer.close)

    def _flush(self) -> None:
        if not self._trains:
            return
        lines = read_lines(self._run / HISTORY)
        for line in lines[self._written :]:
            round, numbers = line.get("round"), _numbers(line)
            if isinstance(round, int) and numbers:
                for writer in tuple(self._writers):
                    self._try(writer, partial(writer.write, round, numbers))
        self._written, self._at = len(lines), time.monotonic()

    def _try(self, writer: Writer, do: Callable[[], None]) -> None:
        try:
            do()
        except Exception as error:  # of a server or a package that is not ours; the run is worth more
            self._writers.remove(writer)
            self._say(f"{type(writer).__name__} failed and gets no more rounds ({shown(str(error))[:200]})")


def _numbers(line: Mapping[str, object]) -> dict[str, float]:
    """Returns epsilon and the metrics of one line that are single numbers."""
    metrics = line.get("metrics")
    named = {"epsilon": line.get("epsilon")} | (
        {f"{line.get('measured_on', 'test')}/{key}": value for key, value in metrics.items() if key != "models"}
        if isinstance(metrics, dict)
        else {}
    )
    return {
        key: float(value)
        for key, value in named.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }

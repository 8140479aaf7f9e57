"""The commands. Everything heavy is imported inside the command that needs it, so `wardround --help` is instant.

Bad input prints one sentence and exits with 2; any other exception is a bug and shows its traceback.
"""

import json
import sys
from enum import StrEnum
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import click
import typer
from typer.core import TyperGroup

from wardround.boundary.machine import machine_error
from wardround.boundary.text import counted, say, sentence_lines, tell
from wardround.cli.agent import agent_app
from wardround.cli.cache import cache_app
from wardround.cli.consortium import consortium_app
from wardround.cli.coordinate import coordinate
from wardround.cli.data import data_app
from wardround.cli.demo import demo
from wardround.cli.export import export
from wardround.cli.invert import audit_app
from wardround.cli.keys import AsJson, keys_app
from wardround.cli.ledger import ledger_app
from wardround.cli.predict import predict
from wardround.cli.printing import (
    AGAIN,
    DataPath,
    StudyPath,
    console,
    interruptible,
    number,
    overrides_of,
    print_run,
    printed,
    uncollected,
)
from wardround.cli.serve import serve
from wardround.cli.status import status
from wardround.cli.verify import PinsPath, RunPath, trusted, verify
from wardround.cli.watching import LogTo, WatchPort, watched
from wardround.errors import WardroundError

if TYPE_CHECKING:
    from wardround.config import Study

_ORDER = (
    "demo", "data", "check", "run", "resume", "report", "verify", "predict", "export", "serve", "audit", "plan",
    "compare", "ledger", "cache", "agent", "coordinate", "status", "consortium", "keys", "reproduce", "schema",
)  # fmt: skip


class _InOrder(TyperGroup):
    """The commands in the order in which a study takes them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self.commands, key=_ORDER.index)


app = typer.Typer(
    name="wardround",
    cls=_InOrder,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data_app, name="data")
app.add_typer(keys_app, name="keys")
app.add_typer(consortium_app, name="consortium")
app.add_typer(ledger_app, name="ledger")
app.add_typer(cache_app, name="cache")
app.add_typer(agent_app, name="agent")
app.command()(demo)
app.command()(coordinate)
app.command()(status)
app.command()(predict)
app.command()(export)
app.command()(serve)
app.command()(verify)
app.add_typer(audit_app, name="audit")

_Choice = TypeVar("_Choice", bound=StrEnum)


def _version(asked: bool) -> None:
    if asked:
        from wardround import __version__

        say(f"wardround {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version and nothing else."),
    ] = False,
) -> None:
    """Train one diagnostic model across hospitals, with differential privacy for every patient."""


Rehearsal = Annotated[
    bool,
    typer.Option("--rehearsal", help="Charge a throw-away ledger in the run's folder, and stamp the run so."),
]


@app.command()
def run(
    study: StudyPath,
    data: DataPath = None,
    out: Annotated[Path | None, typer.Option("--out", help="The run's folder; default runs/NAME.")] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Replace an earlier run in that folder; an unfinished one is given up.")
    ] = False,
    rehearsal: Rehearsal = False,
    watch: WatchPort = None,
    log: LogTo = None,
    as_json: AsJson = False,
) -> None:
    """Run a study from the pictures to the report."""
    _page_apart()
    with uncollected():
        from wardround.simulation.run import run_study

    resolved = _read(study, data)
    folder = out or Path("runs") / resolved.study.name
    with interruptible(folder), watched(lambda: resolved, folder, watch, log) as observer:
        record = run_study(resolved, folder, observer, fresh=fresh, rehearsal=rehearsal)
    print_run(record, as_json)


@app.command()
def resume(path: RunPath, watch: WatchPort = None, log: LogTo = None, as_json: AsJson = False) -> None:
    """Go on with an interrupted run."""
    _page_apart()
    with uncollected():
        from wardround.simulation.run import resume_run

    with interruptible(path), watched(lambda: _read(path / "study.toml", None), path, watch, log) as observer:
        record = resume_run(path, observer)
    print_run(record, as_json)


@app.command()
def check(study: StudyPath, data: DataPath = None, as_json: AsJson = False) -> None:
    """Print the promise and the cost of a study; opens no image."""
    with uncollected():
        from wardround.simulation.estimate import estimate

    resolved = _read(study, data)
    found = estimate(resolved)
    if as_json:
        say(json.dumps({"study": resolved.model_dump(mode="json"), **found.to_json()}))
        return
    say(*resolved.to_toml().split("\n"), *sentence_lines(found.statement.sentence()), "")
    for row in found.insiders:
        say(f"  against {row.adversary}: epsilon = {number(row.epsilon)} at delta = {found.plan.delta:g}")
    if found.patients is None:
        listed = "no data folder to list: whether its pictures name patients is not known"
    elif found.plan.persons.one == "picture":
        listed = f"{counted(found.pictures or 0, 'picture')}, which name no patient"
    else:
        listed = f"{counted(found.patients, 'patient')}, {counted(found.pictures or 0, 'picture')}"
    say("", f"{listed}; {counted(found.parameters, 'trained parameter')}")
    if found.classes:
        say(f"classes, in the model's order: {', '.join(found.classes)}")
    say(*found.noticed)
    say(*filter(None, (found.choice, found.feasibility)))
    if found.schedule is not None:
        say(found.schedule.sentence())
    if found.upload is not None:
        say(found.upload.sentence())
    if found.seconds is not None:
        each = f" ({1 + len(resolved.federation.compare)} runs)" if resolved.federation.compare else ""
        taken = f"{_duration(found.seconds)} of training here{each}, {found.memory_bytes / 1e9:.1f} GB of memory"
        say(f"about {taken}")


@app.command()
def plan(
    patients: Annotated[int, typer.Option(help="Patients in all hospitals together.")],
    hospitals: Annotated[int, typer.Option(help="Hospitals in a round.")],
    delta: Annotated[float, typer.Option(help="Target delta.")],
    rounds: Annotated[int, typer.Option(help="Rounds; each releases one noised sum.")],
    epsilon: Annotated[float | None, typer.Option(help="The target; or give --noise-multiplier.")] = None,
    noise_multiplier: Annotated[
        float | None, typer.Option(help="Noise std / clipping norm; or give --epsilon.")
    ] = None,
    sampling_prob: Annotated[float, typer.Option(help="Probability of a patient in a round.")] = 1.0,
    trust: Annotated[str, typer.Option(help="coordinator, secure-aggregation or nobody.")] = "secure-aggregation",
    colluders: Annotated[int | None, typer.Option(help="Hospitals that may collude.")] = None,
    dropouts: Annotated[int, typer.Option(help="Hospitals that may be missing in a round.")] = 0,
    parameters: Annotated[int | None, typer.Option(help="Trained parameters, to judge feasibility.")] = None,
    classes: Annotated[int | None, typer.Option(min=2, help="Classes, to judge a private head by mu n.")] = None,
    masked: Annotated[bool, typer.Option("--masked", help="Sums of whole numbers, under masks.")] = False,
    accountant: Annotated[str, typer.Option(help="pld or rdp.")] = "pld",
    as_json: AsJson = False,
) -> None:
    """Print the noise of an epsilon, or the epsilon of a noise.

    It also says against whom the promise holds.
    """
    from wardround.accounting.accountants import AccountantKind
    from wardround.accounting.planning import PlanQuestion
    from wardround.accounting.planning import plan as answer_to
    from wardround.noisers import Trust, noiser_of

    kind = _choice(Trust, trust, "--trust")
    if colluders is None:
        colluders = int(kind is Trust.SECURE_AGGREGATION and hospitals > 1)
    question = PlanQuestion(
        patients=patients, noiser=noiser_of(kind, hospitals, colluders, dropouts), delta=delta, rounds=rounds,
        sampling_prob=sampling_prob, epsilon=epsilon, noise_multiplier=noise_multiplier, parameters=parameters,
        accountant=_choice(AccountantKind, accountant, "--accountant"),
    )  # fmt: skip
    if masked:
        from wardround.agreed.planning import masked_plan

        answer = masked_plan(question)
    else:
        answer = answer_to(question)
    of_head = None
    if classes is not None:
        from wardround.agreed.schedule import feasibility

        of_head = feasibility(answer.mu, patients, classes)
    if as_json:
        say(json.dumps(answer.to_json() | {"head": of_head}))
        return
    at = f"at delta = {delta:g} for one patient"
    say(f"noise multiplier        {answer.noise_multiplier:.4f}")
    say(f"epsilon                 {number(answer.epsilon)} {at} ({accountant})")
    say(f"cross-check             {number(answer.rdp_epsilon)} {at} (rdp)")
    say(f"patients a round        {answer.patients_per_round:.1f} expected of {patients}")
    say(f"noise on the mean       {answer.mean_noise_std:.2e} clipping norms a coordinate")
    if answer.rho is not None:
        say(f"feasibility             rho = {answer.rho:.3f}: {answer.feasibility}")
    if of_head:
        say(f"of a private head       {of_head}")
    if answer.slack is not None:
        say(f"slack of whole numbers  {answer.slack:.1e}, included; sums are masked, {patients} patients public")
    say("", f"epsilon {at}, against")
    for row in answer.insiders:
        say(f"  {number(row.epsilon):>8}  {row.adversary}")


@app.command()
def report(path: RunPath, pins: PinsPath = None, as_json: AsJson = False) -> None:
    """Verify a finished run and write its report again."""
    from wardround.records.signed import verified
    from wardround.report.write import write_report
    from wardround.simulation.own_key import own_key, own_pin

    record = verified(path, trusted(None, pins))
    write_report(record, own_key() if own_pin() else None)
    print_run(record, as_json)


@app.command()
def compare(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="STUDY|RUN...", help="Study files, with or without [sweep], and folders of finished runs."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder of the comparison, and of the runs of studies.")],
    data: DataPath = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Runs at once, at most.")] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="Runs of each configuration.")] = None,
    rehearsal: Rehearsal = False,
    pins: PinsPath = None,
    as_json: AsJson = False,
) -> None:
    """Compare finished runs, studies or a sweep on a page.

    Studies are run first. A run whose record does not verify is refused.
    """
    with uncollected():
        from wardround.cli.terminal import Terminal
        from wardround.config.sweep import read_sweep
        from wardround.records.signed import verified
        from wardround.report.comparison import lines_of
        from wardround.simulation.sweeps.compare import compare as compare_all

    keys = trusted(None, pins)
    finished = [verified(path, keys) for path in paths if path.is_dir()]
    sweeps = [read_sweep(path, overrides_of(data), repeats) for path in paths if not path.is_dir()]
    with interruptible(AGAIN), Terminal(console()) as terminal:
        overview = compare_all(sweeps, out, terminal, finished=finished, workers=workers, rehearsal=rehearsal)
    page = out / "comparison.html"
    where = f"comparison: {page if page.exists() else out / 'comparison.json'}"
    tell(as_json, overview.to_json(), *lines_of(overview), where)


@app.command()
def reproduce(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Which published result; see --list.")] = None,
    data: DataPath = None,
    out: Annotated[Path | None, typer.Option("--out", help="Its folder; default runs/reproduce-NAME.")] = None,
    scale: Annotated[float, typer.Option(help="Size: 1 is as published; the output lists the changes.")] = 0.1,
    repeats: Annotated[int, typer.Option(help="Runs of each row, with other splits and first weights.")] = 1,
    workers: Annotated[int | None, typer.Option(min=1, help="Runs at once, at most.")] = None,
    list_all: Annotated[
        bool, typer.Option("--list", help="Print what can be reproduced, and nothing else.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a published experiment as published, and repaired.

    Both stand beside the published row, each with what it guarantees.
    """
    from wardround.cli.terminal import Terminal
    from wardround.reproduce.catalogue import REPRODUCTIONS, reproduction
    from wardround.reproduce.output import show, write_table
    from wardround.reproduce.request import Request, Scale

    if list_all or name is None:
        listed = {key: {"what": one.what, "data": one.data} for key, one in REPRODUCTIONS.items()}
        plain = [f"{key:22} {one['what']} ({one['data']})" for key, one in listed.items()]
        tell(as_json, listed, *plain)
        return
    chosen, folder = reproduction(name), out or Path("runs") / f"reproduce-{name}"
    with interruptible(AGAIN), Terminal(console()) as terminal:
        table = chosen.run(Request(data, folder, Scale(scale), terminal, repeats, workers))
        page = write_table(table, folder)
    if as_json:
        say(json.dumps(table.to_json()))
        return
    show(table, console(stderr=False))
    say(f"page: {page}")


@app.command()
def schema() -> None:
    """Print the JSON schema of study files, for editors."""
    from wardround.config import Study

    say(*json.dumps(Study.model_json_schema(), indent=2).split("\n"))


def main() -> None:
    """Runs a command; a `WardroundError` or a fault of the machine becomes one sentence and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without Unicode is no reason to fail
    try:
        with printed():
            app()
    except Exception as error:
        said = error if isinstance(error, WardroundError) else machine_error(error)
        if said is None:
            raise
        say(f"wardround: {said}", error=True)
        raise SystemExit(2) from None


def _page_apart() -> None:
    from wardround.boundary.apart import begin

    begin("wardround.report.page", "prepare")


def _read(path: Path, data: Path | None) -> "Study":
    from wardround.config import read_study

    return read_study(path, overrides_of(data))


def _choice(kind: type[_Choice], value: str, option: str) -> _Choice:
    from wardround.errors import StudyError

    try:
        return kind(value)
    except ValueError:
        known = ", ".join(str(member) for member in kind)
        raise StudyError(f"{option} must be one of {known}, got {value!r}.") from None


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"

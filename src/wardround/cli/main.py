"""The commands. Everything heavy is imported inside the command that needs it, so `wardround --help` is instant.

Bad input prints one sentence and exits with 2; any other exception is a bug and shows its traceback.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from wardround.cli.keys import AsJson, keys_app
from wardround.cli.verify import PinsPath, RunPath, trusted, verify
from wardround.errors import WardroundError

if TYPE_CHECKING:
    from rich.console import Console

    from wardround.config import Study
    from wardround.records.folder import RunRecord

app = typer.Typer(
    name="wardround",
    help="Train one diagnostic model across hospitals: images stay, and what is revealed of one patient is bounded.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="Look at a data folder, on the hospital's own screen.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(keys_app, name="keys")
app.command()(verify)

_Choice = TypeVar("_Choice", bound=StrEnum)

StudyPath = Annotated[Path, typer.Argument(metavar="STUDY", help="The study file (TOML).")]
DataPath = Annotated[Path | None, typer.Option("--data", help="The data folder; overrides [site] path.")]
AGAIN = "Give the same command again to go on."


@app.command()
def run(
    study: StudyPath,
    data: DataPath = None,
    out: Annotated[Path | None, typer.Option("--out", help="The run's folder; default runs/NAME.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace an earlier run in that folder.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a study from the pictures to the report."""
    from wardround.cli.terminal import Terminal
    from wardround.simulation.run import run_study

    resolved = _read(study, data)
    folder = out or Path("runs") / resolved.study.name
    with _interruptible(folder), Terminal(_console()) as terminal:
        record = run_study(resolved, folder, terminal, fresh=fresh)
    _print_run(record, as_json)


@app.command()
def resume(path: RunPath, as_json: AsJson = False) -> None:
    """Go on with an interrupted run."""
    from wardround.cli.terminal import Terminal
    from wardround.simulation.run import resume_run

    with _interruptible(path), Terminal(_console()) as terminal:
        record = resume_run(path, terminal)
    _print_run(record, as_json)


@app.command()
def check(study: StudyPath, data: DataPath = None, as_json: AsJson = False) -> None:
    """Print the resolved study, what it will promise, and what it will take; opens no image."""
    from wardround.images.quality.lines import printable
    from wardround.simulation.estimate import estimate

    resolved = _read(study, data)
    found = estimate(resolved)
    if as_json:
        print(json.dumps({"study": resolved.model_dump(mode="json"), **found.to_json()}))
        return
    print(resolved.to_toml())
    print(found.statement.sentence())
    print()
    for row in found.insiders:
        print(f"  against {row.adversary}: epsilon = {_number(row.epsilon)} at delta = {found.plan.delta:g}")
    if found.patients is None:
        listed = "no data folder to list: whether its pictures name patients is not known"
    elif found.plan.persons.one == "picture":
        listed = f"{found.pictures or 0} pictures, which name no patient"
    else:
        listed = f"{found.patients} patients, {found.pictures or 0} pictures"
    print(f"\n{listed}; {found.parameters} trained parameters")
    if found.classes:
        print(printable(f"classes, in the model's order: {', '.join(found.classes)}"))
    for sentence in found.noticed:
        print(printable(sentence))
    if found.upload is not None:
        print(found.upload.sentence())
    if found.seconds is not None:
        runs = 1 + len(resolved.federation.compare)
        each = f" ({runs} runs)" if runs > 1 else ""
        print(
            f"about {_duration(found.seconds)} of training here{each}, {found.memory_bytes / 1e9:.1f} GB of memory"
        )


@app.command()
def plan(
    patients: Annotated[int, typer.Option(help="Patients in all hospitals together.")],
    hospitals: Annotated[int, typer.Option(help="Hospitals in a round.")],
    delta: Annotated[float, typer.Option(help="Target delta.")],
    rounds: Annotated[int, typer.Option(help="Noised sums released.")],
    epsilon: Annotated[float | None, typer.Option(help="The promise; or give --noise-multiplier.")] = None,
    noise_multiplier: Annotated[float | None, typer.Option(help="Noise std / clipping norm.")] = None,
    sampling_prob: Annotated[float, typer.Option(help="Probability of a patient in a round.")] = 1.0,
    trust: Annotated[str, typer.Option(help="coordinator, secure-aggregation or nobody.")] = "secure-aggregation",
    colluders: Annotated[int | None, typer.Option(help="Hospitals that may collude.")] = None,
    dropouts: Annotated[int, typer.Option(help="Hospitals that may be missing.")] = 0,
    parameters: Annotated[int | None, typer.Option(help="Trained parameters, to judge feasibility.")] = None,
    masked: Annotated[bool, typer.Option("--masked", help="Sums of whole numbers, under masks.")] = False,
    accountant: Annotated[str, typer.Option(help="pld, rdp or gdp.")] = "pld",
    as_json: AsJson = False,
) -> None:
    """Print the noise that a promise needs, or the promise that some noise gives, and against whom."""
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
    if as_json:
        print(json.dumps(answer.to_json()))
        return
    at = f"at delta = {delta:g} for one patient"
    print(f"noise multiplier        {answer.noise_multiplier:.4f}")
    print(f"epsilon                 {_number(answer.epsilon)} {at} ({accountant})")
    print(f"cross-check             {_number(answer.rdp_epsilon)} {at} (rdp)")
    print(f"patients a round        {answer.patients_per_round:.1f} expected of {patients}")
    print(f"noise on the mean       {answer.mean_noise_std:.2e} clipping norms a coordinate")
    if answer.rho is not None:
        print(f"feasibility             rho = {answer.rho:.3f}: {answer.feasibility}")
    if answer.slack is not None:
        print(f"slack of whole numbers  {answer.slack:.1e}, included; sums are masked, {patients} patients public")
    print(f"\nepsilon {at}, against")
    for row in answer.insiders:
        print(f"  {_number(row.epsilon):>8}  {row.adversary}")


@app.command()
def report(path: RunPath, pins: PinsPath = None, as_json: AsJson = False) -> None:
    """Verify a finished run's record, write its report again, and print its figures."""
    from wardround.records.signed import verified
    from wardround.report.write import write_report

    record = verified(path, trusted(None, pins))
    write_report(record)
    _print_run(record, as_json)


@app.command()
def compare(
    studies: Annotated[
        list[Path], typer.Argument(metavar="STUDY...", help="Study files, with or without [sweep].")
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder of all runs and of the comparison.")],
    data: DataPath = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Runs at once, at most.")] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="Runs of each configuration.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run several studies, or every combination of a sweep, and hold them side by side."""
    from wardround.cli.terminal import Terminal
    from wardround.config.sweep import read_sweep
    from wardround.report.comparison import lines_of
    from wardround.simulation.sweeps.compare import compare as compare_all

    sweeps = [read_sweep(path, _overrides(data), repeats) for path in studies]
    with _interruptible(AGAIN), Terminal(_console()) as terminal:
        overview = compare_all(sweeps, out, terminal, workers=workers)
    if as_json:
        print(json.dumps(overview.to_json()))
        return
    print("\n".join(lines_of(overview)))
    page = out / "comparison.html"
    print(f"comparison: {page if page.exists() else out / 'comparison.json'}")


@app.command()
def reproduce(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Which published result; see --list.")] = None,
    data: DataPath = None,
    out: Annotated[Path | None, typer.Option("--out", help="Its folder; default runs/reproduce-NAME.")] = None,
    scale: Annotated[float, typer.Option(help="1 is as published; less shrinks it, and says what.")] = 0.1,
    repeats: Annotated[int, typer.Option(help="Runs of each row, with other splits and first weights.")] = 1,
    workers: Annotated[int | None, typer.Option(min=1, help="Runs at once, at most.")] = None,
    list_all: Annotated[
        bool, typer.Option("--list", help="Print what can be reproduced, and nothing else.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a published result: as printed, ours as published, ours repaired, each with what it guarantees."""
    from wardround.cli.terminal import Terminal
    from wardround.reproduce.catalogue import REPRODUCTIONS, reproduction
    from wardround.reproduce.output import show, write_table
    from wardround.reproduce.request import Request, Scale

    if list_all or name is None:
        listed = {key: {"what": one.what, "data": one.data} for key, one in REPRODUCTIONS.items()}
        plain = "\n".join(f"{key:22} {one['what']} ({one['data']})" for key, one in listed.items())
        print(json.dumps(listed) if as_json else plain)
        return
    chosen, folder = reproduction(name), out or Path("runs") / f"reproduce-{name}"
    with _interruptible(AGAIN), Terminal(_console()) as terminal:
        table = chosen.run(Request(data, folder, Scale(scale), terminal, repeats, workers))
        page = write_table(table, folder)
    if as_json:
        print(json.dumps(table.to_json()))
        return
    show(table, _console(stderr=False))
    print(f"page: {page}")


@app.command()
def schema() -> None:
    """Print the JSON schema of study files, for editors."""
    from wardround.config import Study

    print(json.dumps(Study.model_json_schema(), indent=2))


@data_app.command("check")
def data_check(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The data folder, a .zip or a .tar.")],
    layout: Annotated[str | None, typer.Option(help="How it lies on disk; guessed if not given.")] = None,
    task: Annotated[str | None, typer.Option(help="What labels are read as; default: the layout's first.")] = None,
    page: Annotated[
        Path | None, typer.Option(help="Write a page with thumbnails there. It shows patients.")
    ] = None,
    card: Annotated[Path | None, typer.Option(help="Write the shareable data card there, as JSON.")] = None,
    volume_size: Annotated[
        tuple[int, int, int], typer.Option(help="Volumes: voxels that are looked at, about the centre.")
    ] = (64, 64, 64),
    labels: Annotated[Path | None, typer.Option(help="The layout's table, where it lies elsewhere.")] = None,
    classes: Annotated[
        str | None, typer.Option(help="The study's classes in its order, separated by commas.")
    ] = None,
    leave_out: Annotated[
        str | None, typer.Option(help="Labels and patients whose rows are left out, separated by commas.")
    ] = None,
    modality: Annotated[str | None, typer.Option(help="dicom: read files of this modality alone.")] = None,
    as_json: AsJson = False,
) -> None:
    """Read a data folder and say what is in it, what is odd and what to do. For the hospital's own screen."""
    from tempfile import TemporaryDirectory

    from wardround.cli.terminal import Terminal
    from wardround.errors import as_one
    from wardround.images.layouts.guess import guess_layout
    from wardround.images.listing import Classes, ReaderOptions
    from wardround.images.load import Volumes, list_entries, load_images, open_layout
    from wardround.images.quality.facts import facts_of_folder
    from wardround.images.quality.inspection import inspect
    from wardround.images.quality.lines import lines

    named = None if classes is None else Classes(_listed(classes))
    options = ReaderOptions(
        labels=labels, classes=named, leave_out=_listed(leave_out or ""), modality=modality, looking=True
    )
    with open_layout(layout, path) as store:
        layout = layout or guess_layout(store, labels)
        are_volumes = list_entries(layout, store, task, options).volumes
    with TemporaryDirectory() as cache, Terminal(_console()) as terminal:
        terminal.stage(f"reading {layout}")
        images = load_images(
            layout, path, cache_dir=Path(cache), image_size=64, task=task, skip_unreadable=True,
            volumes=Volumes(volume_size) if are_volumes else None, options=options, progress=terminal.progress,
        )  # fmt: skip
        terminal.stage("looking at every picture")
        found = inspect(images, facts=facts_of_folder(images), progress=terminal.progress)
        if page is not None:
            from wardround.images.quality.page import write_page

            write_page(found, images, page)
        if card is not None:
            card.write_text(json.dumps(found.card.shareable(), indent=2) + "\n", encoding="utf-8")
        if as_json:
            print(json.dumps(found.to_json()))
        else:
            print("\n".join(lines(found, images)))
            if page is not None:
                print(f"page: {page}  (shows patients: do not send)")
    if images.findings.refusals:
        raise as_one(images.findings.refusals)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",")) if text else ()


def main() -> None:
    """Runs a command; a `WardroundError` becomes one sentence on standard error and exit code 2."""
    try:
        app()
    except WardroundError as error:
        print(f"wardround: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _read(path: Path, data: Path | None) -> "Study":
    from wardround.config import read_study

    return read_study(path, _overrides(data))


def _overrides(data: Path | None) -> dict[str, dict[str, object]] | None:
    return None if data is None else {"site": {"path": str(data.resolve())}}


def _console(*, stderr: bool = True) -> "Console":
    from rich.console import Console

    return Console(stderr=stderr)


@contextmanager
def _interruptible(way_back: str | Path) -> Iterator[None]:
    """Ends an interrupted command with the way back: a sentence, or how to resume the run in a folder, if one began."""
    try:
        yield
    except KeyboardInterrupt:
        if isinstance(way_back, Path):
            begun = (way_back / "study.toml").is_file()
            way_back = f"Go on with: wardround resume {way_back}" if begun else ""
        print(f"Interrupted. {way_back}".strip(), file=sys.stderr)
        raise SystemExit(130) from None


def _print_run(record: "RunRecord", as_json: bool) -> None:
    from wardround.report.numbers import numbers_of, summary_of_run

    summary = summary_of_run(record)
    if as_json:
        print(json.dumps(summary))
        return
    print(record.certificate["short"])
    said = ", ".join(
        f"{measure.title} {_number(measure.score.value)}" for measure in numbers_of(record).quality.measures[:3]
    )
    majority = summary["majority_accuracy"]
    held_out = "pictures" if summary["unit"] == "picture" else "patients"
    print(
        f"{said} on held-out {held_out}" + ("" if majority is None else f" (majority class: {_number(majority)})")
    )
    if record.certificate["stopped"]:
        print(record.certificate["stopped"])
    page = record.path / "report.html"
    print(f"report: {page}" if page.exists() else f"run: {record.path} (no report page)")


def _choice(kind: type[_Choice], value: str, option: str) -> _Choice:
    from wardround.errors import StudyError

    try:
        return kind(value)
    except ValueError:
        known = ", ".join(str(member) for member in kind)
        raise StudyError(f"{option} must be one of {known}, got {value!r}.") from None


def _number(value: object) -> str:
    if value is None:
        return "not defined"
    if isinstance(value, float) and value != float("inf"):
        return f"{value:.3f}"
    return "infinity" if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"

"""`wardround ledger`: a ledger's own screen. It shows accounts of persons, so its output is not for sending."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wardround.boundary.text import counted, shown, tell
from wardround.cli.keys import AsJson
from wardround.errors import LedgerError

if TYPE_CHECKING:
    from wardround.ledger.file import LedgerFile
    from wardround.ledger.spending import RunCost, Spending

ledger_app = typer.Typer(help="Each patient's account over all studies; not for sending.", no_args_is_help=True)

LedgerPath = Annotated[
    Path | None, typer.Option("--ledger", help="The ledger file; default: this user's lasting one.")
]


@ledger_app.command("show")
def show(
    ledger: LedgerPath = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Only the persons of a study file, a data folder, a .zip or a .tar."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the epsilon that was spent and the rest.

    It is listed by study, and for the greatest and the typical person.
    """
    from wardround.ledger.place import own_ledger
    from wardround.ledger.spending import spending_of

    persons, named = (None, None) if data is None else _persons_of(data)
    path = ledger or named
    with _opened(path, copied=True) as opened:
        found = spending_of(opened, persons)
    path = path or own_ledger()
    tell(as_json, {"ledger": str(path), **found.to_json()}, *_lines(path, found))


@ledger_app.command("verify")
def verify(
    ledger: LedgerPath = None,
    head: Annotated[
        str | None, typer.Option("--head", help="A head that was seen before; the ledger must contain it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check that nothing in the ledger was changed or removed.

    An older copy of the whole is found with a --head that was kept elsewhere.
    """
    with _opened(ledger, must_exist=True, copied=True) as opened:
        opened.verify(head)
        entries, last = opened.position()
        path = opened.path
    seen = "" if head is None else f" It contains {head}."
    whole = f"Ledger {path} is whole: {counted(entries, 'line')}.{seen}"
    tell(as_json, {"ledger": str(path), "entries": entries, "head": last}, whole, f"head: {last}")


@ledger_app.command("set-limit")
def set_limit(
    epsilon: Annotated[float, typer.Argument(help="What a person may spend over all studies; inf for no limit.")],
    delta: Annotated[float, typer.Option(help="The delta at which that epsilon is meant.")],
    by: Annotated[str, typer.Option(help="The person who sets the limit.")],
    reason: Annotated[str, typer.Option(help="Their reason, in their own words; it is kept.")],
    ledger: LedgerPath = None,
    as_json: AsJson = False,
) -> None:
    """Set the limit of every person, from here on. What was spent stays spent."""
    from wardround.ledger.file import LedgerFile
    from wardround.ledger.place import own_ledger

    with LedgerFile(ledger or own_ledger()) as opened:
        is_new = opened.position()[0] == 0
        opened.set_limit(epsilon, delta, by=by, reason=reason)
        path, limit = opened.path, opened.limit
    said = "no limit" if limit is None else f"a limit of epsilon = {limit.epsilon:g} at delta = {limit.delta:g}"
    tell(
        as_json, {"ledger": str(path), "limit": None if limit is None else limit.epsilon, "delta": delta},
        f"{'New ledger' if is_new else 'Ledger'} {path} has {said} for every person, over all studies.",
    )  # fmt: skip


@ledger_app.command("end")
def end(
    line: Annotated[int, typer.Argument(help="The line that the run began with, as `show` prints it.")],
    ledger: LedgerPath = None,
    as_json: AsJson = False,
) -> None:
    """Give up a run that will never go on, and free what was kept for it.

    A run reserves all that it is expected to spend, so that no other study can stop it half-way. A run whose folder
    was lost would reserve it for ever. What it has spent stays spent, and it cannot be resumed any more.
    """
    with _opened(ledger, must_exist=True) as opened:
        begun = opened.end(line)
        path = opened.path
    ended = f"The run of {shown(begun.name)} that began at line {line} has ended: nothing is kept for it any more."
    tell(as_json, {"ledger": str(path), "line": line, "study": begun.name}, ended)


@ledger_app.command("migrate")
def migrate(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="A ledger of version 1; it is only read.")],
    data: Annotated[
        Path,
        typer.Option("--data", help="Whose studies these were: a study file, a data folder, a .zip or a .tar."),
    ],
    ledger: LedgerPath = None,
    as_json: AsJson = False,
) -> None:
    """Carry a ledger of version 1 over to the persons of some data.

    Version 1 knew no persons, so everything in it is charged to each of them: no figure of a person is too small.
    """
    from wardround.ledger.file import LedgerFile
    from wardround.ledger.migrate import migrate as carry_over
    from wardround.ledger.place import own_ledger

    persons, named = _persons_of(data)
    with LedgerFile(ledger or named or own_ledger()) as opened:
        studies = carry_over(old, opened, persons)
        path = opened.path
    carried = f"{counted(studies, 'study', 'studies')} of {old} to {counted(len(persons), 'person')}"
    found = {"ledger": str(path), "studies": studies, "persons": len(persons)}
    tell(as_json, found, f"Carried over {carried} in ledger {path}.")


def _opened(path: Path | None, *, must_exist: bool = False, copied: bool = False) -> "LedgerFile":
    """Returns a ledger that is there; of a person who never ran anything an empty one, if that will do."""
    from wardround.ledger.file import LedgerFile
    from wardround.ledger.place import own_ledger

    wanted = path or own_ledger()
    if not wanted.exists() and not wanted.with_name(f"{wanted.name}.mark").exists():  # a mark alone: it is gone
        if path is None and not must_exist:
            return LedgerFile(":memory:")
        raise LedgerError(
            f"`--ledger` must be a ledger, and {wanted} is not there. Check the path; a run makes a ledger.",
            code="ledger-missing",
        )
    return LedgerFile(wanted, copied=copied)


def _persons_of(data: Path) -> tuple[Sequence[str], Path | None]:
    """Returns the ids of the persons in a data folder or of a study, and the ledger that the study names."""
    from wardround.config import read_study
    from wardround.hospital.pictures import list_folder, list_pictures

    named, listing = None, None
    if data.suffix != ".toml":
        listing = list_folder(data)
    else:
        study = read_study(data)
        named = study.privacy.ledger
        if study.site.layout == "phantom" and named is None:
            return (), None  # generated patients are nobody
        listing = list_pictures(study)
    if listing is None:
        raise LedgerError(
            f"`--data` must be a data folder or a study that names one, and {data} names none. Set [site] path in it.",
            code="ledger-no-data",
        )
    return sorted({entry.patient for entry in listing.entries if entry.patient is not None}), named


def _lines(path: Path, found: "Spending") -> list[str]:
    at = f"at delta = {found.delta:g}"
    lines = [f"ledger {path}{'' if path.exists() else ', which no run has made yet'}"]
    if found.runs:
        lines += [
            "",
            f"{'line':>6}  {'began':16}  {'persons':>8}  {'hospitals':>9}  spent, by the hospital that spent most",
        ]
        lines += [_line(run) for run in found.runs]
    limit, remains = "none", "no limit"
    if found.limit is not None:
        by, reason = shown(found.limit.by), shown(found.limit.reason)
        limit = f"epsilon = {found.limit.epsilon:g} at delta = {found.limit.delta:g}, set by {by}: {reason}"
        remains = f"epsilon = {_down(found.remains)} {at}, for the person who spent most"
    runs = counted(sum(run.epsilon > 0 for run in found.runs), "run")
    studies = counted(found.studies, "study", "studies")
    strangers = [f"not in it          {counted(found.strangers, 'person')} of the data"] if found.strangers else []
    return [
        *lines,
        "",
        f"persons charged    {found.persons:,}, in {runs} of {studies}",
        *strangers,
        f"greatest person    {_up(found.greatest)} {at}, all studies together",
        f"typical person     {_up(found.typical)} {at} (median)",
        f"limit              {limit}",
        f"remains            {remains}",
        f"unprotected        {counted(found.unprotected, 'person')} about whom figures left that no epsilon covers",
    ]


def _line(run: "RunCost") -> str:
    kept = "" if run.is_ended else " (not ended: what it is expected to spend is kept)"
    spent = f"{_up(run.epsilon)} at delta = {run.delta:g}  {shown(run.study)}{kept}"
    return f"{run.line:>6}  {run.began[:16]:16}  {run.persons:>8,}  {run.hospitals:>9,}  {spent}"


def _up(epsilon: float) -> str:
    from wardround.accounting.statement import format_epsilon

    return f"epsilon = {format_epsilon(epsilon)}"


def _down(epsilon: float) -> str:
    return "infinity" if epsilon == math.inf else f"{math.floor(epsilon * 100) / 100:.2f}"

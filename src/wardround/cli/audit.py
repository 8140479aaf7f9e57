"""`wardround audit`: attacks on a study's own mechanism, and on schemes that are known to be broken."""

from pathlib import Path
from typing import Annotated

import typer

from wardround.boundary.private import write_whole
from wardround.boundary.text import tell
from wardround.cli.keys import AsJson
from wardround.cli.printing import DataPath, can_appear, console, interruptible, overrides_of
from wardround.cli.verify import LedgerPath, PinsPath, trusted
from wardround.errors import StudyError

CONTRADICTED = 3
"""Exit code where something was found that contradicts a claim; bad input is 2."""


def audit(
    path: Annotated[
        Path | None, typer.Argument(metavar="STUDY|RUN", help="A study file, or the folder of a finished run.")
    ] = None,
    runs: Annotated[
        int | None,
        typer.Option(
            "--runs", min=30, help="Runs with one patient, and as many without; default 500, of --broken 16,000."
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", min=0, help="Fix coins and noise beforehand; default: the operating system's."),
    ] = None,
    broken: Annotated[bool, typer.Option("--broken", help="Attack broken schemes and their repairs.")] = False,
    model: Annotated[
        bool, typer.Option("--model", help="Infer membership from the model as well; reads the pictures.")
    ] = False,
    shadows: Annotated[int, typer.Option("--shadows", min=8, help="Shadow models that --model trains.")] = 64,
    procedure: Annotated[
        bool,
        typer.Option("--procedure", help="Repeat the whole procedure with one patient less; reads the pictures."),
    ] = False,
    keep: Annotated[
        Path | None,
        typer.Option("--keep", metavar="DIR", help="Keep the scores of --procedure there, and go on from them."),
    ] = None,
    data: DataPath = None,
    pins: PinsPath = None,
    ledger: LedgerPath = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="PAGE", callback=can_appear, help="Write an HTML page as well.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Attack a study or run and recompute its accounting; exit with 3 on a contradiction."""
    if broken != (path is None):
        raise StudyError(
            "`wardround audit` must be given one of STUDY, RUN and --broken, got "
            f"{'none of them' if path is None else 'a path and --broken'}. Give one of them.",
            code="study-audit-what",
        )
    if path is None:
        if model or procedure or keep is not None or data is not None or ledger is not None:
            raise StudyError(
                "`--model`, `--procedure`, `--keep`, `--data` and `--ledger` must be given with a path, got --broken. "
                "Leave them out.",
                code="study-audit-what",
            )
        _broken(0 if seed is None else seed, runs, out, as_json)
        return
    from wardround.audit.findings import lines_of
    from wardround.audit.study import RUNS, Deeper, audit_run, audit_study
    from wardround.cli.terminal import Terminal
    from wardround.config import read_study

    if path.is_dir() and data is not None:
        raise StudyError(
            f"`--data` must be given with a study file, got the run {path}, which knows its own data. Leave it out.",
            code="study-audit-what",
        )
    if not path.is_dir() and ledger is not None:
        raise StudyError(
            f"`--ledger` must be given with the folder of a run, got {path}. Leave it out.",
            code="study-audit-what",
        )
    deeper, runs = Deeper(shadows if model else 0, procedure, keep), runs or RUNS
    with interruptible("Give the same command again."), Terminal(console()) as terminal:
        if path.is_dir():
            from wardround.simulation.own_key import own_key, own_pin

            key = own_key() if own_pin() else None
            found = audit_run(
                path, trusted(None, pins), terminal, key=key, ledger=ledger, runs=runs, seed=seed, deeper=deeper
            )
        else:
            found = audit_study(
                read_study(path, overrides_of(data)), terminal, runs=runs, seed=seed, deeper=deeper
            )
    if out is not None:
        from wardround.audit.page import page_of

        write_whole(out, page_of(found).encode())
    tell(as_json, found.to_json(), *lines_of(found))
    if found.contradictions:
        raise typer.Exit(CONTRADICTED)


def _broken(seed: int, runs: int | None, out: Path | None, as_json: bool) -> None:
    from wardround.audit.broken import try_all
    from wardround.audit.schemes import RUNS

    tried = try_all(seed, runs or RUNS)
    if out is not None:
        from wardround.audit.page import page_of_broken

        write_whole(out, page_of_broken(tried).encode())
    tell(as_json, {"schemes": [one.to_json() for one in tried]}, *(
        f"{one.name:60} claimed {one.found.claimed:7.3f}  at least {one.found.epsilon:6.3f}  at delta "
        f"{one.found.delta:g}: {'caught' if one.found.caught else 'no contradiction found at this power'}"
        for one in tried
    ))  # fmt: skip
    if any(one.found.caught != one.broken for one in tried):
        raise typer.Exit(CONTRADICTED)

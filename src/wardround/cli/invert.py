"""`wardround audit invert`: pictures that a curious coordinator could make of a study's gradients and sums."""

import json
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from wardround.boundary.text import say
from wardround.cli.audit import audit
from wardround.cli.keys import AsJson
from wardround.cli.printing import DataPath, StudyPath, can_appear, console, interruptible, overrides_of

_MECHANISM = "mechanism"


class _MechanismByDefault(TyperGroup):
    """The group of `wardround audit`: words that name no command of it are the arguments of `audit` itself."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]  # typer's context
        """Puts the default command before arguments that begin with none."""
        if not args or args[0] not in {*self.commands, "--help"}:
            args = [_MECHANISM, *args]
        return super().parse_args(ctx, args)


audit_app = typer.Typer(
    cls=_MechanismByDefault,
    help="Attack a study, and recompute its accounting. `wardround audit STUDY` is short for `audit mechanism STUDY`.",
)
audit_app.command(_MECHANISM)(audit)


@audit_app.command()
def invert(
    study: StudyPath,
    data: DataPath = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out", metavar="PAGE", callback=can_appear, help="The page; its figures lie beside it as .json."
        ),
    ] = Path("inversion.html"),
    seed: Annotated[
        int | None,
        typer.Option("--seed", min=0, help="Fix patients, weights and noise; default: the operating system's."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a curious coordinator could see. The page shows patients: for the hospital's own screen."""
    from wardround.audit.curious import invert as attacked
    from wardround.audit.page import page_of_inversion
    from wardround.boundary.private import write_whole
    from wardround.cli.terminal import Terminal
    from wardround.config import read_study

    resolved = read_study(study, overrides_of(data))
    with interruptible("Nothing was written; give the same command again."), Terminal(console()) as terminal:
        found = attacked(resolved, terminal, seed=seed)
    figures = json.dumps(found.to_json())
    for path, content in ((out, page_of_inversion(found)), (out.with_suffix(".json"), figures)):
        write_whole(path, content.encode())
    if as_json:
        say(figures)
        return
    for sight in found.sights:
        ranks = [each.rank for each in sight.found if each.rank is not None]
        ranks = ranks or [each.row_rank for each in sight.found if each.row_rank is not None]
        if ranks:
            say(f"{sight.name}: {sum(rank == 1 for rank in ranks)} of {len(ranks)} patients re-identified")
    if found.modified is not None:
        counts = ", ".join(f"{count} of {found.together}" for count in found.modified.taken_out)
        say(f"taken out of sums by modified models, without noise and with the study's: {counts}")
    say(f"page: {out} (it shows patients: the hospital's own copy)")

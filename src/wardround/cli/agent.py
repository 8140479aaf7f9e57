"""`wardround agent`: a hospital's own program. It answers for studies that a person accepted, and can refuse."""

import fcntl
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wardround.boundary.private import open_private
from wardround.boundary.text import say, tell
from wardround.cli.keys import AsJson
from wardround.cli.printing import StudyPath, interruptible

if TYPE_CHECKING:
    from wardround.config.site import PolicyFile, Site
    from wardround.hospital.desk import Desk

agent_app = typer.Typer(
    help="A hospital's own program: answers for accepted studies.", invoke_without_command=True
)

Home = Annotated[Path, typer.Option("--home", help="The hospital's folder: site.toml, policy.toml, keys, ledger.")]


@agent_app.callback()
def agent(
    context: typer.Context,
    home: Annotated[Path | None, typer.Option("--home", help="The hospital's folder.")] = None,
    study: Annotated[
        Path | None, typer.Option("--study", help="An accepted study to open at once; default: the only one.")
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="The Unix group of the courier, which may use the socket.")
    ] = None,
) -> None:
    """Serve HOME/agent.sock until it is told to end (SIGTERM)."""
    if context.invoked_subcommand is not None:
        return
    from wardround.errors import StudyError

    if home is None:
        raise StudyError("`--home` is required, and not given. Name the hospital's folder.", code="study-no-home")
    from wardround.config import read_study
    from wardround.config.site import read_site
    from wardround.hospital.accepted import accepted_digests
    from wardround.hospital.desk import MOST_BYTES, Desk
    from wardround.transport.server import Server

    site = read_site(home / "site.toml")
    chosen = (read_study(study).digest,) if study is not None else accepted_digests(home)
    with interruptible("Start the agent again."), ExitStack() as stack:
        stack.enter_context(_alone(home))
        stack.enter_context(_logging(home / "agent.log"))
        desk = stack.enter_context(Desk(home))
        if study is not None or len(chosen) == 1:
            _open(desk, chosen[0])
        server = Server(home / "agent.sock", desk.answer, most_bytes=MOST_BYTES, group=group)
        stack.enter_context(server.ended_by(signal.SIGTERM, signal.SIGINT))
        accepted = "accepted, waiting" if chosen else "no study is accepted, waiting"
        say(f"{site.hospital.name}: {accepted} at {server.path}")
        sys.stdout.flush()
        server.serve()


def _open(desk: "Desk", digest: str) -> None:
    """Opens a study before it is asked for; one that the hospital refuses now is answered with its code until then.

    An agent that ended here would leave the coordinator with `gone`, which names no reason.
    """
    from wardround.errors import PrivacyError, StudyError

    try:
        desk.open(digest)
    except (PrivacyError, StudyError) as error:
        if isinstance(error, StudyError) and error.code != "study-device":
            raise
        logging.getLogger("wardround.hospital").warning("refuses study %s", digest[:12], exc_info=error)
        say(f"study {digest[:12]} is refused as long as this stands: {error}", error=True)


@agent_app.command("review")
def review(study: StudyPath, home: Home) -> None:
    """Print a study's promise, what it would cost this hospital's patients, and what would be left."""
    from wardround.config import read_study
    from wardround.hospital.review import review as review_of

    say(*review_of(home, *_own(home), read_study(study)).lines())


@agent_app.command("accept")
def accept(
    study: StudyPath,
    home: Home,
    by: Annotated[
        str | None, typer.Option("--by", help="Who accepts it; default: the user of this machine.")
    ] = None,
    digest: Annotated[
        str | None,
        typer.Option("--digest", help="As review printed it: a file that was changed since is refused."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Accept a study: from now on the agent answers for it."""
    import getpass

    from wardround.config import read_study
    from wardround.errors import StudyError
    from wardround.hospital.accepted import accept as accept_study

    read, person = read_study(study), by or getpass.getuser()
    if digest not in (None, read.digest):
        raise StudyError(
            f"`--digest` must be that of the study file, {read.digest}, got {digest}: another file was reviewed. "
            "Review this one.",
            code="study-other-digest",
        )
    path = accept_study(home, *_own(home), read, by=person)
    found = {"study": read.study.name, "digest": read.digest, "by": person, "file": str(path)}
    tell(as_json, found, f"{read.study.name} is accepted by {person}, digest {read.digest}", str(path))


def _own(home: Path) -> "tuple[Site, PolicyFile]":
    from wardround.config.site import read_policy, read_site

    return read_site(home / "site.toml"), read_policy(home / "policy.toml")


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Holds the folder: two agents in one would charge one ledger for two answers."""
    from wardround.errors import FederationError

    with os.fdopen(open_private(home / "agent.lock", os.O_RDWR), "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FederationError(
                f"One agent at a time must serve a hospital's folder, and another one serves {home}; end it first.",
                code="federation-agent-runs",
            ) from None
        yield


@contextmanager
def _logging(path: Path) -> Iterator[None]:
    from wardround.hospital.own_log import log_to

    logger, handler = logging.getLogger("wardround"), log_to(path)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        handler.close()

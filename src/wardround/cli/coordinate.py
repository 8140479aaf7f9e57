"""`wardround coordinate`: the coordinator's program. It has no picture, no ledger and no hospital's key."""

from pathlib import Path
from typing import Annotated

import typer

from wardround.cli.keys import AsJson
from wardround.cli.printing import AGAIN, StudyPath, console, interruptible, print_run, uncollected


def coordinate(
    study: StudyPath,
    hospital: Annotated[
        list[str], typer.Option(metavar="NAME=SOCKET", help="A hospital and its agent's socket; once for each.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The run's folder; a run that is in it goes on.")],
    home: Annotated[
        Path, typer.Option("--home", help="The coordinator's folder, of `wardround consortium init`.")
    ] = Path("consortium"),
    patience: Annotated[float, typer.Option(min=0, help="Seconds to wait for a hospital that is away.")] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Run a study between hospitals whose agents are waiting.

    The same command again goes on with an interrupted run.
    """
    with uncollected():
        from wardround.cli.terminal import Terminal
        from wardround.config import read_study
        from wardround.coordinator.home import read_home
        from wardround.coordinator.observer import Together
        from wardround.coordinator.run import coordinate as run_between
        from wardround.transport.exchanges import Exchanges
        from wardround.transport.unix import SocketChannel, sockets_of
        from wardround.watching.live import Live

    resolved = read_study(study)
    sockets, keys = sockets_of(hospital, resolved.hospitals.names or ()), read_home(home)
    with interruptible(AGAIN), Terminal(console()) as terminal:
        live = Live(out, resolved.study.name, resolved.digest, resolved.rounds, tuple(sockets))
        exchanges = Exchanges(home / "exchange")
        channel = SocketChannel(sockets, keys, patience_s=patience, watcher=live, exchanges=exchanges)
        try:
            record = run_between(resolved, channel, keys.hospitals, keys.key, out, Together((terminal, live)))
        finally:
            live.close()
            channel.close()
    print_run(record, as_json)

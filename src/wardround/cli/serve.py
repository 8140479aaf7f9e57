"""`wardround serve`: a run's model for the machines of one clinic, by default for this machine alone."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from wardround.boundary.text import say
from wardround.cli.verify import RunPath


def serve(
    path: RunPath,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen at; any but loopback lets other machines ask.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8000,
    advice: Annotated[
        Path | None, typer.Option("--advice", help="TOML or JSON with advice for each answer, by language.")
    ] = None,
    member: Annotated[
        str | None, typer.Option("--member", help="Of several models in the run: its name; default: their mean.")
    ] = None,
) -> None:
    """Serve a run's model over HTTP: the page at /, and POST /predict, a picture's bytes for the JSON of `predict`.

    Nothing is stored or logged. There is no encryption and no login.
    """
    from wardround.errors import StudyError
    from wardround.inference.export.write import page_with_graph
    from wardround.inference.model import load
    from wardround.inference.serve import Service
    from wardround.inference.serve import serve as answer

    model = load(path, member)
    page, _ = page_with_graph(model, advice)
    try:
        service = Service(model, page, host, port)
    except (OSError, ValueError) as error:
        raise StudyError(
            f"`--host` and `--port` must be an address of this machine that is free, got {host}:{port} "
            f"({getattr(error, 'strerror', None) or error}); choose another.",
            code="study-address",
        ) from None
    say(f"{model.card.study.name}: {service.url}")
    if not service.is_loopback:
        say("other machines can ask; pictures are not encrypted on their way, and there is no login", error=True)
    sys.stdout.flush()
    answer(service)

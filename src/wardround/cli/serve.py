"""`wardround serve`: a run's model for the machines of one clinic, by default for this machine alone."""

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from wardround.boundary.text import say
from wardround.cli.printing import Member
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
    member: Member = None,
    encrypted: Annotated[
        bool, typer.Option("--encrypted", help="Answer encrypted features of `predict ADDRESS`, and nothing else.")
    ] = False,
    rows: Annotated[
        int | None,
        typer.Option("--rows", min=1, help="With --encrypted: pictures answered in all; default: features / 10."),
    ] = None,
) -> None:
    """Serve a run's model over HTTP, to this machine by default.

    GET / is its page. POST /predict takes a picture's bytes and gives the JSON of `predict`.

    With --encrypted neither the model nor a picture is shown to the other side: clients send encrypted features.
    Nothing is logged. There is no encryption of the connection and no login.
    """
    from wardround.errors import StudyError
    from wardround.inference.export.write import page_with_graph
    from wardround.inference.model import load
    from wardround.inference.serve import Service
    from wardround.inference.serve import serve as answer

    if (rows is not None and not encrypted) or (encrypted and advice is not None):
        given, other = ("--rows", "go with") if advice is None else ("--advice", "be without")
        raise StudyError(f"`{given}` must {other} `--encrypted`; change one of them.", code="study-options")
    with _at(host, port), socket.create_server((host, port)):
        pass  # an address that cannot be had is found before the model is read
    model = load(path, member)
    if encrypted:
        from wardround.inference.encrypted.service import EncryptedHead

        head = EncryptedHead.of(model, rows)
        listen = head.service
    else:
        listen = partial(Service.of_model, model, page_with_graph(model, advice)[0])
    with _at(host, port):
        service = listen(host, port)
    if encrypted:
        say(*head.sentences(), f"ask with: wardround predict {service.url} PATH...")
    else:
        say(f"{model.card.study.name}: {service.url}")
    if not service.is_loopback:
        way = "answers can be changed" if encrypted else "pictures are not encrypted"
        say(f"other machines can ask; {way} on their way, and there is no login", error=True)
    sys.stdout.flush()
    answer(service)


@contextmanager
def _at(host: str, port: int) -> Iterator[None]:
    """Names the options of an address that cannot be had."""
    from wardround.errors import StudyError

    try:
        yield
    except (OSError, ValueError) as error:
        raise StudyError(
            f"`--host` and `--port` must be an address of this machine that is free, got {host}:{port} "
            f"({getattr(error, 'strerror', None) or error}); choose another.",
            code="study-address",
        ) from None

"""`wardround status`: a run while it goes on, as its coordinator or as one of its hospitals sees it."""

from pathlib import Path
from typing import Annotated

import typer

from wardround.boundary.text import say, tell
from wardround.cli.keys import AsJson


def status(
    path: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A hospital's folder, or the --out of wardround coordinate.")
    ],
    as_json: AsJson = False,
    serve: Annotated[
        int | None,
        typer.Option(
            metavar="PORT", min=0, max=65535, help="Serve a page of it on 127.0.0.1 until Ctrl-C, with /metrics."
        ),
    ] = None,
) -> None:
    """Print how a run between hospitals goes.

    It names who answered, who is slow or away, epsilon spent and left, bytes and seconds.
    """
    from wardround.watching.page import StatusServer
    from wardround.watching.views import json_of, view_of
    from wardround.watching.words import lines_of

    view = view_of(path)
    if serve is None:
        tell(as_json, json_of(view), *lines_of(view))
        return
    import contextlib
    import sys

    with StatusServer(lambda: view_of(path), serve) as server, contextlib.suppress(KeyboardInterrupt):
        say(f"status of {path} at http://127.0.0.1:{server.server_port}/ and /metrics")
        sys.stdout.flush()
        server.serve_forever()

"""`wardround cache`: decoded pictures and their encodings, which runs keep on this machine."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wardround.boundary.text import counted, say
from wardround.cli.keys import AsJson

if TYPE_CHECKING:
    from wardround.images.rows.kept import Kept

cache_app = typer.Typer(help="Decoded pictures and encodings that later runs reuse.", no_args_is_help=True)

CachePath = Annotated[
    Path | None,
    typer.Option("--cache", help="The folder of a study's `[performance] cache`; default: this user's own."),
]


@cache_app.command("list")
def list_cache(cache: CachePath = None, as_json: AsJson = False) -> None:
    """List kept entries, with their size and the days since their last use."""
    folder, found = _kept(cache)
    if as_json:
        rows = [
            {
                "key": kept.key, "kind": kept.kind, "shape": kept.shape, "bytes": kept.num_bytes,
                "days_unused": round(kept.days_unused(), 2),
            }
            for kept in found
        ]  # fmt: skip
        say(json.dumps({"cache": str(folder), "kept": rows}))
        return
    for kept in found:
        form = "not complete" if kept.shape is None else " x ".join(map(str, kept.shape))
        age = f"{kept.days_unused():.0f} days ago" if kept.days_unused() >= 1 else "today"
        say(f"{kept.key[:12]}  {kept.kind:9}  {form:22}  {kept.num_bytes / 1e6:9,.1f} MB  last used {age}")
    say(_total(folder, found, "kept"))


@cache_app.command("clear")
def clear(
    cache: CachePath = None,
    unused: Annotated[
        float, typer.Option("--unused", min=0, help="Days without use after which an entry goes; 0 removes all.")
    ] = 0,
) -> None:
    """Remove kept entries; the next run makes them again.

    Ledgers, keys and runs are elsewhere and stay.
    """
    from wardround.images.rows.kept import forget

    folder, found = _kept(cache)
    gone = [kept for kept in found if kept.days_unused() >= unused]
    for kept in gone:
        forget(kept)
    say(_total(folder, gone, "removed"))


def _kept(cache: Path | None) -> "tuple[Path, list[Kept]]":
    from wardround.hospital.pictures import DEFAULT_CACHE
    from wardround.images.rows.kept import kept_in

    folder = (cache or DEFAULT_CACHE).expanduser()
    return folder, kept_in(folder)


def _total(folder: Path, kept: "list[Kept]", done: str) -> str:
    size = sum(one.num_bytes for one in kept) / 1e6
    return f"{folder}: {counted(len(kept), 'set is', 'sets are')} {done}, {size:,.1f} MB"

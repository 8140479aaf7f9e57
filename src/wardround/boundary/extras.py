"""Optional packages, which are imported where they are used: their absence is one sentence, not a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

from wardround.errors import MissingExtra


@contextmanager
def needed(extra: str, by: str, otherwise: str = "") -> Iterator[None]:
    """Refuses imports in its block that fail, with the reason and the line that installs what they need.

    Args:
        extra: of wardround that has the packages.
        by: what needs them, as the sentence begins.
        otherwise: what is complete without them, or can be done instead.

    Raises:
        MissingExtra: a package is not installed, or cannot be imported as it is.
    """
    try:
        yield
    except ImportError as error:
        package = (error.name or "a package").partition(".")[0]
        if package == "wardround":  # a mistake of ours
            raise
        absent = isinstance(error, ModuleNotFoundError)
        why = "is not installed" if absent else f"cannot be imported ({error})"
        raise MissingExtra(
            f"{by} needs {package}, which {why}{otherwise and '; '}{otherwise}. Install it with: pip install "
            f"'wardround[{extra}]'."
        ) from None

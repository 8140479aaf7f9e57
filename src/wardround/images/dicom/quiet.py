"""Silence for pydicom: its warnings, logs and exceptions quote values of headers.

Warning filters and loggers belong to the whole process, so they are held back while any thread is inside and given
back when the last one leaves.
"""

import logging
import threading
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from wardround.errors import DataError, MissingExtra

_LOGGERS = ("pydicom", "pylibjpeg", "libjpeg", "openjpeg", "rle")
_SILENT = logging.CRITICAL + 1

_Made = TypeVar("_Made")


class _Quiet:
    """Entered by any number of threads at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._levels: dict[str, int] = {}
        self._warnings = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside > 1:
                return
            self._warnings = warnings.catch_warnings()
            self._warnings.__enter__()
            warnings.simplefilter("ignore")
            self._levels = {name: logging.getLogger(name).level for name in _LOGGERS}
            for name in _LOGGERS:
                logging.getLogger(name).setLevel(_SILENT)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside:
                return
            for name, level in self._levels.items():
                logging.getLogger(name).setLevel(level)
            self._warnings.__exit__(kind, error, trace)


QUIET = _Quiet()


def sealed(work: Callable[[], _Made], otherwise: str) -> _Made:
    """Returns the result of `work`; any error in it becomes a `DataError` that quotes nothing.

    The error is raised after its cause is forgotten, so that no chain of exceptions holds a header's value.

    Args:
        work: uses pydicom.
        otherwise: the sentence for anything but a `DataError`, whose own sentence is kept.
    """
    reason = otherwise
    with QUIET:
        try:
            return work()
        except MissingExtra:
            raise
        except DataError as error:
            reason = str(error)
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException:  # anything at all on a hostile file; decoders in Rust panic beside Exception
            pass
    raise DataError(reason)


def require_pydicom() -> None:
    """Raises `MissingExtra` unless pydicom is installed."""
    try:
        import pydicom  # noqa: F401
    except ImportError:
        raise MissingExtra(
            "Reading DICOM needs pydicom, which is not installed. Install it with: pip install 'wardround[dicom]'."
        ) from None

"""Silence for decoders: warnings and logs of Pillow, nibabel and pydicom, whose exceptions quote values of headers too.

Warning filters and loggers belong to the whole process, so they are held back while any thread is inside and given
back when the last one leaves.
"""

import contextlib
import logging
import threading
import warnings
from collections.abc import Callable
from typing import TypeVar

from wardround.boundary.extras import needed
from wardround.errors import DataError, MissingExtra

_LOGGERS = ("nibabel.global", "pydicom", "pylibjpeg", "libjpeg", "openjpeg", "rle")
_SILENT = logging.CRITICAL + 1

_Made = TypeVar("_Made")


class _Quiet:
    """Entered by any number of threads at once; entered around many files, it costs little for each."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._restore = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._restore.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
                for logger in map(logging.getLogger, _LOGGERS):
                    self._restore.callback(logger.setLevel, logger.level)
                    logger.setLevel(_SILENT)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._restore.close()


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
    with needed("dicom", "Reading DICOM"):
        import pydicom  # noqa: F401

"""What pydicom says stays inside, from any number of threads, and everything is as it was afterwards."""

import logging
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

from wardround.errors import DataError, MissingExtra
from wardround.images.decode.quiet import QUIET, sealed


def shout():
    warnings.warn("SMITH^JOHN", UserWarning, stacklevel=1)
    for name in ("pydicom", "pydicom.pixels.utils", "pylibjpeg"):
        logging.getLogger(name).critical("SMITH^JOHN")
    raise ValueError("SMITH^JOHN")


def test_warnings_logs_and_exceptions_stay_inside(caplog):
    before = list(warnings.filters), logging.getLogger("pydicom").level
    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, "pydicom"):
        with pytest.raises(DataError, match="a plain sentence") as caught:
            sealed(shout, "a plain sentence.")
        assert not caplog.records
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None
    assert (list(warnings.filters), logging.getLogger("pydicom").level) == before


def test_threads_leave_filters_and_loggers_as_they_found_them():
    before = list(warnings.filters), logging.getLogger("pydicom").level

    def enter(_):
        with pytest.raises(DataError):
            sealed(shout, "x")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(enter, range(200)))
    assert (list(warnings.filters), logging.getLogger("pydicom").level) == before


def test_our_own_sentences_pass():
    def refuse(error):
        raise error

    with pytest.raises(DataError, match="own"):
        sealed(lambda: refuse(DataError("own")), "other")
    with pytest.raises(MissingExtra):
        sealed(lambda: refuse(MissingExtra("x")), "other")
    with pytest.raises(DataError, match="other"):
        sealed(lambda: refuse(RecursionError()), "other")
    with QUIET, QUIET:
        assert sealed(lambda: 3, "other") == 3

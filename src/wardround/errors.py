"""Every exception that Wardround raises on purpose, and its code.

    WardroundError       error               one sentence for a person: what must hold, what came, what to do
    ├── StudyError       study               the study file, or an option of a command
    ├── DataError        data                pictures, tables, patients and their hospitals
    ├── ModelError       model               a network, its weights, or what makes it unfit for private training
    ├── PrivacyError     privacy             a guarantee that cannot be given as asked
    │   └── BudgetExhausted  budget-exhausted    the next release would spend more than the hospital allows
    ├── LedgerError      ledger              a privacy ledger that is damaged, or belongs to other data
    ├── FederationError  federation          a round that cannot go on
    ├── MissingExtra     missing-extra       a feature whose optional packages are not installed
    ├── RecordError      record              a run folder that is missing, damaged or already in use
    └── MachineError     machine             a disk that is full, read-only or gone, a limit, or memory that is used up

A code is stable and a sentence is not: programs and tests ask for `error.code`. Where one class has causes that call
for different answers, the raising site gives a finer code that starts with the one of the class, such as
`StudyError("...", code="study-unknown-key")`.

The command line prints the sentence and exits with 2; anything else is a bug and shows its traceback. Errors of the
operating system that reach it are printed as a `MachineError` (`wardround.boundary.machine`).
Messages of `DataError` may name files: they are for the hospital's own screen. What leaves a hospital
about a failure is a code and a stage (`wardround.federation.messages`), never one of these sentences.
"""

from collections.abc import Sequence


class WardroundError(Exception):
    """Base of all errors that carry one sentence for the person who can repair the cause.

    Args:
        message: the sentence.
        code: a finer code than the one of the class, which it starts with.
    """

    code = "error"

    def __init__(self, message: str = "", *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class StudyError(WardroundError):
    """A study file or a command option that does not hold."""

    code = "study"


class DataError(WardroundError):
    """Pictures, tables or patients that cannot be used as they are."""

    code = "data"

    several: "tuple[DataError, ...]" = ()
    """The errors that this one joins; empty for one that stands for itself."""


def as_one(errors: Sequence[DataError]) -> DataError:
    """Returns one error with the sentences of all; of a single one the same, code and all."""
    if len(errors) == 1:
        return errors[0]
    joined = DataError(" ".join(map(str, errors)), code="data-several")
    joined.several = tuple(errors)
    return joined


class ModelError(WardroundError):
    """A network or weights that cannot be used as asked."""

    code = "model"


class PrivacyError(WardroundError):
    """A privacy guarantee that cannot be given as asked."""

    code = "privacy"


class BudgetExhausted(PrivacyError):
    """The next release would spend more than the hospital allows; nothing was released."""

    code = "budget-exhausted"


class LedgerError(WardroundError):
    """A privacy ledger that is damaged or that belongs to other data."""

    code = "ledger"


class FederationError(WardroundError):
    """A round that cannot go on."""

    code = "federation"


class MissingExtra(WardroundError):
    """A feature whose optional packages are not installed; the message has the line that installs them."""

    code = "missing-extra"


class RecordError(WardroundError):
    """A run folder that is missing, damaged or in use."""

    code = "record"


class MachineError(WardroundError):
    """A disk, a mount, a limit or the memory of this machine that failed; the same command goes on afterwards."""

    code = "machine"

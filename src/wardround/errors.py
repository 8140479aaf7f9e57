"""Every exception that Wardround raises on purpose.

    WardroundError                 a sentence for a person: what must hold, what came, what to do
    ├── StudyError                 the study file, or an option of a command
    ├── DataError                  pictures, tables, patients and their hospitals
    ├── ModelError                 a network, its weights, or what makes it unfit for private training
    ├── PrivacyError               a guarantee that cannot be given as asked
    │   └── BudgetExhausted        the next release would spend more than the hospital allows
    ├── LedgerError                a privacy ledger that is damaged, or belongs to other data
    ├── FederationError            a round that cannot go on
    ├── MissingExtra               a feature whose optional packages are not installed
    └── RecordError                a run folder that is missing, damaged or already in use

The command line prints the sentence and exits with 2; anything else is a bug and shows its traceback.
Messages of `DataError` may name files: they are for the hospital's own screen. What leaves a hospital
about a failure is a code and a stage (`wardround.federation.messages`), never one of these sentences.
"""


class WardroundError(Exception):
    """Base of all errors that carry one sentence for the person who can repair the cause."""


class StudyError(WardroundError):
    """A study file or a command option that does not hold."""


class DataError(WardroundError):
    """Pictures, tables or patients that cannot be used as they are."""


class ModelError(WardroundError):
    """A network or weights that cannot be used as asked."""


class PrivacyError(WardroundError):
    """A privacy guarantee that cannot be given as asked."""


class BudgetExhausted(PrivacyError):
    """The next release would spend more than the hospital allows; nothing was released."""


class LedgerError(WardroundError):
    """A privacy ledger that is damaged or that belongs to other data."""


class FederationError(WardroundError):
    """A round that cannot go on."""


class MissingExtra(WardroundError):
    """A feature whose optional packages are not installed; the message has the line that installs them."""


class RecordError(WardroundError):
    """A run folder that is missing, damaged or in use."""

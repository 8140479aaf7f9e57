"""Trains one diagnostic model across hospitals; images stay, and what is revealed of one patient is bounded.

Three functions are enough to begin with:

    run = wardround.run("study.toml")       # trains a study in a simulation; a notebook shows figures and plots
    model = wardround.load("runs/study")    # the model of a finished run
    model.predict(["a.png", "b.dcm"])       # classes or masks for new pictures, read as training reads them

The names below are the public surface. They are loaded when first used, so that importing `wardround` costs
nothing and the command line starts at once. Errors are `WardroundError` with a stable `code`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wardround.accounting.statement import Statement
    from wardround.config import Study, read_study
    from wardround.errors import WardroundError
    from wardround.federation.channel import Channel
    from wardround.federation.messages import Reply, Request
    from wardround.federation.strategy import Strategy
    from wardround.images.patients import Patient
    from wardround.inference.answers import Classified, Prediction, Segmented, Unanswered
    from wardround.inference.model import Model, load
    from wardround.ledger.account import Account
    from wardround.ledger.file import LedgerFile
    from wardround.notebook import Run, run
    from wardround.per_patient import clipped_sum
    from wardround.privacy.plans.plan import Plan
    from wardround.records.folder import RunRecord
    from wardround.simulation.run import resume_run, run_study

__version__ = "0.3.0"

_HOMES = {
    "Account": "wardround.ledger.account",
    "Channel": "wardround.federation.channel",
    "Classified": "wardround.inference.answers",
    "LedgerFile": "wardround.ledger.file",
    "Model": "wardround.inference.model",
    "Patient": "wardround.images.patients",
    "Plan": "wardround.privacy.plans.plan",
    "Prediction": "wardround.inference.answers",
    "Reply": "wardround.federation.messages",
    "Request": "wardround.federation.messages",
    "Run": "wardround.notebook",
    "RunRecord": "wardround.records.folder",
    "Segmented": "wardround.inference.answers",
    "Statement": "wardround.accounting.statement",
    "Strategy": "wardround.federation.strategy",
    "Study": "wardround.config",
    "Unanswered": "wardround.inference.answers",
    "WardroundError": "wardround.errors",
    "clipped_sum": "wardround.per_patient",
    "load": "wardround.inference.model",
    "read_study": "wardround.config",
    "resume_run": "wardround.simulation.run",
    "run": "wardround.notebook",
    "run_study": "wardround.simulation.run",
}

__all__ = [
    "Account",
    "Channel",
    "Classified",
    "LedgerFile",
    "Model",
    "Patient",
    "Plan",
    "Prediction",
    "Reply",
    "Request",
    "Run",
    "RunRecord",
    "Segmented",
    "Statement",
    "Strategy",
    "Study",
    "Unanswered",
    "WardroundError",
    "__version__",
    "clipped_sum",
    "load",
    "read_study",
    "resume_run",
    "run",
    "run_study",
]


def __getattr__(name: str) -> object:
    """A public name, imported from its room when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'wardround' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Returns the public names, for completion; without this they appear only after their first use."""
    return sorted([*globals(), *(name for name in __all__ if name not in globals())])

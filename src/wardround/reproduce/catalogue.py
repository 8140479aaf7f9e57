"""Every reproduction by the name that it has on the command line."""

from collections.abc import Callable
from dataclasses import dataclass

from wardround.errors import StudyError
from wardround.reproduce import deepee, dopamine, epsilons, exchange, singh, yuan
from wardround.reproduce.encrypted_sum import readers
from wardround.reproduce.request import Request
from wardround.reproduce.table import Table


@dataclass(frozen=True)
class Reproduction:
    """A published result that can be run again: a line for the list, the set it was published on, and its table."""

    what: str
    data: str
    run: Callable[[Request], Table]


REPRODUCTIONS: dict[str, Reproduction] = {
    "yuan-table1": Reproduction("the ring by group and noise", "chest X-rays", yuan.table_1),
    "yuan-fig4": Reproduction("hospitals alone and together", "chest X-rays", yuan.figure_4),
    "yuan-fig5": Reproduction("larger networks alone, a small one together", "chest X-rays", yuan.figure_5),
    "dopamine-fig1": Reproduction("five ways to train, by epoch", "APTOS retinas", dopamine.figure_1),
    "singh-fig4": Reproduction("noise on pictures and on gradients", "chest X-rays", singh.figure_4),
    "deepee-pneumonia": Reproduction("private training of one network", "chest X-rays", deepee.pneumonia),
    "deepee-segmentation": Reproduction("masks of an organ", "Decathlon volumes", deepee.segmentation),
    "exchange-comparison": Reproduction("ways of exchanging a model", "any pictures", exchange.comparison),
    "encrypted-sum": Reproduction("who reads a hospital's model", "none: drawn numbers", readers.table),
    "epsilons": Reproduction("every published epsilon", "none: arithmetic", epsilons.table),
}


def reproduction(name: str) -> Reproduction:
    """The reproduction of that name.

    Raises:
        StudyError: there is none.
    """
    if name not in REPRODUCTIONS:
        raise StudyError(f"NAME must be one of {', '.join(REPRODUCTIONS)}, got {name!r}; see --list.")
    return REPRODUCTIONS[name]

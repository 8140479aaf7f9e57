"""That a loop promises nothing, and why, as a statement that cannot show a finite epsilon."""

import math

from wardround.accounting.statement import Statement
from wardround.noisers import ByEachHospital


def no_guarantee(reason: str, mechanism: str, released_what: str, hospitals: int = 1) -> Statement:
    """The statement of a loop that is known to give none; `reason` is a sentence."""
    return Statement(
        epsilon=math.inf,
        delta=0.0,
        sampler="whatever the loop drew",
        mechanism=mechanism,
        noise_multiplier=0.0,
        bound=math.inf,
        releases=1,
        released_what=released_what,
        released_to="every recipient",
        noiser=ByEachHospital(hospitals),
        simulated=True,
        guarantee=False,
        reason=reason,
    )

"""Absences as a study describes them, and how many of them its rounds and its privacy plan can bear."""

from wardround.boundary.text import counted
from wardround.config import Study
from wardround.config.federation import Averages
from wardround.errors import FederationError
from wardround.federation.timetable import Timetable
from wardround.noisers import NoiseShares
from wardround.privacy.plans.plan import Plan
from wardround.simulation.availability import Availability


def availability_of(study: Study) -> Availability | None:
    """Returns the hospitals that are away or late in each round; None where all are always there."""
    options = study.hospitals
    if options.is_reliable or study.federation.strategy in ("alone", "ensemble", "pooled"):
        return None
    return Availability(
        options.count,
        study.rounds,
        options.absent_rate,
        options.absent_rounds,
        options.late_rate,
        options.availability_seed,
    )


def allowed_missing(study: Study, plan: Plan) -> int:
    """Returns the hospitals that a round can do without: those whose share of the noise is foreseen to be missing.

    Where no hospital's protection hangs on another one's noise, all that the simulation sends away.
    """
    if isinstance(plan.noiser, NoiseShares):
        return plan.noiser.dropouts
    return 0 if availability_of(study) is None else study.hospitals.count


def check_availability(study: Study, timetable: Timetable) -> None:
    """Refuses a study in which some round could not happen: absences are public, and known beforehand.

    Raises:
        FederationError: more hospitals are missing from a round than the noise shares allow for, or all of them.
    """
    availability = availability_of(study)
    if availability is None or not (isinstance(study.federation, Averages) or study.forms_sums):
        return  # a strategy that asks one hospital a round passes it by
    shared = study.shares_noise
    for round in range(1, study.rounds + 1):
        asked = list(timetable.asked(round))
        missing, allowed = int(availability.missing(round)[asked].sum()), len(asked) - 1
        if shared:
            allowed = min(allowed, getattr(study.privacy, "dropouts", 0))
        if missing > allowed:
            raise FederationError(
                f"At most {allowed} of {counted(len(asked), 'hospital')} may be missing from a round, and "
                f"the timetable has {missing} missing in round {round}; "
                f"{'raise privacy.dropouts, or ' if shared else ''}change absent_rate, late_rate or availability_seed."
            )

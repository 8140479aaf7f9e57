"""The words of a guarantee: who is protected, between which data sets, and against whom."""

from enum import StrEnum


class NeighboringRelation(StrEnum):
    """In what two neighbouring data sets differ; it is written into every record."""

    ADD_OR_REMOVE_ONE = "add-or-remove-one"
    """One unit is there or is not."""
    REPLACE_ONE = "replace-one"
    """One unit is another one: the number of units is public. Up to twice as far apart as adding or removing."""


class PrivacyUnit(StrEnum):
    """The unit whose whole contribution is added or removed between neighbouring data sets."""

    PATIENT = "patient"
    PICTURE = "picture"
    """One picture or volume, in a data set that names no patients: a person may have several."""
    HOSPITAL = "hospital"


class Division(StrEnum):
    """The rule that gives each patient a place: test part, validation part, or a hospital."""

    BY_OWN_ID = "by-own-id"
    """A patient's place follows from that patient's own id, label and site: neighbours leave all others in place."""
    FIXED = "fixed"
    """The rule couples patients, as exact sizes do. The guarantee is between neighbours with the same division."""

    @property
    def condition(self) -> str:
        """The words that stand behind the protected unit; empty where a guarantee needs none."""
        return ", for this fixed division of the patients" if self is Division.FIXED else ""

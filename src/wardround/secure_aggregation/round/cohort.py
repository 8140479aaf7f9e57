"""A hospital's own decision on the others of a round, from its own pins and its own smallest cohort."""

from collections.abc import Sequence
from dataclasses import dataclass

from wardround.errors import FederationError
from wardround.secure_aggregation.keys.pins import Pins
from wardround.secure_aggregation.round.round_key import Announcement
from wardround.secure_aggregation.round.transcript import Member, Terms, Transcript


@dataclass(frozen=True)
class CohortRule:
    """A hospital's demands on a cohort before it sends anything.

    Attributes:
        pins: the hospitals it knows, its own key among them or not.
        minimum: hospitals in a round, itself among them. With two, the sum tells each of them the other's noised
            vector, so that three is the least that hides one; a hospital may say two, and never one.
    """

    pins: Pins
    minimum: int = 3

    def __post_init__(self) -> None:
        """Refuses a minimum at which nothing is hidden."""
        if self.minimum < 2:
            raise FederationError(
                f"The smallest cohort must be at least 2 hospitals, got {self.minimum}; alone, a sum is the vector."
            )

    def form(self, terms: Terms, announcements: Sequence[Announcement], own: Announcement) -> Transcript:
        """Returns the transcript of a round that this hospital will take part in.

        Terms are as this hospital was told them, announcements those of all hospitals of the attempt, as they were
        relayed, in any order; `own` is what this hospital announced.

        Raises:
            FederationError: there are fewer than `minimum`, or not as many as the terms say; one stands twice, is not
                pinned, came with another key or for other terms; or this hospital is not among them as it announced
                itself.
        """
        if len(announcements) < self.minimum:
            raise FederationError(
                f"A round must have at least {self.minimum} hospitals here, got {len(announcements)}; nothing is sent. "
                "Wait for more of them."
            )
        if len(announcements) != terms.hospitals:
            raise FederationError(
                f"A round must have the {terms.hospitals} hospitals that its noise is sized for, got "
                f"{len(announcements)}; nothing is sent. Begin an attempt whose terms say how many there are."
            )
        if own not in announcements:
            raise FederationError(
                f"The cohort must contain {own.member.hospital} as it announced itself, and does not; nothing is sent. "
                "Ask the coordinator of the round."
            )
        pins = self.pins.with_pin(own.member.hospital, own.member.identity)
        for announcement in announcements:
            announcement.check(terms, pins)
        return transcript_of(terms, [announcement.member for announcement in announcements])


def transcript_of(terms: Terms, members: Sequence[Member]) -> Transcript:
    """Returns the terms and the members in their order; trust was decided before."""
    return Transcript(terms, tuple(sorted(members, key=lambda member: member.hospital)))


def check_follows(terms: Terms, last: tuple[int, int] | None) -> None:
    """Refuses a round and attempt that this hospital has taken part in, or that lie before it.

    `last` is the round and attempt of the same run that it last uploaded to; None before the first. A key that was
    announced and never used is gone when the next is made, so that its attempt may be asked for again.

    Raises:
        FederationError: the coordinator asks for something again, which would be another release.
    """
    if last is not None and (terms.round, terms.attempt) <= last:
        raise FederationError(
            f"An attempt must come after round {last[0]}, attempt {last[1]}, the last of this run here, and is round "
            f"{terms.round}, attempt {terms.attempt}; nothing is sent. Begin an attempt with a higher number."
        )

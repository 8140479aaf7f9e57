"""The gains of a curious coordinator from a study's gradients, as values. They are facts about patients."""

from dataclasses import dataclass

from wardround.types import Pictures


@dataclass(frozen=True)
class Found:
    """The gain of one attack on one patient.

    Attributes:
        picture: that the attack gave, (channel, height, width), with the original's brightness and contrast; None where
            it gives no picture.
        psnr: in dB, against the original.
        ssim: against the original; 1 where they are equal.
        rank: place of the patient among all, by the picture (16 x 16 block means): 1 is re-identified.
        row_rank: likewise by the input of the last layer; None where the last layer is not linear.
    """

    picture: Pictures | None = None
    psnr: float | None = None
    ssim: float | None = None
    rank: int | None = None
    row_rank: int | None = None


@dataclass(frozen=True)
class Sight:
    """One thing that an attacker may see, and what it gives away of each patient shown."""

    name: str
    found: tuple[Found, ...]
    note: str = ""


@dataclass(frozen=True)
class Modified:
    """The attack with modified weights.

    Attributes:
        taken_out: patients of the sixteen whose last layer's input was recovered, without noise and with it.
        sights: without noise, and with it where the study has any.
    """

    taken_out: tuple[int, ...]
    sights: tuple[Sight, ...]


@dataclass(frozen=True)
class Inversion:
    """All attacks on one study. `patients` is the number of candidates, `parameters` the length of a gradient."""

    study: str
    digest: str
    claim: str
    network: str
    parameters: int
    patients: int
    together: int
    originals: tuple[Pictures, ...]
    sights: tuple[Sight, ...]
    modified: Modified | None
    local: tuple[Sight, ...]

    def to_json(self) -> dict[str, object]:
        """Returns all figures as one JSON object, without pictures."""
        modified = self.modified
        return {
            "study": self.study,
            "study_digest": self.digest,
            "claimed": self.claim,
            "network": self.network,
            "parameters": self.parameters,
            "candidates": self.patients,
            "together": self.together,
            "sights": [_to_json(sight) for sight in self.sights],
            "modified": None
            if modified is None
            else {"taken_out": modified.taken_out, "sights": [_to_json(sight) for sight in modified.sights]},
            "local_pictures": [_to_json(sight) for sight in self.local],
        }


def _to_json(sight: Sight) -> dict[str, object]:
    figures = ("psnr", "ssim", "rank", "row_rank")
    found = [{name: getattr(each, name) for name in figures} for each in sight.found]
    return {"what": sight.name, "note": sight.note, "found": found}

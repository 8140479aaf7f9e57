"""Everything that the report shows, as frozen dataclasses; the template only places it."""

import math
import statistics
from dataclasses import dataclass

from wardround.accounting.statement import Statement
from wardround.report.account import Account
from wardround.report.evaluation import Evaluation
from wardround.report.guarantee import Guarantee
from wardround.report.signal import Signal


@dataclass(frozen=True)
class Score:
    """One metric: a model's own value with its 95 % interval, or the mean over several models with their range.

    The value is None when the test set cannot give it.
    """

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Measure:
    """A metric with its key in the record, its title for a reader, and its unit; empty for a share."""

    key: str
    title: str
    unit: str
    score: Score


@dataclass(frozen=True)
class Quality:
    """Metrics of one model, or of several together (`models` > 1: their mean and range), the headline first.

    `majority_accuracy` is that of always answering the commonest class; None where nothing is classified.
    """

    models: int
    measures: tuple[Measure, ...]
    majority_accuracy: float | None

    @property
    def headline(self) -> Measure:
        """Measure to name where there is room for one."""
        return self.measures[0]

    def score(self, key: str) -> Score | None:
        """Returns the score of one measure; None where it is not among them."""
        return next((measure.score for measure in self.measures if measure.key == key), None)


@dataclass(frozen=True)
class Subgroup:
    """Headline of the test patients with one value of a column (such as "site"), or with several rare values."""

    column: str
    value: str
    patients: int
    score: Score


@dataclass(frozen=True)
class OperatingRow:
    """A class called from its score, by a threshold from private moments, on the test pictures.

    `asked` is the sensitivity that the threshold is for; None where the largest logit decides, for the `reason` given.
    Sensitivity and specificity have 95 % intervals over patients.
    """

    class_name: str
    asked: float | None
    threshold: float
    accuracy: float
    sensitivity: Score
    specificity: Score
    reason: str

    def predictive_values(self, share: float) -> tuple[Score, Score]:
        """Returns the positive and the negative predictive value where `share` of all images are of the class.

        Bayes' rule on the two rates. Both values grow with either rate: their ranges are those of the lower ends of
        both intervals to the upper ends. None where a rate is not known, or no image would be called so.

        >>> OperatingRow("lesion", 0.9, 0.0, 0.9, Score(0.9), Score(0.9), "").predictive_values(0.5)[0].value
        0.9
        """
        found, cleared = self.sensitivity, self.specificity
        ends = (found.value, cleared.value), (found.low, cleared.low), (found.high, cleared.high)
        positive, negative = zip(*(_predictive(share, *rates) for rates in ends), strict=True)
        return Score(*positive), Score(*negative)


def _predictive(share: float, found: float | None, cleared: float | None) -> tuple[float | None, float | None]:
    if found is None or cleared is None:
        return None, None
    own, other = share * found, (1 - share) * cleared
    return _part(own, 1 - share - other), _part(other, share - own)


def _part(own: float, other: float) -> float | None:
    return own / (own + other) if own + other > 0 else None


@dataclass(frozen=True)
class ReliabilityBin:
    """Test pictures called with about the same probability: their number, its mean, and the share called right."""

    pictures: int
    confidence: float
    accuracy: float

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy, pictures taken as independent (Wilson 1927, equation 7)."""
        z, n, p = 1.959964, self.pictures, self.accuracy
        middle, width = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        whole = 1 + z * z / n
        return max(0.0, (middle - width) / whole), min(1.0, (middle + width) / whole)


@dataclass(frozen=True)
class Calibration:
    """The calibration of the model's probabilities on the test pictures.

    `released`: they come from a calibration that left with the model; else they are the network's own. `error` is the
    expected calibration error; bins without pictures are left out.
    """

    released: bool
    error: float
    brier: float
    bins: tuple[ReliabilityBin, ...]


@dataclass(frozen=True)
class Look:
    """One evaluation during training: the headline, the epsilon spent by then, and the patients that were seen."""

    round: int
    epsilon: float
    score: Score
    measured_on: str


@dataclass(frozen=True)
class Comparison:
    """One row of the comparison: the main run (key "federated"), or a reference beside it (its name).

    `place` is that of the patients' data, such as "Each hospital alone". `how` says how a reference without privacy was
    trained, and is empty for others.
    """

    key: str
    place: str
    private: bool
    text: str
    how: str
    is_main: bool
    guarantee: Guarantee
    quality: Quality


@dataclass(frozen=True)
class Repeats:
    """The headline of other draws of the same run's noise: charged to no account, and outside the guarantee."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the repeats."""
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float:
        """Standard deviation over the repeats."""
        return statistics.stdev(self.values)

    def sentence(self, own: float | None) -> str:
        """Returns the spread in words, beside the run's own headline."""
        beside = "" if own is None else f"this model: {own:.3f}; "
        return (
            f"{beside}{len(self.values)} repeats of the noise: {self.mean:.3f} ± {self.spread:.3f} (standard "
            "deviation); they are charged to no account, outside the guarantee, and their models were not kept"
        )


@dataclass(frozen=True)
class Insider:
    """One adversary; `covered` when the noise against it is at least the promised one."""

    adversary: str
    guarantee: Guarantee
    noise_multiplier: float
    covered: bool


@dataclass(frozen=True)
class Hospital:
    """One hospital; `share` of images that are not of the first class. Figures that it did not say are None."""

    name: str
    patients: int | None
    images: int | None
    share: float | None
    spent: Guarantee | None
    ledger_head: str | None


@dataclass(frozen=True)
class Released:
    """One thing that left."""

    what: str
    to: str
    protected_by: str

    @property
    def protected(self) -> bool:
        """True if the statement covers it."""
        return not self.protected_by.startswith("nothing")


@dataclass(frozen=True)
class Aside:
    """The test patients, who were set aside."""

    patients: int
    images: int
    leaking: bool
    note: str


@dataclass(frozen=True)
class Validation:
    """The patients set aside to choose by, and the final model on them."""

    patients: int
    quality: Quality


@dataclass(frozen=True)
class NoiseWitness:
    """Coordinates of noise alone in a masked run: their number, their variance over that of all shares, and p."""

    coordinates: int
    ratio: float
    p_value: float


@dataclass(frozen=True)
class LostAttempts:
    """Attempts of a masked run that missing hospitals made vain, and the rounds that they belong to."""

    attempts: int
    rounds: int


@dataclass(frozen=True)
class Report:
    """Everything the page shows; `quality` and `test` are None where no figure of a test patient left a hospital."""

    name: str
    description: str
    strategy: str
    statement: Statement
    sentence: str
    guarantee: Guarantee
    account: Account
    seeded: bool
    rounds: int
    planned_rounds: int | None
    stopped: str | None
    quality: Quality | None
    classes: tuple[str, ...]
    parameters: int
    test: Aside | None
    looks: tuple[Look, ...]
    comparisons: tuple[Comparison, ...]
    insiders: tuple[Insider, ...]
    hospitals: tuple[Hospital, ...]
    released: tuple[Released, ...]
    findings: tuple[tuple[str, int], ...]
    environment: tuple[tuple[str, str], ...]
    settings: str
    study_digest: str
    model_sha256: str
    encoder: str
    target: str
    shortcut_auroc: float | None
    shortcut_kappa: float | None
    location_dice: float | None
    operating_points: tuple[OperatingRow, ...]
    calibration: Calibration | None
    signal: Signal | None
    subgroups: tuple[Subgroup, ...]
    validation: Validation | None
    witness: NoiseWitness | None
    upload: str
    lost: LostAttempts | None
    evaluation: Evaluation | None
    outstanding: tuple[str, ...]
    repeats: Repeats | None

    @property
    def columns(self) -> tuple[Measure, ...]:
        """Measures of the compared runs; sensitivity and specificity are of two classes alone."""
        left_out = () if len(self.classes) == 2 else ("sensitivity", "specificity")
        rows = self.comparisons
        return tuple(m for m in rows[0].quality.measures if m.key not in left_out) if rows else ()

    @property
    def without_privacy(self) -> str:
        """Headline of a model of all patients without privacy, in words; empty where none was asked for."""
        rows = {row.key: row for row in self.comparisons}
        row = rows.get("no-privacy", rows.get("pooled-no-privacy"))
        value = None if row is None else row.quality.headline.score.value
        return "" if row is None or value is None else f"without privacy: {value:.3f} ({row.how})"

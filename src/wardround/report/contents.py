"""Everything that the report shows, as frozen dataclasses; the template only places it."""

from dataclasses import dataclass

from wardround.accounting.statement import Statement
from wardround.report.guarantee import Guarantee
from wardround.report.masked import LostAttempts, NoiseWitness


@dataclass(frozen=True)
class Score:
    """One metric.

    Attributes:
        value: a model's own, or the mean over several models; None when the test set cannot give it.
        low: lower end of the 95 % interval of one model, or of the range over several.
        high: the upper end.
    """

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Measure:
    """A metric with its name.

    Attributes:
        key: in the record.
        title: for a reader.
        unit: of its values; empty for a share.
        score: its value.
    """

    key: str
    title: str
    unit: str
    score: Score


@dataclass(frozen=True)
class Quality:
    """Metrics of one model, or of several together (`models` > 1: their mean and range).

    Attributes:
        models: how many.
        measures: the headline first.
        majority_accuracy: what always answering the commonest class reaches; None where nothing is classified.
    """

    models: int
    measures: tuple[Measure, ...]
    majority_accuracy: float | None

    @property
    def headline(self) -> Measure:
        """The one to name where there is room for one."""
        return self.measures[0]

    def score(self, key: str) -> Score | None:
        """The score of one measure; None where it is not among them."""
        return next((measure.score for measure in self.measures if measure.key == key), None)


@dataclass(frozen=True)
class Subgroup:
    """Quality within one value of a column: a site, an age group.

    Attributes:
        column: such as "site".
        value: such as "hospital 2", or how many rare values stand together.
        patients: of the test set.
        score: of the headline.
    """

    column: str
    value: str
    patients: int
    score: Score


@dataclass(frozen=True)
class Look:
    """One evaluation during training: the headline, what epsilon was spent by then, and which patients were seen."""

    round: int
    epsilon: float
    score: Score
    measured_on: str = "test"


@dataclass(frozen=True)
class Comparison:
    """One row of the comparison: the main run, or a reference beside it.

    Attributes:
        key: "federated" for the main run, else the reference's name.
        place: where the patients' data were, such as "Each hospital alone".
    """

    key: str
    place: str
    private: bool
    text: str
    is_main: bool
    guarantee: Guarantee
    quality: Quality


@dataclass(frozen=True)
class Insider:
    """One adversary; `covered` when the noise against it is at least the promised one."""

    adversary: str
    guarantee: Guarantee
    noise_multiplier: float
    covered: bool


@dataclass(frozen=True)
class Hospital:
    """One hospital; `share` of images that are not of the first class."""

    name: str
    patients: int
    images: int
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
class TestSet:
    """The patients set aside."""

    __test__ = False  # not a test class, whatever its name says to pytest

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
class Report:
    """Everything the page shows."""

    name: str
    description: str
    strategy: str
    statement: Statement
    sentence: str
    guarantee: Guarantee
    seeded: bool
    rounds: int
    planned_rounds: int | None
    stopped: str | None
    seconds: float
    quality: Quality
    classes: tuple[str, ...]
    parameters: int
    test: TestSet
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
    target: str = "classes"
    shortcut_auroc: float | None = None
    location_dice: float | None = None
    subgroups: tuple[Subgroup, ...] = ()
    validation: Validation | None = None
    witness: NoiseWitness | None = None
    upload: str = ""
    lost: LostAttempts | None = None

    @property
    def has_references(self) -> bool:
        """True if anything stands beside the main run."""
        return len(self.comparisons) > 1

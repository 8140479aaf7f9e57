"""The evaluation across hospitals, as a report shows it: figures of test patients with their errors, and a promise."""

from dataclasses import dataclass

from wardround.records.json_object import JsonObject

_MASK_FIGURES = (
    ("dice", "Dice"),
    ("dice_at_least_0.5", "Patients with Dice 0.5 or more"),
    ("share", "Patients who have it"),
)
_FIGURES = (
    ("auroc", "AUROC"),
    ("accuracy_at_0.5", "Accuracy at 0.5"),
    ("sensitivity_at_0.5", "Sensitivity at 0.5"),
    ("specificity_at_0.5", "Specificity at 0.5"),
    ("calibration_error", "Calibration error (ECE)"),
    ("brier", "Brier score"),
)


@dataclass(frozen=True)
class Estimate:
    """One figure with its errors, one standard deviation each; None where the noise left none."""

    title: str
    value: float | None
    noise_error: float | None
    standard_error: float | None


@dataclass(frozen=True)
class Evaluation:
    """The figures of test patients that left, and the promise to these patients.

    Attributes:
        level: of the study, "noised" or "unprotected".
        sentence: the promise to a test patient, or that there is none.
        protected: whether there is one.
        patients: their number, as released.
        headline: AUROC of the model, the mean over the curves; of a segmentation Dice.
        curves: figures by class.
        missing: hospitals that are not in the figures, with the reason.
    """

    level: str
    sentence: str
    protected: bool
    patients: Estimate | None
    headline: Estimate | None
    curves: tuple[tuple[str, tuple[Estimate, ...]], ...]
    missing: tuple[tuple[str, str], ...]

    def lines(self) -> tuple[str, ...]:
        """Returns the headline in words, for a terminal."""
        first = self.headline
        if first is None or self.patients is None:
            return (f"evaluation ({self.level}): no figures; {_listed(self.missing)}",)
        found = "none" if first.value is None else f"{first.value:.3f} ± {first.standard_error:.3f}"
        warning = "" if self.protected else ", released without protection"
        return (f"{first.title} {found} on about {self.patients.value:.0f} test patients ({self.level}{warning})",)


def evaluation_of(results: JsonObject, certificate: JsonObject) -> Evaluation | None:
    """Returns the evaluation of a run between hospitals; None where no figure of a test patient left.

    Raises:
        RecordError: a file of the record has another shape than this version writes.
    """
    row, promise = results.maybe_section("evaluation"), certificate.maybe_section("evaluation")
    if row is None or promise is None:
        return None
    patients, headline = None, None
    curves: tuple[tuple[str, tuple[Estimate, ...]], ...] = ()
    if (figures := row.maybe_section("figures")) is not None:
        patients = _estimate("Test patients", figures.section("patients"))
        named = _FIGURES if "auroc" in figures.values else _MASK_FIGURES
        headline = _estimate(named[0][1], figures.section(named[0][0]))
        curves = tuple(
            (curve.text("class"), tuple(_estimate(title, curve.section(key)) for key, title in named))
            for curve in figures.objects("curves")
        )
    missing = row.section("missing")
    return Evaluation(
        level=row.text("level"),
        sentence=promise.text("sentence"),
        protected=promise.section("statement").flag("guarantee"),
        patients=patients,
        headline=headline,
        curves=curves,
        missing=tuple((name, missing.text(name)) for name in missing.values),
    )


def _estimate(title: str, row: JsonObject) -> Estimate:
    return Estimate(title, *map(row.maybe_number, ("value", "noise_error", "standard_error")))


def _listed(missing: tuple[tuple[str, str], ...]) -> str:
    return ", ".join(f"{name}: {code}" for name, code in missing)

"""The evaluation across hospitals, as a report shows it: figures of test patients with their errors, and a promise."""

from dataclasses import dataclass

from wardround.records.json_object import JsonObject

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
        auroc: of the model, the mean over the curves.
        curves: figures by class.
        missing: hospitals that are not in the figures, with the reason.
    """

    level: str
    sentence: str
    protected: bool
    patients: Estimate | None
    auroc: Estimate | None
    curves: tuple[tuple[str, tuple[Estimate, ...]], ...]
    missing: tuple[tuple[str, str], ...]

    def lines(self) -> tuple[str, ...]:
        """Returns the headline in words, for a terminal."""
        if self.auroc is None or self.patients is None:
            return (f"evaluation ({self.level}): no figures; {_listed(self.missing)}",)
        found = "none" if self.auroc.value is None else f"{self.auroc.value:.3f} ± {self.auroc.standard_error:.3f}"
        warning = "" if self.protected else ", released without protection"
        return (f"AUROC {found} on about {self.patients.value:.0f} test patients ({self.level}{warning})",)


def evaluation_of(results: JsonObject, certificate: JsonObject) -> Evaluation | None:
    """Returns the evaluation of a run between hospitals; None where no figure of a test patient left.

    Raises:
        RecordError: a file of the record has another shape than this version writes.
    """
    if results.values.get("evaluation") is None or certificate.values.get("evaluation") is None:
        return None
    row, promise = results.section("evaluation"), certificate.section("evaluation")
    patients, auroc = None, None
    curves: tuple[tuple[str, tuple[Estimate, ...]], ...] = ()
    if row.values.get("figures") is not None:
        figures = row.section("figures")
        patients = _estimate("Test patients", figures.section("patients"))
        auroc = _estimate("AUROC", figures.section("auroc"))
        curves = tuple(
            (curve.text("class"), tuple(_estimate(title, curve.section(key)) for key, title in _FIGURES))
            for curve in figures.objects("curves")
        )
    missing = row.section("missing")
    return Evaluation(
        level=row.text("level"),
        sentence=promise.text("sentence"),
        protected=promise.section("statement").flag("guarantee"),
        patients=patients,
        auroc=auroc,
        curves=curves,
        missing=tuple((name, missing.text(name)) for name in missing.values),
    )


def _estimate(title: str, row: JsonObject) -> Estimate:
    return Estimate(title, *map(row.maybe_number, ("value", "noise_error", "standard_error")))


def _listed(missing: tuple[tuple[str, str], ...]) -> str:
    return ", ".join(f"{name}: {code}" for name, code in missing)

"""The noise that a study needs, its size in the mean, and the outlook for learning, before any data is touched.

Sources:
    Dong, Roth and Su 2019, https://arxiv.org/abs/1905.02383 (μ of a Gaussian release).
    The feasibility ρ = sqrt(d) / (μ n) compares the norm of the noise over a whole training, about sqrt(d) /
    μ clipping norms, with the n clipped contributions it hides. Its thresholds are measured, not proved.
"""

import math
from dataclasses import dataclass

from wardround.accounting.accountants import AccountantKind, epsilon_of
from wardround.accounting.calibration import calibrate_noise_multiplier
from wardround.accounting.events import Event, GaussianEvent, JsonDict, PoissonSampledEvent, SelfComposedEvent
from wardround.accounting.insiders import InsiderRow, epsilon_by_colluders
from wardround.accounting.mechanisms import (
    analytic_gaussian_noise_multiplier,
    check_delta,
    check_epsilon,
    check_noise_multiplier,
)
from wardround.accounting.numbers import number_to_json
from wardround.errors import PrivacyError
from wardround.noisers import Noiser, colluders_of, dropouts_of, inflation_of, trust_of

DOUBTFUL_RHO, HOPELESS_RHO = 0.12, 0.25


@dataclass(frozen=True, slots=True)
class PlanQuestion:
    """A study in numbers; exactly one of `epsilon` and `noise_multiplier` is given, the other computed.

    Attributes:
        patients: in all hospitals together.
        parameters: trained parameters of the model, when feasibility is asked for.
    """

    patients: int
    noiser: Noiser
    delta: float
    rounds: int
    sampling_prob: float = 1.0
    epsilon: float | None = None
    noise_multiplier: float | None = None
    parameters: int | None = None
    accountant: AccountantKind = AccountantKind.PLD

    def __post_init__(self) -> None:
        """Refuses a question that has no answer."""
        check_delta(self.delta)
        for name in ("patients", "rounds", "parameters"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise PrivacyError(f"{name} must be >= 1, got {number}. Give the number the study will have.")
        if (self.epsilon is None) == (self.noise_multiplier is None):
            raise PrivacyError(
                "Exactly one of epsilon and noise_multiplier must be given, "
                f"got epsilon {self.epsilon} and noise_multiplier {self.noise_multiplier}. Leave one out."
            )
        if self.epsilon is not None:
            check_epsilon(self.epsilon)
        if self.noise_multiplier is not None:
            check_noise_multiplier(self.noise_multiplier)
        PoissonSampledEvent(self.sampling_prob, GaussianEvent(1.0))  # refuses what is no probability

    def event(self, noise_multiplier: float) -> Event:
        """Returns the release of the whole study at a noise multiplier."""
        step = PoissonSampledEvent(self.sampling_prob, GaussianEvent(noise_multiplier))
        return SelfComposedEvent(step, self.rounds)


@dataclass(frozen=True, slots=True)
class PlanAnswer:
    """A promise that a study can make, and its cost in noise.

    Attributes:
        epsilon: by the accountant asked for; `rdp_epsilon` is the cross-check by another method.
        patients_per_round: expected.
        mean_noise_std: std of the noise in one coordinate of the mean gradient, in clipping norms.
        rho: sqrt(parameters) / (μ patients), with the noise that is really added; None when not asked for.
        slack: added to epsilon by noise in whole numbers, under masks; None where noise is continuous.
    """

    question: PlanQuestion
    noise_multiplier: float
    epsilon: float
    rdp_epsilon: float
    patients_per_round: float
    mean_noise_std: float
    insiders: tuple[InsiderRow, ...]
    rho: float | None
    slack: float | None = None

    @property
    def mu(self) -> float:
        """Gaussian privacy parameter of all noise in a coordinate, the shares for colluders and dropouts included."""
        if self.epsilon == 0:
            return 0.0
        promised = analytic_gaussian_noise_multiplier(self.epsilon, self.question.delta)
        return 1 / (promised * inflation_of(self.question.noiser))

    @property
    def feasibility(self) -> str | None:
        """The meaning of `rho` in words; None where it was not asked for."""
        if self.rho is None:
            return None
        if self.rho > HOPELESS_RHO:
            return "not expected to learn: fewer parameters, more patients or a larger epsilon are needed"
        return "doubtful" if self.rho > DOUBTFUL_RHO else "expected to learn"

    def to_json(self) -> JsonDict:
        """Returns the answer with its question as a JSON object."""
        question = self.question
        return {
            "patients": question.patients,
            "hospitals": question.noiser.hospitals,
            "rounds": question.rounds,
            "sampling_prob": question.sampling_prob,
            "delta": question.delta,
            "trust": trust_of(question.noiser).value,
            "colluders": colluders_of(question.noiser),
            "dropouts": dropouts_of(question.noiser),
            "parameters": question.parameters,
            "sum": "simulated" if self.slack is None else "masked",
            "accountant": question.accountant.value,
            "noise_multiplier": self.noise_multiplier,
            "epsilon": number_to_json(self.epsilon),
            "rdp_epsilon": number_to_json(self.rdp_epsilon),
            "slack": self.slack,
            "patients_per_round": self.patients_per_round,
            "mean_noise_std": self.mean_noise_std,
            "insiders": [row.to_json() for row in self.insiders],
            "rho": self.rho,
            "feasibility": self.feasibility,
        }


def plan(question: PlanQuestion) -> PlanAnswer:
    """Returns the answer to a question about a study.

    >>> from wardround.noisers import NoiseShares
    >>> answer = plan(PlanQuestion(2_000, NoiseShares(5), 1e-5, rounds=200, sampling_prob=0.05, epsilon=4.0))
    >>> round(answer.noise_multiplier, 2), answer.patients_per_round
    (1.09, 100.0)
    """
    noise_multiplier = question.noise_multiplier
    if noise_multiplier is None:
        assert question.epsilon is not None  # __post_init__ saw to it
        noise_multiplier = calibrate_noise_multiplier(
            question.event, question.epsilon, question.delta, question.accountant
        )
    event = question.event(noise_multiplier)
    epsilon = epsilon_of(event, question.delta, question.accountant)
    expected = question.sampling_prob * question.patients
    return PlanAnswer(
        question=question,
        noise_multiplier=noise_multiplier,
        epsilon=epsilon,
        rdp_epsilon=epsilon_of(event, question.delta, AccountantKind.RDP),
        patients_per_round=expected,
        mean_noise_std=noise_multiplier * inflation_of(question.noiser) / expected,
        insiders=epsilon_by_colluders(
            question.event,
            noise_multiplier,
            question.noiser,
            delta=question.delta,
            accountant=question.accountant,
        ),
        rho=_rho(question, epsilon),
    )


def _rho(question: PlanQuestion, epsilon: float) -> float | None:
    if question.parameters is None:
        return None
    if epsilon == 0:
        return math.inf
    mu = 1 / analytic_gaussian_noise_multiplier(epsilon, question.delta)
    return math.sqrt(question.parameters) * inflation_of(question.noiser) / (mu * question.patients)

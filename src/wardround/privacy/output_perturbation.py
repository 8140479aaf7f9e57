"""Noise on weights that were trained to the end: a theorem where the loss is strongly convex, and only there.

What is released: the weights of a linear head, fitted to one hospital's patients on fixed public features, plus
Gaussian noise, once. To whom: as the plan's trust has it. Sensitivity: below, for one patient with all pictures,
added or removed.

A hospital with patients p, and pictures i of them, minimises

    J(w) = 1/n sum_p mean_{i of p} CE(w; x_i, y_i) + lambda/2 |w|^2

with n a public constant, whatever number of patients it has. The rows x_i, a constant for the bias among them, have
norm at most R. The gradient of a picture's cross-entropy is (softmax(w x) - e_y) x^T. A vector of probabilities and a
unit vector are at most sqrt(2) apart, so it is no longer than sqrt(2) R = L, and neither is the mean over a patient's
pictures. Two neighbours' J differ by 1/n times one patient's loss, so at the minimiser of one the gradient of the
other has norm at most L/n. J is lambda-strongly convex, so its minimiser is at most (gradient norm)/lambda away: the
two minimisers are within L/(n lambda). That is Corollary 8 of Chaudhuri, Monteleoni and Sarwate 2011,
https://jmlr.org/papers/v12/chaudhuri11a.html, with n fixed and one patient added instead of replaced, which halves it.

A solver finds a point whose gradient has norm at most tau, which is within tau/lambda of the minimiser, by the same
argument. Two such points are within L/(n lambda) + 2 tau/lambda, and that is what the noise is for: Wu et al. 2017,
section 3, https://arxiv.org/abs/1606.04722, and Iyengar et al. 2019, https://doi.org/10.1109/SP.2019.00001.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wardround.accounting.events import Event, GaussianEvent
from wardround.accounting.terms import NeighboringRelation, PrivacyUnit
from wardround.errors import PrivacyError
from wardround.privacy.updates import Share
from wardround.randomness import Stream
from wardround.types import Vector
from wardround.work import HeadFit

_TOLERANCE = 0.005
"""The solver's largest gradient, in units of the gradient of one patient: it raises the sensitivity by 1 %."""


def tolerance_of(fit: HeadFit, num_patients: float) -> float:
    """tau: the norm of the gradient at which the solver may stop."""
    return _TOLERANCE * fit.lipschitz / num_patients


@dataclass(frozen=True)
class OutputPerturbation:
    """The Gaussian mechanism on the weights of a fitted head.

    Guarantee:
        As above, for what `wardround.training.convex.fit_head` returns for the same `fit` and nothing else.

    Attributes:
        fit: the objective; its number of patients is public.
        noise_multiplier: std of the noise over `sensitivity`.
    """

    fit: HeadFit
    noise_multiplier: float

    unit = PrivacyUnit.PATIENT
    relation = NeighboringRelation.ADD_OR_REMOVE_ONE
    name = "Gaussian (on the weights, output perturbation)"
    bound_name = "row_norm"

    def __post_init__(self) -> None:
        GaussianEvent(self.noise_multiplier)  # refuses what is no noise
        if self.fit.num_patients is None:
            raise PrivacyError(
                "Output perturbation must divide by a public number of patients, got none; give it."
            )

    @property
    def sensitivity(self) -> float:
        """The fitted weights' sensitivity in L2 norm: (L/n + 2 tau) / lambda."""
        patients = self.fit.num_patients
        assert patients is not None, "checked when made"
        return (self.fit.lipschitz / patients + 2 * tolerance_of(self.fit, patients)) / self.fit.regularisation

    @property
    def what(self) -> str:
        """See `UpdateMechanism`."""
        return (
            "the weights of each hospital's linear head, fitted to the end and noised once, or their sum, which one "
            f"patient moves by at most {self.sensitivity:.4g}"
        )

    @property
    def event(self) -> Event:
        """See `UpdateMechanism`."""
        return GaussianEvent(self.noise_multiplier)

    @property
    def bound(self) -> float:
        """The bound on a picture's row of features."""
        return self.fit.row_norm

    def release_fitted(self, minimiser: npt.NDArray[np.float64], share: Share, stream: Stream) -> Vector:
        """Releases the fitted weights, (parameter,): noised in double precision, then rounded."""
        noisy = minimiser.copy()
        stream.add_normal(noisy, share(self.noise_multiplier * self.sensitivity))
        return noisy.astype(np.float32)

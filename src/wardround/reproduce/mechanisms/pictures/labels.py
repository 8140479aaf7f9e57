"""Randomised response, a label that its owner can always deny, and losses that make up for it.

Warner 1965, https://doi.org/10.1080/01621459.1965.10480775, for two answers; for k, "k-RR" of Kairouz, Bonawitz and
Ramage 2016, https://arxiv.org/abs/1602.07387.

Learning from noised labels is post-processing, for the chances of the noise are public. With T[i, j] the chance that
class i is released as class j (`RandomisedResponse.transition`):

backward: the loss of label j is the sum over i of inverse(T)[j, i] times the loss of class i. Its mean over the noise
is the loss of the true label: it is unbiased (Natarajan et al. 2013, Lemma 1,
https://papers.nips.cc/paper/5073-learning-with-noisy-labels; Patrini et al. 2017, Theorem 1,
https://arxiv.org/abs/1609.03683). It can be negative, and without bound, where the chances are near even.

forward: the probabilities are sent through T before they are held against the label. Its minimiser is that of the true
labels for losses that are proper, such as the cross-entropy (Patrini et al. 2017, Theorem 2), and it stays a loss.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wardround.errors import PrivacyError
from wardround.per_patient.batch import Loss
from wardround.privacy.pictures import LocalRelease, Values
from wardround.randomness import Stream
from wardround.types import Labels


@dataclass(frozen=True)
class RandomisedResponse:
    """The true label with probability e^epsilon / (e^epsilon + k - 1), else one of the other k - 1 at random.

    Guarantee:
        epsilon-DP for one label replaced by any other: no answer is more than e^epsilon times likelier under one
        label than under another.
    """

    epsilon: float

    name = "randomised response"

    def __post_init__(self) -> None:
        """Refuses fields that promise nothing."""
        if not 0 < self.epsilon < math.inf:
            raise PrivacyError(
                f"The labels' epsilon must be > 0 and finite, got {self.epsilon}; give label_epsilon."
            )

    def keep_prob(self, num_classes: int) -> float:
        """Probability of the true label.

        >>> round(RandomisedResponse(math.log(3)).keep_prob(2), 12)
        0.75
        """
        return 1 / (1 + (num_classes - 1) * math.exp(-self.epsilon))

    def transition(self, num_classes: int) -> Values:
        """P(released | true), (true class, released class); public."""
        kept = self.keep_prob(num_classes)
        matrix = np.full((num_classes, num_classes), (1 - kept) / max(1, num_classes - 1))
        np.fill_diagonal(matrix, kept)
        return matrix

    def release(self, labels: Labels, num_classes: int, stream: Stream) -> Labels:
        """Releases the labels, (picture,).

        Raises:
            PrivacyError: a label that is no class: its release would tell of it.
        """
        if num_classes < 2 or (labels.size and not (labels.min() >= 0 and labels.max() < num_classes)):
            raise PrivacyError(
                f"Labels must be classes 0 to {num_classes - 1} of at least two, and are not; check the data."
            )
        kept = stream.uniform(labels.size) < self.keep_prob(num_classes)
        others = num_classes - 1
        steps = 1 + np.minimum(np.floor(stream.uniform(labels.size) * others), others - 1).astype(np.int64)
        return np.where(kept, labels, (labels + steps) % num_classes).astype(np.int64)


def response_of(release: LocalRelease) -> RandomisedResponse:
    """Returns the mechanism for labels of a release, which is always this one."""
    assert isinstance(release.labels, RandomisedResponse), "made by `plan.local_release_of`"
    return release.labels


def forward_corrected(loss: Loss, transition: Values) -> Loss:
    """Returns the loss of probabilities changed by noise of chances P(released | true), (true, released class)."""
    logarithms = torch.log(torch.from_numpy(transition))

    def corrected(logits: Tensor, labels: Tensor) -> Tensor:
        fine = logits if logits.dtype is torch.float64 else logits.float()
        true = F.log_softmax(fine, dim=1)
        released = torch.logsumexp(true[:, :, None] + logarithms.to(true.dtype), dim=1)
        return loss(released, labels)

    return corrected


def backward_corrected(loss: Loss, transition: Values) -> Loss:
    """Returns the unbiased combination of the losses of all classes; arguments as `forward_corrected`."""
    inverse = torch.from_numpy(np.linalg.inv(transition))

    def corrected(logits: Tensor, labels: Tensor) -> Tensor:
        each = torch.stack([loss(logits, torch.full_like(labels, k)) for k in range(len(inverse))], dim=1)
        return (inverse.to(each.dtype)[labels.long()] * each).sum(dim=1)

    return corrected

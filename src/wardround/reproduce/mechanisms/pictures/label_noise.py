"""Learning from labels that were noised on purpose: post-processing, for the chances of the noise are public.

With T[i, j] the chance that class i is released as class j (`RandomisedResponse.transition`):

backward: the loss of label j is the sum over i of inverse(T)[j, i] times the loss of class i. Its mean over the noise
is the loss of the true label: it is unbiased (Natarajan et al. 2013, Lemma 1,
https://papers.nips.cc/paper/5073-learning-with-noisy-labels; Patrini et al. 2017, Theorem 1,
https://arxiv.org/abs/1609.03683). It can be negative, and without bound, where the chances are near even.

forward: the probabilities are sent through T before they are held against the label. Its minimiser is that of the true
labels for losses that are proper, such as the cross-entropy (Patrini et al. 2017, Theorem 2), and it stays a loss.
"""

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from wardround.training.losses import Loss

Matrix = npt.NDArray[np.float64]


def forward_corrected(loss: Loss, transition: Matrix) -> Loss:
    """Returns the loss of probabilities changed by noise of chances P(released | true), (true, released class)."""
    logarithms = torch.log(torch.from_numpy(transition))

    def corrected(logits: Tensor, labels: Tensor) -> Tensor:
        fine = logits if logits.dtype is torch.float64 else logits.float()
        true = F.log_softmax(fine, dim=1)
        released = torch.logsumexp(true[:, :, None] + logarithms.to(true.dtype), dim=1)
        return loss(released, labels)

    return corrected


def backward_corrected(loss: Loss, transition: Matrix) -> Loss:
    """Returns the unbiased combination of the losses of all classes; arguments as `forward_corrected`."""
    inverse = torch.from_numpy(np.linalg.inv(transition))

    def corrected(logits: Tensor, labels: Tensor) -> Tensor:
        each = torch.stack([loss(logits, torch.full_like(labels, k)) for k in range(len(inverse))], dim=1)
        return (inverse.to(each.dtype)[labels.long()] * each).sum(dim=1)

    return corrected

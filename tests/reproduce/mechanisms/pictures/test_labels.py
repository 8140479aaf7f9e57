"""Randomised response: its probabilities, its guarantee, and what training makes of it."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from wardround.errors import PrivacyError
from wardround.per_patient.batch import Loss
from wardround.randomness import Stream
from wardround.reproduce.mechanisms.pictures.labels import (
    RandomisedResponse,
    backward_corrected,
    forward_corrected,
)
from wardround.training.losses import cross_entropy, focal, ordinal

CLASSES = (2, 3, 5)
LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "focal": focal, "ordinal": ordinal}


def stream():
    return Stream(bytes(range(32)))


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("epsilon", [0.1, 1.0, 3.0, 800.0])
def test_no_answer_is_more_than_exp_epsilon_times_likelier(classes, epsilon):
    matrix = RandomisedResponse(epsilon).transition(classes)
    assert matrix.sum(axis=1) == pytest.approx(1)
    if epsilon < 700:
        ratios = matrix[:, None, :] / matrix[None, :, :]
        assert ratios.max() == pytest.approx(math.exp(epsilon))


def test_two_answers_are_warners():
    assert RandomisedResponse(math.log(3)).transition(2) == pytest.approx(np.array([[0.75, 0.25], [0.25, 0.75]]))


@pytest.mark.parametrize("classes", CLASSES)
def test_answers_come_with_their_probabilities(classes):
    response = RandomisedResponse(1.0)
    matrix, source, number = response.transition(classes), stream(), 6000
    for true in range(classes):
        answers = response.release(np.full(number, true), classes, source)
        counts = np.bincount(answers, minlength=classes)
        assert stats.chisquare(counts, number * matrix[true]).pvalue > 1e-3
        for epsilon in (2 / 3, 3 / 2):  # and not with those of another epsilon
            other = RandomisedResponse(epsilon).transition(classes)[true]
            assert stats.chisquare(counts, number * other).pvalue < 1e-4


@pytest.mark.parametrize("labels", [[-1], [2], [0, 1, 7]])
def test_a_label_that_is_no_class_is_not_released(labels):
    with pytest.raises(PrivacyError, match="classes 0 to 1"):
        RandomisedResponse(1.0).release(np.array(labels), 2, stream())


def test_nobody_is_nobody():
    assert RandomisedResponse(1.0).release(np.zeros(0, dtype=np.int64), 2, stream()).shape == (0,)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.inf, math.nan])
def test_labels_are_always_noised(epsilon):
    with pytest.raises(PrivacyError, match="labels' epsilon must be"):
        RandomisedResponse(epsilon)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("classes", CLASSES)
def test_backward_correction_is_unbiased(loss, classes):
    """Exactly: its mean over the known chances of the noise is the loss of the true label."""
    matrix = RandomisedResponse(0.7).transition(classes)
    corrected = backward_corrected(LOSSES[loss], matrix)
    logits = torch.randn(8, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for true in range(classes):
        each = torch.stack([corrected(logits, torch.full((8,), k)) for k in range(classes)], dim=1)
        mean = (each * torch.from_numpy(matrix[true])).sum(dim=1)
        torch.testing.assert_close(mean, LOSSES[loss](logits, torch.full((8,), true)))


@pytest.mark.parametrize("classes", CLASSES)
def test_forward_correction_is_the_loss_of_the_noised_probabilities(classes):
    matrix = torch.from_numpy(RandomisedResponse(0.7).transition(classes))
    logits = torch.randn(8, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(8) % classes
    chances = torch.softmax(logits, dim=1) @ matrix
    expected = -torch.log(chances[torch.arange(8), labels])
    torch.testing.assert_close(forward_corrected(cross_entropy, matrix.numpy())(logits, labels), expected)


@pytest.mark.parametrize("correct", [forward_corrected, backward_corrected])
def test_the_corrected_loss_is_least_at_the_true_probabilities(correct):
    """Noised labels of one picture that is ill with chance 0.9; uncorrected, 0.9 would come out nearer to a half."""
    matrix = RandomisedResponse(1.0).transition(2)
    true = np.array([0.1, 0.9])
    released = torch.from_numpy(true @ matrix)

    def learned(loss):
        logit = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([logit], max_iter=200)

        def closure():
            optimizer.zero_grad()
            each = torch.stack([loss(logit, torch.tensor([k]))[0] for k in range(2)])
            total = (each * released).sum()
            total.backward()
            return total

        optimizer.step(closure)
        return torch.softmax(logit, dim=1)[0, 1].item()

    assert learned(correct(cross_entropy, matrix)) == pytest.approx(0.9, abs=1e-3)
    assert learned(cross_entropy) == pytest.approx(float(released[1]), abs=1e-3)
    assert float(released[1]) < 0.7


@pytest.mark.parametrize("correct", [forward_corrected, backward_corrected])
def test_labels_that_are_hardly_noised_need_no_correction(correct):
    matrix = RandomisedResponse(40.0).transition(3)
    logits, labels = torch.randn(6, 3, generator=torch.Generator().manual_seed(2)), torch.arange(6) % 3
    torch.testing.assert_close(correct(cross_entropy, matrix)(logits, labels), cross_entropy(logits, labels))

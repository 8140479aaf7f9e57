import pytest
import torch

from wardround.training.losses import LOSSES, cross_entropy


def test_cross_entropy_is_minus_the_log_probability_of_the_right_class():
    logits = torch.tensor([[1.0, 2.0, 0.5], [0.0, 0.0, 0.0]])
    labels = torch.tensor([2, 1])
    expected = -torch.log(torch.softmax(logits, dim=1))[torch.arange(2), labels]
    torch.testing.assert_close(cross_entropy(logits, labels), expected)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
@pytest.mark.parametrize("count", [0, 1, 5])
def test_every_loss_is_one_number_a_picture(loss, count):
    logits = torch.randn(count, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(count, dtype=torch.int64)
    together = loss(logits, labels)
    assert together.shape == (count,)
    for i in range(count):
        torch.testing.assert_close(together[i], loss(logits[i : i + 1], labels[i : i + 1])[0])


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_a_pictures_gradient_does_not_shrink_with_the_batch(loss):
    def gradient_of_first(count):
        logits = torch.ones(count, 3, requires_grad=True)
        loss(logits, torch.zeros(count, dtype=torch.int64)).sum().backward()
        assert logits.grad is not None
        return logits.grad[0]

    torch.testing.assert_close(gradient_of_first(1), gradient_of_first(64))

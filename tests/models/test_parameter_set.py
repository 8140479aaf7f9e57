import copy

import pytest
import torch
from torch import nn

from wardround.errors import ModelError
from wardround.models.catalogue import build
from wardround.models.parameter_set import check_parameter_set


def network(train="all"):
    return build(
        "small_cnn",
        size=(16, 16),
        channels=1,
        num_classes=2,
        train=train,
        init_generator=torch.Generator().manual_seed(0),
    )


def trained_of(net):
    return [p for p in net.trained.parameters() if p.requires_grad]


class Replicas(nn.Module):
    """Per-picture gradients as deepee 0.1.9 takes them: clones of the network that share its storage."""

    def __init__(self, wrapped, count):
        super().__init__()
        self.wrapped = wrapped
        self.models = nn.ModuleList(copy.deepcopy(wrapped) for _ in range(count))
        for clone in self.models:
            for ours, theirs in zip(clone.parameters(), wrapped.parameters(), strict=True):
                ours.data = theirs.data

    def gradients(self, pictures):
        """Leaves the gradient of one picture, clipped, in each clone; returns their sum."""
        for clone, picture in zip(self.models, pictures, strict=True):
            clone(picture[None]).sum().backward()
            nn.utils.clip_grad_norm_(clone.parameters(), 1.0)
        clones = zip(*(clone.parameters() for clone in self.models), strict=True)
        return [sum(p.grad for p in same) for same in clones]


def test_the_leak_of_deepee_moves_the_weights_by_the_sum_without_noise_and_is_refused():
    torch.manual_seed(0)
    wrapped = nn.Linear(3, 2)
    replicas = Replicas(wrapped, 4)
    outer = nn.Sequential(replicas)  # the training module around the wrapper
    optimizer = torch.optim.SGD(outer.parameters(), lr=1.0)
    start = wrapped.weight.detach().clone()
    clipped, _ = replicas.gradients(torch.randn(4, 3))
    noised = clipped + torch.randn(2, 3)
    wrapped.weight.grad = noised / 4
    optimizer.step()
    # The noised mean, and on top of it the exact sum: whoever subtracts the one has the other.
    torch.testing.assert_close(wrapped.weight.detach(), start - noised / 4 - clipped)

    held = [p for group in optimizer.param_groups for p in group["params"]]
    with pytest.raises(ModelError, match="2 parameters that are noised, each once, got 10, of which 8 are not"):
        check_parameter_set(held, wrapped)
    # Even an optimizer that holds the right parameters is refused beside clones that live in their memory.
    with pytest.raises(ModelError, match=r"'outer\.0\.models\.0\.\w+' in the memory of '\w+'"):
        check_parameter_set(wrapped.parameters(), wrapped, outer=outer)
    # Nor does it help to call all clones noised.
    with pytest.raises(ModelError, match="in the memory of"):
        check_parameter_set(outer.parameters(), outer)


def test_clones_with_memory_of_their_own_pass():
    wrapped = nn.Linear(3, 2)
    outer = nn.Sequential(wrapped, copy.deepcopy(wrapped))
    check_parameter_set(wrapped.parameters(), wrapped, outer=outer)


@pytest.mark.parametrize("train", ["all", "norms", "head"])
def test_the_trained_parameters_of_a_network_are_its_private_set(train):
    net = network(train)
    check_parameter_set(trained_of(net), net)
    check_parameter_set(trained_of(net), net, outer=nn.ModuleList([net.encode, net.trained]))
    check_parameter_set([], nn.ReLU())


def test_a_parameter_too_few_too_many_or_twice_is_refused():
    net = network("norms")
    held = trained_of(net)
    with pytest.raises(ModelError, match=r"1 that are noised are missing \(the first is 'features.1.weight'\)"):
        check_parameter_set(held[1:], net)
    with pytest.raises(ModelError, match="of which 1 are not noised"):
        check_parameter_set([*held, net.trained[0][0].weight], net)  # frozen
    with pytest.raises(ModelError, match="each once"):
        check_parameter_set([*held, held[0]], net)


def refused_by(net, match):
    with pytest.raises(ModelError, match=match):
        check_parameter_set(trained_of(net), net)


def test_a_buffer_a_frozen_parameter_and_an_attribute_in_the_memory_of_the_set_are_refused():
    net = network()
    weight = net.trained[0][0].weight
    net.trained.register_buffer("average", weight.detach()[:1])
    refused_by(net, "in the memory of")
    net = network()
    weight = net.trained[0][0].weight
    net.encode.frozen = nn.Parameter(weight.detach().view(-1)[5:9], requires_grad=False)
    refused_by(net, "in the memory of")
    for hidden in (lambda w: w.detach(), lambda w: [w.detach()], lambda w: {"a": w.data}):
        net = network()
        net.trained.kept = hidden(net.trained[0][0].weight)
        refused_by(net, "in the memory of")


def test_a_module_that_torch_does_not_know_of_is_searched_as_well():
    net = network()
    clone = copy.deepcopy(net.trained)
    clone[0][0].weight.data = net.trained[0][0].weight.data
    net.trained.replicas = [clone]
    refused_by(net, "in the memory of")


def test_a_tensor_in_the_memory_of_a_gradient_is_refused():
    net = network()
    net.trained(torch.ones(1, 1, 16, 16)).sum().backward()
    check_parameter_set(trained_of(net), net)
    net.trained.last = net.trained[0][0].weight.grad[:2]
    refused_by(net, r"in the memory of '0?\.?\w.*'")


def test_two_parameters_of_the_set_in_one_memory_are_refused_and_neighbours_are_not():
    flat = torch.zeros(10)
    model = nn.Module()
    model.a, model.b = nn.Parameter(flat[:5]), nn.Parameter(flat[5:])
    check_parameter_set(model.parameters(), model)
    model.b = nn.Parameter(flat[4:])
    with pytest.raises(ModelError, match="in the memory of"):
        check_parameter_set(model.parameters(), model)


def test_gradients_that_are_views_of_one_vector_pass():
    model = nn.Linear(3, 2)
    vector = torch.zeros(8)
    model.weight.grad, model.bias.grad = vector[:6].view(2, 3), vector[6:]
    check_parameter_set(model.parameters(), model)


def test_one_parameter_under_two_names_is_one_tensor():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    check_parameter_set(model.parameters(), model)

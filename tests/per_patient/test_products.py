"""Products by oneDNN: the same values as torch's own, in each way that the engine takes them."""

import copy

import pytest
import torch
from torch import nn

from wardround.per_patient.batch import PatientBatch
from wardround.per_patient.clipped_sum import per_patient_gradients
from wardround.per_patient.layers import products
from wardround.per_patient.recorder import Recorder
from wardround.per_patient.rules import FASTER, RULES, _dilations
from wardround.per_patient.tape import Tape


@pytest.mark.parametrize("has_onednn", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_large_products_are_right_with_and_without_onednn(monkeypatch, has_onednn, bias):
    """Products above the size from which oneDNN takes them equal one-patient backward passes in double precision."""
    monkeypatch.setattr(products, "_HAS_ONEDNN", products._HAS_ONEDNN and has_onednn)
    torch.manual_seed(0)
    tokens = nn.Sequential(nn.Conv2d(2, 64, 1), nn.Conv2d(64, 80, 1, bias=bias), nn.Flatten(2))
    flat = nn.Sequential(nn.Flatten(), nn.Linear(5280, 202, bias=bias), nn.Linear(202, 4))
    model = nn.Sequential(tokens, nn.Linear(900, 72, bias=bias), nn.Linear(72, 66, bias=bias), flat)
    inputs = torch.randn(4, 2, 30, 30)
    sizes = (80, 900, 72), (4, 5280, 202)
    assert [products.takes_onednn(inputs, *of) for of in sizes] == [products._HAS_ONEDNN] * 2

    def loss(outputs, labels):
        return outputs.square().mean(1) * labels

    batch = PatientBatch(inputs, torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.arange(4), 4)
    rows = per_patient_gradients(model, loss, batch)
    double = model.double()
    for row, x, y in zip(rows, inputs.double(), batch.labels, strict=True):
        gradients = torch.autograd.grad(loss(double(x[None]), y)[0], list(double.parameters()))
        for ours, theirs in zip(row.split([g.numel() for g in gradients]), gradients, strict=True):
            assert (ours - theirs.flatten()).norm() <= 1e-5 * theirs.norm()


@pytest.mark.parametrize(
    "lay", [lambda b: b.repeat_interleave(2)[::2], lambda b: b[:1].expand(len(b)), lambda b: b[:1]]
)
def test_a_bias_in_several_pieces_is_read_where_it_is(lay):
    """oneDNN takes a bias for one piece of memory, and would read past the end of another."""
    torch.manual_seed(0)
    rows, columns, bias = torch.randn(320, 96), torch.randn(256, 96), torch.randn(256)
    found = products.onednn_product(rows, columns, lay(bias))
    assert torch.allclose(found, rows @ columns.t() + lay(bias), atol=1e-3)


def recording():
    tape = Tape(torch.arange(2), 2, lambda values: values, single=True, materialise=False)
    return Recorder({}, 2, tape, RULES, FASTER)


MANY = {
    "attention's scores": ((2, 3, 129, 65), (2, 3, 65, 130), True),
    "attention's values": ((2, 3, 130, 129), (2, 3, 129, 64), True),
    "one leading axis": ((3, 65, 130), (3, 130, 129), True),
    "sides that oneDNN reorders": ((3, 128, 64), (3, 64, 129), False),
    "small ones": ((3, 65, 66), (3, 66, 67), False),
    "a short side": ((3, 31, 257), (3, 257, 257), False),
    "one factor for all": ((3, 129, 130), (130, 129), False),
    "one factor for some": ((3, 2, 65, 130), (2, 130, 129), False),
}


@pytest.mark.parametrize("name", MANY)
@pytest.mark.parametrize("threads", [1, 2])
def test_products_of_values_have_torchs_values_and_derivatives(name, threads):
    """Products in attention, first and second derivatives, against torch's own in double precision."""
    left, right, is_many = MANY[name]
    generator = torch.Generator().manual_seed(0)
    factors = [torch.randn(shape, generator=generator).requires_grad_() for shape in (left, right)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with recording():
            found = factors[0] @ factors[1]
            again = torch.matmul(*factors)
        doubles = [factor.detach().double().requires_grad_() for factor in factors]
        expected = doubles[0] @ doubles[1]
        assert (products.matmul(*factors) is not NotImplemented) == (is_many and products._HAS_ONEDNN)
        assert torch.equal(found, again)
        first = torch.autograd.grad(found.square().sum(), factors, create_graph=True)
        second = torch.autograd.grad(first[0].square().sum(), factors)
        first_of_doubles = torch.autograd.grad(expected.square().sum(), doubles, create_graph=True)
        second_of_doubles = torch.autograd.grad(first_of_doubles[0].square().sum(), doubles)
    finally:
        torch.set_num_threads(before)
    ours, theirs = (found, *first, *second), (expected, *first_of_doubles, *second_of_doubles)
    for mine, exact in zip(ours, theirs, strict=True):
        assert mine.shape == exact.shape
        assert (mine - exact).norm() <= 1e-5 * exact.norm()  # sums of some hundred products in single precision


def test_products_of_one_picture_have_nothing_of_another():
    """A picture that is not finite leaves the products of the others as they are, bit for bit."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=generator) for shape in ((3, 129, 65), (3, 65, 130)))
    a.requires_grad_()
    outputs = []
    for stranger in (0.0, 1e30, float("inf"), float("nan")):
        other = b.clone()
        other[1] = stranger
        with recording():
            found = a @ other
        (gradient,) = torch.autograd.grad(found.sum(), a)
        outputs.append(torch.stack([found[::2, :, :65], gradient[::2]]).detach())
    assert all(torch.equal(output, outputs[0]) for output in outputs)


def test_products_that_torch_takes_in_half_precision_are_left_to_it():
    a, b = torch.randn(3, 129, 65), torch.randn(3, 65, 130)
    assert products.matmul(a.bfloat16(), b.bfloat16()) is NotImplemented
    assert products.matmul(a.double(), b.double()) is NotImplemented
    with torch.autocast("cpu", torch.bfloat16):
        assert products.matmul(a, b) is NotImplemented


ONE_PLACE = {
    "one place": (nn.Conv2d(24, 20, 1), True),
    "one place in 3-D": (nn.Conv3d(24, 20, 1), True),
    "padded, in groups": (nn.Conv2d(24, 20, 1, padding=1, groups=4), True),
    "strided": (nn.Conv2d(24, 20, 1, stride=2), False),
    "wider": (nn.Conv2d(24, 20, (1, 3), dilation=(1, 3)), False),
}


@pytest.mark.parametrize("name", ONE_PLACE)
def test_a_kernel_of_one_place_goes_to_onednn_on_one_thread(name):
    """A dilation sends it there, and moves neither the output nor a gradient; five pictures on one thread."""
    layer, is_one_place = ONE_PLACE[name]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 24, *(6, 7, 8)[: layer.weight.ndim - 2], generator=generator)
    found = _dilations(x, layer.weight, layer.stride, layer.dilation)
    assert found == ((2,) * len(layer.stride) if is_one_place and products._HAS_ONEDNN else layer.dilation)
    assert _dilations(x.double(), layer.weight.double(), layer.stride, layer.dilation) == layer.dilation

    def loss(outputs, labels):
        return outputs.square().flatten(1).mean(1)

    model = nn.Sequential(nn.Conv2d(24, 24, 1) if x.ndim == 4 else nn.Conv3d(24, 24, 1), layer)
    batch = PatientBatch(x, torch.zeros(5), torch.arange(5), 5)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = per_patient_gradients(model, loss, batch)
    finally:
        torch.set_num_threads(before)
    double = copy.deepcopy(model).double()
    for row, picture in zip(rows, x.double(), strict=True):
        gradients = torch.autograd.grad(loss(double(picture[None]), None)[0], list(double.parameters()))
        exact = torch.cat([gradient.flatten() for gradient in gradients])
        assert (row - exact).norm() <= 1e-5 * exact.norm()

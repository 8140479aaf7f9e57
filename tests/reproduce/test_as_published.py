"""Each published loop has its flaw, by numbers; and none of them can be mistaken for private training."""

import ast
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import wardround.reproduce.as_published as room
from wardround.accounting.mechanisms import gaussian_epsilon
from wardround.reproduce.as_published import deepee, dopamine, singh, yuan
from wardround.reproduce.as_published.plain import (
    Labelled,
    Steps,
    predict,
    put_weights,
    record_gradients,
    train,
    weights_of,
)

FILES = sorted(Path(room.__file__).parent.glob("*.py"))
STATEMENTS = [
    yuan.statement(5, 0.6),
    yuan.statement(5, 0.0),
    yuan.statement_alone(),
    dopamine.statement(10),
    singh.statement_of_shift(),
    singh.statement_of_groups(whole_batch=True),
    singh.statement_of_groups(whole_batch=False),
    deepee.statement(),
]


class Floats(nn.Module):
    def forward(self, pictures):
        return pictures.flatten(1).to(torch.float32) / 255


def linear(pixels=16, classes=2):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(Floats(), nn.Linear(pixels, classes))


def some(number=24, seed=0, side=4):
    generator = np.random.default_rng(seed)
    pictures = generator.integers(0, 256, (number, 1, side, side), dtype=np.uint8)
    return Labelled.of(pictures, generator.integers(0, 2, number))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_published_loop_shares_no_code_with_private_training(path):
    allowed = (
        "wardround.accounting",
        "wardround.noisers",
        "wardround.reproduce.as_published",
        "wardround.types",
        "torch",
        "numpy",
    )
    standard = ("math", "collections", "contextlib", "dataclasses")
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            assert name.startswith(allowed) or name.split(".")[0] in standard, (
                f"{path.name} must not import {name}"
            )


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda statement: statement.reason[:30])
def test_a_published_loop_says_that_it_promises_nothing_and_why(statement):
    assert not statement.guarantee
    assert statement.epsilon == math.inf
    assert len(statement.reason) > 30
    assert statement.sentence().startswith("There is no privacy guarantee")


def test_plain_training_is_torchs_own_and_comes_again_from_its_seed():
    data, steps = some(), Steps(epochs=2, batch=24, learning_rate=0.5, momentum=0.9)
    model, other = linear(), linear()
    train(model, data, steps, seeded())
    optimizer = torch.optim.SGD(other.parameters(), 0.5, 0.9)
    for _ in range(2):  # one batch holds everybody, so its order does not matter
        optimizer.zero_grad()
        nn.functional.cross_entropy(other(data.pictures), data.labels).backward()
        optimizer.step()
    torch.testing.assert_close(weights_of(model), weights_of(other))


def test_record_gradients_are_those_of_each_record_alone():
    data, model = some(5), linear()
    rows = record_gradients(model, data, seeded())
    mean = torch.autograd.grad(nn.functional.cross_entropy(model(data.pictures), data.labels), model.parameters())
    torch.testing.assert_close(rows.mean(0), torch.cat([part.reshape(-1) for part in mean]))
    assert record_gradients(model, data.some(torch.zeros(0, dtype=torch.int64)), seeded()).shape == (0, 34)


# Yuan et al.


def distance_of_neighbours(epochs, rate):
    """How far one replaced picture moves the weights that a hospital trains."""
    data = some(24)
    pictures, labels = data.pictures.clone(), data.labels.clone()
    pictures[0], labels[0] = 255 - pictures[0], 1 - labels[0]
    ends = []
    for one in (data, Labelled(pictures, labels)):
        model = linear()
        *_, visit = yuan.ring(model, [one], Steps(epochs, 24, rate), 0.0, seeded())
        ends.append(visit.trained)
    return float((ends[0] - ends[1]).norm())


def test_the_rings_noise_does_not_know_how_far_one_picture_moves_the_weights():
    """sigma stays what it is while the distance passes the assumed 1 and goes on: the claimed epsilon is no bound."""
    distances = [distance_of_neighbours(epochs, rate=20.0) for epochs in (1, 10, 40)]
    assert distances == sorted(distances)
    assert distances[-1] > 3 * yuan.ASSUMED_SENSITIVITY
    sigma = yuan.sigma_of(8.0, 1e-5)
    assert gaussian_epsilon(sigma / distances[-1], 1e-5) > 3 * 8.0


def test_the_rings_noise_has_the_published_size_and_is_the_same_whatever_was_trained():
    for data in (some(24, seed=1), some(24, seed=2)):
        *_, visit = yuan.ring(linear(), [data], Steps(1, 8, 0.1), 2.0, seeded(3))
        noise = visit.uploaded - visit.trained
        assert 1.2 < float(noise.std()) < 2.8
    repeated = [
        (lambda visit: visit.uploaded - visit.trained)(
            next(yuan.ring(linear(), [some(24, seed=seed)], Steps(1, 24, 0.1), 2.0, seeded(3)))
        )
        for seed in (1, 2)
    ]
    torch.testing.assert_close(repeated[0], repeated[1], atol=1e-6, rtol=0)


def test_the_next_hospital_starts_from_what_was_uploaded():
    steps, model = Steps(1, 8, 0.0), linear()
    first, second = yuan.ring(model, [some(8), some(8, seed=1)], steps, 1.0, seeded())
    torch.testing.assert_close(second.trained, first.uploaded)  # at rate 0 training moves nothing
    torch.testing.assert_close(weights_of(model), second.uploaded)


# Dopamine


def noised_mean(*arguments):
    """The published mean of a draw that is not empty."""
    mean = dopamine.noised_mean(*arguments)
    assert mean is not None
    return mean


SETTINGS = dopamine.Settings(5, 0.3, 1.15, 2.0, 0.1, 0.9, 1e-4)


def test_division_by_the_drawn_batch_makes_one_record_weigh_more_in_a_small_batch():
    """Without noise, one record more moves the mean by C / batch: five times as far in a batch of 2 as in one of 10."""
    quiet = dopamine.Settings(1, 0.1, 0.0, 2.0, 0.1, 0.9, 1e-4)
    record = 100 * torch.ones(1, 9)

    def moved(others):
        with_it = noised_mean(torch.cat([torch.zeros(others, 9), record]), quiet, 10, seeded())
        return float(with_it.norm())

    assert moved(1) == pytest.approx(2.0 / 2)
    assert moved(9) == pytest.approx(2.0 / 10)


@given(batches=st.lists(st.integers(1, 30), min_size=2, max_size=10))
@settings(deadline=None)
def test_a_smaller_batch_than_the_others_has_less_noise_than_was_promised(batches):
    multipliers = [dopamine.effective_noise_multiplier(SETTINGS, batches, at) for at in range(len(batches))]
    if len(set(batches)) == 1:
        assert multipliers == pytest.approx([1.15] * len(batches))
    else:
        assert min(multipliers) < 1.15
        assert multipliers[int(np.argmin(batches))] == min(multipliers)


def test_the_effective_noise_is_what_is_measured():
    """Noise of the mean of all hospitals over what the patient moves it by: by simulation, 2,000 rounds."""
    batches, draws, generator = [3, 10, 12], 2000, seeded()
    means = torch.stack(
        [
            torch.stack([noised_mean(torch.zeros(b, 1), SETTINGS, 3, generator) for b in batches]).mean(0)
            for _ in range(draws)
        ]
    )
    measured = float(means.std()) / (2.0 / 3 / 3)
    assert measured == pytest.approx(dopamine.effective_noise_multiplier(SETTINGS, batches, 0), rel=0.08)


def test_an_empty_draw_sends_the_weights_without_any_noise():
    nobody = dopamine.Settings(3, 0.0, 1.15, 2.0, 0.1, 0.9, 1e-4)
    model = linear()
    before = weights_of(model)
    assert list(dopamine.rounds(model, [some(4), some(4)], nobody, seeded())) == [1, 2, 3]
    assert torch.equal(weights_of(model), before)


def test_a_noised_round_moves_the_weights_and_noise_has_the_published_share():
    wide = torch.zeros(4, 4000)
    noise = noised_mean(wide, SETTINGS, 9, seeded())
    assert float(noise.std()) == pytest.approx(1.15 * 2.0 / 3 / 4, rel=0.05)
    model = linear()
    before = weights_of(model)
    list(dopamine.rounds(model, [some(20), some(20)], SETTINGS, seeded()))
    assert not torch.equal(weights_of(model), before)


def test_an_accountant_made_anew_every_round_never_notices():
    short, long = (dopamine.Settings(rounds, 0.03425, 1.15, 2.0, 0.1, 0.9, 1e-4) for rounds in (1, 3001))
    assert dopamine.reset_epsilon(long) == dopamine.reset_epsilon(short)
    assert dopamine.stated_epsilon(long) > 9 * dopamine.reset_epsilon(long)


@pytest.mark.thorough
def test_what_the_division_costs_is_more_than_what_was_stated():
    published = dopamine.Settings(3001, 0.03425, 1.15, 2.0, 0.002, 0.9, 1e-4)
    assert dopamine.stated_epsilon(published) == pytest.approx(10.877, abs=0.006)
    assert 14 < dopamine.indicated_epsilon(published, 293, 10, draws=60) < 17


# Singh et al.


def test_every_difference_between_pixels_survives_the_scalar_noise():
    pictures = np.random.default_rng(0).integers(100, 156, (300, 1, 6, 6), dtype=np.uint8)
    shifted = singh.brightness_shift(pictures, 1.0, np.random.default_rng(1))
    inside = ((shifted > 0) & (shifted < 255)).all(axis=(1, 2, 3))
    assert 30 < inside.sum() < 270
    before, after = (np.diff(p[inside].astype(int).reshape(inside.sum(), -1)) for p in (pictures, shifted))
    assert np.array_equal(before, after)
    assert (shifted[inside] != pictures[inside]).any(axis=(1, 2, 3)).mean() > 0.9  # what changed is brightness


def test_pictures_are_black_or_white_as_often_as_computed():
    pictures = np.full((4000, 1, 2, 2), 128, dtype=np.uint8)
    shifted = singh.brightness_shift(pictures, 0.5, np.random.default_rng(0))
    saturated = ((shifted == 0) | (shifted == 255)).all(axis=(1, 2, 3)).mean()
    # A grey of 128 needs a shift of half of 255: exp(-epsilon / 2).
    assert saturated == pytest.approx(math.exp(-0.25), abs=0.03)


@pytest.mark.parametrize("group", [1, 4])
def test_replacing_one_record_turns_a_groups_gradient_round(group):
    """The clipped mean of a group lies on one side or the other: 2 S apart, where the noise was sized for S."""
    push = 50 * torch.ones(7)
    one, other = torch.zeros(group, 7), torch.zeros(group, 7)
    one[0], other[0] = push, -push
    sums = [singh.noised(rows.mean(0, keepdim=True), 1.0, 0.0, seeded()) for rows in (one, other)]
    assert float((sums[0] - sums[1]).norm()) == pytest.approx(2.0)


def test_one_clip_a_batch_leaves_its_noise_undivided():
    means = torch.zeros(1, 4000)
    assert float(singh.noised(means, 1.0, 6.6, seeded()).std()) == pytest.approx(6.6, rel=0.05)
    assert float(singh.noised(means.expand(32, -1), 1.0, 6.6, seeded()).std()) == pytest.approx(6.6 / 32, rel=0.05)


def test_groups_of_one_without_noise_and_clip_are_plain_steps():
    data, model, other = some(12), linear(), linear()
    steps = Steps(epochs=1, batch=12, learning_rate=0.3)
    singh.train_with_groups(
        model, data, steps, group=1, clipping_norm=1e9, noise_multiplier=0.0, generator=seeded()
    )
    train(other, data, steps, seeded())
    torch.testing.assert_close(weights_of(model), weights_of(other))


# deepee


def test_the_exact_sum_is_what_an_onlooker_subtracts():
    data, model = some(6), linear()
    before, gradients = weights_of(model), record_gradients(model, data, seeded())
    clipped = gradients / torch.clamp(gradients.norm(dim=1, keepdim=True) / 0.5, min=1.0)
    step = deepee.step_of(gradients, 0.5, 3.0, seeded(4))
    torch.testing.assert_close(step.leaked_sum, clipped.sum(0))
    assert float((step.noised_mean - clipped.mean(0)).norm()) > 0.3  # what was meant to hide it
    deepee.train_leaking(
        model, data, Steps(1, 6, 0.1), clipping_norm=0.5, noise_multiplier=0.0, generator=seeded()
    )
    torch.testing.assert_close(before - weights_of(model), 0.1 * (clipped.sum(0) + clipped.mean(0)))


def test_predictions_of_an_exploded_model_are_no_opinion():
    model = linear()
    put_weights(model, torch.full((34,), math.nan))
    assert predict(model, some(3).pictures) == pytest.approx(np.full((3, 2), 0.5))

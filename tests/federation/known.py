"""Known algorithms on the tiny federation, written independently of the package: what strategies must reduce to."""

import numpy as np
import torch
from torch import nn

from wardround.training.losses import cross_entropy


def rounds(strategy, federation, num_rounds=3):
    """The models after some rounds from the initial weights."""
    return strategy.models(state_after(strategy, federation, num_rounds))


def state_after(strategy, federation, num_rounds):
    """The state after some rounds from the initial weights."""
    state = strategy.init(federation.weights, federation.channel)
    for round in range(1, num_rounds + 1):
        state = strategy.update(state, federation.channel, round)
    return state


def ordinary_sgd(federation, *, steps, learning_rate, momentum, num_patients, restart_every=None):
    """torch.optim.SGD on all patients in one place, each patient's pictures averaged: the known algorithm."""
    layer = nn.Linear(16, 2)
    weights = torch.from_numpy(federation.weights.copy())
    layer.load_state_dict({"weight": weights[:32].view(2, 16), "bias": weights[32:]})
    inputs = federation.workbench.network.encode(torch.from_numpy(federation.pixels)).flatten(1)
    counts = torch.cat(
        [torch.from_numpy(np.repeat(a.patients.counts, a.patients.counts)) for a in federation.agents.values()]
    )
    for step in range(steps):
        if step == 0 or (restart_every and step % restart_every == 0):
            optimizer = torch.optim.SGD(layer.parameters(), lr=learning_rate, momentum=momentum)
        optimizer.zero_grad()
        losses = cross_entropy(layer(inputs), torch.from_numpy(federation.labels))
        ((losses / counts).sum() / num_patients).backward()
        optimizer.step()
    return torch.cat([p.detach().reshape(-1) for p in layer.parameters()]).numpy()


def gradient_sum(federation, hospital, weights, class_weights=(1.0, 1.0)):
    """The sum over one hospital's patients of the mean gradient of their pictures: softmax regression by hand."""
    patients = list(federation.agents.values())[hospital].patients
    pictures = federation.pixels[patients.rows]
    inputs = federation.workbench.network.encode(torch.from_numpy(pictures)).flatten(1).numpy().astype(np.float64)
    weights = np.asarray(weights, dtype=np.float64)
    logits = inputs @ weights[:32].reshape(2, 16).T + weights[32:]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    errors = probabilities - np.eye(2)[patients.labels]
    errors *= np.array(class_weights)[patients.labels][:, None]
    errors /= np.repeat(patients.counts, patients.counts)[:, None]
    return np.concatenate([(errors.T @ inputs).reshape(-1), errors.sum(axis=0)])


def local_sgd(
    federation, hospital, weights, *, steps, learning_rate, momentum=0.0, divisor=4.0, proximal=0.0, correction=0.0,
    velocity=0.0, class_weights=(1.0, 1.0),
):  # fmt: skip
    """Weights and velocity after some steps at one hospital, everybody in every step."""
    start, weights = np.asarray(weights, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    velocity = velocity + np.zeros_like(weights)
    for _ in range(steps):
        gradient = gradient_sum(federation, hospital, weights, class_weights) / divisor
        gradient = gradient + proximal * (weights - start) + correction
        velocity = momentum * velocity + gradient
        weights = weights - learning_rate * velocity
    return weights, velocity

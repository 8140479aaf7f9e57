"""Guesses from scores: the threshold rules of an audit, fixed before the scores are seen, and the bounds that follow.

Two worlds: scores of independent runs without and with one patient. The first third of the runs chooses the direction
and the thresholds, and the others are counted. One run: scores of canaries of which each was in with a fair coin; the
highest are guessed in and the lowest out, in three sizes, each at a third of alpha.
"""

import json
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wardround.audit.bounds import (
    Bound,
    Float64,
    clopper_pearson,
    epsilon_of_mu,
    gdp,
    mu_of_errors,
    one_run,
    one_run_fdp,
)
from wardround.boundary.private import make_private_folder, open_private
from wardround.errors import RecordError

Coins = npt.NDArray[np.bool_]

THRESHOLDS = 7
"""Thresholds of the bound on mu, at quantiles of the runs that choose."""
SHARES = (0.05, 0.2, 0.9)
"""Shares of the canaries that are guessed."""
_CANDIDATES = 101
"""Quantiles of the runs that choose, among which the one threshold of Clopper and Pearson is chosen."""

_SPLIT = "the first third of the runs chooses, the others are counted"
_ANY, _GAUSSIAN = "nothing", "a trade-off curve no lower than that of the claimed Gaussian mechanism"


def two_worlds(without: Float64, within: Float64, delta: float, alpha: float) -> Bound:
    """Returns the Clopper-Pearson bound from scores of independent runs, (run,) each."""
    first, second = _chosen(without, within)
    grid = np.linspace(0, 1, _CANDIDATES)
    places = np.unique(np.quantile(np.concatenate(first), grid, method="nearest"))

    def bound(runs: tuple[Float64, Float64], at: float) -> float:
        false_positives, false_negatives = _errors(*runs, at)
        return clopper_pearson(false_positives, len(runs[0]), false_negatives, len(runs[1]), delta, alpha)

    best = max(places, key=lambda at: bound(first, at))
    negatives, positives = len(second[0]), len(second[1])
    return Bound(
        method="Clopper-Pearson",
        epsilon=bound(second, best),
        ceiling=clopper_pearson(0, negatives, 0, positives, delta, alpha),
        trials=len(without) + len(within),
        guesses=negatives + positives,
        correct=negatives + positives - sum(_errors(*second, best)),
        confidence=1 - alpha,
        rule=f"one threshold; {_SPLIT}",
        assumes=_ANY,
    )


def two_worlds_gdp(without: Float64, within: Float64, delta: float, alpha: float) -> Bound:
    """Returns the bound by mu-GDP from scores of independent runs, (run,) each."""
    first, second = _chosen(without, within)
    places = np.quantile(np.concatenate(first), np.linspace(0.05, 0.95, THRESHOLDS))
    negatives, positives = len(second[0]), len(second[1])
    mu = gdp(*second, places, alpha)
    return Bound(
        method="GDP",
        epsilon=epsilon_of_mu(mu, delta),
        ceiling=epsilon_of_mu(mu_of_errors(0, negatives, 0, positives, alpha / THRESHOLDS), delta),
        trials=len(without) + len(within),
        guesses=negatives + positives,
        correct=None,
        confidence=1 - alpha,
        rule=f"{THRESHOLDS} thresholds, each at alpha / {THRESHOLDS}; {_SPLIT}",
        assumes=_GAUSSIAN,
        mu=mu,
    )


def canaries(scores: Float64, coins: Coins, delta: float, alpha: float) -> Bound:
    """Returns the one-run bound from canaries' scores, (canary,), and their coins, (canary,)."""
    m, each = len(scores), alpha / len(SHARES)
    guessed = [(k, correct_guesses(scores, coins, k)) for k in _sizes(m)]
    epsilon, k, v = max((one_run(m, k, v, delta, each), k, v) for k, v in guessed)
    ceiling = max(one_run(m, k, k, delta, each) for k in _sizes(m))
    return Bound("one run", epsilon, ceiling, m, k, v, 1 - alpha, _extremes(m), _ANY)


def canaries_fdp(scores: Float64, coins: Coins, delta: float, alpha: float) -> Bound:
    """Returns the one-run bound by mu-GDP from canaries' scores, (canary,), and their coins, (canary,)."""
    m, each = len(scores), alpha / len(SHARES)
    guessed = [(k, correct_guesses(scores, coins, k)) for k in _sizes(m)]
    mu, k, v = max((one_run_fdp(m, k, v, each), k, v) for k, v in guessed)
    ceiling = epsilon_of_mu(max(one_run_fdp(m, k, k, each) for k in _sizes(m)), delta)
    epsilon = epsilon_of_mu(mu, delta)
    return Bound("one run, f-DP", epsilon, ceiling, m, k, v, 1 - alpha, _extremes(m), _GAUSSIAN, mu)


def correct_guesses(scores: Float64, coins: Coins, guesses: int) -> int:
    """Returns the number of right guesses if the highest half of `guesses` is taken for in, the lowest for out."""
    order, half = np.argsort(scores, kind="stable"), guesses // 2
    return int(coins[order[len(order) - half :]].sum() + (~coins[order[:half]]).sum())


def _sizes(m: int) -> list[int]:
    return [2 * max(1, round(share * m / 2)) for share in SHARES]


def _extremes(m: int) -> str:
    sizes = ", ".join(str(k) for k in _sizes(m))
    return f"the highest and lowest scores are guessed, {sizes} of them, each at alpha / {len(SHARES)}"


def _chosen(without: Float64, within: Float64) -> tuple[tuple[Float64, Float64], tuple[Float64, Float64]]:
    """Returns the runs that choose and the runs that are counted; scores are turned so that more means in."""
    one, other = len(without) // 3, len(within) // 3
    sign = 1.0 if np.mean(within[:other]) >= np.mean(without[:one]) else -1.0
    without, within = sign * without, sign * within
    return (without[:one], within[:other]), (without[one:], within[other:])


def _errors(without: Float64, within: Float64, threshold: float) -> tuple[int, int]:
    return int((without > threshold).sum()), int((within <= threshold).sum())


class Scores:
    """Scores of repetitions, appended to a file of the owner alone, the first line of which names what they are of."""

    def __init__(self, folder: Path | None, about: dict[str, object]) -> None:
        self._known: dict[tuple[bool, int], float] = {}
        self._path = None if folder is None else folder / "procedure.jsonl"
        if folder is None or self._path is None:
            return
        make_private_folder(folder)
        whole = self._whole_lines(self._path)
        lines = [_parsed(line) for line in whole]
        if whole and lines[0] != about:
            raise RecordError(
                f"`--keep` must be the folder of this study's audit, and {self._path} is of another. Give another "
                "folder.",
                code="record-audit",
            )
        for line in lines[1:]:
            match line:
                case [bool(world), int(run), int(score) | float(score)]:
                    self._known[world, run] = float(score)
        if not lines:
            self._append(about)

    @staticmethod
    def _whole_lines(path: Path) -> list[bytes]:
        """Returns the lines of the file, and cuts off the last one where an interruption left a part of it."""
        with os.fdopen(open_private(path, os.O_RDWR), "r+b") as file:
            content = file.read()
            end = content.rfind(b"\n") + 1
            if end < len(content):
                file.truncate(end)
        return content[:end].splitlines()

    def has(self, world: bool, run: int) -> bool:
        """Returns whether a repetition is known."""
        return (world, run) in self._known

    def add(self, world: bool, run: int, score: float) -> None:
        """Takes in a repetition."""
        self._known[world, run] = score
        self._append([world, run, score])

    def of(self, world: bool) -> Float64:
        """Returns the scores of a world, (run,), in the order of the runs."""
        return np.array([score for (one, _), score in sorted(self._known.items()) if one == world])

    def _append(self, content: object) -> None:
        if self._path is not None:
            with os.fdopen(open_private(self._path, os.O_WRONLY | os.O_APPEND), "a") as file:
                file.write(json.dumps(content) + "\n")


def _parsed(line: bytes) -> object:
    """Returns the value of a line of JSON; None of any other line."""
    try:
        return json.loads(line)
    except ValueError:
        return None

"""Step times of several engines, each in a process of its own, of which one computes at a time.

A process that is shared would be a place that no user has: an engine that changes the C library's limits, or fills its
heap, changes the ordinary step beside it as well.
"""

import gc
import itertools
import multiprocessing
import os
import random
import statistics
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.engine_measure import quartiles, reason, timed, workload
from benchmarks.engine_networks import CASES
from benchmarks.engine_peers import ENGINES, ordinary, settle

WARM_UP = 2
"""Steps before any time is taken: an engine may look for the best method in its first ones."""

STEADY = 1.25
"""Two neighbouring turns of the ordinary step that differ by more say that something else ran on the machine."""

TURN = 0.2
"""Seconds of a turn: one step, if it takes as long, else several, of which the first does not count."""

Seconds = tuple[float, float]
"""By the wall clock, and of processor time."""


def times(request: dict[str, Any], engines: Sequence[str], rounds: int) -> dict[str, Any]:
    """Step times of every engine over the ordinary step's right before and right after it.

    Args:
        request: network, batch and surroundings, as `_serve` reads them.
        engines: keys of `ENGINES`; those that raise or die before their first turn are recorded with the reason.
        rounds: turns of each engine, in a new order each.
    """
    table: dict[str, Any] = {"engines": {}}
    running: dict[str, Connection] = {}
    with ExitStack() as stack:
        reference = stack.enter_context(_own_process(None, request))
        if "fails" in (said := _first(reference)):
            return {"engines": dict.fromkeys(engines, said)}
        for name in engines:
            connection = stack.enter_context(_own_process(name, request))
            table["engines"][name] = _first(connection)
            if "fails" not in table["engines"][name]:
                running[name] = connection
        ordinary_times = [_turn(reference)]
        taken: dict[str, list[Seconds]] = {name: [] for name in running}
        shuffler = random.Random(0)
        for _ in range(rounds):
            for name in shuffler.sample(list(running), len(running)):
                before, mine, after = ordinary_times[-1], _turn(running[name]), _turn(reference)
                ordinary_times.append(after)
                taken[name].append((2 * mine[0] / (before[0] + after[0]), 2 * mine[1] / (before[1] + after[1])))
    walls = [1000 * wall for wall, _ in ordinary_times]
    pairs = list(itertools.pairwise(walls))
    # Threads that wait for a core they share spin: steps can then be twenty times slower with narrow quartiles, so
    # the processor time of a step over its wall time is kept as well.
    table |= {
        "ordinary_ms": statistics.median(walls),
        "ordinary_ms_quartiles": quartiles(walls),
        "unsteady_share": sum(max(pair) > STEADY * min(pair) for pair in pairs) / max(len(pairs), 1),
        "busy_cores": statistics.median(cpu / wall for wall, cpu in ordinary_times),
        "load": os.getloadavg()[0],
    }
    for name, ratios in taken.items():
        table["engines"][name] |= {
            "step_ratio": statistics.median(wall for wall, _ in ratios),
            "quartiles": quartiles([wall for wall, _ in ratios]),
            "cpu_ratio": statistics.median(cpu for _, cpu in ratios),
            "cpu_quartiles": quartiles([cpu for _, cpu in ratios]),
        }
    return table


@contextmanager
def _own_process(name: str | None, request: dict[str, Any]) -> Iterator[Connection]:
    """Gives the line to a fresh process with one engine; None is the ordinary step."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, name, request), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        process.kill()
        process.join()


def _first(connection: Connection) -> dict[str, Any]:
    """Returns what an engine said in its warm-up, {"fails": reason} if it cannot take turns."""
    try:
        said: dict[str, Any] = connection.recv()
    except EOFError:
        return {"fails": "the process ended"}
    return said


def _turn(connection: Connection) -> Seconds:
    """Returns the median of the steps of one turn."""
    connection.send(None)
    seconds: Seconds = connection.recv()
    return seconds


def _serve(connection: Connection, name: str | None, request: dict[str, Any]) -> None:
    """Builds and warms up a step, then takes turns until it is killed; sleeps meanwhile."""
    settle(request)
    case = CASES[request["network"]]
    case = case.quick() if request["quick"] else case
    build = ordinary if name is None else ENGINES[name].build
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step = build(workload(case, memory_bytes=request["memory_bytes"]))
            for _ in range(WARM_UP):
                step()
    except Exception as error:
        connection.send({"fails": reason(error)})
        return
    gc.collect()
    slow = [str(each.message) for each in caught if each.category.__name__ == "SlowPath"]
    connection.send({"slow_path": slow} if slow else {})
    while True:
        connection.recv()
        found: list[Seconds] = []
        end = time.perf_counter() + TURN
        while not found or time.perf_counter() < end:
            found.append(timed(step))
        counted = found[1:] or found  # the first finds the processor's caches full of another process
        connection.send(
            (statistics.median(wall for wall, _ in counted), statistics.median(cpu for _, cpu in counted))
        )

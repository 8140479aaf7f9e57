"""What carrying a round costs: in one process, over Unix sockets, and over FLARE, beside FLARE's own averaging.

    python -m benchmarks.federation [--courier PYTHON] [--rounds N] [--sizes 3.5k 0.7M 11M]
        [--hospitals 2 4 8] [--ways process sockets echo averaging flare] [--quick] [--out FILE]

Every setting is one run between hospitals: agents with folders of their own, and ledgers on disk. The network is
linear, with classes x (width^2 + 1) parameters on pictures of a given width, and a hospital has a few patients, so that
a round is its exchanges: three under masks (announce with the model and the last sum, confirm, upload), and one between
two hospitals, where a masked sum would hide nothing. `process` has the hospitals one after the other in this process;
`sockets` and `flare` have an agent process each. A round's seconds are the median over all but the first, without what
follows the last round; bytes are those of messages, both ways, without frames. `empty` is the median of an exchange of
the smallest message, a greeting. `echo` is the engine alone, over the same processes and TLS, without agents and
without our courier: messages of the sizes of a round of `process`, in as many exchanges, there and back as FLARE's own;
its `empty` is an empty echo. `averaging` is FLARE's own workflow: one exchange a round, a model down and a vector of
its length up, nothing computed, noised, masked or signed. One run gives both (`benchmarks.federation_averaging`).
Without `--courier`, the interpreter of its environment, all three ways over FLARE are left out and said so. `--quick`
is 3.5 k and 0.7 M parameters with 4 hospitals, 4 rounds.

Columns: seconds of a round; that, over `process`; `empty`; a round over as many empty exchanges; `/both`, a round over
one of `sockets` and one of `echo` together. A round over FLARE does the work of both: hospitals and coordinator compute
as over `sockets`, and the engine carries as many bytes in as many exchanges as in `echo`. A perfect courier stays above
1.0 by two things that neither has: each message takes a second hop over a Unix socket, and the engine's processes poll
while hospitals compute (for four hospitals 7 % of a core, measured on a busy machine).

The whole table has 45 rows from 36 runs, of 9 rounds at 3.5 k parameters, 6 at 0.7 M and 3 at 11 M. Each row is written
to `--out` as soon as it is measured, and the same command goes on behind the rows that are there; a table of another
machine or of other versions is refused. `GB` is by how much
the machine's available memory fell during the run: at 11 M parameters 7.9 for eight hospitals over sockets; over FLARE
the peaks of four hospitals' processes were 8.2 together, about 1.5 a hospital. Run on a quiet machine, with
`OMP_NUM_THREADS=1` for this process too.
"""

import argparse
import json
import secrets
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.engine_report import machine
from benchmarks.hospitals import READY_S, make_homes, start_agents, start_courier, wait_for
from wardround.boundary.private import write_whole
from wardround.config import Study, parse_study
from wardround.coordinator.observer import Silent
from wardround.coordinator.run import coordinate
from wardround.errors import FederationError
from wardround.federation.channel import Channel
from wardround.federation.messages import Failure, Failures, Replies, Request, Requests
from wardround.federation.wire.limits import Limits
from wardround.federation.wire.signatures import CoordinatorKeys
from wardround.federation.wire.tables import decode_reply, encode_reply, encode_request
from wardround.hospital.desk import Desk
from wardround.secure_aggregation.keys.identity import SigningKey
from wardround.simulation.sweeps.many import free_memory
from wardround.transport.unix import SocketChannel
from wardround.types import HospitalName
from wardround.work import Announce, Answered, Confirm, SayHello, Upload

Messages = Sequence[Sequence[int]]
"""Bytes there and back of each exchange of a round, for one hospital."""

HOSPITALS, WAYS = (2, 4, 8), ("process", "sockets", "echo", "averaging", "flare")
OVER_FLARE, OF_FLARE = ("echo", "averaging", "flare"), ("echo", "averaging")
PATIENTS = 10
"""In each hospital."""
LEAST_MASKED = 3
EMPTY = 20


@dataclass(frozen=True)
class Size:
    """A linear network, and the rounds of its runs."""

    width: int
    classes: int
    rounds: int

    @property
    def parameters(self) -> int:
        return self.classes * (self.width**2 + 1)


SIZES = {"3.5k": Size(42, 2, 9), "0.7M": Size(602, 2, 6), "11M": Size(1000, 11, 3)}
QUICK: dict[str, Any] = {"rounds": 4, "sizes": ("3.5k", "0.7M"), "hospitals": (4,)}


class Timed:
    """A channel that notes seconds and bytes of every exchange of a round of training, by round.

    Attributes:
        messages: of each exchange, bytes of the longest request and reply of a hospital.
    """

    def __init__(self, inner: Channel) -> None:
        self.inner = inner
        self.seconds: dict[int, list[float]] = {}
        self.bytes: dict[int, int] = {}
        self.messages: dict[int, list[tuple[int, int]]] = {}
        self.empty: list[float] = []

    @property
    def hospitals(self) -> tuple[HospitalName, ...]:
        return self.inner.hospitals

    def ask(self, requests: Requests, deadline_s: float) -> tuple[Replies, Failures]:
        request = next(iter(requests.values()))
        if not self.empty:
            hello = dict.fromkeys(requests, Request(request.study, 0, 1, SayHello()))
            self.empty = [self._timed(hello, READY_S)[0] for _ in range(EMPTY + 1)][1:]
        took, replies = self._timed(requests, deadline_s)
        if isinstance(request.work, Answered | Announce | Confirm | Upload):
            self.seconds.setdefault(request.round, []).append(took)
            sizes = {key: len(body) for key, body in encoded(requests).items()}
            sent = [sizes[id(one)] for one in requests.values()]
            came = [len(encode_reply(one)) for one in replies.values()]
            self.bytes[request.round] = self.bytes.get(request.round, 0) + sum(sent) + sum(came)
            self.messages.setdefault(request.round, []).append((max(sent), max(came)))
        return replies, Failures()

    def _timed(self, requests: Requests, deadline_s: float) -> tuple[float, Replies]:
        began = time.perf_counter()
        replies, failures = self.inner.ask(requests, deadline_s)
        if failures:
            raise FederationError(f"A benchmark needs every answer, and got {failures}.")
        return time.perf_counter() - began, replies


class InProcess:
    """The hospitals of this process, one after the other, by their bytes."""

    def __init__(self, desks: Mapping[HospitalName, Desk], keys: CoordinatorKeys) -> None:
        self._desks, self._keys, self._exchange = desks, keys, 0
        self.hospitals = tuple(desks)

    def ask(self, requests: Requests, deadline_s: float) -> tuple[Replies, Failures]:
        replies, failures = Replies(), Failures()
        self._exchange += 1
        bodies = encoded(requests)
        for name, request in requests.items():
            [signed] = self._keys.sign(bodies[id(request)], [name], self._exchange)
            answer = self._desks[name].answer(signed.content)
            match decode_reply(self._keys.open(answer, signed), Limits()):
                case Failure() as failure:
                    failures[name] = failure
                case reply:
                    replies[name] = reply
        return replies, failures


def encoded(requests: Requests) -> dict[int, bytes]:
    """Returns the bytes of each request, once where several hospitals are sent the same, by its identity."""
    return {key: encode_request(one) for key, one in {id(one): one for one in requests.values()}.items()}


def study_of(size: Size, hospitals: int, rounds: int) -> Study:
    classes = ["clear", "lesion", *(f"no patient has {number}" for number in range(2, size.classes))]
    privacy: dict[str, Any] = {"num_patients": PATIENTS * hospitals}
    privacy |= {"sum": "masked"} if hospitals >= LEAST_MASKED else {"trust": "nobody"}
    federation = {} if hospitals >= LEAST_MASKED else {"strategy": "fedavg", "local_steps": 1}
    return parse_study(
        {
            "study": {"name": "one-round", "seed": 1},
            "site": {"layout": "phantom"},
            "data": {"image_size": size.width, "classes": classes},
            "hospitals": {"count": hospitals, "names": names_of(hospitals)},
            "model": {"name": "linear"},
            "privacy": {"plan": "dp-sgd", "noise_multiplier": 2.0, "delta": 1e-3, "accountant": "rdp", **privacy},
            "federation": {"rounds": rounds, "evaluate_every": rounds, **federation},
            "performance": {"threads": 1},
        }
    )  # fmt: skip


def names_of(hospitals: int) -> list[HospitalName]:
    return [HospitalName(f"site-{number}") for number in range(1, hospitals + 1)]


@contextmanager
def opened(
    way: str, homes: Mapping[HospitalName, Path], keys: CoordinatorKeys, folder: Path, courier: Path | None
) -> Iterator[Channel]:
    """A channel to the hospitals by one of the ways."""
    with ExitStack() as stack:
        if way == "process":
            yield InProcess({name: stack.enter_context(Desk(home)) for name, home in homes.items()}, keys)
            return
        sockets = agents = start_agents(stack, homes, folder)
        if way == "flare":
            sockets = {name: folder / "s" / f"{name}.sock" for name in homes}

            def up(name: str, kit: Path) -> Sequence[object]:
                end = ("--agent", agents[HospitalName(name)]) if name in agents else ("--sockets", folder / "s")
                return (courier, "-m", "wardround_flare", "up", kit, *end)

            start_courier(stack, folder, list(homes), courier, up)
        wait_for([*agents.values(), *sockets.values()])
        channel = SocketChannel(sockets, keys)
        stack.callback(channel.close)
        yield channel


def alone(
    size: Size, hospitals: int, rounds: int, courier: Path | None, folder: Path, messages: Messages
) -> dict[str, dict[str, Any]]:
    """Returns rows of FLARE without wardround: echoes of messages, and its own federated averaging."""
    parameters, program = size.parameters, (courier, "-m", "benchmarks.federation_averaging")
    settings = (folder / "s", parameters, rounds, hospitals, *(f"{down}:{up}" for down, up in messages))
    with ExitStack() as stack:
        start_courier(stack, folder, names_of(hospitals), courier, lambda _, kit: (*program, kit, *settings))
        wait_for([folder / "s" / "averaging.json"])
        found = json.loads((folder / "s" / "averaging.json").read_text())
    return {
        "echo": {
            "exchanges": len(messages),
            "seconds": statistics.median(found["echo"]),
            "bytes": hospitals * sum(map(sum, messages)),
            "empty": statistics.median(found["empty"]),
        },
        "averaging": {
            "exchanges": 1,
            "seconds": statistics.median(found["averaging"]),
            "bytes": 2 * hospitals * 4 * parameters,
            "empty": None,
        },
    }


def measured(
    way: str, size: Size, hospitals: int, rounds: int, courier: Path | None, messages: Messages
) -> list[dict[str, Any]]:
    """Returns the rows of one run, seconds and bytes of a round: one, or both of FLARE alone."""
    folder = Path(tempfile.mkdtemp(prefix="wr-"))  # short: the path of a socket has at most 100 bytes
    began = time.perf_counter()
    try:
        with memory_taken() as taken:
            if way in OF_FLARE:
                rows = alone(size, hospitals, rounds, courier, folder, messages)
            else:
                rows = {way: coordinated(way, size, hospitals, rounds, courier, folder)}
    finally:
        shutil.rmtree(folder)
    place = {"parameters": size.parameters, "hospitals": hospitals, "rounds": rounds}
    run = {"gigabytes": taken[0] / 1e9, "whole_run_s": time.perf_counter() - began}
    return [{"way": way} | place | row | run for way, row in rows.items()]


def coordinated(
    way: str, size: Size, hospitals: int, rounds: int, courier: Path | None, folder: Path
) -> dict[str, Any]:
    """Returns one row of a run between hospitals."""
    study = study_of(size, hospitals, rounds)
    sites = {
        name: f'[site]\nlayout = "phantom"\nphantom = {{ patients = {PATIENTS}, sites = 1, image_size = 64, '
        f"max_images = 1, seed = {number} }}\n"
        for number, name in enumerate(names_of(hospitals), start=1)
    }
    homes, keys = make_homes(folder, study, sites, "epsilon_limit = 1000.0\ndelta = 1e-3\n")
    with opened(way, homes, keys, folder, courier) as channel:
        timed = Timed(channel)
        coordinate(study, timed, keys.hospitals, SigningKey.new(secrets.token_bytes), folder / "run", Silent())
    later = [seconds for round, seconds in timed.seconds.items() if round > 1]
    return {
        "exchanges": len(later[0]),
        "seconds": statistics.median(map(sum, later)),
        "bytes": int(statistics.median(count for round, count in timed.bytes.items() if round > 1)),
        "empty": statistics.median(timed.empty),
        "messages": timed.messages[2],
    }


@contextmanager
def memory_taken() -> Iterator[list[int]]:
    """Gives the most bytes by which the machine's available memory falls while the block runs."""
    before, taken, ended = free_memory() or 0, [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            taken[0] = max(taken[0], before - (free_memory() or 0))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield taken
    finally:
        ended.set()
        thread.join()


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # agents and courier end with this process
    ways = [way for way in options.ways if way not in OVER_FLARE or options.courier is not None]
    if len(ways) < len(options.ways):
        print(f"{', '.join(OVER_FLARE)} are left out: --courier, the interpreter of its environment, is not given")
    table = table_in(options.out)
    sizes = [SIZES[name] for name in options.sizes]
    cells = [(way, size, hospitals) for size in sizes for hospitals in options.hospitals for way in ways]
    print(
        f"{'cell':>7} {'parameters':>10} {'hospitals':>9}  {'way':9} {'s a round':>10} {'/process':>9} "
        f"{'empty, s':>9} {'empties':>9} {'/both':>9} {'MB':>8} {'GB':>5} {'run, s':>6}"
    )
    for number, (way, size, hospitals) in enumerate(cells, start=1):
        rounds = options.rounds or size.rounds
        known = rows_in(table, size, hospitals)
        if way not in known or known[way].get("rounds") != rounds:
            messages = known["process"]["messages"] if way in OF_FLARE else []
            table["rows"] += measured(way, size, hospitals, rounds, options.courier, messages)
            if options.out is not None:
                write_whole(options.out, (json.dumps(table, indent=2) + "\n").encode())
        print(f"{number:3}/{len(cells):3} {line_of(rows_in(table, size, hospitals), way)}", flush=True)


def table_in(path: Path | None) -> dict[str, Any]:
    """Returns the table that a file holds, or an empty one of this machine; ends where it is another machine's."""
    here = machine(1)
    if path is None or not path.exists():
        return {"machine": here, "rows": []}
    table: dict[str, Any] = json.loads(path.read_text())
    other = [name for name in here if name != "load_at_start" and table["machine"].get(name) != here[name]]
    if other:
        raise SystemExit(
            f"`--out` must be a new file, or a table of this machine and these versions, and {path} is of another "
            f"({', '.join(other)}); name a new file."
        )
    return table


def rows_in(table: dict[str, Any], size: Size, hospitals: int) -> dict[str, dict[str, Any]]:
    """Returns the last row of each way that is measured for a setting."""
    place = (size.parameters, hospitals)
    return {row["way"]: row for row in table["rows"] if (row["parameters"], row["hospitals"]) == place}


def line_of(rows: Mapping[str, dict[str, Any]], way: str) -> str:
    """Returns one line of the table; `rows` are those of a setting, by way."""
    row = rows[way]
    empty = row["empty"]
    over = ["-"] * 2 if empty is None else [f"{empty:.4f}", f"{row['seconds'] / (row['exchanges'] * empty):.2f}"]
    process, both = (
        f"{row['seconds'] / sum(rows[one]['seconds'] for one in than):.2f}" if rows.keys() >= set(than) else "-"
        for than in (("process",), ("sockets", "echo"))
    )
    return (
        f"{row['parameters']:10} {row['hospitals']:9}  {row['way']:9} {row['seconds']:10.3f} {process:>9} {over[0]:>9} "
        f"{over[1]:>9} {both:>9} {row['bytes'] / 1e6:8.2f} {row['gigabytes']:5.1f} {row['whole_run_s']:6.0f}"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--courier", type=Path)
    parser.add_argument("--rounds", type=int, help="for all sizes alike")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=tuple(SIZES))
    parser.add_argument("--hospitals", type=int, nargs="+", default=HOSPITALS)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--quick", action="store_true", help="two sizes, four hospitals, four rounds")
    parser.add_argument("--out", type=Path, help="gets every row, and the next run goes on behind them")
    options = parser.parse_args()
    if set(options.ways) & set(OF_FLARE) and "process" not in options.ways:
        parser.error("--ways: echo and averaging take the sizes of messages from process; name it before them")
    if options.quick:
        vars(options).update(QUICK)
    return options


if __name__ == "__main__":
    main()

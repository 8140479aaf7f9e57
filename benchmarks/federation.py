"""What carrying a round costs: in one process, over Unix sockets, and over FLARE, beside FLARE's own averaging.

    python -m benchmarks.federation [--courier PYTHON] [--rounds 7] [--sizes 42 602 2365] [--hospitals 2 4 8]
        [--ways process sockets flare averaging] [--quick] [--out FILE]

Every setting is one run between hospitals: agents with folders of their own, and ledgers on disk. The network is linear
on pictures of a given width, with 2 width^2 + 2 parameters (3.5 k, 0.7 M and 11 M by default), and a hospital has a few
patients, so that a round is its exchanges: three under masks (announce with the model and the last sum, confirm,
upload), and one between two hospitals, where a masked sum would hide nothing. `process` has the hospitals one after the
other in this process; `sockets` and `flare` have an agent process each. A round's seconds are the median over all but
the first; bytes are those of messages, both ways, without frames. `empty` is the median of an exchange of the smallest
message, a greeting. `averaging` is FLARE's own workflow over the same processes and TLS: one exchange a round, a model
down and a vector of its length up, nothing computed, noised, masked or signed (`benchmarks.federation_averaging`).
Without `--courier`, the interpreter of the courier's environment, both are left out and said so. `--quick` is 3.5 k and
0.7 M parameters with 4 hospitals, 4 rounds. Run on a quiet machine, with `OMP_NUM_THREADS=1` for this process too.
"""

import argparse
import json
import os
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.engine_report import machine
from wardround.config import Study, parse_study
from wardround.config.site import read_policy, read_site
from wardround.coordinator.observer import Silent
from wardround.coordinator.run import coordinate
from wardround.errors import FederationError
from wardround.federation.channel import Channel
from wardround.federation.messages import Failure, Failures, Replies, Request, Requests
from wardround.federation.wire.limits import Limits
from wardround.federation.wire.signatures import CoordinatorKeys
from wardround.federation.wire.tables import decode_reply, encode_reply, encode_request
from wardround.hospital.accepted import accept
from wardround.hospital.desk import Desk
from wardround.secure_aggregation.keys.identity import SigningKey
from wardround.secure_aggregation.keys.pins import Pins
from wardround.simulation.materials import gather
from wardround.transport.unix import SocketChannel
from wardround.types import HospitalName
from wardround.work import SayHello

ROOT = Path(__file__).parents[1]
COURIER = ROOT / "couriers" / "flare"
WIDTHS, HOSPITALS, WAYS = (42, 602, 2365), (2, 4, 8), ("process", "sockets", "flare", "averaging")
OVER_FLARE = ("flare", "averaging")
QUICK: dict[str, Any] = {"rounds": 4, "sizes": (42, 602), "hospitals": (4,)}
PATIENTS = 6
"""In each hospital."""
LEAST_MASKED = 3
EMPTY = 20
READY_S = 900.0
"""Seconds for processes to be there, pictures read; generous, as no figure has them."""


class Timed:
    """A channel that notes seconds and bytes of every exchange, by round."""

    def __init__(self, inner: Channel) -> None:
        self.inner = inner
        self.seconds: dict[int, float] = {}
        self.bytes: dict[int, int] = {}
        self.exchanges: dict[int, int] = {}
        self.empty: list[float] = []

    @property
    def hospitals(self) -> tuple[HospitalName, ...]:
        return self.inner.hospitals

    def ask(self, requests: Requests, deadline_s: float) -> tuple[Replies, Failures]:
        request = next(iter(requests.values()))
        if not self.empty:
            self._measure_empty(requests, request)
        began = time.perf_counter()
        replies, failures = self.inner.ask(requests, deadline_s)
        took = time.perf_counter() - began
        if failures:
            raise FederationError(f"A benchmark needs every answer, and got {failures}.")
        round = request.round
        sent = sum(len(encode_request(one)) for one in requests.values())
        self.exchanges[round] = self.exchanges.get(round, 0) + 1
        self.seconds[round] = self.seconds.get(round, 0.0) + took
        self.bytes[round] = (
            self.bytes.get(round, 0) + sent + sum(len(encode_reply(one)) for one in replies.values())
        )
        return replies, failures

    def _measure_empty(self, requests: Requests, request: Request) -> None:
        hello = dict.fromkeys(requests, Request(request.study, 0, 1, SayHello()))
        self.inner.ask(hello, READY_S)
        for _ in range(EMPTY):
            began = time.perf_counter()
            self.inner.ask(hello, READY_S)
            self.empty.append(time.perf_counter() - began)


class InProcess:
    """The hospitals of this process, one after the other, by their bytes."""

    def __init__(self, desks: Mapping[HospitalName, Desk], keys: CoordinatorKeys) -> None:
        self._desks, self._keys, self._exchange = desks, keys, 0
        self.hospitals = tuple(desks)

    def ask(self, requests: Requests, deadline_s: float) -> tuple[Replies, Failures]:
        replies, failures = Replies(), Failures()
        self._exchange += 1
        for name, request in requests.items():
            [signed] = self._keys.sign(encode_request(request), [name], self._exchange)
            answer = self._desks[name].answer(signed.content)
            match decode_reply(self._keys.open(answer, signed), Limits()):
                case Failure() as failure:
                    failures[name] = failure
                case reply:
                    replies[name] = reply
        return replies, failures


def study_of(width: int, hospitals: int, rounds: int, cache: Path) -> Study:
    names = [f"site-{number}" for number in range(1, hospitals + 1)]
    phantom = {
        "patients": PATIENTS * hospitals,
        "sites": hospitals,
        "image_size": 64,
        "max_images": 1,
        "seed": 1,
    }
    privacy: dict[str, Any] = {"num_patients": PATIENTS * hospitals}
    privacy |= {"sum": "masked"} if hospitals >= LEAST_MASKED else {"trust": "nobody"}
    federation = {} if hospitals >= LEAST_MASKED else {"strategy": "fedavg", "local_steps": 1}
    return parse_study(
        {
            "study": {"name": "one-round", "seed": 1},
            "site": {"layout": "phantom", "phantom": phantom},
            "data": {"image_size": width, "classes": ["clear", "lesion"]},
            "hospitals": {"count": hospitals, "names": names, "scheme": "site"},
            "model": {"name": "linear"},
            "privacy": {"plan": "dp-sgd", "noise_multiplier": 2.0, "delta": 1e-3, "accountant": "rdp", **privacy},
            "federation": {"rounds": rounds, "evaluate_every": rounds, **federation},
            "performance": {"threads": 1, "cache": str(cache)},
        }
    )  # fmt: skip


def make_homes(folder: Path, study: Study) -> tuple[dict[HospitalName, Path], CoordinatorKeys]:
    """Makes a folder for each hospital, which has accepted the study; returns them and the coordinator's keys."""
    coordinator = SigningKey.new(secrets.token_bytes)
    dealt = gather(study, Silent()).split.hospitals
    options = ", ".join(f"{key} = {value}" for key, value in study.site.phantom.model_dump().items())
    keys = {name: SigningKey.new(secrets.token_bytes) for name in dealt}
    for name, key in keys.items():
        home = folder / name
        home.mkdir(mode=0o700)
        (home / "cohort.txt").write_text("".join(f"{patient.id}\n" for patient in dealt[name]))
        (home / "site.toml").write_text(
            f'[hospital]\nname = "{name}"\ncohort = "cohort.txt"\n[site]\nlayout = "phantom"\n'
            f"phantom = {{ {options} }}\n"
        )
        (home / "policy.toml").write_text("[policy]\nepsilon_limit = 1000.0\ndelta = 1e-3\n")
        key.write(home / "identity.pem")
        Pins({other: one.public for other, one in keys.items() if other != name}).write(home / "pins.toml")
        Pins({"the coordinator": coordinator.public}).write(home / "coordinators.toml")
        accept(home, read_site(home / "site.toml"), read_policy(home / "policy.toml"), study, by="a benchmark")
    public = {str(name): key.public for name, key in keys.items()}
    return {name: folder / name for name in keys}, CoordinatorKeys(coordinator, public)


@contextmanager
def running(command: Sequence[object], log: Path) -> Iterator[None]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}:{COURIER}:{ROOT}"}
    with log.open("ab") as out:
        process = subprocess.Popen(
            [str(each) for each in command], stdout=out, stderr=out, env=environment, start_new_session=True
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


@contextmanager
def opened(
    way: str, homes: Mapping[HospitalName, Path], keys: CoordinatorKeys, folder: Path, courier: Path | None
) -> Iterator[Channel]:
    """A channel to the hospitals by one of the ways."""
    with ExitStack() as stack:
        if way == "process":
            yield InProcess({name: stack.enter_context(Desk(home)) for name, home in homes.items()}, keys)
            return
        for name, home in homes.items():
            command = (sys.executable, "-m", "wardround", "agent", "--home", home)
            stack.enter_context(running(command, folder / f"agent-{name}.txt"))
        sockets = {name: home / "agent.sock" for name, home in homes.items()}
        if way == "flare":
            sockets = {name: folder / "s" / f"{name}.sock" for name in homes}
            program = make_kits(folder, list(homes), courier)
            up = (*program, "up", folder / "kits" / "coordinator", "--sockets", folder / "s")
            stack.enter_context(running(up, folder / "coordinator.txt"))
            for name, home in homes.items():
                side = (*program, "up", folder / "kits" / name, "--agent", home / "agent.sock")
                stack.enter_context(running(side, folder / f"courier-{name}.txt"))
        wait_for([*(home / "agent.sock" for home in homes.values()), *sockets.values()])
        channel = SocketChannel(sockets, keys)
        stack.callback(channel.close)
        yield channel


def make_kits(folder: Path, names: Sequence[str], courier: Path | None) -> tuple[Path | None, str, str]:
    """Makes the courier's kits; returns its program."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = (courier, "-m", "wardround_flare")
    sites = [part for name in names for part in ("--site", name)]
    made = (*program, "kits", folder / "kits", "--server", "localhost", "--port", port, *sites)
    with running(made, folder / "kits.txt"):
        wait_for([folder / "kits" / name / "kit.json" for name in ("coordinator", *names)])
    return program


def averaged(width: int, hospitals: int, rounds: int, courier: Path | None) -> dict[str, Any]:
    """Returns one row of FLARE's own federated averaging."""
    folder, parameters = Path(tempfile.mkdtemp(prefix="wr-")), 2 * width**2 + 2
    names = [f"site-{number}" for number in range(1, hospitals + 1)]
    try:
        with ExitStack() as stack:
            make_kits(folder, names, courier)
            program = (courier, "-m", "benchmarks.federation_averaging")
            for name in ("coordinator", *names):
                up = (*program, folder / "kits" / name, folder / "s", parameters, rounds, hospitals)
                stack.enter_context(running(up, folder / f"{name}.txt"))
            wait_for([folder / "s" / "averaging.json"])
            seconds = json.loads((folder / "s" / "averaging.json").read_text())
    finally:
        shutil.rmtree(folder)
    return {
        "way": "averaging",
        "parameters": parameters,
        "hospitals": hospitals,
        "exchanges": 1,
        "seconds": statistics.median(seconds),
        "bytes": 2 * hospitals * 4 * parameters,
        "empty": None,
    }


def wait_for(paths: Sequence[Path]) -> None:
    end = time.monotonic() + READY_S
    while missing := [path for path in paths if not path.exists()]:
        if time.monotonic() > end:
            raise FederationError(f"A benchmark waited {READY_S:.0f} s for {missing[0]}; see the files beside it.")
        time.sleep(0.1)


def measured(way: str, width: int, hospitals: int, rounds: int, courier: Path | None) -> dict[str, Any]:
    """Returns one row: seconds and bytes of a round."""
    if way == "averaging":
        return averaged(width, hospitals, rounds, courier)
    folder = Path(tempfile.mkdtemp(prefix="wr-"))  # short: the path of a socket has at most 100 bytes
    try:
        study = study_of(width, hospitals, rounds, folder / "cache")
        homes, keys = make_homes(folder, study)
        with opened(way, homes, keys, folder, courier) as channel:
            timed = Timed(channel)
            coordinate(study, timed, keys.hospitals, SigningKey.new(secrets.token_bytes), folder / "run", Silent())
    finally:
        shutil.rmtree(folder)
    later = [seconds for round, seconds in timed.seconds.items() if round > 1]
    return {
        "way": way,
        "parameters": 2 * width**2 + 2,
        "hospitals": hospitals,
        "exchanges": int(statistics.median(count for round, count in timed.exchanges.items() if round > 1)),
        "seconds": statistics.median(later),
        "bytes": int(statistics.median(count for round, count in timed.bytes.items() if round > 1)),
        "empty": statistics.median(timed.empty),
    }


def main() -> None:
    options = _options()
    table: dict[str, Any] = {"machine": machine(1), "rounds": options.rounds, "rows": []}
    ways = [way for way in options.ways if way not in OVER_FLARE or options.courier is not None]
    if len(ways) < len(options.ways):
        print("flare and averaging are left out: --courier, the interpreter of its environment, is not given")
    print(
        f"{'parameters':>10} {'hospitals':>9}  {'way':9} {'s a round':>10} {'empty, s':>9} {'empties':>9} {'MB':>8}"
    )
    for width in options.sizes:
        for hospitals in options.hospitals:
            for way in ways:
                row = measured(way, width, hospitals, options.rounds, options.courier)
                table["rows"].append(row)
                empty = row["empty"]
                over = (
                    ["-", "-"]
                    if empty is None
                    else [f"{empty:.4f}", f"{row['seconds'] / (row['exchanges'] * empty):.2f}"]
                )
                print(
                    f"{row['parameters']:10} {hospitals:9}  {way:9} {row['seconds']:10.3f} {over[0]:>9} "
                    f"{over[1]:>9} {row['bytes'] / 1e6:8.2f}",
                    flush=True,
                )
    if options.out is not None:
        options.out.write_text(json.dumps(table, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--courier", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sizes", type=int, nargs="+", default=WIDTHS, help="widths of a picture, in pixels")
    parser.add_argument("--hospitals", type=int, nargs="+", default=HOSPITALS)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--quick", action="store_true", help="two sizes, four hospitals, four rounds")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.quick:
        vars(options).update(QUICK)
    return options


if __name__ == "__main__":
    main()

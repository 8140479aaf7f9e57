"""A round over FLARE beside its two parts, in turn: over sockets, FLARE's own echo of as many bytes, over FLARE.

    python -m benchmarks.federation_in_turn --courier PYTHON [--size 3.5k] [--hospitals 2] [--rounds 40]

One run, one set of processes: odd rounds go over FLARE, even ones over sockets to the same agents, and each even one is
followed by an echo of its messages between the courier's processes. `benchmarks.federation` measures each in a run of
its own, the echoes one behind the other: caches are warm and no thread sleeps, while in a round the coordinator and the
hospitals work between messages. Run on a quiet machine.
"""

import argparse
import json
import secrets
import shutil
import socket
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.federation import PATIENTS, SIZES, Timed, names_of, study_of
from benchmarks.hospitals import make_homes, start_agents, start_courier, wait_for
from wardround.coordinator.observer import Silent
from wardround.coordinator.run import coordinate
from wardround.federation.channel import Channel
from wardround.federation.messages import Failures, Replies, Requests
from wardround.secure_aggregation.keys.identity import SigningKey
from wardround.transport.exchanges import Exchanges
from wardround.transport.unix import SocketChannel
from wardround.types import HospitalName


class InTurn:
    """A channel over sockets in even rounds, and over FLARE in odd ones."""

    def __init__(self, sockets: Channel, flare: Channel) -> None:
        self._ways = (sockets, flare)
        self.hospitals = sockets.hospitals

    def ask(self, requests: Requests, deadline_s: float) -> tuple[Replies, Failures]:
        return self._ways[next(iter(requests.values())).round % 2].ask(requests, deadline_s)


class Echoing(Timed):
    """A timed channel that has the messages of each even round echoed before the next one begins."""

    def __init__(self, inner: Channel, control: socket.socket) -> None:
        super().__init__(inner)
        self._control, self._answers = control, control.makefile()
        self.echoes: list[float] = []

    def ask(self, requests: Requests, deadline_s: float) -> tuple[Replies, Failures]:
        last = next(iter(requests.values())).round - 1
        if last >= 2 and last % 2 == 0 and last // 2 > len(self.echoes):
            self._control.sendall(json.dumps(self.messages[last]).encode() + b"\n")
            self.echoes.append(float(self._answers.readline()))
        return super().ask(requests, deadline_s)


def measured(name: str, hospitals: int, rounds: int, courier: Path) -> dict[str, list[float]]:
    """Returns the seconds of each round by its way, without the first round of each."""
    study = study_of(SIZES[name], hospitals, rounds)
    sites = {
        name: f'[site]\nlayout = "phantom"\nphantom = {{ patients = {PATIENTS}, sites = 1, image_size = 64, '
        f"max_images = 1, seed = {number} }}\n"
        for number, name in enumerate(names_of(hospitals), start=1)
    }
    folder = Path(tempfile.mkdtemp(prefix="wr-"))  # short: the path of a socket has at most 100 bytes
    try:
        homes, keys = make_homes(folder, study, sites, "epsilon_limit = 100000.0\ndelta = 1e-3\n")
        with ExitStack() as stack:
            agents = start_agents(stack, homes, folder)
            sockets = {name: folder / "s" / f"{name}.sock" for name in homes}

            def up(name: str, kit: Path) -> Sequence[object]:
                agent = [agents[HospitalName(name)]] if name in agents else []
                return (courier, "-m", "benchmarks.federation_courier", kit, folder / "s", *agent)

            start_courier(stack, folder, list(homes), courier, up)
            wait_for([*agents.values(), *sockets.values(), folder / "s" / "echo.ctl"])
            exchanges = Exchanges()
            ways = [SocketChannel(paths, keys, exchanges=exchanges) for paths in (agents, sockets)]
            control = stack.enter_context(socket.socket(socket.AF_UNIX))
            control.connect(str(folder / "s" / "echo.ctl"))
            timed = Echoing(InTurn(*ways), control)
            coordinate(study, timed, keys.hospitals, SigningKey.new(secrets.token_bytes), folder / "run", Silent())
            for way in ways:
                way.close()
    finally:
        shutil.rmtree(folder)
    seconds = {round: sum(each) for round, each in timed.seconds.items() if 2 < round <= rounds}
    found = {
        way: [took for round, took in seconds.items() if round % 2 == odd]
        for odd, way in enumerate(("sockets", "flare"))
    }
    return found | {"echo": timed.echoes[1:]}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--courier", type=Path, required=True)
    parser.add_argument("--size", choices=SIZES, default="3.5k")
    parser.add_argument("--hospitals", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    found = measured(options.size, options.hospitals, options.rounds, options.courier)
    for way, seconds in found.items():
        first, middle, _ = statistics.quantiles(seconds, n=4)
        print(f"{way:8} {len(seconds):3} rounds   quarter {first * 1e3:8.2f} ms   median {middle * 1e3:8.2f} ms")
    for name, place in (("quarter", 0), ("median", 1)):
        one = {way: statistics.quantiles(seconds, n=4)[place] for way, seconds in found.items()}
        print(
            f"over FLARE, by sockets and echo together: {one['flare'] / (one['sockets'] + one['echo']):.2f} ({name})"
        )


if __name__ == "__main__":
    main()

"""Commands: `python -m wardround_flare kits`, `up`, `state` and `down`."""

import argparse
import json
import os
import sys
from pathlib import Path

from wardround_flare.errors import CourierError


def main() -> int:
    """Runs one command; returns its exit code, 2 where a setting is wrong."""
    parser = argparse.ArgumentParser(
        prog="wardround_flare", description="Carries bytes between hospitals over FLARE."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    kits = commands.add_parser("kits", help="make certificates for a coordinator and hospitals")
    kits.add_argument("folder", type=Path)
    kits.add_argument("--server", required=True, help="name of the coordinator's machine")
    kits.add_argument("--port", type=int, required=True, help="of that machine")
    kits.add_argument("--site", action="append", required=True, help="a hospital's name in the study; repeat it")
    kits.add_argument("--project", default="wardround")
    for name, does in (
        ("up", "run a kit's side until it is ended"),
        ("state", "say what is up"),
        ("down", "end it"),
    ):
        command = commands.add_parser(name, help=does)
        command.add_argument("kit", type=Path)
        if name != "down":
            command.add_argument("--sockets", type=Path, help="coordinator: folder for the hospitals' sockets")
        if name == "up":
            command.add_argument("--agent", type=Path, help="hospital: its agent's socket")
    given = parser.parse_args()
    try:
        match given.command:
            case "kits":
                from wardround_flare.kits import make_kits

                for kit in make_kits(given.folder, given.server, given.port, given.site, given.project):
                    print(kit)
            case "up":
                from wardround_flare.up import up

                up(given.kit, sockets=given.sockets, agent=given.agent)
            case "state":
                from wardround_flare.up import state

                print(json.dumps(state(given.kit, given.sockets)))
            case _:
                from wardround_flare.up import down

                print("ended" if down(given.kit) else "it was not up")
    except CourierError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # FLARE's session leaves threads that do not end

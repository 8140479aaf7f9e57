"""The finished model, its card and its certificate go to every hospital, from the folder of a run that has ended.

    RUN/handed_out.json    the hospitals that have taken it

A hospital that is away gets it when the same command is given again.

Released, to the hospitals of the study: the model, which follows from what was released, and its certificate.
"""

import json
from pathlib import Path

from wardround.boundary.documents import MOST_JSON_BYTES, Unfit, load_json, read_regular
from wardround.boundary.private import write_whole
from wardround.coordinator.observer import Observer
from wardround.errors import RecordError
from wardround.federation.channel import DEADLINE_S, Channel
from wardround.federation.messages import Received, Request
from wardround.types import HospitalName
from wardround.work import MOST_MODEL_BYTES, Finish

TAKEN = "handed_out.json"


def hand_out(study: str, channel: Channel, run: Path, observer: Observer) -> None:
    """Sends the model of a finished run to the hospitals that have not taken it.

    Args:
        study: its digest.
        channel: reaches the hospitals.
        run: folder of the run.
        observer: is told of each hospital that does not take it.

    Raises:
        RecordError: the files of the run cannot be read or are too large to send.
    """
    taken = _taken(run)
    waiting = [name for name in channel.hospitals if name not in taken]
    if not waiting:
        return
    observer.stage("handing out the model")
    try:
        work = Finish(
            model=read_regular(run / "model.safetensors", MOST_MODEL_BYTES),
            card=read_regular(run / "model.json", MOST_JSON_BYTES),
            certificate=read_regular(run / "certificate.json", MOST_JSON_BYTES),
        )
    except (OSError, Unfit) as error:
        raise RecordError(
            f"The model in {run} must be readable and have at most {MOST_MODEL_BYTES:,} bytes to be handed out, and "
            f"is not ({error}).",
            code="record-hand-out",
        ) from None
    replies, failures = channel.ask(dict.fromkeys(waiting, Request(study, 0, 1, work)), DEADLINE_S)
    taken |= {name for name, reply in replies.items() if isinstance(reply, Received)}
    write_whole(run / TAKEN, (json.dumps(sorted(taken)) + "\n").encode())
    for name, failure in failures.items():
        observer.stage(
            f"{name} has not taken the model, or has no figures of it ({failure}); give the same command again"
        )


def _taken(run: Path) -> set[HospitalName]:
    """Returns the hospitals that have taken the model; nobody where that is not known, for they may take it twice."""
    try:
        found = load_json(run / TAKEN)
    except (OSError, ValueError):
        return set()
    return {HospitalName(name) for name in found if isinstance(name, str)} if isinstance(found, list) else set()

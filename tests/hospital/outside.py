"""One deployed hospital of each study, asked in bytes, with an honest request of each."""

from contextlib import ExitStack
from typing import Any

import numpy as np
from tests.charges import charges_of
from tests.hospital.deployed import open_from, study_of

from wardround.federation.messages import Answer, Failure, FailureCode, Request, Stage
from wardround.federation.wire.limits import Limits
from wardround.federation.wire.tables import decode_reply, encode_request
from wardround.work import (
    FittedHead,
    GradientSum,
    HeadFit,
    LocalSteps,
    LocalUpdate,
    Selection,
    SelectiveUpdate,
)

REFUSED = Failure(FailureCode.REFUSED_POLICY, Stage.ADMISSION)
SIZE = 32 * 32 * 2 + 2
WEIGHTS = np.linspace(-0.01, 0.01, SIZE, dtype=np.float32)
NOTHING = np.zeros(0, dtype=np.float32)
DPSGD = {"plan": "dp-sgd", "noise_multiplier": 40.0, "delta": 1e-3, "trust": "nobody", "num_patients": 30}
LOCAL = {"strategy": "fedavg", "rounds": 300, "local_steps": 2, "learning_rate": 0.5, "momentum": 0.0}
STUDIES: dict[str, dict[str, Any]] = {
    "gradients": {"privacy": DPSGD, "federation": {"rounds": 300}},
    "adaptive": {"privacy": DPSGD | {"clipping": "adaptive"}, "federation": {"rounds": 300}},
    "local": {"privacy": DPSGD, "federation": LOCAL},
    "counted": {"privacy": DPSGD | {"num_patients": None}, "federation": LOCAL},
    "updates": {
        "privacy": {"plan": "clipped-update", "noise_multiplier": 40.0, "delta": 1e-3, "trust": "nobody"},
        "federation": LOCAL,
    },
    "selective": {
        "privacy": DPSGD,
        "federation": {"strategy": "selective", "rounds": 900, "learning_rate": 0.5, "momentum": 0.0},
    },
    "head": {
        "privacy": {"plan": "output-perturbation", "epsilon": 8.0, "delta": 1e-3, "num_patients": 30}
        | {"trust": "nobody"},
        "federation": {"strategy": "one-shot"},
    },
}
STEPS = {
    "local": LocalSteps(2, 0.5, 0.0, 10.0),
    "counted": LocalSteps(2, 0.5, 0.0, 7.25),
    "updates": LocalSteps(2, 0.5, 0.0, None),
    "selective": LocalSteps(1, 0.5, 0.0, 10.0),
}
SELECTION = Selection(np.arange(SIZE), 0.1, False, 0.0, 0.001)
HONEST: dict[str, Any] = {
    "gradients": GradientSum(WEIGHTS),
    "adaptive": GradientSum(WEIGHTS, 1.0),
    "local": LocalUpdate(WEIGHTS, STEPS["local"]),
    "counted": LocalUpdate(WEIGHTS, STEPS["counted"]),
    "updates": LocalUpdate(WEIGHTS, STEPS["updates"]),
    "selective": SelectiveUpdate(WEIGHTS, STEPS["selective"], SELECTION),
    "head": FittedHead(HeadFit(0.01, 1.0, 10.0)),
}


class Outside:
    """One deployed hospital, asked in bytes; an honest round has a number of its own."""

    def __init__(self, folder, name, **privacy):
        tables = STUDIES[name]
        self.study = study_of(tables["privacy"] | privacy, tables["federation"])
        self.folder, self.honest, self.round = folder, HONEST[name], 0
        self.turns = 3 if name == "selective" else 1  # one hospital of three has a turn
        self.stack = ExitStack()
        self.start()

    def start(self):
        """Starts the hospital, again after it was stopped or killed."""
        self.stack.close()
        self.hospital = self.stack.enter_context(open_from(self.folder, self.study))

    def request(self, work=None, *, round=None, attempt=1):
        """A request of the round after the last honest one."""
        following = self.round * self.turns + 1 if round is None else round
        return Request(self.study.digest, following, attempt, work or self.honest)

    def ask(self, asked):
        """The reply, as a value."""
        message = encode_request(asked) if isinstance(asked, Request) else asked
        return decode_reply(self.hospital.answer(message), Limits())

    def charges(self):
        """Charges of the hospital's account in the run."""
        return len(charges_of(self.hospital.agent.account))

    def works(self):
        """The next honest round is answered, and charged once."""
        before = self.charges()
        reply = self.ask(self.request())
        assert isinstance(reply, Answer), reply
        assert self.charges() == before + 1
        self.round += 1

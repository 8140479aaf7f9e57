"""Studies that evaluate at deployed hospitals, and a policy that allows it."""

import numpy as np
from tests.hospital.deployed import study_of

from wardround.federation.messages import Failure, FailureCode, Stage

ALONE = {"plan": "dp-sgd", "noise_multiplier": 40.0, "delta": 1e-3, "trust": "nobody", "num_patients": 30}
MASKED = {k: v for k, v in ALONE.items() if k != "trust"} | {"sum": "masked", "colluders": 1}
NOISED = {"level": "noised", "epsilon": 3.0}
REFUSED = Failure(FailureCode.REFUSED_POLICY, Stage.ADMISSION)
WEIGHTS = np.linspace(-0.01, 0.01, 32 * 32 * 2 + 2, dtype=np.float32)
ROUNDS = 2


def asked_study(privacy=ALONE, evaluation=NOISED, **study):
    return study_of(privacy, {"rounds": ROUNDS}, data={"test_fraction": 0.5}, evaluation=evaluation, **study)


def allow(folder, level):
    """Writes a policy under which figures of this level may leave."""
    (folder / "policy.toml").write_text(f'[policy]\nepsilon_limit = 50.0\ndelta = 1e-3\nmetrics = "{level}"\n')

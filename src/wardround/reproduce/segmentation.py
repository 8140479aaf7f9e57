"""deepee's second task, masks: published on liver slices, ours on whole volumes of whatever set is given.

The published loop is not run again: its leak is that of pneumonia (`as_published.deepee`), and its epsilon is that of
one slice. Ours promises to a patient with all slices.
"""

from collections.abc import Mapping

from wardround.accounting.mechanisms import group_epsilon
from wardround.errors import DataError
from wardround.reproduce.as_published import deepee as published
from wardround.reproduce.as_published.statement import no_guarantee
from wardround.reproduce.deepee import DELTA, SOURCE
from wardround.reproduce.repaired import Repaired, repeated
from wardround.reproduce.request import Request
from wardround.reproduce.table import Origin, Row, Score, Table

METRICS = (("dice", "Dice"), ("surface_dice", "surface Dice"))
SLICE_MU = 0.0384
"""The mu (Gaussian DP) of one liver slice, by the published settings and the central limit approximation."""
ROUNDS = 200
LAYOUT = "decathlon"


def segmentation(request: Request) -> Table:
    """The published Dice, and private rows at two epsilons on fixed features of every voxel.

    Raises:
        DataError: no set of volumes with masks is given; there are no phantoms of volumes.
    """
    if request.layout != LAYOUT:
        raise DataError(
            f"deepee-segmentation must be given volumes with masks in the layout {LAYOUT} (--data), got "
            f"{request.layout}: there are no phantoms of volumes. Give the folder of a Decathlon task."
        )
    scale = request.scale
    voxels = (40, 56, 40)
    shown = scale.said("pictures", "256 x 256 slices of livers in CT", f"volumes of {voxels} voxels")
    scale.said(
        "network", "U-Net on vgg11_bn, pretrained", "a head on fixed features of every voxel (voxel_features)"
    )
    rounds = scale.count(
        "rounds of the repaired rows (200 in examples/hippocampus_private.toml)", ROUNDS, least=10
    )
    slices = group_epsilon(SLICE_MU, 1e-5, 157)
    claimed = f"epsilon 0.12 at delta {DELTA:g} for one slice; a patient with 157 slices: {slices:.0f}, if it held"
    nothing = no_guarantee("gradients are neither clipped nor noised.", "no", "the model")
    private, leaking = {"dice": Score(0.9428, 0.0020, 5)}, published.statement()
    rows = (
        Row("liver", "without privacy", Origin.PUBLISHED, {"dice": Score(0.9498, 0.0012, 5)}, nothing),
        Row("liver", "private, sigma 5", Origin.PUBLISHED, private, leaking, claimed),
    )
    sections: dict[str, Mapping[str, object]] = {
        "data": {
            "layout": LAYOUT, "path": str(request.data), "volume_size": voxels, "spacing": (1.0, 1.0, 1.0),
            "test_fraction": 0.2,
        },
        "hospitals": {"count": 5},
        "model": {"name": "voxel_features", "width": 16},
        "federation": {
            "strategy": "fedsgd", "rounds": rounds, "learning_rate": 1.0, "momentum": 0.9, "average_last": 0.5,
            "evaluate_every": rounds,
        },
        "performance": request.performance,
    }  # fmt: skip
    wanted = [_row(request, sections, "without privacy", "open", {"plan": "none", "sampling_prob": 0.1})]
    for epsilon in (8.0, 2.0):
        privacy = {
            "plan": "dp-sgd", "epsilon": epsilon, "delta": DELTA, "clipping_norm": 0.1, "sampling_prob": 0.1,
        }  # fmt: skip
        wanted.append(_row(request, sections, f"private, epsilon {epsilon:g}", f"eps{epsilon:g}", privacy))
    return Table(
        "deepee-segmentation", "deepee: masks of an organ", SOURCE, request.sentence, METRICS,
        (*rows, *request.repaired(wanted)), scale.shrunk,
        notes=(f"Published on livers, ours on {shown} of the given set: the Dice of the two are not to be compared.",),
    )  # fmt: skip


def _row(
    request: Request,
    sections: Mapping[str, Mapping[str, object]],
    name: str,
    key: str,
    privacy: Mapping[str, object],
) -> Repaired:
    return repeated("volumes", name, f"masks-{key}", {**sections, "privacy": privacy}, request.repeats)

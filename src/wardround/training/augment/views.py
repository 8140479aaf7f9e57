"""Several views of each picture in one step: augmentation multiplicity."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wardround.errors import DataError

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Views:
    """Pictures of a step, each as often as it is seen; views of one picture, and of one patient, side by side.

    Args:
        rows: position in the picture cache, (view,).
        patient: position of the patient in the batch, (view,).
        view: 0, 1, ... of its picture, (view,).
        of: which picture of the batch it shows, for labels and whatever else goes with it, (view,).
    """

    rows: Ints
    patient: Tensor
    view: Ints
    of: Ints


def views(rows: Ints, patient: Tensor, multiplicity: int) -> Views:
    """Every picture `multiplicity` times.

    Since every picture is seen equally often, a patient's mean over views is the mean over pictures of the mean
    over views, and one gradient a patient is clipped as before. Source: De et al. 2022, section 3.1 ("augmentation
    multiplicity"), https://arxiv.org/abs/2204.13650, with the patient in place of the picture.

    Args:
        rows: position of each picture in the cache, (picture,).
        patient: position of each picture's patient in the batch, (picture,).
        multiplicity: at least 1, which changes nothing.

    Raises:
        DataError: `multiplicity` is less than 1.
    """
    if multiplicity < 1:
        raise DataError(f"multiplicity must be a whole number >= 1, got {multiplicity}. Leave it out.")
    of = np.repeat(np.arange(len(rows)), multiplicity)
    view = np.tile(np.arange(multiplicity), len(rows))
    return Views(rows[of], patient[torch.from_numpy(of)], view, of)

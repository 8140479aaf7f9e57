"""The names of the layouts on disk: the one list, which a study file and the readers share; it imports nothing."""

from typing import Literal

LayoutName = Literal[
    "chest_xray", "folder", "aptos", "decathlon", "nnunet", "bids", "medmnist", "manifest", "dicom", "phantom",
]  # fmt: skip
"""`[site] layout`; each has a module of its name beside this one, with its `READER`; `phantom` is generated."""

"""Which way the arrows point: the design, as a dictionary. A new arrow is a line here and a reason in a commit."""

import graphlib
import sys

import pytest
from tests.modules import FILES, SOURCE, imported_by, imports_of, module_of, room_of, within

EVERYONE = {"errors", "types", "noisers", "boundary", "__version__"}
ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "types": set(),
    # The edge of the process: bounded documents, private files, text for a terminal; the standard library alone.
    "boundary": set(),
    # The vocabulary of what hospitals are asked for: a leaf beside types.
    "work": set(),
    # The parties that add noise, and what of it is relied on: a leaf beside types.
    "noisers": set(),
    # The table of what only published systems need: names alone, and the one way to `reproduce.mechanisms`.
    "published": set(),
    # The rounds of a private head follow from epsilon: one closed form, without torch or numpy.
    "config": {"published", "images.layouts.names", "models.backbones.names", "accounting.mechanisms"},
    # Five islands.
    "images": set(),
    "accounting": set(),
    "secure_aggregation": set(),
    "randomness": set(),
    "per_patient": set(),
    # One hospital's account of every patient.
    "ledger": {"accounting"},
    "models": {"per_patient"},
    "privacy": {"work", "per_patient", "accounting", "randomness"},
    "training": {"work", "per_patient", "privacy", "models", "images", "randomness"},
    "records": {"accounting.numbers", "secure_aggregation.keys"},
    "federation": {"work", "secure_aggregation", "accounting"},
    # Values that every party computes from the study file alone.
    "agreed": {
        "work",
        "published",
        "config",
        "images",
        "models",
        "training",
        "accounting",
        "per_patient",
        "privacy",
        "randomness",
        "secure_aggregation",
        "federation",
    },
    # The three programs: the first two know nothing of each other; the simulation has both in one process.
    "hospital": {
        "work",
        "published",
        "config",
        "images",
        "models",
        "agreed",
        "accounting",
        "ledger",
        "per_patient",
        "privacy",
        "randomness",
        "secure_aggregation",
        "training",
        "federation.messages",
        "federation.receipts",
        "federation.wire",
    },
    "coordinator": {
        "work",
        "config",
        "images.entries",
        "models",
        "randomness",
        "accounting",
        "privacy",
        "secure_aggregation.keys",
        "secure_aggregation.round.witness",
        "federation",
        "agreed",
        "records",
        "report",
    },
    "simulation": {
        "work",
        "published",
        "config",
        "images",
        "accounting",
        "ledger",
        "per_patient",
        "privacy",
        "randomness",
        "models",
        "training",
        "secure_aggregation",
        "federation",
        "agreed",
        "hospital",
        "coordinator",
        "records",
        "report",
    },
    # Bytes of messages between the two programs; opens none but to hand it over.
    "transport": {"work", "federation.messages", "federation.wire"},
    "report": {"records", "accounting", "secure_aggregation.keys.identity"},
    # A run while it goes on: reads files of a coordinator or a hospital, for their own screens.
    "watching": {
        "config",
        "accounting",
        "agreed",
        "federation.messages",
        "hospital.accepted",
        "ledger",
        "records",
    },
    # The model in use: what training reads pictures with; of a run its record, for a model card.
    "inference": {"images", "models", "training.augment", "records"},
    # Attacks on a study's mechanism, run as the simulation runs it; nothing imports it but its command.
    "audit": {
        "accounting",
        "agreed",
        "config",
        "coordinator.observer",
        "federation",
        "hospital.charged",
        "images",
        "ledger",
        "models",
        "privacy",
        "randomness",
        "per_patient",
        "records",
        "reproduce",
        "reproduce.mechanisms",
        "report",
        "secure_aggregation.keys.identity",
        "simulation",
        "training",
        "work",
    },
    # Runs from Python: what the commands do, with objects that a notebook shows.
    "notebook": {"config", "records", "report", "simulation", "coordinator.observer", "inference", "cli.terminal"},
    # Published results beside ours; its loops as published take pictures and metrics, and no private path.
    "reproduce": {
        "config",
        "simulation",
        "coordinator",
        "records",
        "report",
        "accounting",
        "images",
        "training",
        "secure_aggregation",
    },
    # Mechanisms that studies may name: each plays roles in the rooms of a study, so it may know all of them.
    "reproduce.mechanisms": {
        "config",
        "accounting",
        "privacy",
        "randomness",
        "images",
        "training",
        "records",
        "agreed",
        "federation",
        "work",
        "hospital",
        "simulation",
        "per_patient",
    },
    "cli": {
        "audit",
        "inference",
        "config",
        "agreed",
        "hospital",
        "coordinator",
        "transport",
        "ledger",
        "simulation",
        "records",
        "report",
        "accounting",
        "images",
        "secure_aggregation",
        "reproduce",
        "watching",
    },
    "__main__": {"cli"},
}
# Keys are made, shown and pinned without any other room.
ALONE = {"cli/keys.py": {"secure_aggregation"}}
# Inside a room, by sub-package and by file at its top.
INSIDE: dict[str, dict[str, set[str]]] = {
    "secure_aggregation": {
        "canonical": set(),
        "integers": set(),
        "keys": {"canonical"},
        "round": {"canonical", "integers", "keys"},
    },
    "images": {
        "entries": set(),
        "findings": set(),
        "identity": set(),
        "archives": {"findings"},
        "store": {"archives", "findings"},
        "arrays": {"archives", "store"},
        "class_names": {"entries", "findings", "identity"},
        "csv_file": {"identity"},
        # The rules for rows, the same for every table.
        "table": {"class_names", "csv_file", "entries", "findings", "identity", "listing", "mask_names", "store"},
        "decode": {"entries"},
        "listing": {"class_names", "decode", "entries", "findings", "identity"},
        "mask_names": {"entries"},
        "all_pictures": {
            "class_names",
            "decode",
            "entries",
            "findings",
            "identity",
            "listing",
            "mask_names",
            "store",
            "table",
        },
        "folder_copy": {"csv_file"},
        "advice": {"all_pictures", "decode", "findings", "layouts", "store", "table"},
        # The one place where an entry gets its patient's id.
        "naming": {"csv_file", "entries", "findings", "identity", "listing", "store", "table"},
        "patients": {"entries", "findings"},
        "group": {"entries", "findings", "identity", "listing", "patients"},
        "dicom": {
            "class_names",
            "csv_file",
            "decode",
            "entries",
            "findings",
            "identity",
            "listing",
            "naming",
            "store",
            "table",
        },
        "layouts": {
            "all_pictures",
            "arrays",
            "class_names",
            "csv_file",
            "decode",
            "dicom",
            "entries",
            "findings",
            "identity",
            "listing",
            "mask_names",
            "naming",
            "store",
            "table",
        },
        "rows": {"archives", "entries", "store", "decode", "listing", "layouts"},
        # Pictures without labels, for the model in use.
        "loose": {"arrays", "decode", "dicom", "entries", "layouts", "store"},
        "quality": {"entries", "findings", "listing", "naming", "decode", "patients"},
        "load": {
            "advice",
            "all_pictures",
            "arrays",
            "entries",
            "findings",
            "store",
            "listing",
            "naming",
            "patients",
            "group",
            "layouts",
            "rows",
        },
    },
    "models": {
        "initialise": set(),
        "adapters": set(),
        "vectors": {"adapters", "network", "weights"},
        "weights": set(),
        "network": set(),
        "stages": {"adapters", "network"},
        "networks": {"network"},
        "standardised": set(),
        "backbones": {"network", "networks", "vectors", "weights"},
        "catalogue": {
            "adapters",
            "backbones",
            "initialise",
            "network",
            "networks",
            "stages",
            "standardised",
            "weights",
        },
        "operating_point": set(),
        "card": {"backbones", "network", "operating_point", "vectors"},
        "load": {"card", "catalogue", "network", "weights"},
        "linear": {"network", "networks"},
    },
}
THIRD_PARTY_BANS = {
    "accounting": {"torch"},
    "images": {"torch"},
    "secure_aggregation": {"torch"},
    "federation": {"torch"},
    "records": {"torch"},
    "report": {"torch"},
    "transport": {"torch", "numpy"},
    "work": {"torch"},
    "config": {"torch", "numpy"},
    "randomness": {"torch"},
    "coordinator": {"torch"},
    "cli": {"torch", "numpy"},
}


# What an island may take from outside, beside the standard library; SciPy is imported by one function of `randomness`.
THIRD_PARTY = {
    "per_patient": {"torch", "numpy"},
    "randomness": {"numpy", "cryptography", "scipy"},
}


def wrong_imports(path):
    """The imports of a file that its room may not have."""
    room = room_of(path)
    allowed = ALONE.get(str(path.relative_to(SOURCE)), ARROWS[room] | {room}) | EVERYONE
    for name in imports_of(path):
        top, _, inside = name.partition(".")
        if top == "wardround":
            if not within(inside) & allowed:
                yield f"{path.relative_to(SOURCE)} must not import {name}"
        elif top in THIRD_PARTY_BANS.get(room, set()) or (
            THIRD_PARTY.get(room) is not None and top not in sys.stdlib_module_names | THIRD_PARTY[room]
        ):
            yield f"{path.relative_to(SOURCE)} must not import {top}"


def test_imports_follow_the_arrows():
    assert [wrong for path in FILES for wrong in wrong_imports(path)] == []


def test_a_wrong_import_is_found(monkeypatch):
    monkeypatch.setitem(ARROWS, "hospital", ARROWS["hospital"] - {"ledger"})
    assert any("ledger" in wrong for path in FILES for wrong in wrong_imports(path))


@pytest.mark.parametrize("room", sorted(ARROWS))
def test_every_arrow_is_used(room):
    used = [
        within(name.removeprefix("wardround."))
        for path in FILES
        if room_of(path) == room
        for name in imports_of(path)
    ]
    unused = ARROWS[room] - set().union(*used)
    assert not unused, f"{room} imports nothing of {sorted(unused)} any more: take it out of the dictionary"


def test_every_room_stands_in_the_dictionary():
    assert {room_of(path) for path in FILES} == set(ARROWS)


@pytest.mark.parametrize("room", sorted(INSIDE))
def test_the_parts_of_a_room_point_one_way(room):
    used: dict[str, set[str]] = {}
    for path in FILES:
        part = (
            path.relative_to(SOURCE / room).parts[0].removesuffix(".py") if room_of(path) == room else "__init__"
        )
        if part != "__init__":
            inside = {name.split(".")[2] for name in imports_of(path) if name.startswith(f"wardround.{room}.")}
            used.setdefault(part, set()).update(inside - {part})
    assert used == INSIDE[room]
    graphlib.TopologicalSorter(used).prepare()


def test_no_module_is_imported_by_what_it_imports():
    modules = {module_of(path): path for path in FILES}
    arrows = {
        module: {target for target in imported_by(path, modules) if target in modules and target != module}
        for module, path in modules.items()
    }
    try:
        graphlib.TopologicalSorter(arrows).prepare()
    except graphlib.CycleError as circle:
        pytest.fail(" <- ".join(circle.args[1]))

"""A run that is stopped anywhere and resumed is the run that was never stopped, bit for bit."""

import json
import shutil

import pytest
from PIL import Image
from tests.cases import family
from tests.errors import raises_code
from tests.simulation.runs import (
    InterruptingRound,
    charges,
    interrupted,
    read_json,
    resume_run,
    run_study,
    what_counts,
)

from wardround.coordinator.observer import Silent
from wardround.errors import MachineError
from wardround.ledger.place import own_ledger
from wardround.simulation import run as simulation

SETTINGS: dict[str, dict[str, dict[str, object]]] = {
    "fedsgd": {"federation": {"rounds": 4, "evaluate_every": 2, "average_last": 0.5}},
    "sampled": {"privacy": {"sampling_prob": 0.5, "trust": "coordinator"}},
    "fedavg": {"federation": {"strategy": "fedavg", "local_steps": 2}, "privacy": {"trust": "nobody"}},
    "fedprox": {
        "federation": {
            "strategy": "fedprox",
            "local_steps": 2,
            "optimizer_state": "travels",
            "fraction": 0.6,
            "server_optimizer": "yogi",
            "server_learning_rate": 0.1,
        },
        "privacy": {"trust": "nobody"},
    },
    "scaffold": {"federation": {"strategy": "scaffold", "local_steps": 2}, "privacy": {"trust": "nobody"}},
    "ring": {
        "federation": {"strategy": "random-order", "local_steps": 2, "optimizer_state": "travels"},
        "privacy": {"trust": "nobody"},
    },
    "single pass": {"federation": {"strategy": "single-pass", "rounds": None}, "privacy": {"trust": "nobody"}},
    "repaired": {
        "federation": {"strategy": "stochastic", "repair": "weighted-sampling"},
        "privacy": {"trust": "nobody", "sampling_prob": 0.5},
    },
    "asynchronous": {
        "federation": {"strategy": "asynchronous", "staleness": 2},
        "privacy": {"trust": "nobody"},
    },
    "selective": {
        "federation": {
            "strategy": "selective",
            "turns": "stochastic",
            "selection": "random",
            "download_fraction": 0.5,
        },
        "privacy": {"trust": "nobody"},
    },
    "clipped update": {
        "federation": {"strategy": "fedavg", "local_steps": 2},
        "privacy": {"plan": "clipped-update", "unit": None},
    },
    "clipped selection": {
        "federation": {"strategy": "selective", "local_steps": 2, "download_fraction": 0.5},
        "privacy": {"plan": "clipped-update", "unit": None, "trust": "nobody"},
    },
    "ensemble": {"federation": {"strategy": "ensemble"}},
    "alone": {"federation": {"strategy": "alone"}},
    "pooled": {"federation": {"strategy": "pooled"}, "privacy": {"num_patients": 32}},
    "correlated": {"privacy": {"plan": "correlated-noise", "cohorts": 2}},
    "masked": {"privacy": {"sum": "masked", "num_patients": 32, "sampling_prob": 0.5}},
    "masked and counted": {"privacy": {"sum": "masked", "sampling_prob": 0.5}},
    "not private": {"privacy": {"plan": "none", "epsilon": None, "delta": None, "clipping_norm": None}},
}

LONG = {"masked and counted", "scaffold", "single pass", "repaired", "clipped update", "ensemble"}


class Interrupting(Silent):
    """Stops the run at its n-th word to the observer; counts them when `at` is None."""

    def __init__(self, at=None):
        self.calls, self.at = 0, at

    def _say(self):
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt

    def stage(self, text):
        self._say()

    def progress(self, done, total, detail=""):
        self._say()


@pytest.mark.thorough
@pytest.mark.usefixtures("finished")  # the pictures are in the cache: every run says the same
@pytest.mark.parametrize(
    "federation", family([{"rounds": 2}, {"rounds": 3, "average_last": 0.5, "compare": ["pooled-no-privacy"]}])
)
def test_stopped_at_any_moment_and_resumed_is_the_same_run(tiny_study, tmp_path, federation):
    study = tiny_study(federation=federation)
    counting = Interrupting()
    run_study(study, tmp_path / "whole", counting)
    whole = what_counts(tmp_path / "whole")
    assert counting.calls >= 10
    for moment in range(1, counting.calls + 1):
        out = tmp_path / f"stopped-{moment}"
        interrupted(study, out, Interrupting(moment))
        if (out / "study.toml").exists():
            resume_run(out)
        else:
            run_study(study, out)
        assert what_counts(out) == whole, f"moment {moment}"
        assert charges(out / "ledger.sqlite") == charges(tmp_path / "whole" / "ledger.sqlite")


@pytest.mark.parametrize(
    "setting",
    family(
        [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in SETTINGS],
        keep=["selective"],
    ),
)
def test_stopped_in_any_round_and_resumed_is_the_same_run(tiny_study, tmp_path, setting):
    study = tiny_study(**SETTINGS[setting])
    run_study(study, tmp_path / "whole")
    whole = what_counts(tmp_path / "whole")
    for round in range(1, study.rounds + 1):
        out = tmp_path / f"stopped-{round}"
        interrupted(study, out, InterruptingRound(round))
        assert not (out / "certificate.json").exists()
        resume_run(out)
        assert what_counts(out) == whole, f"round {round}"


@pytest.mark.thorough
def test_a_run_begun_afresh_finds_no_notes_of_the_one_before(tiny_study, tmp_path):
    study = tiny_study(**SETTINGS["clipped selection"])
    run_study(study, tmp_path / "whole")
    other = tiny_study(**SETTINGS["selective"])  # its turns come in another order
    interrupted(other, tmp_path / "run", InterruptingRound(4))
    assert list((tmp_path / "run" / "hospitals").glob("*/*.safetensors"))
    simulation.run_study(study, tmp_path / "run", Silent(), fresh=True)
    assert what_counts(tmp_path / "run") == what_counts(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("network", ["features", "small_cnn"])
def test_other_networks_resume_bit_for_bit_as_well(tiny_study, tmp_path, network):
    study = tiny_study(model={"name": network}, data={"image_size": 32}, performance={"threads": 2})
    run_study(study, tmp_path / "whole")
    interrupted(study, tmp_path / "stopped", InterruptingRound(3))
    resume_run(tmp_path / "stopped")
    assert what_counts(tmp_path / "stopped") == what_counts(tmp_path / "whole")


@pytest.mark.thorough
def test_a_run_stopped_again_and_again_is_the_same_run(tiny_study, finished, tmp_path):
    out = tmp_path / "run"
    interrupted(tiny_study(), out, InterruptingRound(1))
    for round in (2, 2, 4):
        with pytest.raises(KeyboardInterrupt):
            resume_run(out, InterruptingRound(round))
    resume_run(out)
    assert what_counts(out) == what_counts(finished)


def test_a_seeded_run_is_charged_once_for_every_release(tiny_study, tmp_path):
    out = tmp_path / "run"
    interrupted(tiny_study(), out, InterruptingRound(3))
    resume_run(out)
    found = charges(out / "ledger.sqlite")
    assert sorted(found) == ["hospital-1", "hospital-2", "hospital-3"]
    once = [("0/count/1", 1), *((f"{round}/gradient-sum/1", 1) for round in (1, 2, 3, 4))]
    assert all(entries == once for entries in found.values())


def test_an_unseeded_run_pays_again_for_a_round_it_makes_again(tiny_study, tmp_path):
    out = tmp_path / "run"
    study = tiny_study(study={"seed": None}, privacy={"epsilon_limit": 20.0})
    interrupted(study, out, InterruptingRound(3))
    record = resume_run(out)
    assert record.certificate["rounds"] == 4
    assert record.certificate["stopped"] is None
    for entries in charges(out / "ledger.sqlite").values():
        assert len(entries) == 1 + 4 + 1
        assert ("3/gradient-sum/1", 2) in entries


@pytest.mark.parametrize("round", family([1, 2, 4], keep=[2]))
def test_an_unseeded_run_stops_early_rather_than_overspend(tiny_study, tmp_path, round):
    out = tmp_path / "run"
    interrupted(tiny_study(study={"seed": None}), out, InterruptingRound(round))
    record = resume_run(out)
    assert record.certificate["rounds"] == 3, "the round made twice took the last one's budget"
    assert "budget" in record.certificate["stopped"]
    assert 7.9 < record.certificate["statement"]["epsilon"] <= 8, (
        "the first attempt may have been seen, and counts"
    )
    assert "1 of the releases were charged for rounds that were interrupted" in record.certificate["sentence"]
    for hospital in record.certificate["ledgers"].values():
        assert 7.9 < hospital["epsilon_spent"] <= 8
    for entries in charges(out / "ledger.sqlite").values():
        assert len(entries) == 1 + 4


def test_a_run_whose_only_round_was_interrupted_ends_without_one_and_says_so(tiny_study, tmp_path, wardround):
    out = tmp_path / "run"
    interrupted(tiny_study(study={"seed": None}, federation={"rounds": 1}), out, InterruptingRound(1))
    ended = wardround("resume", out)
    assert ended.code == 0, ended.err
    assert "must have budget left" in ended.out
    certificate = read_json(out / "certificate.json")
    assert certificate["rounds"] == 0
    assert 7.9 < certificate["statement"]["epsilon"] <= 8, "the interrupted round may have been seen"


def test_a_run_that_stopped_early_says_so_on_the_screen(wardround, tiny_study, tmp_path):
    out = tmp_path / "run"
    interrupted(tiny_study(study={"seed": None}), out, InterruptingRound(2))
    ended = wardround("resume", out)
    assert ended.code == 0, ended.err
    assert "must have budget left" in ended.out
    assert "at delta = 0.001 for one patient" in ended.out


def test_resuming_a_finished_run_touches_nothing_but_its_report(finished, tmp_path, wardround):
    out = tmp_path / "run"
    shutil.copytree(finished, out)

    def stamps():
        ours = (path for path in out.rglob("*") if path.is_file() and path.name not in {"report.html", ".lock"})
        return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in ours}

    before = stamps()
    ended = wardround("resume", out, "--json")
    assert ended.code == 0, ended.err
    assert stamps() == before
    assert "training" not in ended.err
    assert json.loads(ended.out) == json.loads(wardround("report", out, "--json").out)


def test_changed_pictures_are_refused_and_the_old_ones_go_on(tiny_study, make_pictures, tmp_path, wardround):
    make_pictures(tmp_path / "data")
    study = tiny_study(data={"layout": "folder", "path": str(tmp_path / "data")})
    run_study(study, tmp_path / "whole")
    out = tmp_path / "run"
    interrupted(study, out, InterruptingRound(2))
    picture = tmp_path / "data" / "ill" / "p00" / "view.png"
    original = picture.read_bytes()
    assert not (out / "ledger.sqlite").exists(), "real pictures are charged to the lasting ledger"
    spent = charges(own_ledger())

    Image.new("L", (32, 32), 7).save(picture)
    ended = wardround("resume", out)
    assert ended.code == 2
    assert "data set must be what the run" in ended.err
    assert charges(own_ledger()) == spent

    picture.write_bytes(original)
    assert wardround("resume", out).code == 0
    assert what_counts(out) == what_counts(tmp_path / "whole")


def test_a_changed_study_file_is_refused(tiny_study, tmp_path, wardround):
    # A certificate over two plans would state the noise of the second for the rounds of the first.
    out = tmp_path / "run"
    interrupted(tiny_study(), out, InterruptingRound(2))
    text = (out / "study.toml").read_text()
    (out / "study.toml").write_text(text.replace("epsilon = 8.0", "epsilon = 1.0"))
    ended = wardround("resume", out)
    assert ended.code == 2
    assert "study file must be what the run" in ended.err


def test_changed_weights_are_refused(tiny_study, tmp_path, wardround):
    import torch
    from safetensors.torch import save_file

    from wardround.models.catalogue import build

    def save(seed):
        network = build(
            "small_cnn",
            size=(16, 16),
            channels=1,
            num_classes=2,
            init_generator=torch.Generator().manual_seed(seed),
        )
        save_file(network.trained.state_dict(), tmp_path / "start.safetensors")

    save(1)
    study = tiny_study(
        model={"name": "small_cnn", "weights": str(tmp_path / "start.safetensors"), "train": "head"},
    )
    interrupted(study, tmp_path / "run", InterruptingRound(2))
    save(2)
    ended = wardround("resume", tmp_path / "run")
    assert ended.code == 2
    assert "weights file must be what the run" in ended.err


def test_a_damaged_newest_checkpoint_repeats_rounds_and_ends_the_same(tiny_study, finished, tmp_path):
    out = tmp_path / "run"
    interrupted(tiny_study(), out, InterruptingRound(4))
    newest = max((out / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:-4])
    resume_run(out)
    assert what_counts(out) == what_counts(finished)


def test_a_run_without_its_folder_of_checkpoints_begins_again_and_ends_the_same(tiny_study, finished, tmp_path):
    out = tmp_path / "run"
    interrupted(tiny_study(), out, InterruptingRound(3))
    shutil.rmtree(out / "checkpoints")
    resume_run(out)
    assert what_counts(out) == what_counts(finished)


def test_where_no_checkpoint_can_be_written_nothing_is_charged(tiny_study, tmp_path):
    out = tmp_path / "run"
    interrupted(tiny_study(study={"seed": None}, privacy={"epsilon_limit": 20.0}), out, InterruptingRound(3))
    before = charges(out / "ledger.sqlite")
    shutil.rmtree(out / "checkpoints")
    (out / "checkpoints").touch()
    with raises_code(MachineError, "machine-path"):
        resume_run(out)
    assert charges(out / "ledger.sqlite") == before

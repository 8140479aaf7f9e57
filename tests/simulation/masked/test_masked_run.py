"""A whole run with masked sums: record, keys, refusals, and that it learns what the simulated one learns."""

import json
import math
import shutil
import stat

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.cases import family
from tests.charges import charges_in
from tests.errors import raises_code
from tests.simulation.test_resume import (
    InterruptingRound,
    begun,
    charges,
    interrupted,
    killed_after,
    read_json,
    resume_run,
    run_study,
    what_counts,
)

from wardround.accounting.accountants import epsilon_of
from wardround.accounting.events import from_json
from wardround.agreed.plans import plan_of
from wardround.agreed.upload import MaskedUpload
from wardround.config import parse_study
from wardround.coordinator.observer import Silent
from wardround.errors import FederationError, LedgerError, PrivacyError, RecordError, StudyError, WardroundError
from wardround.ledger.file import LedgerFile
from wardround.privacy.plans.calibrate import alone
from wardround.privacy.plans.costs import release_event
from wardround.randomness import largest_sample
from wardround.records.folder import RunFolder
from wardround.report.numbers import summary_of_run
from wardround.secure_aggregation.integers.mechanism import IntegerMechanism
from wardround.secure_aggregation.integers.ring import Ring
from wardround.secure_aggregation.keys.identity import SigningKey
from wardround.secure_aggregation.keys.secret import system_entropy
from wardround.secure_aggregation.round.upload import Upload, size_of_upload
from wardround.secure_aggregation.round.witness import power
from wardround.simulation import run as simulation
from wardround.simulation.absences import availability_of
from wardround.simulation.estimate import estimate
from wardround.simulation.federate import answers_as_one
from wardround.simulation.masked import own_folder
from wardround.simulation.own_key import own_key, own_pin
from wardround.simulation.verification import verify_run
from wardround.types import HospitalName

MASKED = {"sum": "masked", "num_patients": 32}


def test_a_masked_run_says_what_it_was(tiny_study, tmp_path):
    study = tiny_study(privacy=MASKED, study={"seed": None}, federation={"compare": ["alone", "no-privacy"]})
    record = run_study(study, tmp_path / "run")
    certificate = record.certificate
    assert certificate["statement"]["mechanism"] == "discrete Gaussian on a grid"
    assert "floating-point" not in certificate["sentence"]
    assert "one process holds all of their keys" in certificate["sentence"]
    assert certificate["statement"]["epsilon"] <= 8.0
    assert {len(charged) for charged in charges(tmp_path / "run" / "ledger.sqlite").values()} == {4}
    assert set(record.results["references"]) == {"alone", "no-privacy"}
    assert not (tmp_path / "run" / "hospitals").exists(), "keys and notes go when the run has ended"
    assert verify_run(tmp_path / "run", own_pin(), key=own_key()).unchecked == ()


@pytest.mark.thorough
def test_an_upload_is_as_long_as_the_page_promises_in_the_ring_that_the_run_chose(
    tiny_study, tmp_path, monkeypatch
):
    sent: list[tuple[Upload, bytes]] = []

    class Noted(Upload):
        def to_bytes(self):
            sent.append((self, super().to_bytes()))
            return sent[-1][1]

    monkeypatch.setattr("wardround.hospital.masked.Upload", Noted)
    study = tiny_study(privacy={**MASKED, "epsilon": None, "noise_multiplier": 1.0, "sampling_prob": 0.25})
    run_study(study, tmp_path / "run")
    plan = plan_of(study)
    weights = load_file(tmp_path / "run" / "model.safetensors")
    parameters = sum(tensor.size for name, tensor in weights.items())
    # Three hospitals, two of them honest: D = sqrt(2) 2^20. At most 35 patients a round but for a chance of 1e-12.
    largest = largest_sample(32, 0.25)
    assert largest == 35
    bits = math.floor(math.log2(largest * math.sqrt(2) * 2**20 + 12 * 2**20 * 2)) + 2
    assert {upload.ring.bits for upload, _ in sent} == {bits} == {28}
    assert len(sent) == plan.releases * 3
    for upload, content in sent:
        coordinates = parameters + 1024 + math.ceil(128 / bits)
        header, signature = 51, 64
        assert len(content) == math.ceil(coordinates * bits / 8) + header + len(upload.hospital) + signature


def test_the_noise_witness_is_published_by_round_and_for_the_whole_run(tiny_study, tmp_path):
    study = tiny_study(privacy={**MASKED, "epsilon_limit": 20.0}, study={"seed": None})
    interrupted(study, tmp_path / "run", InterruptingRound(3))
    witness = resume_run(tmp_path / "run").certificate["witness"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()]
    assert [line["witness"]["coordinates"] for line in lines] == [1024] * 4
    assert witness["coordinates"] == 4 * 1024, "rounds before the interruption count"
    assert witness["statistic"] == pytest.approx(sum(line["witness"]["statistic"] for line in lines), rel=1e-12)
    assert witness["ratio"] == pytest.approx(witness["statistic"] / 4096)
    assert witness["p_too_little"] + witness["p_too_much"] == pytest.approx(1)
    assert witness["p_value"] == pytest.approx(2 * min(witness["p_too_little"], witness["p_too_much"]))
    assert witness["p_value"] > 1e-6
    finds = {(row["fault"], row["after_rounds"]): row["probability"] for row in witness["finds"]}
    assert sorted(finds) == [
        (f"one share {what}", after) for what in ("missing", "of half the size") for after in (1, 2, 4)
    ]
    assert finds["one share missing", 4] == power(3, 2, 4, 4)


def test_a_run_that_is_not_masked_has_no_witness(finished):
    assert read_json(finished / "certificate.json")["witness"] is None
    assert "witness" not in (finished / "rounds.jsonl").read_text()


def test_a_hospital_keeps_to_its_folder_whatever_its_name(tmp_path):
    names = ["north", "a/b", "a b", "..", ".", "Søndre", "a%2Fb"]
    folders = [own_folder(tmp_path, HospitalName(name)) for name in names]
    assert len(set(folders)) == len(names)
    assert all(folder is not None and folder.resolve().parent == tmp_path.resolve() for folder in folders)
    assert own_folder(None, HospitalName("north")) is None


def test_every_hospital_has_a_key_of_its_own_and_the_others_pinned(tiny_study, tmp_path):
    out = tmp_path / "run"
    interrupted(tiny_study(privacy=MASKED), out, InterruptingRound(2))
    folders = sorted((out / "hospitals").iterdir())
    assert [folder.name for folder in folders] == ["hospital-1", "hospital-2", "hospital-3"]
    assert len({(folder / "identity.pem").read_bytes() for folder in folders}) == 3
    for folder in folders:
        assert stat.S_IMODE((folder / "identity.pem").stat().st_mode) == 0o600
        assert (folder / "pins.toml").read_text().count(" = ") == 2
        assert json.loads((folder / "notes.json").read_text())["round"] == 2


def test_in_earnest_an_interrupted_round_is_charged_again_and_the_run_is_completed(tiny_study, tmp_path):
    study = tiny_study(privacy={**MASKED, "epsilon_limit": 20.0}, study={"seed": None})
    interrupted(study, tmp_path / "run", InterruptingRound(3))
    record = resume_run(tmp_path / "run")
    assert record.certificate["rounds"] == 4
    assert {len(charged) for charged in charges(tmp_path / "run" / "ledger.sqlite").values()} == {5}
    assert record.certificate["statement"]["epsilon"] > 8.0, "five releases were charged"


@pytest.mark.thorough
def test_a_run_goes_on_from_a_checkpoint_older_than_its_hospitals_notes(tiny_study, tmp_path):
    study, out = tiny_study(privacy=MASKED), tmp_path / "run"
    run_study(study, tmp_path / "whole")
    interrupted(study, out, InterruptingRound(4))
    newest = max((out / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:-4])  # as after a power cut
    resume_run(out)
    assert what_counts(out) == what_counts(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [7, None], ids=["seeded", "in earnest"])
def test_killed_without_a_warning_it_resumes_and_nothing_is_forgotten(study_file, tmp_path, wardround, seed):
    rounds = {"rounds": 100, "evaluate_every": 100, "learning_rate": 0.01}
    privacy = {**MASKED, "epsilon": None, "noise_multiplier": 20.0, "epsilon_limit": 50.0}
    out = tmp_path / "run"
    file = study_file(study={"seed": seed}, federation=rounds, privacy=privacy)
    for lines in (10, 40, 70):
        process = begun("resume", out) if out.exists() else begun("run", file, "--out", out)
        assert killed_after(process, out, lines), "it was killed in the middle"
    assert wardround("resume", out).code == 0
    certificate = read_json(out / "certificate.json")
    assert certificate["rounds"] == 100
    asked = {len(charged) for charged in charges(out / "ledger.sqlite").values()}
    assert asked == {100} if seed else max(asked) <= 103, "each of three kills may cost one release"
    assert certificate["statement"]["releases"] == max(asked)


def test_a_key_that_was_replaced_is_refused_on_resume(tiny_study, tmp_path):
    out = tmp_path / "run"
    interrupted(tiny_study(privacy=MASKED), out, InterruptingRound(2))
    (out / "hospitals" / "hospital-2" / "identity.pem").unlink()
    SigningKey.new(system_entropy).write(out / "hospitals" / "hospital-2" / "identity.pem")
    with pytest.raises(FederationError, match="keep to the protocol"):
        resume_run(out)
    assert "key that is pinned" in (out / "hospitals.log").read_text()


def test_a_ledger_that_was_emptied_is_refused_on_resume(tiny_study, tmp_path):
    out = tmp_path / "run"
    interrupted(tiny_study(privacy=MASKED), out, InterruptingRound(2))
    (out / "ledger.sqlite").unlink()
    with raises_code(RecordError, "record-ledger-gone"):
        resume_run(out)
    LedgerFile(out / "ledger.sqlite.new").close()
    (out / "ledger.sqlite.new").rename(out / "ledger.sqlite")
    with raises_code(LedgerError, "ledger-older"):
        resume_run(out)
    (out / "ledger.sqlite.mark").unlink()
    with raises_code(LedgerError, "ledger-older"):
        resume_run(out)


def test_a_share_that_is_missing_stops_the_run(tiny_study, tmp_path, monkeypatch):
    study = tiny_study(privacy=MASKED, federation={"rounds": 6})
    encode, calls = IntegerMechanism.encode, [0]

    def without_noise(self, gradients, random_bytes):
        calls[0] += 1
        return self.grid.sum_of(gradients) if calls[0] % 3 == 0 else encode(self, gradients, random_bytes)

    monkeypatch.setattr(IntegerMechanism, "encode", without_noise)
    with pytest.raises(FederationError, match="keep to the protocol"):
        run_study(study, tmp_path / "run")
    assert "is too little" in (tmp_path / "run" / "hospitals.log").read_text()


@pytest.mark.parametrize(
    ("clipping", "words"),
    family(
        [
            ("per-layer", "an equal share of its square"),
            ("per-layer-by-size", "a share of its square by size"),
            ("automatic", "scaled to about that norm"),
            ("adaptive", "0.5-quantile of the norms"),
        ],
        keep=[("adaptive", "0.5-quantile of the norms")],
    ),
)
def test_every_clipping_runs_under_masks_with_the_words_of_its_own(tiny_study, tmp_path, clipping, words):
    study = tiny_study(privacy={**MASKED, "clipping": clipping})
    record = run_study(study, tmp_path / "run")
    statement = record.certificate["statement"]
    assert statement["mechanism"] == "discrete Gaussian on a grid"
    assert statement["epsilon"] == plan_of(tiny_study(privacy=MASKED)).epsilon, "no rule costs more than another"
    assert words in record.certificate["sentence"]
    norms = [line.get("clipping_norm") for line in record.rounds]
    assert len(set(norms)) == (4 if clipping == "adaptive" else 1)


def test_absent_and_late_hospitals_leave_a_run_that_foresaw_them(tiny_study, tmp_path):
    study = tiny_study(
        privacy={**MASKED, "dropouts": 1, "colluders": 0, "epsilon_limit": 50.0},
        hospitals={"count": 4, "absent_rate": 0.1, "late_rate": 0.1, "availability_seed": 1},
    )
    record = run_study(study, tmp_path / "run")
    assert record.certificate["rounds"] == 4
    availability = read_json(tmp_path / "run" / "results.json")["availability"]
    assert (availability["absences"], availability["late_answers"], availability["most_missing"]) == (1, 1, 1)
    asked = {len(charged) for charged in charges(tmp_path / "run" / "ledger.sqlite").values()}
    assert asked == {4, 5}, "a late answer cost all the others a second release, an absence nobody"
    rows = record.certificate["insiders"]
    assert {row["missing"] for row in rows} == {1}, "no row counts on a share that was not there"
    assert (
        max(row["epsilon"] for row in rows if row["colluders"] == 0) >= record.certificate["statement"]["epsilon"]
    )


@pytest.mark.parametrize(
    ("how", "counted_on"), family([("masked", {0, 1}), ("simulated", {1})], keep=[("simulated", {1})])
)
def test_only_a_run_known_to_have_lost_nobody_counts_on_every_share(tiny_study, tmp_path, how, counted_on):
    study = tiny_study(privacy={**MASKED, "sum": how, "dropouts": 1, "colluders": 0}, hospitals={"count": 4})
    rows = run_study(study, tmp_path / "run").certificate["insiders"]
    assert {row["missing"] for row in rows} == counted_on


def test_a_masked_study_is_another_study_and_a_simulated_one_is_what_it_was(tiny_study):
    simulated, masked = (tiny_study(privacy={**MASKED, "sum": how}) for how in ("simulated", "masked"))
    assert simulated.digest == tiny_study(privacy={"num_patients": 32}).digest != masked.digest


def test_references_and_their_ledgers_are_not_masked(tiny_study):
    study = tiny_study(privacy=MASKED)
    plan = plan_of(study)
    assert plan.masked is not None
    assert alone(plan, plan.hospitals, plan.releases).masked is None
    assert not answers_as_one(study, plan)


@pytest.mark.parametrize(
    ("sections", "why"),
    [
        ({"privacy": {"trust": "coordinator"}}, 'trust must be "secure-aggregation"'),
        ({"privacy": {"plan": "correlated-noise", "cohorts": 2}}, "sum belongs to plan = dp-sgd"),
        ({"privacy": {"trust": "nobody"}}, 'trust must be "secure-aggregation"'),
        ({"privacy": {"rounding": "sum"}}, "remove rounding"),
        ({"federation": {"strategy": "alone"}}, 'use strategy = "fedsgd"'),
        ({"federation": {"strategy": "fedavg", "local_steps": 2}}, 'use strategy = "fedsgd", or sum'),
        ({"hospitals": {"count": 2}}, "must be >= 3"),
        ({"privacy": {"dropouts": 1}}, "must be >= 3"),
    ],
    ids=lambda part: next(iter(part)) if isinstance(part, dict) else None,
)
def test_what_cannot_be_masked_is_refused_with_the_reason(tiny, sections, why):
    raw = tiny(**{**sections, "privacy": {**MASKED, **sections.get("privacy", {})}})
    with pytest.raises((StudyError, PrivacyError)) as refused:
        plan_of(parse_study(raw))
    assert why in str(refused.value)


def file_in_place_of(own):
    shutil.rmtree(own.parent)
    own.parent.touch()


@pytest.mark.parametrize(
    ("damage", "why"),
    family(
        [
            (lambda own: (own / "identity.pem").unlink(), r"identity\.pem is missing; restore it"),
            (lambda own: shutil.rmtree(own), r"identity\.pem is missing; restore it"),
            (
                lambda own: (own / "pins.toml").write_text("# nobody\n"),
                r"pins\.toml must have the key of hospital-1",
            ),
            (lambda own: (own / "pins.toml").write_bytes(b"\xff\xfe"), r"pins\.toml .* is no text; restore it"),
            (lambda own: (own / "notes.json").write_text("[1, 2]"), r"notes\.json .* no JSON object"),
            (file_in_place_of, "a file is in the place of a folder"),
        ]
    ),
    ids=["no key", "no folder", "no pins", "other pins", "other notes", "no folders"],
)
def test_what_hospitals_keep_is_refused_by_its_file_if_it_is_lost_or_damaged(tiny_study, tmp_path, damage, why):
    out = tmp_path / "run"
    interrupted(tiny_study(privacy=MASKED), out, InterruptingRound(2))
    before = charges(out / "ledger.sqlite")
    damage(out / "hospitals" / "hospital-2")
    with pytest.raises(WardroundError, match=why):
        resume_run(out)
    assert charges(out / "ledger.sqlite") == before


@pytest.mark.thorough
def test_a_run_killed_while_keys_were_made_makes_the_rest(tiny_study, tmp_path):
    out = tmp_path / "run"
    interrupted(tiny_study(privacy=MASKED), out, InterruptingRound(1))
    for folder in (out / "hospitals").iterdir():
        (folder / "pins.toml").unlink()
        (folder / "notes.json").unlink()  # nobody announces a ledger before all keys are there
    (out / "hospitals" / "hospital-3" / "identity.pem").unlink()
    assert resume_run(out).certificate["rounds"] == 4


def test_masks_that_cannot_be_made_are_refused_before_a_file_is_written(tiny_study, tmp_path):
    with pytest.raises(WardroundError, match=r"fewer patients \(num_patients\)"):
        run_study(tiny_study(privacy={**MASKED, "num_patients": 10**15}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "privacy",
    family([{"sum": "masked"}, MASKED, {**MASKED, "clipping": "adaptive"}]),
    ids=["counted", "public", "adaptive"],
)
def test_what_a_hospital_sends_is_foreseen_and_recorded(tiny_study, tmp_path, monkeypatch, privacy):
    sent: dict[int, set[int]] = {}

    class Noted(Upload):
        def to_bytes(self):
            content = super().to_bytes()
            sent.setdefault(self.coordinates, set()).add(len(content))
            return content

    monkeypatch.setattr("wardround.hospital.masked.Upload", Noted)
    study = tiny_study(privacy=privacy)
    upload = estimate(study).upload
    record = run_study(study, tmp_path / "run")
    assert upload is not None
    assert record.results["upload"] == upload.to_json()
    expected = {upload.num_bytes} | ({upload.count_bytes} if upload.count_bytes else set())
    assert set.union(*sent.values()) == expected
    assert (upload.count_bytes is None) == ("num_patients" in privacy)


def test_what_a_hospital_sends_is_said(tiny_study, wardround, study_file):
    printed = wardround("check", study_file(privacy=MASKED)).out
    upload = estimate(tiny_study(privacy=MASKED)).upload
    assert upload is not None
    assert upload.sentence() in printed
    assert f"{upload.ring_bits} bits a coordinate" in upload.sentence()
    assert estimate(tiny_study()).upload is None
    assert "under masks" not in wardround("check", study_file()).out


@pytest.mark.parametrize(
    ("num_bytes", "said"), [(912, "912 bytes"), (15_649, "15.6 kB"), (999_600, "1 MB"), (40_496_123, "40.5 MB")]
)
def test_sizes_are_said_in_three_digits(num_bytes, said):
    sentence = MaskedUpload(parameters=1000, ring_bits=31, num_bytes=num_bytes, count_bytes=None).sentence()
    assert f"sends {said} a round" in sentence
    assert f"{num_bytes / 4000:.2f} times its 1,000 parameters" in sentence


def test_the_size_that_is_said_is_the_one_that_the_benchmark_measured():
    # docs/secure-aggregation-masks.md: 725,061 parameters and 1,024 witnesses in a ring of 31 bits.
    assert size_of_upload(725_061 + 1024, Ring(31), "hospital-1") == 2_813_724


@pytest.mark.thorough
def test_attempts_that_a_late_hospital_cost_are_shown_and_in_the_epsilon_of_their_round(tiny_study, tmp_path):
    details = []

    class Watching(Silent):
        def progress(self, done, total, detail=""):
            details.append(detail)

    study = tiny_study(
        privacy={**MASKED, "dropouts": 1, "epsilon": None, "noise_multiplier": 2.0, "epsilon_limit": 50.0},
        hospitals={"count": 5, "late_rate": 0.1, "availability_seed": 0},
        study={"seed": None},
        federation={"evaluate_every": 1},
    )
    availability = availability_of(study)
    assert availability is not None
    late = [tuple(np.flatnonzero(row)) for row in availability.late]
    assert {len(names) for names in late} == {0, 1}, "a timetable with both kinds of rounds"
    record = simulation.run_study(study, tmp_path / "run", Watching())
    plan, charged = plan_of(study), 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()]
    for line, names, shown in zip(lines, late, details, strict=True):
        charged += 1 + len(names)
        assert line["epsilon"] == pytest.approx(plan.epsilon_after(charged), rel=1e-12)
        assert line.get("attempts", 1) == 1 + len(names)
        assert line.get("missing", []) == [f"hospital-{position + 1}" for position in names]
        assert ("attempt 2, without hospital-" in shown) == bool(names)
    certificate = read_json(tmp_path / "run" / "certificate.json")
    assert lines[-1]["epsilon"] == certificate["statement"]["epsilon"], "the page's curve ends at it"
    assert "lost a hospital" in certificate["sentence"]
    assert summary_of_run(record)["lost_attempts"] == sum(map(len, late))


def test_noise_that_the_grid_cannot_carry_is_refused_before_anything_is_read(tiny_study):
    with pytest.raises(PrivacyError, match=r"2\^26"):
        plan_of(tiny_study(privacy={**MASKED, "epsilon": None, "noise_multiplier": 0.01}))


# Counted -------------------------------------------------------------------------------------------------------------

COUNTED = {"sum": "masked"}


def test_a_counted_run_says_what_it_was_and_all_of_it_agrees(tiny_study, tmp_path):
    study = tiny_study(privacy=COUNTED, study={"seed": None}, federation={"compare": ["alone"]})
    plan, out = plan_of(study), tmp_path / "run"
    assert plan.count is not None
    record = run_study(study, out)
    certificate = record.certificate
    statement, event = certificate["statement"], from_json(certificate["event"])
    assert statement["epsilon"] == plan.epsilon <= 8.0
    assert event == plan.event_after(4)
    assert plan.epsilon == pytest.approx(epsilon_of(event, plan.delta, plan.accountant), rel=1e-12)
    assert statement["releases"] == 5
    assert "one noised count of patients" in certificate["sentence"]
    [promised] = [row["epsilon"] for row in certificate["insiders"] if row["colluders"] == 1]
    assert promised == plan.epsilon
    for count, *rounds in charges_in(out / "ledger.sqlite").values():
        assert (count.release, count.purpose, count.event) == ("0/count/1", "count", release_event(plan.count))
        assert [entry.event for entry in rounds] == [release_event(plan.training)] * 4
    spent = [ledger["epsilon_spent"] for ledger in certificate["ledgers"].values()]
    assert spent == pytest.approx([plan.epsilon] * 3, rel=1e-12)
    assert max(spent) <= plan.epsilon
    [told] = [row for row in record.results["released"] if row["what"] == "the number of training patients"]
    assert told["to"] == "the coordinator and every hospital"
    assert estimate(study).statement.epsilon == plan.epsilon


def test_a_counted_run_has_more_noise_in_its_rounds_than_one_whose_size_is_public(tiny_study):
    counted, public = (plan_of(tiny_study(privacy={**COUNTED, "num_patients": n})) for n in (None, 32))
    assert counted.masked is not None
    assert public.masked is not None
    assert counted.masked.noise_multiplier > public.masked.noise_multiplier
    assert counted.epsilon_after(4) <= 8.0
    assert counted.epsilon_after(0) > 0 == public.epsilon_after(0)


class Stopped(BaseException):
    """Nothing catches it."""


def stopped_after_the_count(study, out, monkeypatch):
    """Killed when the count was opened, and before anything of it was kept."""

    def stop(*_):
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_checkpoint", stop)
        with pytest.raises(Stopped):
            run_study(study, out)


def test_seeded_a_run_stopped_between_count_and_round_1_is_the_run_that_was_not(tiny_study, tmp_path, monkeypatch):
    study, out = tiny_study(privacy=COUNTED), tmp_path / "run"
    run_study(study, tmp_path / "whole")
    stopped_after_the_count(study, out, monkeypatch)
    notes = json.loads((out / "hospitals" / "hospital-1" / "notes.json").read_text())
    assert (notes["round"], notes["attempt"]) == (0, 1)
    resume_run(out)
    assert what_counts(out) == what_counts(tmp_path / "whole")
    once = [("0/count/1", 1), *((f"{round}/gradient-sum/1", 1) for round in (1, 2, 3, 4))]
    assert all(entries == once for entries in charges(out / "ledger.sqlite").values())


@pytest.mark.parametrize("how", family(["masked", "simulated"]))
def test_in_earnest_a_count_that_is_repeated_is_charged_and_certified_again(
    tiny_study, tmp_path, monkeypatch, how
):
    study, out = tiny_study(privacy={"sum": how, "epsilon_limit": 20.0}, study={"seed": None}), tmp_path / "run"
    plan = plan_of(study)
    stopped_after_the_count(study, out, monkeypatch)
    certificate = resume_run(out).certificate
    for entries in charges(out / "ledger.sqlite").values():
        assert entries[:2] == [("0/count/1", 1), ("0/count/1", 2)]
        assert len(entries) == 6
    assert certificate["statement"]["releases"] == 6
    assert certificate["statement"]["epsilon"] == plan.epsilon_after(4, 2) > plan.epsilon
    assert from_json(certificate["event"]) == plan.event_after(4, 2)
    assert max(row["epsilon"] for row in certificate["insiders"] if row["colluders"] == 1) == plan.epsilon_after(
        4, 2
    )
    spent = [ledger["epsilon_spent"] for ledger in certificate["ledgers"].values()]
    assert spent == pytest.approx([plan.epsilon_after(4, 2)] * 3, rel=1e-12)
    assert "2 noised counts of patients" in certificate["sentence"]
    assert "1 of the releases were charged for rounds that were interrupted" in certificate["sentence"]


@pytest.mark.thorough
def test_a_counted_run_with_absent_hospitals_counts_everybody(tiny_study, tmp_path):
    study = tiny_study(
        privacy={**COUNTED, "dropouts": 1, "colluders": 0, "epsilon_limit": 50.0},
        hospitals={"count": 4, "absent_rate": 0.1, "late_rate": 0.1, "availability_seed": 1},
    )
    run_study(study, tmp_path / "run")
    asked = {len(charged) for charged in charges(tmp_path / "run" / "ledger.sqlite").values()}
    assert asked == {5, 6}, "everybody was counted once"


@pytest.mark.thorough
def test_a_counted_run_learns(tiny_study, tmp_path):
    study = tiny_study(
        data={"image_size": 64, "phantom": {"patients": 400, "max_images": 1, "sites": 2, "image_size": 64}},
        model={"name": "features"},
        privacy={**COUNTED, "epsilon": None, "noise_multiplier": 1.5, "clipping_norm": 0.25},
        federation={"rounds": 20, "evaluate_every": 20, "learning_rate": 8.0, "momentum": 0.9},
    )
    assert run_study(study, tmp_path / "run").results["metrics"]["auroc"] > 0.8


@pytest.mark.slow
def test_a_masked_run_learns_as_much_as_a_simulated_one(tiny_study, tmp_path):
    def aurocs(how):
        found = []
        for seed in range(5):
            study = tiny_study(
                study={"seed": seed},
                data={
                    "image_size": 64,
                    "phantom": {"patients": 800, "max_images": 2, "sites": 2, "image_size": 64},
                },
                hospitals={"count": 5},
                model={"name": "features"},
                privacy={
                    "sum": how,
                    "num_patients": 640,
                    "epsilon": None,
                    "noise_multiplier": 1.5,
                    "clipping_norm": 0.25,
                },
                federation={"rounds": 20, "evaluate_every": 20, "learning_rate": 8.0, "momentum": 0.9},
            )
            record = run_study(study, tmp_path / f"{how}-{seed}")
            found.append(record.results["metrics"]["auroc"])
        return np.array(found)

    masked, simulated = aurocs("masked"), aurocs("simulated")
    error = np.sqrt(masked.var(ddof=1) / 5 + simulated.var(ddof=1) / 5)
    assert simulated.mean() > 0.9, "there is something to lose"
    assert abs(masked.mean() - simulated.mean()) < 4 * error

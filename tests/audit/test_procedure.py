"""The whole procedure with one patient less: nothing else changes, and a procedure that moves others is caught."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tests.audit.test_membership import study_of
from tests.errors import raises_code

from wardround.audit import procedure
from wardround.audit.findings import CLEAN, CONTRADICTION
from wardround.audit.procedure import Procedure, audit_procedure
from wardround.audit.study import Deeper, audit_study
from wardround.audit.trials import Scores
from wardround.coordinator.observer import Silent
from wardround.errors import DataError, RecordError
from wardround.hospital import agent
from wardround.hospital.pictures import read_images
from wardround.images.folder_copy import copy_without
from wardround.privacy.plans import releases
from wardround.privacy.plans.kinds import Clip
from wardround.simulation import neighbours
from wardround.simulation.dealing import Split, split_patients
from wardround.simulation.neighbours import neighbours_of
from wardround.training.scores import mean_rows


def private(tmp_path, **options):
    return study_of(tmp_path, private=True, patients=60, **options)


def audited(study, **options):
    found = audit_procedure(study, Silent(), **options)
    assert isinstance(found, Procedure)
    return found


def by_position(images, data, hospitals):
    """Patients dealt out by their place in a permuted list."""
    split = split_patients(images, data, hospitals)
    order = np.random.default_rng(3).permutation(len(images.patients))
    patients = [images.patients[k] for k in order]
    first, *others = split.hospitals
    places = {first: tuple(patients[: len(patients) // 2])} | dict.fromkeys(others, ())
    return Split((), places, leaking=False, note="")


def test_leaving_one_patient_out_changes_no_other(tmp_path):
    found = audited(private(tmp_path), runs=6, alpha=0.01)
    assert (found.moved, found.changed) == (0, 0)
    assert found.clips == pytest.approx(1.0, abs=1e-3)
    assert found.contradictions == ()
    assert found.attack.contradictions == ()


def test_a_division_by_position_is_caught(tmp_path, monkeypatch):
    monkeypatch.setattr("wardround.simulation.materials.split_patients", by_position)
    found = audited(private(tmp_path), runs=3, alpha=0.01)
    assert found.moved > 5
    assert (found.clips or 0) > 1.5
    assert len(found.contradictions) == 2


def no_noise_on_biases(patch):
    """The last parameter, a bias, is released as it is."""

    def noised(values, std, stream):
        found = whole(values, std, stream)
        found[-2:] = values[-2:]
        return found

    whole = releases._noised
    patch.setattr(releases, "_noised", noised)


def real_count_in_the_noise(patch):
    """The noise follows the number of patients who took part."""
    counts = []

    def counted(clip, clipped, count, norm):
        counts.append(count)
        return in_units(clip, clipped, count, norm)

    def noised(part, clipped, *others):
        exact = clipped.vector.numpy()
        return exact + (whole(part, clipped, *others) - exact) * (counts[-1] / 48)

    in_units, whole = Clip.in_units, releases.noised_sum
    patch.setattr(Clip, "in_units", counted)
    patch.setattr("wardround.simulation.union.noised_sum", noised)


def centred(tmp_path):
    study = private(tmp_path)
    return study.model_copy(update={"federation": study.federation.model_copy(update={"centre_rounds": 2})})


def longer_rows(patch):
    """Mean rows are three times as long as the clip."""
    patch.setattr(f"{agent.__name__}.mean_rows", lambda *given: 3 * mean_rows(*given))


@pytest.mark.thorough
def test_a_centred_study_is_attacked_and_its_sums_are_measured(tmp_path, monkeypatch):
    found = audited(centred(tmp_path), runs=3, alpha=0.01)
    assert found.clips == pytest.approx(1.0, abs=1e-3)
    assert found.noise
    assert found.contradictions == ()
    longer_rows(monkeypatch)
    [said] = audited(centred(tmp_path), runs=3, alpha=0.01).contradictions
    assert "one patient moves the sum by" in said


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("plant", "seen"),
    [(no_noise_on_biases, "and 0.0% in one of them"), (real_count_in_the_noise, "one patient moves the sum")],
    ids=["biases", "count"],
)
def test_faults_of_the_studys_own_network_or_patients_are_found(tmp_path, monkeypatch, plant, seen):
    assert audited(private(tmp_path), runs=3, alpha=0.01).contradictions == ()
    plant(monkeypatch)
    found = audited(private(tmp_path), runs=3, alpha=0.01)
    assert any(seen in sentence for sentence in found.contradictions), found


@pytest.mark.thorough
def test_a_cache_that_mixes_pictures_is_caught(tmp_path, monkeypatch):
    def mixed(study, images, network, **options):
        images = replace(images, pixels=np.roll(images.pixels, 1 + len(images.pixels) % 3, axis=0))
        return procedure_workbench(study, images, network, **options)

    from wardround.hospital.pictures import workbench_of as procedure_workbench

    monkeypatch.setattr("wardround.simulation.materials.workbench_of", mixed)
    assert audited(private(tmp_path), runs=3, alpha=0.01).changed > 0


def test_an_interrupted_audit_goes_on(tmp_path, monkeypatch):
    study, keep = private(tmp_path), tmp_path / "keep"
    whole = audited(study, runs=6, alpha=0.01)
    audited(study, runs=3, alpha=0.01, keep=keep)
    path = keep / "procedure.jsonl"
    assert path.stat().st_mode & 0o777 == 0o600
    about = json.loads(path.read_text().splitlines()[0])
    assert (about["of"], len(about["direction"])) == ("releases", 16)
    path.write_text(path.read_text() + "[true, 3, 0.1")  # cut off
    trained, sums = list[object](), procedure._sums

    def counted(*arguments):
        trained.append(arguments)
        return sums(*arguments)

    monkeypatch.setattr(procedure, "_sums", counted)
    again = audited(study, runs=6, alpha=0.01, keep=keep)
    assert (
        len(trained) == 2 + 6 + 2 * 3
    )  # with one seed, for each parameter, and the repetitions that were missing
    assert again.attack.bounds == whole.attack.bounds
    with raises_code(RecordError, "record-audit"):
        audited(private(tmp_path, noise_multiplier=2.5), runs=3, alpha=0.01, keep=keep)


def folder_of(tmp_path, separator=",", patients=30):
    """A manifest whose patients' pictures share their base names."""
    root, generator = tmp_path / "data", np.random.default_rng(1)
    lines = [separator.join(("image", "patient", "label"))]
    for number in range(patients):
        name = f"p{number:02}/{('front', 'side', 'back')[number % 3]}.png"
        (root / name).parent.mkdir(parents=True)
        Image.fromarray(generator.integers(0, 256, (32, 32), np.uint8)).save(root / name)
        lines.append(separator.join((name, f"p{number:02}", str(number % 2))))
    (root / "manifest.csv").write_text("\n".join(lines) + "\n")
    return root


def of_folder(tmp_path, root):
    study = private(tmp_path)
    site = study.site.model_copy(update={"layout": "manifest", "path": root})
    return study.model_copy(update={"site": site})


def test_scores_go_on_after_any_line_that_was_cut_off(tmp_path):
    about: dict[str, object] = {"of": "releases", "direction": "3f"}
    path = tmp_path / "procedure.jsonl"
    Scores(tmp_path, about).add(True, 0, 0.5)
    whole = path.read_text()
    path.write_text(whole + "[true, 1, 0.")
    Scores(tmp_path, about).add(True, 2, 0.25)
    assert Scores(tmp_path, about).of(True).tolist() == [0.5, 0.25]
    path.write_text(whole + '7\n{"a": 1}\n[1, 2]\n[true, null, 3]\n[true, 1, 0.125]\n')
    assert Scores(tmp_path, about).of(True).tolist() == [0.5, 0.125]
    path.write_text(whole[:9])
    Scores(tmp_path, about).add(False, 0, 0.5)
    assert Scores(tmp_path, about).of(False).tolist() == [0.5]
    for other in ("no JSON\n", whole):
        path.write_text(other)
        with raises_code(RecordError, "record-audit"):
            Scores(tmp_path, {**about, "direction": "4f"})


@pytest.mark.parametrize(("each", "separator"), [(2, "|"), (12, ",")], ids=["some train", "all train"])
def test_patients_whose_pictures_share_names_stay(tmp_path, monkeypatch, each, separator):
    monkeypatch.setattr(neighbours, "EACH", each)
    both = neighbours_of(of_folder(tmp_path, folder_of(tmp_path, separator)), Silent(), tmp_path / "copies")
    assert both.through.startswith("a folder without the patient, read anew")
    assert (both.others, both.moved, both.changed) == (29, frozenset(), frozenset())
    lost = {one.id for one in both.whole.images.patients} ^ {one.id for one in both.less.images.patients}
    assert len(lost) == 1


@pytest.mark.parametrize("each", [2, 12], ids=["some train", "all train"])
def test_a_reader_that_loses_another_patient_is_caught(tmp_path, monkeypatch, each):
    study = of_folder(tmp_path, folder_of(tmp_path))
    whole = read_images

    def losing(copied, progress=None):
        images = whole(copied, progress)
        present = {one.id for one in images.patients}
        less = tuple(one for one in images.patients if one.id != "p01" or present >= everyone)
        return replace(images, patients=less)

    everyone = {one.id for one in whole(study).patients}
    monkeypatch.setattr(neighbours, "EACH", each)
    for place in ("wardround.simulation.neighbours", "wardround.simulation.materials"):
        monkeypatch.setattr(f"{place}.read_images", losing)
    both = neighbours_of(study, Silent(), tmp_path / "copies")
    assert both.through.startswith("a folder without the patient, read anew")
    assert "p01" in both.moved


def test_a_copy_without_a_picture_lacks_it_and_its_lines(tmp_path):
    names = ("a/one.png", "a/two.png", "b/one.png", "b/three.png")
    for name in names:
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(name.encode())
    for table, mark in (("labels.csv", ","), ("b/labels.txt", "|")):
        lines = ["file,label", *(f"{name},{number}" for number, name in enumerate(names))]
        (tmp_path / "data" / table).write_text("\n".join(lines).replace(",", mark))
    (tmp_path / "data" / "short.csv").write_text("three.png;1\ntwo.png;0\n")
    copy_without(tmp_path / "data", {"a/one.png", "b/three.png"}, {"a/two.png", "b/one.png"}, tmp_path / "copy")
    left = sorted(str(path.relative_to(tmp_path / "copy")) for path in (tmp_path / "copy").rglob("*.*"))
    assert left == ["a/two.png", "b/labels.txt", "b/one.png", "labels.csv", "short.csv"]
    for table in ("labels.csv", "b/labels.txt"):
        found = (tmp_path / "copy" / table).read_text().replace("|", ",").split()
        assert found == ["file,label", "a/two.png,1", "b/one.png,2"]
    assert (tmp_path / "copy" / "short.csv").read_text() == "two.png;0\n"
    assert (tmp_path / "data" / "a" / "one.png").exists()


def test_a_line_of_two_patients_pictures_is_not_just_dropped(tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("one.png", "two.png"):
        (tmp_path / "data" / name).write_bytes(b"")
    (tmp_path / "data" / "pairs.csv").write_text("one.png,two.png\n")
    with pytest.raises(DataError):
        copy_without(tmp_path / "data", {"one.png"}, {"two.png"}, tmp_path / "copy")


@pytest.mark.thorough
def test_the_audit_of_a_study_takes_in_procedure_and_model(tmp_path, monkeypatch):
    study, deeper = private(tmp_path), Deeper(shadows=12, procedure=True)
    found = audit_study(study, Silent(), runs=30, canaries=64, seed=1, deeper=deeper)
    assert found.verdict == CLEAN
    assert len(found.attacks) == 5
    assert all(bound.confidence == pytest.approx(1 - 0.01 / 10) for one in found.attacks for bound in one.bounds)
    assert "membership" not in " ".join(found.not_covered)
    monkeypatch.setattr("wardround.simulation.materials.split_patients", by_position)
    found = audit_study(study, Silent(), runs=30, canaries=64, seed=1, deeper=Deeper(procedure=True))
    assert found.verdict == CONTRADICTION
    assert any("another place" in one for one in found.contradictions)

"""From an archive's export to a trained model and its page: names in headers and file names are found nowhere."""

import json
import zipfile

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")

from tests.errors import raises_code  # noqa: E402
from tests.images.dicom.write import write_dicom, write_picture  # noqa: E402

from wardround.config import read_study  # noqa: E402
from wardround.coordinator.observer import Silent  # noqa: E402
from wardround.errors import DataError  # noqa: E402
from wardround.hospital.pictures import list_pictures  # noqa: E402
from wardround.simulation.materials import gather  # noqa: E402

CANARY = "CANARY"


def named(path):
    found = pydicom.dcmread(path)
    for keyword in (
        "PatientName", "PatientBirthDate", "InstitutionName", "ReferringPhysicianName", "StudyDescription",
        "SeriesDescription", "AccessionNumber", "StudyID", "OperatorsName", "PatientComments",
    ):  # fmt: skip
        setattr(found, keyword, "19700101" if keyword == "PatientBirthDate" else CANARY)
    block = found.private_block(0x0099, f"{CANARY}-creator", create=True)
    block.add_new(1, "LO", f"{CANARY}-private")
    found.save_as(path)


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """Forty radiographs of twenty people, in a zip, all of it named."""
    root = tmp_path_factory.mktemp("export")
    generator = np.random.default_rng(0)
    rows = ["label,patient_id,site"]
    for number in range(40):
        person = f"{CANARY}-{number // 2:03d}"
        folder = root / f"{CANARY} Ann" / str(number % 3)
        folder.mkdir(parents=True, exist_ok=True)
        picture = generator.integers(0, 120, (1, 24, 24)).astype(np.uint8) + np.uint8(80 * (number // 2 % 2))
        named(write_picture(picture, folder / f"{CANARY}-{number}", patient_id=person))
        if number % 2:
            rows.append(f"{'ill' if number // 2 % 2 else 'well'},{person},{'north' if number < 20 else 'south'}")
    with zipfile.ZipFile(root / "export.zip", "w") as archive:
        for path in sorted(root.rglob(f"{CANARY}-*")):
            if path.is_file():
                archive.write(path, path.relative_to(root).as_posix())
        archive.writestr("labels.csv", "\n".join(rows))
    return root / "export.zip"


def everything_below(folder):
    return b"\0".join(
        path.read_bytes() + path.name.encode() for path in sorted(folder.rglob("*")) if path.is_file()
    )


def test_a_study_on_an_export_leaves_no_name(export, study_file, wardround, tmp_path):
    cache = tmp_path / "cache"
    path = study_file(
        data={
            "layout": "dicom",
            "path": str(export),
            "phantom": None,
            "key_file": str(tmp_path / "hospital.key"),
            "test": "stratified",
        },
        hospitals={"count": 2, "scheme": "site"},
        performance={"cache": str(cache)},
    )
    ended = wardround("run", path, "--out", tmp_path / "out", "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["auroc"] is not None
    for text in (ended.out, ended.err):
        assert CANARY not in text
    assert CANARY.encode() not in everything_below(tmp_path / "out")
    assert CANARY.encode() not in everything_below(cache)
    resumed = wardround("resume", tmp_path / "out")
    assert resumed.code == 0, resumed.err
    checked = wardround("check", path)
    assert checked.code == 0, checked.err
    assert CANARY not in checked.out + checked.err


def test_a_look_at_an_export_names_nobody(export, wardround, tmp_path):
    ended = wardround("data", "check", export, "--page", tmp_path / "look.html", "--card", tmp_path / "card.json")
    assert ended.code == 0, ended.err
    assert "20 patients" in ended.out
    written = (tmp_path / "look.html").read_text() + (tmp_path / "card.json").read_text()
    assert CANARY not in ended.out + ended.err + written
    assert (tmp_path / "look.html").stat().st_mode & 0o077 == 0


def test_a_damaged_export_is_one_sentence_without_a_name(export, study_file, wardround, tmp_path):
    with zipfile.ZipFile(export) as archive, zipfile.ZipFile(tmp_path / "damaged.zip", "w") as damaged:
        for number, name in enumerate(archive.namelist()):
            content = archive.read(name)
            damaged.writestr(name, content if name == "labels.csv" else content[: 600 + 40 * number])
    path = study_file(data={"layout": "dicom", "path": str(tmp_path / "damaged.zip"), "phantom": None})
    ended = wardround("run", path, "--out", tmp_path / "out")
    assert ended.code == 2
    assert ended.err.count("\n") <= 6
    assert CANARY not in ended.out + ended.err.replace(str(tmp_path), "")


def test_volumes_of_an_export_train_a_solid_network(study_file, wardround, tmp_path):
    export = tmp_path / "series"
    rows = ["label,patient_id"]
    generator = np.random.default_rng(0)
    for number in range(12):
        values = generator.normal(size=(8, 8, 8)) * 30 + 200 * (number % 2)
        write_dicom(values, np.diag([1.0, 1.0, 2.0, 1.0]), export / str(number), patient_id=f"p{number}")
        rows.append(f"{'ill' if number % 2 else 'well'},p{number}")
    (export / "labels.csv").write_text("\n".join(rows))
    path = study_file(
        data={
            "layout": "dicom",
            "path": str(export),
            "phantom": None,
            "volume_size": [8, 8, 8],
            "test_fraction": 0.4,
            "test": "stratified",
        }
    )
    ended = wardround("run", path, "--out", tmp_path / "out", "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["auroc"] is not None


def test_two_persons_of_one_id_at_two_sites_are_told_apart_by_a_table(study_file, tmp_path):
    """One PatientID from two issuers is refused by sites with the remedy; the remedy gives each person one site."""
    export, rows = tmp_path / "export", ["label,sop_uid,site"]
    for number in range(24):
        site, person = ("north", "south")[number % 2], "7" if number < 2 else f"p{number}"
        path = write_picture(np.full((1, 8, 8), 9 * number, np.uint8), export / f"{number}", patient_id=person)
        found = pydicom.dcmread(path)
        found.IssuerOfPatientID = site
        found.save_as(path)
        rows.append(f"{'ill' if number % 4 < 2 else 'well'},{found.SOPInstanceUID},{site}")
    (export / "labels.csv").write_text("\n".join(rows))
    data = {"layout": "dicom", "path": str(export), "phantom": None, "key_file": str(tmp_path / "hospital.key")}
    study = read_study(study_file(data=data | {"test": "stratified"}, hospitals={"count": 2, "scheme": "site"}))
    with raises_code(DataError, "data-several-sites") as refused:
        gather(study, Silent())
    assert "patients.csv" in str(refused.value)
    listing = list_pictures(study)
    assert listing is not None
    patients = [entry.patient for entry in listing.entries]
    one = next(entry.file for entry in listing.entries if patients.count(entry.patient) == 2)
    (export / "patients.csv").write_text(f"picture,patient\n{one},another\n")
    split = gather(study, Silent()).split
    assert sum(map(len, (split.test, *split.hospitals.values()))) == 24

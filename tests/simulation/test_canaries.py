"""Canaries in every text field of every format: none leaves a hospital, in success and in failure, in text and JSON."""

import io
import json
import re
import struct
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from tests.cases import family
from tests.hospital.deployed import NAMES, make_folders, study_of

from wardround.config.site import read_policy, read_site
from wardround.federation.messages import Failure, Request
from wardround.federation.wire.limits import Limits
from wardround.federation.wire.tables import decode_reply, encode_request
from wardround.hospital.opening import open_hospital
from wardround.work import GradientSum

INSIDE, NAME = "KANARINSIDE", "KANARNAME"
"""In the content of a file, where no screen may show it; and in names, which the hospital's own screen may."""

TIFF_TEXTS = (269, 270, 271, 272, 285, 305, 306, 315, 316, 333, 33432)


def picture_bytes(form, values):
    """One picture with a canary in every text that its format has."""
    image, content = Image.fromarray(values), io.BytesIO()
    exif = Image.Exif()
    for tag in (270, 271, 272, 305, 315, 33432, 37510, 40092, 42033):
        exif[tag] = INSIDE
    icc = bytes(128) + INSIDE.encode()
    match form:
        case "PNG":
            texts = PngImagePlugin.PngInfo()
            for key in ("Title", "Author", "Comment", INSIDE):
                texts.add_text(key, INSIDE)
                texts.add_text(key, INSIDE, zip=True)
                texts.add_itxt(key, INSIDE, "en", INSIDE)
            image.save(content, form, pnginfo=texts, exif=exif, icc_profile=icc)
        case "JPEG":
            image.save(
                content, form, exif=exif, comment=INSIDE.encode(), icc_profile=icc, xmp=INSIDE.encode(), quality=95
            )
        case "TIFF":
            image.save(content, form, tiffinfo=dict.fromkeys(TIFF_TEXTS, INSIDE), icc_profile=icc)
        case "BMP":
            image.save(content, form)
            return content.getvalue() + INSIDE.encode()
    assert INSIDE.encode() in content.getvalue()
    return content.getvalue()


def of_pictures(root, form, ending):
    generator = np.random.default_rng(1)
    lines = [f"file,label,patient_id,note,{NAME}"]
    for number in range(20):
        file = f"{NAME}-{number}.{ending}"
        (root / file).write_bytes(picture_bytes(form, generator.integers(0, 256, (32, 32), dtype=np.uint8)))
        lines.append(f"{file},{('clear', 'lesion')[number % 2]},{NAME} {number},{INSIDE},{INSIDE}")
    (root / "metadata.csv").write_text("\n".join(lines))
    return {"layout": "folder", "path": str(root)}


def of_dicom(root):
    pytest.importorskip("pydicom")
    import pydicom
    from tests.images.dicom.test_canaries import plant
    from tests.images.dicom.write import write_picture

    generator = np.random.default_rng(1)
    lines = ["label,patient_id"]
    for number in range(20):
        path = root / NAME / f"{NAME}{number}.dcm"
        write_picture(generator.integers(0, 256, (1, 32, 32), dtype=np.uint8), path, patient_id=f"{NAME}{number}")
        keep = pydicom.dcmread(path)
        plant(path, number)
        found = pydicom.dcmread(path)
        for keyword in ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "InstanceNumber"):
            if keyword in found and keyword not in keep:
                del found[keyword]
        found.PatientID, found.PatientName = f"{NAME}{number}", INSIDE
        found.StudyInstanceUID, found.SeriesInstanceUID = keep.StudyInstanceUID, keep.SeriesInstanceUID
        found.SOPInstanceUID = keep.SOPInstanceUID
        found.IssuerOfPatientID = None
        found.save_as(path)
        lines.append(f"{('clear', 'lesion')[number % 2]},{NAME}{number}")
    (root / "labels.csv").write_text("\n".join(lines))
    return {"layout": "dicom", "path": str(root), "key_file": str(root.parent / "pseudonyms.key")}


def write_volume(values, path):
    """A volume with a canary in every text of its header, and in extensions."""
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.Nifti1Image(values, np.eye(4))
    for field in ("descrip", "aux_file", "intent_name", "db_name"):
        image.header[field] = INSIDE.encode()
    for code in (4, 6):
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension(code, INSIDE.encode()))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.to_filename(path)


def of_nnunet(root):
    generator = np.random.default_rng(1)
    for number in range(12):
        values = generator.integers(0, 200, (16, 16, 16)).astype(np.int16)
        write_volume(values, root / "imagesTr" / f"{NAME}{number}_0000.nii.gz")
        write_volume((values > 100).astype(np.uint8), root / "labelsTr" / f"{NAME}{number}.nii.gz")
    description = {
        "channel_names": {"0": INSIDE},
        "labels": {"background": 0, "organ": 1},
        "file_ending": ".nii.gz",
    }
    description |= dict.fromkeys(
        ("name", "description", "reference", "licence", "overwrite_image_reader_writer"), INSIDE
    )
    (root / "dataset.json").write_text(json.dumps(description | {INSIDE: [INSIDE]}))
    return {"layout": "nnunet", "path": str(root), "volume_size": [16, 16, 16], "view": "slices"}


def of_bids(root):
    generator = np.random.default_rng(1)
    lines = [f"participant_id\tgroup\tname\t{INSIDE}"]
    for number in range(12):
        person = f"sub-{NAME}{number}"
        folder = root / person / "anat"
        write_volume(generator.integers(0, 200, (16, 16, 16)).astype(np.int16), folder / f"{person}_T1w.nii.gz")
        (folder / f"{person}_T1w.json").write_text(json.dumps({"PatientName": INSIDE, INSIDE: INSIDE}))
        lines.append(f"{person}\t{('clear', 'lesion')[number % 2]}\t{INSIDE}\t{INSIDE}")
    (root / "participants.tsv").write_text("\n".join(lines))
    (root / "participants.json").write_text(json.dumps({INSIDE: {"Description": INSIDE}}))
    (root / "dataset_description.json").write_text(json.dumps({"Name": INSIDE, "Authors": [INSIDE]}))
    (root / "README").write_text(INSIDE)
    return {"layout": "bids", "path": str(root), "volume_size": [16, 16, 16], "view": "slices"}


def of_npz(root):
    generator = np.random.default_rng(1)
    path = root / f"{NAME}.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.comment = INSIDE.encode()
        for part, count in (("train", 20), ("val", 6), ("test", 6)):
            for what, values in (
                ("images", generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)),
                ("labels", np.arange(count)[:, None] % 2),
            ):
                stream = io.BytesIO()
                np.save(stream, values)
                info = zipfile.ZipInfo(f"{part}_{what}.npy")
                info.comment = INSIDE.encode()
                archive.writestr(info, stream.getvalue())
        archive.writestr(f"{NAME}.txt", INSIDE)
    return {"layout": "medmnist", "path": str(root)}  # the study names the folder, and not the file


def of_nifti(root):
    generator = np.random.default_rng(1)
    listed = []
    for number in range(12):
        values = generator.integers(0, 200, (16, 16, 16)).astype(np.int16)
        for folder, array in (("imagesTr", values), ("labelsTr", (values > 100).astype(np.uint8))):
            write_volume(array, root / folder / f"{NAME}{number}.nii.gz")
        listed.append({key: f"./{folder}/{NAME}{number}.nii.gz" for key, folder in
                       (("image", "imagesTr"), ("label", "labelsTr"))})  # fmt: skip
    description = {"labels": {"0": "background", "1": "organ"}, "modality": {"0": "CT"}, "training": listed}
    description |= dict.fromkeys(("name", "description", "reference", "licence", INSIDE), INSIDE)
    (root / "dataset.json").write_text(json.dumps(description))
    return {"layout": "decathlon", "path": str(root), "volume_size": [16, 16, 16], "view": "slices"}


MAKERS = {
    "png": lambda root: of_pictures(root, "PNG", "png"),
    "jpeg": lambda root: of_pictures(root, "JPEG", "jpg"),
    "tiff": lambda root: of_pictures(root, "TIFF", "tif"),
    "bmp": lambda root: of_pictures(root, "BMP", "bmp"),
    "dicom": of_dicom,
    "nifti": of_nifti,
    "nnunet": of_nnunet,
    "bids": of_bids,
    "npz": of_npz,
}
SEGMENTED = ("nifti", "nnunet")
SEEN = (INSIDE.encode(), NAME.encode(), b"CANARY")


def canaries_in(content):
    content = content.encode() if isinstance(content, str) else content
    return [canary for canary in SEEN if canary.lower() in content.lower()]


def _around(content, name):
    text = content.decode("latin-1")
    return name, [
        text[max(0, found.start() - 100) : found.end() + 100] for found in re.finditer(f"(?i){NAME}", text)
    ]


@pytest.mark.usefixtures("without_charts")
@pytest.mark.parametrize("kind", family(list(MAKERS)))
def test_nothing_written_in_a_picture_or_its_name_is_in_a_run_or_on_its_terminal(
    wardround, tiny_study, tmp_path, kind
):
    root = tmp_path / "data"
    root.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is planted
        data = MAKERS[kind](root)
    study = tiny_study(
        study={"seed": None}, federation={"rounds": 2}, performance={"cache": str(tmp_path / "cache")},
        data={"phantom": None, **data}, model={"name": "small_unet", "width": 4} if kind in SEGMENTED else {},
    )  # fmt: skip
    path = tmp_path / "study.toml"
    path.write_text(study.to_toml())
    out = tmp_path / "out"
    ended = wardround("run", path, "--out", out, "--json")
    assert ended.code == 0, ended.err
    again = wardround("report", out)
    for said in (ended.out, ended.err, again.out, again.err):
        assert canaries_in(said) == []
    for file in out.rglob("*"):
        assert canaries_in(str(file.relative_to(out))) == []
        assert not file.is_file() or canaries_in(file.read_bytes()) == [], _around(file.read_bytes(), file.name)
    look = ("data", "check", data["path"], "--layout", data["layout"], "--volume-size", 16, 16, 16)
    own_words = (
        INSIDE.encode() if kind in SEGMENTED else b""
    )  # a dataset.json states title and licence, for the card
    as_json, as_text = wardround(*look, "--json"), wardround(*look)
    assert set(canaries_in(as_json.out + as_json.err)) <= {own_words}, "counts and figures, no name"
    assert own_words or INSIDE not in as_text.out + as_text.err
    broken = next(file for file in sorted(root.rglob(f"*{NAME}*.*")) if file.is_file() and file.suffix != ".json")
    broken.write_bytes(broken.read_bytes()[:200] + INSIDE.encode() * 20)
    ended = wardround("run", path, "--out", tmp_path / "failed", "--json")
    assert ended.code == (0 if kind == "dicom" else 2), "a damaged DICOM file is left out, with a note"
    looked = wardround(*look, "--json")
    assert set(canaries_in(looked.out)) <= {own_words}
    for canary in (INSIDE, "CANARY"):
        assert canary not in ended.out + ended.err, "a name may be shown to the hospital itself, a content may not"


def test_nothing_written_in_a_picture_or_its_name_is_in_a_message_of_a_hospital(tmp_path, monkeypatch):
    root = tmp_path / "data"
    root.mkdir()
    of_pictures(root, "PNG", "png")
    folders, _ = make_folders(tmp_path)
    folder = folders[NAMES[0]]
    (folder / "site.toml").write_text(
        f'[hospital]\nname = "{NAMES[0]}"\n[site]\nlayout = "folder"\npath = "{root}"\nskip_unreadable = true\n'
    )
    privacy = {"plan": "dp-sgd", "noise_multiplier": 40.0, "delta": 1e-3, "trust": "nobody", "num_patients": 30}
    study = study_of(privacy, {"rounds": 9})
    weights = np.zeros(32 * 32 * 2 + 2, np.float32)
    said = []
    with open_hospital(
        folder, read_site(folder / "site.toml"), read_policy(folder / "policy.toml"), study
    ) as hospital:

        def ask(round):
            said.append(hospital.answer(encode_request(Request(study.digest, round, 1, GradientSum(weights)))))
            return decode_reply(said[-1], Limits())

        assert not isinstance(ask(1), Failure)

        def broken(*_args, **_kwargs):
            raise RuntimeError(f"{NAME}/{INSIDE} cannot be read")

        monkeypatch.setattr(type(hospital.agent.workbench), "gradient_sums", broken)
        assert isinstance(ask(2), Failure)
        said.append(hospital.answer(struct.pack("<I", 7) + INSIDE.encode()))
    assert len(said) == 3
    assert [canaries_in(reply) for reply in said] == [[], [], []]

"""One export of several modalities: the choice that the sentence names exists, and leaves out the others."""

import pytest

from wardround.config import parse_study
from wardround.errors import DataError
from wardround.hospital.pictures import reader_options
from wardround.images.decode.quiet import QUIET
from wardround.images.findings import by_cause

pytest.importorskip("pydicom")

SHAPE = (3, 3, 2)


@pytest.fixture(scope="module")
def mixed(dicom, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("mixed")
    for number in range(2):
        dicom.volume(tmp_path, f"ct{number}", f"patient {number}", seed=number, modality="CT", shape=SHAPE)
        dicom.volume(tmp_path, f"mr{number}", f"patient {number}", seed=9 + number, modality="MR", shape=SHAPE)
        dicom.picture(tmp_path, f"dx{number}", f"patient {number}", level=40 * number, Modality="DX")
        with QUIET:
            dicom.picture(tmp_path, f"odd{number}", f"patient {number}", level=99 * number, Modality="DOE^JOHN")
    return dicom.labels(tmp_path, "label,patient_id", "ill,patient 0", "well,patient 1")


def test_the_sentence_names_known_modalities_only_and_a_key_that_exists(dicom, mixed):
    with pytest.raises(DataError, match=r"DX 2, another 2\).*CT 4, MR 4\).*`\[data\] modalities`") as error:
        dicom.read(mixed)
    assert error.value.code == "data-modalities"
    assert "DOE" not in str(error.value)


@pytest.mark.parametrize(
    ("chosen", "entries", "volumes", "passed"),
    [(("CT",), 2, True, 8), (("MR", "ct"), 4, True, 4), (("DX",), 2, False, 10)],
)
def test_a_study_chooses(dicom, mixed, chosen, entries, volumes, passed):
    tables = {"study": {"name": "x"}, "data": {"layout": "dicom", "path": str(mixed), "modalities": list(chosen)},
              "model": {"name": "linear"}, "privacy": {"plan": "none"}}  # fmt: skip
    options = reader_options(parse_study(tables))
    listing = dicom.read(mixed, modalities=options.modalities)
    assert (len(listing.entries), listing.volumes) == (entries, volumes)
    cause = f"files of another modality than {' or '.join(map(str.upper, chosen))}"
    assert f"passed over: {cause} ({passed})" in listing.notes
    assert [len(names) for names in by_cause(listing.left_out).values()] == [passed]
    assert any("several modalities: CT 4, MR 4" in note for note in listing.notes) == (len(chosen) > 1)


def test_a_choice_that_nothing_has_is_said(dicom, mixed):
    with pytest.raises(DataError, match=r"files of another modality than US \(12"):
        dicom.read(mixed, modalities=("US",))

"""The bytes that a hospital sends under masks: foreseen, said, recorded, and as long as the page promises."""

import math

import pytest
from safetensors.numpy import load_file
from tests.cases import family
from tests.simulation.runs import run_study

from wardround.agreed.plans import plan_of
from wardround.agreed.upload import MaskedUpload
from wardround.randomness import largest_sample
from wardround.secure_aggregation.integers.ring import Ring
from wardround.secure_aggregation.round.upload import Upload, size_of_upload
from wardround.simulation.estimate import estimate

MASKED = {"sum": "masked", "num_patients": 32}


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

"""The study file: what it refuses, in which words, and what it means."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.errors import raises_code

from wardround.agreed.plans import plan_of
from wardround.config import Study, parse_study, read_study
from wardround.config.data import HospitalsSection, PersonTable
from wardround.config.privacy import PrivateSection
from wardround.config.read import validated
from wardround.errors import StudyError

NOT_PRIVATE = {"plan": "none", "epsilon": None, "delta": None, "clipping_norm": None}
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))  # a lone surrogate is no text


def refusal(raw, code):
    """The sentence of a study that is refused with this code: it names the setting."""
    with raises_code(StudyError, code) as refused:
        plan_of(parse_study(raw))
    return str(refused.value)


def kinds(section):
    """The kinds of a section in a JSON schema: itself, where it is of one kind."""
    return section.get("oneOf", [section])


def leaves(schema):
    """Every key of every section in a JSON schema, with its own schema."""
    for name, section in schema["$defs"].items():
        for kind in kinds(section):
            for key, field in kind["properties"].items():
                yield f"{name}.{key}", field


@pytest.mark.parametrize(
    ("section", "key", "nearest"),
    [
        ("privacy", "epsilom", "did you mean epsilon?"),
        ("privacy", "noise_multiplyer", "did you mean noise_multiplier?"),
        ("federation", "round", "did you mean rounds?"),
        ("data", "imagesize", "did you mean image_size?"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(tiny, section, key, nearest):
    assert f"unknown key {section}.{key} ({nearest})" in refusal(tiny(**{section: {key: 1}}), "study-unknown-key")


def test_an_unknown_section_is_refused_with_the_nearest_known_one(tiny):
    assert "unknown key hospital (did you mean hospitals?)" in refusal(
        tiny() | {"hospital": {}}, "study-unknown-key"
    )


def test_an_unknown_key_of_a_section_in_a_section_is_refused(tiny):
    raw = tiny()
    raw["data"]["phantom"]["patient"] = 3
    assert "unknown key site.phantom.patient (did you mean patients?)" in refusal(raw, "study-unknown-key")


def test_a_key_like_no_other_is_refused_with_all_known_ones(tiny):
    assert "unknown key study.qqq (known here: name, description, seed)" in refusal(
        tiny(study={"qqq": 1}), "study-unknown-key"
    )


@pytest.mark.parametrize(
    "privacy",
    [{"epsilon": 8.0, "noise_multiplier": 1.0}, {"epsilon": None, "noise_multiplier": None}],
    ids=["both", "neither"],
)
def test_exactly_one_of_epsilon_and_noise_multiplier_is_given(tiny, privacy):
    refusal(tiny(privacy=privacy), "study-epsilon-or-noise")


def test_either_of_epsilon_and_noise_multiplier_alone_is_enough(tiny):
    for values in ((8.0, None), (None, 1.0)):
        privacy = parse_study(
            tiny(privacy=dict(zip(("epsilon", "noise_multiplier"), values, strict=True)))
        ).privacy
        assert isinstance(privacy, PrivateSection)
        assert (privacy.epsilon, privacy.noise_multiplier) == values


def test_a_private_study_needs_a_delta(tiny):
    refusal(tiny(privacy={"delta": None}), "study-delta")


@pytest.mark.parametrize("given", ["epsilon", "noise_multiplier"])
def test_a_study_without_privacy_promises_nothing(tiny, given):
    assert parse_study(tiny(privacy=NOT_PRIVATE)).privacy.plan == "none"
    assert given in refusal(tiny(privacy=NOT_PRIVATE | {given: 1.0}), "study-no-promise")


def test_the_epsilon_of_a_study_without_privacy_is_infinity(tiny_study):
    from wardround.simulation.estimate import estimate

    found = estimate(tiny_study(privacy=NOT_PRIVATE))
    assert found.statement.epsilon == math.inf
    assert found.to_json()["epsilon"] == "infinity"


@pytest.mark.parametrize(
    ("section", "values", "place"),
    [
        ("privacy", {"epsilon": 0}, "privacy.epsilon"),
        ("privacy", {"epsilon": -1}, "privacy.epsilon"),
        ("privacy", {"epsilon": math.inf}, "privacy.epsilon"),
        ("privacy", {"epsilon": math.nan}, "privacy.epsilon"),
        ("privacy", {"delta": 0}, "privacy.delta"),
        ("privacy", {"delta": 1}, "privacy.delta"),
        ("privacy", {"sampling_prob": 0}, "privacy.sampling_prob"),
        ("privacy", {"sampling_prob": 1.01}, "privacy.sampling_prob"),
        ("privacy", {"clipping_norm": 0}, "privacy.clipping_norm"),
        ("privacy", {"clipping_norm": math.inf}, "privacy.clipping_norm"),
        ("privacy", {"images_per_patient": 0}, "privacy.images_per_patient"),
        ("privacy", {"unit": "image"}, "privacy.unit"),
        ("privacy", {"trust": "everybody"}, "privacy.trust"),
        ("federation", {"rounds": 0}, "federation.rounds"),
        ("federation", {"learning_rate": "fast"}, "federation.learning_rate"),
        ("federation", {"compare": ["pool"]}, "federation.compare.0"),
        ("hospitals", {"count": 0}, "hospitals.count"),
        ("performance", {"threads": 0}, "performance.threads"),
        ("performance", {"threads": 10**12}, "performance.threads"),
        ("study", {"name": "../elsewhere"}, "study.name"),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_name(tiny, section, values, place):
    assert place in refusal(tiny(**{section: values}), "study-value")


def test_a_missing_key_is_refused_by_its_name(tiny):
    assert "study.name" in refusal(tiny(study={"name": None}), "study-missing-key")


def test_several_mistakes_are_reported_together(tiny):
    wrong = tiny(privacy={"delta": 2, "epsilom": 1}, data={"image_size": 1}, model={"name": "cnn"})
    message = refusal(wrong, "study-several")
    for place in ("privacy.delta", "privacy.epsilom", "data.image_size", "model.name"):
        assert place in message
    assert message.count(";") == 3, "one part a mistake"
    assert "\n" not in message


@pytest.mark.parametrize(
    ("sections", "code"),
    [
        ({"federation": {"local_steps": 2}}, "study-strategy-key"),
        ({"federation": {"strategy": "fedavg"}}, "study-plan-strategy"),
        (
            {"federation": {"strategy": "fedavg"}, "privacy": {"trust": "nobody", "clipping": "adaptive"}},
            "study-plan-strategy",
        ),
        ({"privacy": {"colluders": 2, "dropouts": 1}}, "study-honest-hospital"),
        ({"hospitals": {"scheme": "sizes"}}, "study-sizes"),
        ({"hospitals": {"sizes": [9, 9, 9]}}, "study-sizes"),
        ({"hospitals": {"scheme": "sizes", "sizes": [9, 9]}}, "study-sizes-count"),
        ({"model": {"encoder": "efficientnet-lite0"}}, "study-encoder"),
        ({"model": {"name": "small_cnn", "train": "lora", "standardise_weights": True}}, "study-lora"),
        ({"model": {"name": "features", "moments": "generated"}}, "study-encoder"),
        ({"model": {"name": "features", "encoder": "hog", "moments": "generated"}}, "study-encoder"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(tiny, sections, code):
    refusal(tiny(**sections), code)


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"study": {"seed": None, "description": 'Umlaute äöü, "quotes", \\ and a lung 🫁.'}},
        {"hospitals": {"scheme": "sizes", "sizes": [5, 6, 7]}},
        {"federation": {"compare": ["pooled", "alone-no-privacy"], "average_last": 0.25}},
        {"privacy": {"epsilon": None, "noise_multiplier": 1e-2, "delta": 1e-12}},
        {"privacy": NOT_PRIVATE},
    ],
)
def test_a_study_written_and_read_again_is_the_same(tiny_study, tmp_path, sections):
    study = tiny_study(**sections)
    path = tmp_path / "study.toml"
    path.write_text(study.to_toml(), encoding="utf-8")
    assert read_study(path) == study


@given(description=ANY_TEXT)
def test_any_description_survives_the_round_trip(tiny, tmp_path_factory, description):
    study = parse_study(tiny(study={"description": description}))
    path = tmp_path_factory.getbasetemp() / "any-description.toml"
    path.write_bytes(study.to_toml().encode())
    assert read_study(path).study.description == description


def test_the_digest_depends_neither_on_speed_nor_on_where_files_lie(tiny):
    digest = parse_study(tiny(model={"weights": "/here/start.safetensors"})).digest
    for elsewhere in (
        {"performance": {"threads": 2, "device": "cpu", "memory_gb": 9.0, "cache": "/there"}},
        {"data": {"path": "/there"}},
        {"privacy": {"ledger": "/there/ledger.sqlite"}},
        {"model": {"weights": "/there/start.safetensors"}},
    ):
        same = tiny(**{"model": {"weights": "/here/start.safetensors"}} | elsewhere)
        assert parse_study(same).digest == digest


def test_the_digest_depends_on_everything_else(tiny):
    variants: list[dict[str, dict[str, object]]] = [
        {},
        {"study": {"seed": None}},
        {"study": {"seed": 8}},
        {"data": {"test_fraction": 0.3}},
        {"hospitals": {"count": 4}},
        {"model": {"init_seed": 1}},
        {"model": {"weights": "other.safetensors"}},
        {"model": {"name": "features"}},
        {"model": {"name": "features", "encoder": "efficientnet-lite0"}},
        {"model": {"name": "features", "encoder": "efficientnet-lite0-all"}},
        {"model": {"name": "features", "encoder": "efficientnet-lite0", "moments": "chest-xray"}},
        {"privacy": {"epsilon": 7.0}},
        {"privacy": {"clipping_norm": 1.0}},
        {"federation": {"rounds": 5}},
    ]
    assert len({parse_study(tiny(**variant)).digest for variant in variants}) == len(variants)


def test_the_digest_has_the_hashes_of_a_backbone(tiny, monkeypatch):
    """Two hospitals whose releases have other public constants have two studies."""
    raw = tiny(model={"name": "features", "encoder": "efficientnet-lite0"})
    digest = parse_study(raw).digest
    monkeypatch.setattr("wardround.models.backbones.names.MOMENTS_SHA256", "1" * 64)
    assert parse_study(raw).digest != digest


def test_relative_paths_are_resolved_against_the_file(tiny_study, tmp_path, monkeypatch):
    folder = tmp_path / "studies"
    folder.mkdir()
    path = folder / "study.toml"
    study = tiny_study(
        data={"path": "pictures"}, model={"weights": "../start.safetensors"}, privacy={"ledger": "ledger.sqlite"},
        performance={"cache": "/elsewhere/cache"},
    )  # fmt: skip
    path.write_text(study.to_toml())
    monkeypatch.chdir("/")
    read = read_study(path)
    assert read.site.path == folder / "pictures"
    assert read.model.weights == tmp_path / "start.safetensors"
    assert read.privacy.ledger == folder / "ledger.sqlite"
    assert str(read.performance.cache) == "/elsewhere/cache"


def test_overrides_are_laid_over_the_file(study_file):
    read = read_study(study_file(), {"data": {"path": "/there"}})
    assert str(read.site.path) == "/there"
    assert read.data.image_size == 16


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "study-missing-key"),
        (b"[study\nname", "study-no-toml"),
        (b"\xff\xfe\x00", "study-unreadable"),
        (b"data = 3", "study-several"),
    ],
    ids=["empty", "no TOML", "no text", "no section"],
)
def test_a_file_that_is_no_study_is_refused_with_its_name(tmp_path, content, code):
    path = tmp_path / "odd.toml"
    path.write_bytes(content)
    with raises_code(StudyError, code) as refused:
        read_study(path, {"data": {"path": "/there"}})
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("where", ["site", "data"])
@pytest.mark.parametrize("value", ["merge", "keep", "refuse"])
def test_duplicates_of_an_earlier_file_is_gone_in_one_sentence(tiny, where, value):
    with raises_code(StudyError, "study-duplicates") as refused:
        parse_study(tiny(**{where: {"duplicates": value}}))
    assert "remove duplicates, and join persons by patients = {table" in str(refused.value)


@pytest.mark.parametrize(
    ("patients", "code"),
    [
        ({"pattern": "person[0-9]+"}, "study-pattern"),
        ({"pattern": "("}, "study-pattern"),
        ("one-per-patient", "study-patients"),
        ({"pattern": "(a)", "table": "b.csv"}, "study-patients"),
        ({}, "study-patients"),
        (True, "study-patients"),
    ],
)
def test_a_way_to_name_persons_is_one_of_three(tiny, patients, code):
    with raises_code(StudyError, code) as refused:
        parse_study(tiny(site={"patients": patients}))
    assert "site.patients: pat" in str(refused.value)


@pytest.mark.parametrize(
    "patients", ["one-per-picture", {"pattern": r"^p(?P<who>\d+)_"}, {"table": "/there/p.csv"}]
)
def test_ways_to_name_persons_survive_the_resolved_file(tiny_study, tmp_path, patients):
    study = tiny_study(site={"patients": patients, "leave_out": ["nan", "-1"]})
    path = tmp_path / "study.toml"
    path.write_text(study.to_toml(), encoding="utf-8")
    assert read_study(path) == study
    assert "unit" not in study.to_toml()


def test_a_table_of_persons_lies_beside_the_study(tiny_study, tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(tiny_study(site={"patients": {"table": "persons.csv"}}).to_toml())
    study = read_study(path)
    assert study.site.patients == PersonTable(table=tmp_path / "persons.csv")
    elsewhere = study.model_copy(update={"site": study.site.relative_to(tmp_path / "x")})
    assert study.run_digest == elsewhere.run_digest


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with raises_code(StudyError, "study-no-file"):
        read_study(tmp_path / "none.toml")
    with raises_code(StudyError, "study-unreadable"):
        read_study(tmp_path)


@pytest.mark.parametrize(
    ("more", "said"), [({}, "provenance is missing"), ({"hash": ""}, "unknown key model.own")]
)
def test_a_fault_in_a_section_that_may_be_left_out_is_named(tiny_study, more, said):
    raw = tiny_study().model_dump(mode="json", exclude_unset=True)
    raw["model"] = {"name": "features", "own_encoder": {"file": "a.onnx", "sha256": "0" * 64, **more}}
    with pytest.raises(StudyError, match=said):
        parse_study(raw)


def test_the_schema_explains_every_key():
    schema = Study.model_json_schema()
    json.dumps(schema, allow_nan=False)
    silent = [name for name, field in leaves(schema) if not field.get("description") and "$ref" not in field]
    # The sections themselves, and the plan or strategy that each is about, are explained by their class.
    told = ("Study.", "SiteSection.phantom")
    tags = (".plan", ".strategy")
    assert [name for name in silent if not name.startswith(told) and not name.endswith(tags)] == []
    assert all(kind["description"] for section in schema["$defs"].values() for kind in kinds(section))
    assert schema["additionalProperties"] is False


EARLIER = {
    "privacy": {
        "plan": "dp-sgd", "unit": "patient", "epsilon": 8.0, "delta": 0.001, "clipping_norm": 0.5,
        "answer_threshold": 0.0, "values_share": 0.5, "regularisation": 0.01, "clipping": "flat",
        "clipping_quantile": 0.5, "sampling_prob": 1.0, "images_per_patient": 8, "accountant": "rdp",
        "trust": "secure-aggregation", "colluders": 1, "dropouts": 0, "sum": "masked", "rounding": "patient",
    },
    "federation": {
        "strategy": "fedsgd", "rounds": 3, "local_steps": 1, "learning_rate": 1.0, "momentum": 0.9,
        "optimizer_state": "reset", "average_last": 0.0, "fraction": 1.0, "server_optimizer": "momentum",
        "server_learning_rate": 1.0, "server_momentum": 0.0, "proximal": 0.01, "repair": "none",
        "timetable_seed": 0, "staleness": 10, "staleness_power": 0.5, "mixing": 0.6, "download_fraction": 1.0,
        "upload_fraction": 0.1, "selection": "largest", "threshold": 0.0, "truncation": 0.001, "counter_decay": 1.0,
        "turns": "fixed", "evaluate_every": 2, "compare": [],
    },
}  # fmt: skip
"""What an earlier version wrote into a run's folder: every key of every kind, most at their defaults."""


def test_a_resolved_study_of_an_earlier_version_is_read(tiny):
    short = tiny(hospitals={"count": 3}) | {
        "privacy": {key: EARLIER["privacy"][key] for key in ("plan", "epsilon", "delta", "accountant", "sum")}
        | {"clipping_norm": 0.5},
        "federation": {"rounds": 3, "evaluate_every": 2},
    }
    assert parse_study(tiny(hospitals={"count": 3}) | EARLIER) == parse_study(short)


@pytest.mark.parametrize("rounding", ["sum", 3])
def test_rows_are_rounded_patient_by_patient_alone(tiny, rounding):
    raw = tiny(hospitals={"count": 3}) | EARLIER
    raw["privacy"] = raw["privacy"] | {"rounding": rounding}
    assert "remove rounding" in refusal(raw, "study-rounding")


@pytest.mark.parametrize("names", [["north", "North"], ["St. Anna", "St.Anna"], ["a b", "AB"]])
def test_hospitals_whose_names_read_alike_are_refused(names):
    with raises_code(StudyError, "study-names-alike"):
        validated(HospitalsSection, {"count": 2, "names": names}, "hospitals")

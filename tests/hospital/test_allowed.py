"""A hospital's policy: every key forbids a study that the same policy without it allows, with a code of its own."""

from datetime import datetime

import pytest
from tests.errors import raises_code
from tests.hospital.deployed import make_folders, open_from, study_of

from wardround.agreed.plans import plan_of
from wardround.config.site import read_policy, read_site
from wardround.errors import PrivacyError, StudyError
from wardround.hospital.accepted import accept, accepted_digests, read_accepted
from wardround.hospital.allowed import check_metrics, quiet_for, refusals

DPSGD = {"plan": "dp-sgd", "noise_multiplier": 2.0, "delta": 1e-3, "num_patients": 36, "spare_attempts": 1}
ALONE = DPSGD | {"trust": "nobody"}
MASKED = DPSGD | {"sum": "masked", "colluders": 1}
ROUNDS = {"rounds": 2}
ADAPTIVE = ALONE | {"clipping": "adaptive"}
RULES = {
    "delta": (ALONE, "delta = 1e-4", "delta = 1e-3"),
    "most-epsilon": (ALONE, "most_epsilon = 1.0", "most_epsilon = 20.0"),
    "greatest-clip": (ALONE, "greatest_clipping_norm = 0.5", "greatest_clipping_norm = 1.0"),
    "greatest-clip, of the last round": (ADAPTIVE, "greatest_clipping_norm = 1.1", "greatest_clipping_norm = 1.2"),
    "spare": (ALONE, "most_spare_attempts = 0", "most_spare_attempts = 1"),
    "threads": (ALONE, "threads = 1", "threads = 2"),
    "least-hospitals": (ALONE, "least_hospitals = 4", "least_hospitals = 3"),
    "least-colluders": (MASKED, "least_colluders = 2", "least_colluders = 1"),
    "least-patients": (ALONE, "least_patients = 37", "least_patients = 36"),
    "least-noise": (ALONE, "least_noise_multiplier = 2.1", "least_noise_multiplier = 2.0"),
    "plan": (ALONE, 'plans = ["clipped-update"]', 'plans = ["clipped-update", "dp-sgd"]'),
    "trust": (ALONE, 'trusts = ["secure-aggregation"]', 'trusts = ["nobody"]'),
    "network": (ALONE, 'networks = ["small_cnn"]', 'networks = ["linear"]'),
}


@pytest.fixture
def north(tmp_path):
    return make_folders(tmp_path)[0]["north"]


def own(folder):
    return read_site(folder / "site.toml"), read_policy(folder / "policy.toml")


def accepted(folder, study, by="a person"):
    site, policy = own(folder)
    return accept(folder, site, policy, study, by=by)


def say(folder, line):
    delta = "" if line.startswith("delta") else "delta = 1e-3\n"
    (folder / "policy.toml").write_text(f"[policy]\nepsilon_limit = 50.0\n{delta}{line}\n")


def study(privacy=ALONE, **sections):
    return study_of(privacy, ROUNDS, **sections).model_copy(
        update={"performance": study_of(privacy, ROUNDS).performance.model_copy(update={"threads": 2})}
    )


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_forbids_a_study_before_it_is_accepted_or_opened(north, rule):
    privacy, forbidding, allowing = RULES[rule]
    asked = study(privacy)
    say(north, forbidding)
    code = f"privacy-policy-{rule.partition(',')[0]}"
    with raises_code(PrivacyError, code):
        accepted(north, asked)
    with raises_code(PrivacyError, code), open_from(north, asked):
        pass
    assert not accepted_digests(north)
    assert not (north / "ledger.sqlite").exists()
    say(north, allowing)
    accepted(north, asked)


def test_weights_are_allowed_by_their_hash(north):
    one, other = "1" * 64, "2" * 64
    model = {"weights": "/weights.safetensors", "weights_sha256": one}
    say(north, f'weights = ["{other}"]')
    with raises_code(PrivacyError, "privacy-policy-weights"):
        accepted(north, study(model=model))
    say(north, f'weights = ["{other}", "{one}"]')
    accepted(north, study(model=model))


@pytest.mark.parametrize("line", ['plans = ["dp-sdg"]', 'networks = ["liner"]'])
def test_a_name_that_is_none_is_refused_when_the_policy_is_read(north, line):
    say(north, line)
    with raises_code(StudyError, "study-policy-name"):
        own(north)


def test_an_accepted_study_is_the_study_that_is_read(north):
    asked = study()
    path = accepted(north, asked, by='Dr. "North"')
    assert read_accepted(north, asked.digest).digest == asked.digest
    assert path.stat().st_mode & 0o777 == 0o600
    assert accepted_digests(north) == (asked.digest,)


def test_a_study_that_was_changed_after_it_was_accepted_is_refused(north):
    path = accepted(north, study())
    path.write_text(path.read_text().replace("noise_multiplier = 2.0", "noise_multiplier = 0.2"))
    with raises_code(StudyError, "study-accepted-changed"):
        read_accepted(north, study().digest)


@pytest.mark.parametrize("digest", ["0" * 64, "../site", "", "policy"])
def test_another_study_was_not_accepted(north, digest):
    accepted(north, study())
    with raises_code(StudyError, "study-not-accepted"):
        read_accepted(north, digest)


@pytest.mark.parametrize(
    ("asked", "kind", "code"),
    [
        (study(DPSGD | {"sum": "simulated"}), PrivacyError, "privacy-not-deployable"),
        (study(hospitals={"count": 2, "names": ["west", "east"]}), StudyError, "study-hospital-names"),
    ],
    ids=["in the open", "of others"],
)
def test_a_study_that_this_hospital_could_not_answer_is_not_accepted(north, asked, kind, code):
    with raises_code(kind, code):
        accepted(north, asked)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("accept_by_rule = true", "study-policy-accept"),
        ('quiet_hours = ["07:00", "07:00"]', "study-policy-quiet"),
        ('quiet_hours = ["7:00", "24:00"]', "study-value"),
        ('coordinators = ["abc"]', "study-value"),
    ],
)
def test_a_rule_that_does_not_hold_is_refused_when_the_policy_is_read(north, line, code):
    say(north, line)
    with raises_code(StudyError, code):
        own(north)


LEVELS = ("none", "noised", "unprotected")


@pytest.mark.parametrize("allowed", LEVELS)
@pytest.mark.parametrize("asked", LEVELS)
def test_metrics_leave_up_to_the_level_that_the_policy_says(north, allowed, asked):
    say(north, f'metrics = "{allowed}"')
    if LEVELS.index(asked) <= LEVELS.index(allowed):
        check_metrics(asked, own(north)[1])
        return
    with raises_code(PrivacyError, "privacy-policy-metrics"):
        check_metrics(asked, own(north)[1])


def test_no_metric_leaves_by_default(north):
    assert own(north)[1].policy.metrics == "none"


@pytest.mark.parametrize(
    ("hours", "at", "seconds"),
    [
        (("07:00", "18:30"), (6, 59, 59), 0),
        (("07:00", "18:30"), (7, 0, 0), 11 * 3600 + 1800),
        (("07:00", "18:30"), (18, 29, 59), 1),
        (("07:00", "18:30"), (18, 30, 0), 0),
        (("22:00", "06:00"), (23, 0, 0), 7 * 3600),
        (("22:00", "06:00"), (5, 59, 30), 30),
        (("22:00", "06:00"), (6, 0, 0), 0),
        (("22:00", "06:00"), (21, 59, 0), 0),
    ],
)
def test_quiet_hours_end_in_so_many_seconds(north, hours, at, seconds):
    say(north, f"quiet_hours = {list(hours)}".replace("'", '"'))
    assert quiet_for(own(north)[1], datetime(2026, 1, 5, *at)) == seconds


def test_a_clip_that_may_rise_beyond_every_number_is_refused_by_its_rule_alone(north):
    asked = study_of(ADAPTIVE | {"clipping_quantile": 1.0, "noise_multiplier": 2000.0}, {"rounds": 9000})
    _, policy = own(north)
    codes = [refusal.code for refusal in refusals(asked, plan_of(asked), policy)]
    assert "privacy-policy-greatest-clip" not in codes, "no greatest clip was named"
    say(north, "greatest_clipping_norm = 1e9")
    _, policy = own(north)
    codes = [refusal.code for refusal in refusals(asked, plan_of(asked), policy)]
    assert "privacy-policy-greatest-clip" in codes

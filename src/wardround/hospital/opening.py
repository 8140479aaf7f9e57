"""A hospital opened from its own files: `site.toml`, `policy.toml`, and a study it agreed to.

    folder/    site.toml  policy.toml  identity.pem (mode 0600)  pins.toml  coordinators.toml  ledger.sqlite
              memory/DIGEST/ (of each study)  cache/  accepted/  finished/  evaluation/

It reads its own pictures, computes its own digest, and keeps its own ledger and keys; of other hospitals it has names
and public keys. Patients are set aside for testing by their own ids (`hospital.examined`), the others train.

Released: nothing. What a hospital refuses, it refuses here, before a request comes and before anything is charged.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from wardround import __version__
from wardround.agreed.masks import agreement_of
from wardround.agreed.network import build_network
from wardround.agreed.plans import plan_of
from wardround.agreed.strategies import asked_by, timetable_of
from wardround.boundary.documents import Unfit, decoded, read_regular
from wardround.boundary.private import make_private_folder
from wardround.config import Study
from wardround.config.site import PolicyFile, Site
from wardround.errors import DataError, PrivacyError, StudyError
from wardround.hospital.agent import Agent
from wardround.hospital.allowed import check_allowed
from wardround.hospital.charged import open_accounts, run_of
from wardround.hospital.examined.patients import examined_of, set_aside
from wardround.hospital.hospital import Hospital
from wardround.hospital.kept.memory import Memory
from wardround.hospital.kept.notes import Notes
from wardround.hospital.kept.replies import Replies, heads_in
from wardround.hospital.masked import MaskedRounds
from wardround.hospital.pictures import device_of, read_images, workbench_of
from wardround.hospital.policy import Policy
from wardround.images.group import digest_of
from wardround.images.identity import folded
from wardround.images.patients import ImageSet
from wardround.ledger.entry import LimitSet
from wardround.ledger.file import LedgerFile
from wardround.noisers import ByEachHospital
from wardround.privacy.plans.kinds import NoisedPictures, NothingTrained
from wardround.privacy.plans.plan import Plan
from wardround.randomness import Randomness
from wardround.secure_aggregation.keys.identity import Identity, SigningKey
from wardround.secure_aggregation.keys.pins import Pins
from wardround.training.patients import training_patients
from wardround.types import HospitalName, PatientId, Persons

_MOST_LIST_BYTES = 64_000_000
_log = logging.getLogger("wardround.hospital")


@contextmanager
def open_hospital(folder: Path, site: Site, policy: PolicyFile, study: Study) -> Iterator[Hospital]:
    """Opens a hospital for one study, and closes its ledger at the end.

    Args:
        folder: of the hospital, with `identity.pem`; for masked sums `pins.toml` as well (`wardround keys`).
        site: what it holds.
        policy: what it allows.
        study: the study it agreed to.

    Guarantee:
        The plan's, for every request: `Agent.agrees` checks, the ledger is charged, then the answer leaves.

    Raises:
        StudyError: the study has a seed and the pictures are real, leaves its classes or the hash of its weights out,
            or does not name this hospital.
        DataError: a class that the study does not have, or pictures that name no patient where the site does not say
            that no person has two.
        PrivacyError: the plan's noise is not in what this hospital sends, or its delta is above the policy's.
        WardroundError: pictures, network, keys or ledger that do not hold.
    """
    plan, name = plan_of(study), HospitalName(site.hospital.name)
    check_deployable(study, plan, site)
    check_allowed(study, plan, policy)
    position = check_named(study, site)
    own = of_hospital(study, site, folder)
    device_of(own)  # refused before a picture is read
    images = own_images(own, site)
    for note in images.findings.notes:
        _log.warning("%s: %s", name, note)
    network = build_network(
        own, target=images.target, num_classes=len(images.class_names), shape=images.pixels.shape[1:]
    )
    workbench = workbench_of(own, images, network)
    with LedgerFile(folder / "ledger.sqlite", version=__version__) as ledgers:
        for head in heads_in(folder / "memory"):
            ledgers.check_contains(head)
        set_limit(ledgers, policy)
        _check_known(ledgers, [patient.id for patient in images.patients], policy)
        with ledgers.transaction():  # a study that is refused in here keeps nothing of its patients' budget back
            training, tested = set_aside(images.patients, study)
            persons = [patient.id for patient in training]
            examined = examined_of(ledgers, study, plan, name, tested, folder, images)
            if isinstance(plan.training, NothingTrained):
                assert examined.account is not None, "a plan that trains nothing noises its evaluation"
                account, patients, persons = examined.account, [], []
            else:
                run = run_of(study, images.digest, study.digest)
                [account] = open_accounts(ledgers, study, plan, {name: persons}, run).values()
                patients = [patient for patient, is_in in zip(training, account.admitted, strict=True) if is_in]
            if len(patients) < len(persons):
                _log.warning(
                    "%d patients are left out: they cannot afford this study", len(persons) - len(patients)
                )
            agent = Agent(
                name=name,
                patients=training_patients(patients, study.privacy.images_per_patient),
                plan=plan,
                policy=Policy(
                    study.digest,
                    asked_by(study, plan),
                    study.rounds,
                    timetable_of(study).visited(position, study.rounds),
                    study.privacy.spare,
                ),
                account=account,
                randomness=Randomness(study.study.seed, f"{study.stream_name}/main"),
                workbench=workbench,
                memory=Memory(folder / "memory" / study.digest),
                num_classes=len(images.class_names),
                examined=examined,
            )
            identity = read_identity(folder, name)
            masked = None
            if plan.masked is not None:
                masked = _masked_rounds(folder, agent, identity, study, plan)
            replies = Replies(folder / "memory" / study.digest)
            hospital = Hospital(agent, tuple(images.class_names), masked, identity, replies, folder)
        yield hospital


def of_hospital(study: Study, site: Site, folder: Path) -> Study:
    """Returns the study with the hospital's own site and cache, which are in no digest."""
    cache = study.performance.model_copy(update={"cache": folder / "cache"})
    return study.model_copy(update={"site": site.site, "performance": cache})


def own_images(own: Study, site: Site) -> ImageSet:
    """Returns the pictures of the hospital's cohort.

    A patient takes part by the hospital's own list of ids: leaving one out changes nothing for another.

    Raises:
        DataError: pictures that name no patient, a cohort that cannot be read, or one that has none of the patients.
    """
    images = read_images(own)
    if images.persons is Persons.UNNAMED:
        raise DataError(
            "A hospital must know whose its pictures are, and its pictures name no patient: the study's promise to one "
            'patient would be to one picture. Name them by `[site] patients` in site.toml, or set "one-per-picture".',
            code="data-unnamed",
        )
    listed = cohort_of(site)
    if listed is None:
        return images
    patients = tuple(patient for patient in images.patients if patient.id in listed)
    if not patients:
        raise DataError(
            f"`[hospital] cohort` must list patients who have pictures, and {site.hospital.cohort} lists none of "
            f"{len(images.patients)}. Write their ids as the layout names them, one a line.",
            code="data-cohort",
        )
    return replace(images, patients=patients, digest=digest_of(patients))


def cohort_of(site: Site) -> frozenset[str] | None:
    """Returns the ids of the patients who take part in studies; None for everybody.

    Raises:
        DataError: the list cannot be read.
    """
    path = site.hospital.cohort
    if path is None:
        return None
    try:
        return frozenset(map(folded, decoded(read_regular(path, _MOST_LIST_BYTES)).splitlines()))
    except (OSError, Unfit) as error:
        raise DataError(
            f"`[hospital] cohort` must be a readable text file of patient ids, got {path} ({error}). Correct "
            "site.toml.",
            code="data-cohort",
        ) from None


def set_limit(ledger: LedgerFile, policy: PolicyFile) -> None:
    """Takes the first limit of a hospital's ledger from its policy; from then on a person changes it, with a reason.

    Raises:
        StudyError: policy and ledger name different limits.
    """
    section = policy.policy
    if ledger.limit is None and not ledger.position()[0]:
        ledger.set_limit(section.epsilon_limit, section.delta, by="policy.toml", reason="the first limit")
    _check_limit(ledger.limit, policy, ledger.path)


def check_still_allowed(folder: Path, hospital: Hospital, policy: PolicyFile, study: Study) -> None:
    """Refuses a study that is open, where the hospital's files have come to forbid it since.

    Args:
        folder: of the hospital.
        hospital: open for the study.
        policy: as it is now.
        study: as it is accepted now.

    Raises:
        PrivacyError: the policy forbids the study.
        StudyError: policy and ledger name different limits, or the key of another hospital is pinned no more.
    """
    check_allowed(study, hospital.agent.plan, policy)
    _check_limit(hospital.agent.account.limit, policy, folder / "ledger.sqlite")
    if hospital.masked is not None:
        _check_pinned(folder, Pins.read(folder / "pins.toml"), hospital.masked.pins.keys)


def _check_limit(known: LimitSet | None, policy: PolicyFile, ledger: Path) -> None:
    section = policy.policy
    if known is None or (known.epsilon, known.delta) != (section.epsilon_limit, section.delta):
        said = (
            "none" if known is None else f"epsilon {known.epsilon:g} at delta {known.delta:g}, set by {known.by}"
        )
        raise StudyError(
            f"`[policy] epsilon_limit` and `delta` must be those of the hospital's ledger ({said}), got "
            f"{section.epsilon_limit:g} at {section.delta:g}; correct policy.toml, or set the limit with: wardround "
            f"ledger set-limit --ledger {ledger}.",
            code="study-policy-limit",
        )


def _check_pinned(folder: Path, pins: Pins, others: Mapping[str, bytes | None]) -> None:
    """Refuses a study whose other hospitals are not all pinned, with the keys of `others` where they are known."""
    for name, key in others.items():
        if name not in pins.keys or key not in (None, pins.keys[name]):
            raise StudyError(
                f"The key of {name} must be pinned, and {folder / 'pins.toml'} has none, or has another than the open "
                f"study. Pin it with: wardround consortium pin ANSWER --home {folder}; then restart the agent.",
                code="study-no-pin",
            )


def _check_known(ledger: LedgerFile, persons: list[PatientId], policy: PolicyFile) -> None:
    """Stops where most patients are strangers to a ledger that knows others: their ids may have been renamed.

    Raises:
        StudyError: the hospital has not said that they are new.
    """
    known = ledger.is_known(persons)
    if not ledger.book().parts or known.sum() * 2 >= len(persons) or policy.policy.new_patients:
        return
    raise StudyError(
        f"Most patients must be known to the hospital's ledger, which has had studies before, and "
        f"{int((~known).sum())} of {len(persons)} are new: were their ids renamed? Then what "
        "they spent would be forgotten: restore the ids. "
        "Only if these are other persons, set `[policy] new_patients = true`.",
        code="study-renamed-patients",
    )


def check_deployable(study: Study, plan: Plan, site: Site) -> None:
    """Refuses a study whose promise would not hold over a wire.

    Raises:
        StudyError: a seed on real pictures (noise and sampling could be computed by any party that has the study), no
            list of classes, or weights without their hash.
        PrivacyError: noise that is added elsewhere, or a sum that is formed in the open.
    """
    if study.study.seed is not None and site.site.layout != "phantom":
        raise StudyError(
            "`[study] seed` must be left out between real hospitals (got one): noise and sampling could be recomputed. "
            "Remove it.",
            code="study-seed",
        )
    if study.data.classes is None:
        raise StudyError(
            "`[data] classes` must name the classes, in order, between real hospitals, and is not given: each would "
            "number its own. Name them.",
            code="study-no-classes",
        )
    if study.model.weights is not None and study.model.weights_sha256 is None:
        raise StudyError(
            "`[model] weights_sha256` must be given with `weights` between real hospitals, and is not: a file's name "
            "does not say what is in it. Give what `sha256sum` prints.",
            code="study-weights-sha256",
        )
    if isinstance(plan.training, NoisedPictures):
        raise PrivacyError(
            "A hospital must noise its pictures before it trains on them, and only a simulation does so yet. Use "
            "another `[privacy] plan`.",
            code="privacy-not-deployable",
        )
    if plan.masked is None and not (plan.is_private and isinstance(plan.noiser, ByEachHospital)):
        raise PrivacyError(
            "A hospital must send its answers under masks or with all of their noise, and "
            f'plan = "{study.privacy.plan}" with trust = "{plan.trust}" has neither. '
            'Set `[privacy] sum = "masked"`, or trust = "nobody".',
            code="privacy-not-deployable",
        )


def check_named(study: Study, site: Site) -> int:
    """Returns the hospital's position among those of the study.

    Raises:
        StudyError: the study does not name it.
    """
    names, name = study.hospitals.names or (), site.hospital.name
    if name not in names:
        raise StudyError(
            f"`[hospitals] names` must have this hospital, {name}, and has {list(names)}; ask the coordinator for the "
            "study file with all names.",
            code="study-hospital-names",
        )
    return names.index(name)


def read_identity(folder: Path, name: HospitalName) -> Identity:
    """Returns the hospital's key, which signs its receipts and seals the head of its ledger in them."""
    path = folder / "identity.pem"
    if not path.exists():
        raise StudyError(
            f"A hospital needs its own signing key, and {path} is missing. Make it with: wardround consortium accept"
            f" INVITATION --home {folder}.",
            code="study-no-key",
        )
    return Identity(name, SigningKey.read(path))


def _masked_rounds(folder: Path, agent: Agent, identity: Identity, study: Study, plan: Plan) -> MaskedRounds:
    """Returns the hospital's side of masked rounds, with the keys of the others that it pinned."""
    pins = Pins.read(folder / "pins.toml")
    others = [other for other in study.hospitals.names or () if other != agent.name]
    _check_pinned(folder, pins, dict.fromkeys(others))
    if unheard := [other for other in others if other not in pins.compared]:
        _log.warning(
            "%s: fingerprints of %s were not compared; have them read, and pin again",
            agent.name, ", ".join(unheard),
        )  # fmt: skip
    keys = {other: pins.keys[other] for other in others} | {agent.name: identity.key.public}
    agreement = agreement_of(study, plan, agent.workbench.initial_weights.size, keys)
    notes = folder / "memory" / study.digest / "notes.json"
    make_private_folder(notes.parent)
    rounds = MaskedRounds(agent, identity, Pins({n: keys[n] for n in others}), agreement, notes)
    for path in (folder / "memory").glob("*/notes.json"):
        if path != notes:
            known = Notes.read(path)
            known.check(agent.account)
            rounds.notes = rounds.notes.knowing(known)
    return rounds

"""Everything that leaves a simulated run: what its statement covers, and what leaves without protection.

This is the one list of facts that leave without protection. The certificate has it as `unprotected`, the report as a
table, and `docs/released.md` as a page. A test adds one patient to a data set, and holds every byte of the shared
record that changes (`records.folder.SHARED`) to the places named here.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from wardround.config import Study
from wardround.images.entries import Target
from wardround.privacy.plans.kinds import NoisedHead, NoisedPictures, NotPrivate, PublicSize
from wardround.privacy.plans.plan import Plan
from wardround.secure_aggregation.round.witness import WITNESSES
from wardround.types import Persons

_READERS = "readers of this record"
_REFERENCE = "nothing: a reference of a simulation, charged to no ledger"
_SIMULATED = "nothing: known because this machine simulates every hospital"


@dataclass(frozen=True)
class Release:
    """One thing that leaves.

    Attributes:
        what: it is; `{one}` is a patient, or a picture where pictures name nobody.
        to: the parties that see it.
        protected_by: "the statement", or "nothing: " and the reason.
        where: it stands in the shared record: patterns over "file/key/key", as in `fnmatch`.
    """

    what: str
    to: str
    protected_by: str
    where: tuple[str, ...]

    @property
    def is_protected(self) -> bool:
        """True if the statement covers it."""
        return not self.protected_by.startswith("nothing")

    def to_json(self) -> dict[str, str]:
        """Returns the release as a record has it."""
        return {"what": self.what, "to": self.to, "protected_by": self.protected_by}


MODEL = Release(
    "the model of every round, and the final model and its hash",
    "every recipient",
    "the statement",
    (
        "checkpoints/*",
        "model.safetensors",
        "model.json/weights/sha256",
        "model.json/operating_points*",
        "certificate.json/model_sha256",
        "rounds.jsonl/*/clipping_norm",
        "rounds.jsonl/*/sum_norm",
        "rounds.jsonl/*/contributions",
        "rounds.jsonl/*/most_norm",
    ),
)
PICTURES = Release(
    "noised training pictures or features, noised labels, and which belong to one patient",
    "everybody",
    "the statement",
    ("released.safetensors",),
)
COUNT = Release("the number of training {one}s", "the coordinator", "the statement", ())

HEADS = Release(
    "the head of each hospital's ledger",
    "the coordinator and " + _READERS,
    "nothing: it is a hash that nobody can make again without the ledger and its key",
    ("certificate.json/ledgers/*/head",),
)
RECORD = Release(
    "the SHA-256 of every file of this record, the sealed head of the ledger, a public key, and a signature over these",
    _READERS,
    "nothing: a hash follows from its file, and the rest takes a private key to make",
    ("record.json/*",),
)
WITNESS = Release(
    f"{WITNESSES:,} coordinates of noise alone behind every sum, public keys, signatures, how many charges each "
    "ledger has, and its sealed head",
    "the coordinator and every hospital",
    "nothing: none of it depends on a {one}",
    ("rounds.jsonl/*/witness/*", "certificate.json/witness/*"),
)
SIZE = Release(
    "the number of training {one}s as the study file states it",
    "everybody",
    "nothing: the study file makes it public",
    (),
)
TIMES = Release(
    "that a hospital took part in a round, and, to the coordinator alone, when it answered",
    "the coordinator and " + _READERS,
    "nothing: presence and time are not hidden",
    ("rounds.jsonl/*/round", "rounds.jsonl/*/missing*", "rounds.jsonl/*/attempts", "results.json/availability*"),
)
TEST = Release(
    "metrics on the test {one}s, also by group and round by round, and how many of them there are",
    _READERS,
    "nothing: test {one}s stand outside the guarantee and were never trained on",
    (
        "results.json/metrics*",
        "results.json/models*",
        "results.json/operating_points*",
        "results.json/calibration*",
        "results.json/subgroups*",
        "results.json/test/*",
        "results.json/validation*",
        "rounds.jsonl/*/metrics/*",
    ),
)
VALIDATION = (
    "metrics on the validation {one}s, round by round, and on the test {one}s at the end, also by group, and "
    "how many of both there are"
)
HOSPITALS = Release(
    "the table of hospitals as dealt out: their names, {one}s, images and class shares, all of them exact",
    _READERS,
    _SIMULATED,
    ("results.json/hospitals*",),
)
FINDINGS = Release("the counts of findings in the pictures", _READERS, _SIMULATED, ("results.json/findings*",))
KIND = Release(
    "what the pictures are: their classes, channels, and whether they name persons",
    "everybody",
    "nothing: the network is built for it; `[data] classes` states the classes beforehand",
    (
        "results.json/classes*",
        "results.json/target",
        "results.json/parameters",
        "results.json/upload*",
        "model.json/classes*",
        "model.json/target",
        "model.json/network/channels",
        "model.json/recipe/*",
        "certificate.json/unit",
    ),
)
SHORTCUT = Release(
    "the AUROC, and of grades kappa, of six brightness and border numbers alone, fitted to the training pictures",
    _READERS,
    _REFERENCE,
    ("results.json/shortcut_auroc", "results.json/shortcut_kappa"),
)
PLACES = Release(
    "the Dice of the mask that training {one}s have most often at each place",
    _READERS,
    _REFERENCE,
    ("results.json/location_dice",),
)
RESEMBLANCE = Release(
    "how much noised pictures resemble their originals", _READERS, _REFERENCE, ("results.json/resemblance*",)
)
REFERENCES = Release(
    "reference runs and their metrics",
    _READERS,
    "nothing: references of a simulation, charged to no ledger",
    ("references/*",),
)
TOTAL = Release(
    "what all studies together have cost the {one} who spent most, which depends on that one's account",
    "readers of the report",
    "nothing: a figure for the person who simulates; a hospital shows it on its own screen alone",
    ("report.html",),
)
UNPROTECTED = (
    TEST, HOSPITALS, FINDINGS, KIND, SIZE, SHORTCUT, PLACES, REFERENCES, RESEMBLANCE, TOTAL, TIMES, HEADS,
    RECORD, WITNESS,
)  # fmt: skip
"""All facts that may leave a simulated run without protection; one run has those that apply to it."""


def releases_of(
    study: Study, plan: Plan, target: Target, *, leaking: bool, validation: bool, is_lasting: bool
) -> tuple[Release, ...]:
    """Returns each release of a run: its content, its readers, and its protection.

    Args:
        study: of the run.
        plan: of its training.
        target: what is predicted.
        leaking: test patients may have been trained on.
        validation: patients were set aside to choose by.
        is_lasting: the run is charged to a ledger that outlives it.
    """
    found = _found(study, plan, target, leaking=leaking, validation=validation, is_lasting=is_lasting)
    return tuple(_about(one, plan.persons) for one in found)


def unprotected_in(releases: tuple[Release, ...]) -> list[dict[str, str]]:
    """Returns what leaves without protection, as the certificate has it."""
    return [one.to_json() for one in releases if not one.is_protected]


def _found(
    study: Study, plan: Plan, target: Target, *, leaking: bool, validation: bool, is_lasting: bool
) -> Iterator[Release]:
    pictures, no_privacy = isinstance(plan.training, NoisedPictures), isinstance(plan.training, NotPrivate)
    if pictures:
        yield PICTURES
    open_to_all = "nothing: the study asks for no privacy"
    thresholds = ", thresholds and a calibration of its scores" if study.score_rounds else ""
    centre = ", and the noised mean of the patients' features" if study.centre_rounds else ""
    model = replace(MODEL, what=MODEL.what + thresholds + centre)
    yield replace(model, protected_by=open_to_all) if no_privacy else model
    if pictures:
        yield RESEMBLANCE
    if plan.masked is not None:
        yield WITNESS
    if plan.count is not None:
        to = "the coordinator" if plan.masked is None else "the coordinator and every hospital"
        yield replace(COUNT, to=to, protected_by=open_to_all if no_privacy else COUNT.protected_by)
    if isinstance(getattr(plan.training, "size", None), PublicSize) or isinstance(plan.training, NoisedHead):
        yield SIZE
    test = replace(TEST, what=VALIDATION) if validation else TEST
    yield replace(test, protected_by=test.protected_by.partition(" and were")[0]) if leaking else test
    yield HOSPITALS
    yield FINDINGS
    yield KIND
    yield PLACES if target is Target.MASKS else SHORTCUT
    if study.federation.compare:
        yield REFERENCES
    if is_lasting:
        yield TOTAL
    yield TIMES
    yield HEADS
    yield RECORD


def _about(release: Release, persons: Persons) -> Release:
    def said(text: str) -> str:
        return text.format(one=persons.one)

    return replace(release, what=said(release.what), protected_by=said(release.protected_by))

"""`wardround consortium`: coordinator and hospitals come to know each other's keys, and a courier's certificates."""

from pathlib import Path
from typing import Annotated

import typer

from wardround.boundary.text import say, tell
from wardround.cli.keys import AsJson

consortium_app = typer.Typer(
    help="Enrolment: coordinator and hospitals exchange their keys.", no_args_is_help=True
)

CoordinatorHome = Annotated[Path, typer.Option("--home", help="The coordinator's folder.")]
File = Annotated[Path, typer.Argument(metavar="FILE", help="The file that came from the other party.")]
Certificate = Annotated[
    Path, typer.Argument(metavar="CERTIFICATE", help="client.crt of the hospital's kit, in PEM.")
]
Heard = Annotated[
    str | None,
    typer.Option("--fingerprint", help="The other party's fingerprint, as it was read aloud; default: asked for."),
]


@consortium_app.command("init")
def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the consortium.")],
    home: CoordinatorHome = Path("consortium"),
    as_json: AsJson = False,
) -> None:
    """Coordinator: make a folder with a key of its own."""
    from wardround.secure_aggregation.keys.enrolment import begin_consortium

    public = begin_consortium(home, name)
    _show(
        public, as_json, f"The coordinator's key is in {home}. Invite with: wardround consortium invite HOSPITAL."
    )


@consortium_app.command("invite")
def invite(
    name: Annotated[str, typer.Argument(metavar="HOSPITAL", help="The hospital's name, as all will know it.")],
    home: CoordinatorHome = Path("consortium"),
    out: Annotated[
        Path | None, typer.Option("--out", help="The file to write; default: HOSPITAL.invitation.json.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Coordinator: write a hospital's invitation, a file without secrets."""
    from wardround.secure_aggregation.keys.enrolment import invite as invite_to
    from wardround.secure_aggregation.keys.enrolment import write_enrolment

    invitation, path = invite_to(home, name), out or Path(f"{name}.invitation.json")
    write_enrolment(path, invitation)
    _show(invitation.public_key, as_json, f"Send {path} to {name}, and read them this fingerprint by telephone.")


@consortium_app.command("accept")
def accept(
    invitation: File,
    home: Annotated[Path, typer.Option("--home", help="The hospital's folder; made where there is none.")],
    fingerprint: Heard = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The file to write; default: HOSPITAL.answer.json.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Hospital: pin the coordinator's key, make an own key, and write an answer, a file without secrets."""
    from wardround.secure_aggregation.keys.enrolment import (
        Invitation,
        accept_invitation,
        read_enrolment,
        write_enrolment,
    )

    read = read_enrolment(invitation)
    if not isinstance(read, Invitation):
        raise _other_file(invitation, "an invitation, and is an answer; pin it with: wardround consortium pin")
    _check_site(home / "site.toml", read.hospital)
    answer = accept_invitation(home, read, fingerprint or _heard(f"the coordinator of {read.consortium}"))
    path = out or Path(f"{read.hospital}.answer.json")
    write_enrolment(path, answer)
    _show(
        answer.public_key, as_json,
        f"The coordinator of {read.consortium} is pinned. Send {path} to the coordinator, and read them this "
        "fingerprint by telephone.",
    )  # fmt: skip


@consortium_app.command("pin")
def pin(
    answer: File,
    home: CoordinatorHome = Path("consortium"),
    fingerprint: Heard = None,
    as_json: AsJson = False,
) -> None:
    """Coordinator, and every other hospital: pin the key of a hospital's answer, once its fingerprint was heard."""
    from wardround.secure_aggregation.keys.enrolment import EnrolmentAnswer, pin_answer, read_enrolment

    read = read_enrolment(answer)
    if not isinstance(read, EnrolmentAnswer):
        raise _other_file(answer, "an answer, and is an invitation; accept it with: wardround consortium accept")
    pin_answer(home, read, fingerprint or _heard(read.hospital))
    _show(read.public_key, as_json, f"{read.hospital} is pinned in {home}.")


@consortium_app.command("bind")
def bind(
    certificate: Certificate,
    home: Annotated[Path, typer.Option("--home", help="The hospital's folder.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="The file to write; default: HOSPITAL.certificate.json.")
    ] = None,
) -> None:
    """Hospital: sign that the certificate of a courier's kit is its own."""
    from wardround.config.site import read_site
    from wardround.secure_aggregation.keys.certificates import bind_certificate
    from wardround.secure_aggregation.keys.enrolment import IDENTITY
    from wardround.secure_aggregation.keys.identity import Identity, SigningKey

    name = read_site(home / "site.toml").hospital.name
    path = out or Path(f"{name}.certificate.json")
    bind_certificate(Identity(name, SigningKey.read(home / IDENTITY)), certificate, path)
    say(f"{certificate} is signed with the key of {name}. Send {path} to the coordinator.")


@consortium_app.command("bound")
def bound(
    binding: File,
    certificate: Certificate,
    home: CoordinatorHome = Path("consortium"),
) -> None:
    """Coordinator: check that a hospital's pinned key signed the certificate of its kit."""
    from wardround.secure_aggregation.keys.certificates import check_certificate
    from wardround.secure_aggregation.keys.enrolment import HOSPITALS
    from wardround.secure_aggregation.keys.pins import Pins

    name = check_certificate(Pins.read(home / HOSPITALS), certificate, binding)
    say(f"{certificate} is the certificate of {name}, by its pinned key.")


def _check_site(path: Path, invited: str) -> None:
    """Refuses an invitation of another hospital than the one that the folder is of, where it says so already."""
    if not path.exists():
        return
    from wardround.config.site import read_site
    from wardround.errors import FederationError

    name = read_site(path).hospital.name
    if name != invited:
        raise FederationError(
            f"The invitation must name this hospital, {name} by {path}, and names {invited}; ask for another, or "
            "correct site.toml.",
            code="federation-hospital-name",
        )


def _heard(party: str) -> str:
    """Asks a person for a fingerprint."""
    from wardround.errors import FederationError

    try:
        return str(typer.prompt(f"The ten groups that {party} reads aloud", err=True))
    except typer.Abort:
        raise FederationError(
            f"The fingerprint of {party} must be given before the key is pinned, and is not. Have it read aloud, and "
            "give it with --fingerprint.",
            code="federation-no-fingerprint",
        ) from None


def _other_file(path: Path, must: str) -> Exception:
    from wardround.errors import FederationError

    return FederationError(f"{path} must be {must}.", code="federation-enrolment-file")


def _show(public: bytes, as_json: bool, then: str) -> None:
    from wardround.secure_aggregation.keys.identity import spoken_fingerprint

    found = {"public_key": public.hex(), "fingerprint": spoken_fingerprint(public)}
    tell(as_json, found, f"fingerprint: {found['fingerprint']}", then)

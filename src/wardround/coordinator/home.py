"""The coordinator's folder, which `wardround consortium` makes: its key and the hospitals' pins.

    identity.pem    its signing key, mode 0600
    pins.toml       hospitals and their public keys
    exchange        number of the last exchange (`transport.exchanges`)

It has nothing of a patient.
"""

from pathlib import Path

from wardround.errors import StudyError
from wardround.federation.wire.signatures import CoordinatorKeys
from wardround.secure_aggregation.keys.identity import SigningKey
from wardround.secure_aggregation.keys.pins import Pins


def read_home(folder: Path) -> CoordinatorKeys:
    """Returns the keys of a coordinator's folder.

    Raises:
        StudyError: there is no key in it.
        FederationError: key or pins cannot be read.
    """
    path = folder / "identity.pem"
    if not path.exists():
        raise StudyError(
            f"A coordinator needs its own signing key, and {path} is missing. Make it with: wardround consortium init "
            "NAME, or give --home.",
            code="study-no-key",
        )
    pins = folder / "pins.toml"
    return CoordinatorKeys(SigningKey.read(path), Pins.read(pins).keys if pins.exists() else {})

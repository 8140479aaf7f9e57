"""A coordinator and hospitals that sign, each with a key of its own."""

from wardround.federation.wire.signatures import Arrived, CoordinatorKeys, HospitalKeys
from wardround.secure_aggregation.keys.identity import Identity, SigningKey
from wardround.secure_aggregation.keys.secret import system_entropy
from wardround.types import HospitalName

NAMES = tuple(map(HospitalName, ("north", "south", "east")))
COORDINATOR = SigningKey.new(system_entropy)
HOSPITALS = {name: HospitalKeys(Identity(name, SigningKey.new(system_entropy))) for name in NAMES}
KEYS = CoordinatorKeys(COORDINATOR, {name: keys.identity.key.public for name, keys in HOSPITALS.items()})


def body_of(message, name=NAMES[0]):
    """The request in a message whose signature holds."""
    return bytes(HOSPITALS[name].open(Arrived.of(message), [COORDINATOR.public]).body)


def signing(answer, name=NAMES[0]):
    """A hospital that answers signed requests, under its signature."""
    return lambda message: HOSPITALS[name].sign(Arrived.of(message), answer(body_of(message, name)))

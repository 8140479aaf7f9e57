"""Keys of small order are refused in every encoding; the group law, written out here, says which those are."""

import pytest
from tests.errors import raises_code

from wardround.errors import FederationError
from wardround.secure_aggregation.keys.identity import SigningKey
from wardround.secure_aggregation.keys.pins import Pins, has_small_order
from wardround.secure_aggregation.keys.secret import system_entropy

P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P


def plus(one, other):
    """The sum of two points of edwards25519, RFC 8032, section 5.1.4, in affine coordinates."""
    (a, b), (c, d) = one, other
    product = D * a * b * c * d
    return (a * d + b * c) * pow(1 + product, -1, P) % P, (b * d + a * c) * pow(1 - product, -1, P) % P


def point_of(y):
    """A point with that y; None where there is none."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    return (x, y) if x * x % P == square else None


def order_divides_eight(y):
    point = point_of(y)
    if point is None:
        return False
    for _ in range(3):
        point = plus(point, point)
    return point == (0, 1)


def torsion():
    """The y of all points whose order divides 8: multiples of a point without its large prime factor."""
    order = 2**252 + 27742317777372353535851937790883648493
    for start in range(2, 200):
        point = point_of(start)
        if point is None:
            continue
        found, times, double = (0, 1), order, point
        while times:
            if times & 1:
                found = plus(found, double)
            double, times = plus(double, double), times >> 1
        multiples = [(0, 1)]
        while len(multiples) == 1 or multiples[-1] != (0, 1):
            multiples.append(plus(multiples[-1], found))
        if len(multiples) == 9:
            return {y for _, y in multiples}
    raise AssertionError("no generator of the torsion was found")


def encodings(y):
    return [
        (value + sign * 2**255).to_bytes(32, "little") for value in (y, y + P) if value < 2**255 for sign in (0, 1)
    ]


def test_exactly_the_torsion_has_small_order_in_every_encoding():
    found = torsion()
    assert len(found) == 5
    assert all(order_divides_eight(y) for y in found)
    keys = [key for y in found for key in encodings(y)]
    assert len(keys) == 14
    assert all(map(has_small_order, keys))
    assert not any(has_small_order(SigningKey.new(system_entropy).public) for _ in range(20))
    assert not any(has_small_order(y.to_bytes(32, "little")) for y in range(2, 100))


@pytest.mark.parametrize(
    "key", [bytes(32), b"\1" + bytes(31), (P - 1).to_bytes(32, "little")], ids=["4", "1", "2"]
)
def test_a_key_of_small_order_is_not_pinned(tmp_path, key):
    path = tmp_path / "pins.toml"
    path.write_text(f'north = "{key.hex()}"\n')
    for attempt in (lambda: Pins({"north": key}), lambda: Pins().with_pin("north", key), lambda: Pins.read(path)):
        with raises_code(FederationError, "federation-small-order"):
            attempt()


def test_a_pin_says_whether_its_fingerprint_was_compared(tmp_path):
    path = tmp_path / "pins.toml"
    north, south = (SigningKey.new(system_entropy).public for _ in range(2))
    Pins().with_pin("north", north, compared=True).with_pin("south", south).write(path)
    assert Pins.read(path) == Pins({"north": north, "south": south}, frozenset({"north"}))
    assert Pins.read(path).with_pin("north", north).compared == {"north"}, (
        "pinned again without: it stays compared"
    )
    path.write_text(f'north = {{key = "{north.hex()}", compared = 1}}\n')
    with pytest.raises(FederationError, match="hexadecimal"):
        Pins.read(path)

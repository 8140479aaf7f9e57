"""Signing keys and pins: what a file must be, and what a changed key meets."""

import os
import stat

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from tests.secure_aggregation.round.rounds import entropy_of, make_identities

from wardround.errors import FederationError, MachineError
from wardround.secure_aggregation.keys.identity import SigningKey, fingerprint, spoken_fingerprint
from wardround.secure_aggregation.keys.key_files import write_key_file
from wardround.secure_aggregation.keys.pins import Pins, check_fingerprint, verify
from wardround.secure_aggregation.keys.secret import system_entropy


@pytest.fixture
def key():
    return SigningKey.new(entropy_of("key"))


def write(path, content):
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def test_a_key_is_read_as_it_was_written(key, tmp_path):
    key.write(tmp_path / "key.pem")
    assert SigningKey.read(tmp_path / "key.pem").public == key.public
    assert os.listdir(tmp_path) == ["key.pem"]


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_only_its_owner_can_open_a_key_file(key, tmp_path, umask):
    before = os.umask(umask)
    try:
        key.write(tmp_path / "key.pem")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600


def test_a_key_file_is_never_replaced(key, tmp_path):
    path = write(tmp_path / "key.pem", b"the only copy")
    with pytest.raises(FederationError, match="must not exist yet"):
        key.write(path)
    assert path.read_bytes() == b"the only copy"
    assert os.listdir(tmp_path) == ["key.pem"]


def test_a_key_that_cannot_be_written_leaves_nothing(key, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MachineError, match="No space left on device"):
        key.write(tmp_path / "key.pem")
    assert not os.listdir(tmp_path)
    with pytest.raises(MachineError, match="No such file"):
        key.write(tmp_path / "missing" / "key.pem")


@pytest.mark.parametrize("replace", [True, False])
def test_a_file_and_then_its_name_are_on_disk_when_it_is_written(tmp_path, monkeypatch, replace):
    synced = []

    def note(descriptor):
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        synced.append(("folder" if is_folder else "file", sorted(os.listdir(tmp_path))))

    monkeypatch.setattr(os, "fsync", note)
    write_key_file(tmp_path / "notes.json", b"1", replace=replace)
    assert [what for what, _ in synced] == ["file", "folder"]
    assert "notes.json" not in synced[0][1]
    assert synced[1][1] == ["notes.json"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_a_key_file_that_others_may_open_is_refused(key, tmp_path, mode):
    key.write(tmp_path / "key.pem")
    (tmp_path / "key.pem").chmod(mode)
    with pytest.raises(FederationError, match=f"has mode {mode:04o}; run `chmod 600`"):
        SigningKey.read(tmp_path / "key.pem")


def test_a_truncated_key_file_is_refused_at_any_length(key, tmp_path):
    key.write(tmp_path / "key.pem")
    whole = (tmp_path / "key.pem").read_bytes().rstrip()
    for length in range(len(whole)):
        with pytest.raises(FederationError, match="is damaged or something else"):
            SigningKey.read(write(tmp_path / "short.pem", whole[:length]))


def test_a_missing_key_file_is_a_sentence(tmp_path):
    with pytest.raises(FederationError, match=r"must be a key file \(No such file"):
        SigningKey.read(tmp_path / "key.pem")
    with pytest.raises(FederationError, match=r"must be a key file \(Is a directory"):
        SigningKey.read(tmp_path)


@pytest.mark.parametrize(
    "other", [X25519PrivateKey.generate(), generate_private_key(65537, 2048)], ids=["X25519", "RSA"]
)
def test_a_key_of_another_kind_is_refused(tmp_path, other):
    content = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(FederationError, match="must hold an Ed25519 key, and holds another kind"):
        SigningKey.read(write(tmp_path / "key.pem", content))


def test_a_key_under_a_passphrase_is_refused(key, tmp_path):
    content = key._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    with pytest.raises(FederationError, match="without a passphrase"):
        SigningKey.read(write(tmp_path / "key.pem", content))


def test_a_key_is_not_shown(key):
    assert key._key.private_bytes_raw().hex() not in repr(key) + repr(make_identities(1))
    assert "object at" not in repr(key)


def test_a_signature_is_for_one_key_one_purpose_and_one_content(key):
    signature = key.sign("greeting", "hello", 1)
    assert verify(key.public, signature, "greeting", "hello", 1)
    assert not verify(key.public, signature, "parting", "hello", 1)
    assert not verify(key.public, signature, "greeting", "hello", 2)
    assert not verify(SigningKey.new(entropy_of("other")).public, signature, "greeting", "hello", 1)
    assert not verify(key.public, signature[:-1], "greeting", "hello", 1)
    assert not verify(key.public[:-1], signature, "greeting", "hello", 1)


def test_a_fingerprint_is_ten_groups_of_four_digits(key):
    groups = spoken_fingerprint(key.public).split(" ")
    assert [len(group) for group in groups] == [4] * 10
    assert "".join(groups) == fingerprint(key.public).hex()[:40]


def test_pins_are_read_as_they_were_written(tmp_path):
    names = ("St. Anna", 'quote " and \\ back', "Гомель", "病院", "𝔘niklinik")
    pins = Pins({name: SigningKey.new(entropy_of(name)).public for name in names})
    pins.write(tmp_path / "pins.toml")
    assert Pins.read(tmp_path / "pins.toml") == pins
    pins.with_pin("another", bytes([7] * 32)).write(tmp_path / "pins.toml")
    assert set(Pins.read(tmp_path / "pins.toml").keys) == {*names, "another"}
    assert os.listdir(tmp_path) == ["pins.toml"]


def test_a_changed_key_is_refused_and_the_same_again_is_not():
    one, other = (identity.key.public for identity in make_identities(2))
    pins = Pins().with_pin("north", one)
    assert pins.with_pin("north", one) == pins
    with pytest.raises(FederationError, match="north must keep the key that is pinned") as refused:
        pins.with_pin("north", other)
    assert spoken_fingerprint(one) in str(refused.value)
    assert spoken_fingerprint(other) in str(refused.value)


def test_a_key_has_one_name():
    one = make_identities(1)[0].key.public
    with pytest.raises(FederationError, match="pinned as north already"):
        Pins().with_pin("north", one).with_pin("south", one)
    with pytest.raises(FederationError, match="one is pinned twice"):
        Pins({"north": one, "south": one})


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_pin_is_32_bytes(size):
    with pytest.raises(FederationError, match=f"public key of north must be 32 bytes, got {size}"):
        Pins().with_pin("north", bytes(size))


def test_a_name_without_a_pin_is_refused():
    with pytest.raises(FederationError, match="'south' must be pinned here before a round"):
        Pins().public_of("south")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'"north" = "abcd"\n', "public key of north must be 64 hexadecimal digits, got 'abcd'"),
        (b'"north" = "' + b"zz" * 32 + b'"\n', "public key of north must be 64"),
        (b'"north" = "' + b"a " * 32 + b'"\n', "public key of north must be 32 bytes|must be 64"),
        (b'"north" = 7\n', "public key of north must be 64 hexadecimal digits, got 7"),
        (b'"north" = "' + b"ab" * 32, "must be a TOML file of pinned keys"),
        (b'a = "' + b"ab" * 32 + b'"\na = "' + b"cd" * 32 + b'"\n', "must be a TOML file of pinned keys"),
        (b"\xff\xfe", "must be a TOML file of pinned keys"),
        (b'" north" = "' + b"ab" * 32 + b'"\n', "printable characters"),
    ],
)
def test_a_file_of_something_else_is_no_file_of_pins(tmp_path, content, sentence):
    with pytest.raises(FederationError, match=sentence):
        Pins.read(write(tmp_path / "pins.toml", content))


def test_a_missing_file_of_pins_is_a_sentence(tmp_path):
    with pytest.raises(FederationError, match=r"must be a file of pinned keys \(No such file"):
        Pins.read(tmp_path / "pins.toml")


def test_what_was_read_aloud_is_compared_without_spaces_and_capitals():
    public = bytes(32)
    check_fingerprint(public, spoken_fingerprint(public).upper().replace(" ", "  "), "north")
    for wrong in ("", "0" * 40, spoken_fingerprint(public)[:-1]):
        with pytest.raises(FederationError, match="must have the fingerprint that was read aloud"):
            check_fingerprint(public, wrong, "north")


def test_the_operating_system_gives_another_key_each_time():
    assert len({SigningKey.new(system_entropy).public for _ in range(3)}) == 3

"""Published vectors through our own calls, and one of ours that holds the format still."""

import hashlib

import numpy as np
import pytest
from tests.secure_aggregation.round.rounds import make_identities, make_round, make_terms

from wardround.secure_aggregation.integers.ring import Ring
from wardround.secure_aggregation.keys.identity import Identity, SigningKey, spoken_fingerprint
from wardround.secure_aggregation.round.confirmation import confirm
from wardround.secure_aggregation.round.masks import hkdf_sha256
from wardround.secure_aggregation.round.round_key import RoundKey, shared_secret
from wardround.secure_aggregation.round.transcript import NO_ENTRY, LedgerMark


def test_a_round_key_is_the_x25519_of_rfc_7748_section_6_1():
    secrets = (
        bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"),
        bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"),
    )
    alice, bob = (
        RoundKey(identity, make_terms(), LedgerMark(0, NO_ENTRY), {32: secret}.__getitem__)
        for identity, secret in zip(make_identities(2), secrets, strict=True)
    )
    public = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    assert alice.announcement.member.round_key.hex() == public
    shared = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    assert shared_secret(alice._secret.take(), bob.announcement.member).hex() == shared
    assert shared_secret(bob._secret.take(), alice.announcement.member).hex() == shared


@pytest.mark.parametrize(
    ("secret", "salt", "info", "derived"),
    [
        (
            b"\x0b" * 22,
            bytes(range(0x0D)),
            bytes(range(0xF0, 0xFA)),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            bytes(range(0x50)),
            bytes(range(0x60, 0xB0)),
            bytes(range(0xB0, 0x100)),
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
            "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
        ),
        (
            b"\x0b" * 22,
            b"",
            b"",
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ],
    ids=["A.1", "A.2", "A.3"],
)
def test_keys_are_derived_by_the_hkdf_of_rfc_5869(secret, salt, info, derived):
    assert hkdf_sha256(secret, salt, info, len(derived) // 2).hex() == derived


def test_an_identity_is_the_ed25519_of_rfc_8032_section_7_1():
    secret = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    key = SigningKey.new(lambda num_bytes: secret)
    assert key.public.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert Identity("Alice", key).key is key


FROZEN = {
    31: (
        "e355749f776478921d75333e23718fe3cf00e8bb07519fd151538a050b34f377",
        "1289f5abf8452d5db03eeb346065896cc6e0b12cedd04144b2759c4f773f7559",
        "dd76c8f24a31fee902b33fd3d3f99a2e7f1a87792b7976fb7a0901987b1947cd",
    ),
    32: (
        "56bda8e4f51f0e364a2ad1cbe7f547bb3a55a5c22d927b593d736b8a18a93440",
        "36997f9efe8df4f37e886bf3a45f0e639ccaeeec9d8c1dd6c30916fd3d00e34b",
        "9533a5e346669c23a9282f39bec3103105d27e86e502c82f7761ce523cf5490e",
    ),
    40: (
        "8265326d79152310b893c797d522b08b73429cb8e2f89a6f397860ea1edb0990",
        "ed5af224d708fee28eb0de4cb6d70a43d0fff4807e986876ce02e7b34e346574",
        "c3d690e4a8928e2ed2b4bb1a2fc8b680a4951315cb262f8bbcc578777054bf61",
    ),
    64: (
        "94ec035c1d2acf2602f15aa2752a3722c427e0fb03e3cec9e5e1ba19a482589d",
        "5e2c982c3bf58c6972ede335519f72c60867e2ab2ac5351ccb9fda166ea83833",
        "89f7fe68cc11e162ebb6d67fafa058bc758072548c483db313599922c96c7947",
    ),
}
"""Hash of the transcript, and SHA-256 of all uploads, and of the signatures of all that was said before."""


@pytest.mark.parametrize("bits", list(FROZEN))
def test_our_own_round_has_not_changed_its_format(bits):
    """Whoever changes this changes what hospitals send: raise the version in the labels, then freeze it anew."""
    ring = Ring(bits)
    round = make_round(3, length=5, ring=ring)
    vectors = [np.arange(5 * n, 5 * n + 5).astype(ring.dtype) for n in range(3)]
    uploads = [round.upload(n, vector) for n, vector in enumerate(vectors)]
    sent = hashlib.sha256(b"".join(upload.to_bytes() for upload in uploads)).hexdigest()
    said = [said.signature for said in round.announcements]
    said += [confirm(round.transcript, identity).signature for identity in round.identities]
    assert (round.transcript.digest.hex(), sent, hashlib.sha256(b"".join(said)).hexdigest()) == FROZEN[bits]


def test_the_fingerprint_that_people_read_aloud_has_not_changed():
    assert spoken_fingerprint(bytes(range(32))) == "364b dbb1 9700 d661 6cef bf1a bc43 9d5b bb2a b801"

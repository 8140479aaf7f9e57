"""The public key that all hospitals of an attempt make together, one after the other, each signing its link.

A link holds the public key of all secrets so far, and the hash of the link before it. Whoever relays them can change
none, for each is signed by the hospital of its place; what a hospital that does not follow the steps can do is said in
`wardround.reproduce.encrypted_sum.threshold`.
"""

from collections.abc import Sequence

from wardround.errors import FederationError
from wardround.reproduce.encrypted_sum.bfv import MOST_CIPHERTEXT_BYTES
from wardround.reproduce.encrypted_sum.signed_parts import Kind, SignedParts
from wardround.secure_aggregation.canonical import digest
from wardround.secure_aggregation.integers.ring import WIDEST
from wardround.secure_aggregation.round.transcript import Transcript

FIRST = bytes(32)
"""What the first link follows."""


class JointKey:
    """The public key that a whole chain of hospitals has made, as it was relayed.

    Args:
        transcript: of the attempt.
        links: `ThresholdAddend.key` of the hospitals, in the transcript's order.

    Raises:
        FederationError: a link is missing, out of its place, not signed, or made from another one before it.
    """

    def __init__(self, transcript: Transcript, links: Sequence[bytes]) -> None:
        check_ring(transcript)
        self.links = checked_links(transcript, links)
        if len(self.links) != len(transcript.members):
            missing = ", ".join(member.hospital for member in transcript.members[len(self.links) :])
            raise FederationError(
                f"Every hospital of an attempt must add its secret to the joint key, and {missing} did not; nothing is "
                "sent. Wait for it, or begin a new attempt."
            )
        self.public = self.links[-1].parts[0]
        self.digest = digest("wardround/v1/joint-key", [link.digest for link in self.links])


def checked_links(transcript: Transcript, contents: Sequence[bytes]) -> list[SignedParts]:
    """The first links of a chain, each signed by the hospital of its place and made from the one before.

    Raises:
        FederationError: one of them is not, or there are more than hospitals.
    """
    if len(contents) > len(transcript.members):
        raise FederationError(
            f"A joint key must have one link of each of {len(transcript.members)} hospitals, got {len(contents)}; "
            "nothing is sent. Relay each once."
        )
    links: list[SignedParts] = []
    for content, member in zip(contents, transcript.members, strict=False):
        link = SignedParts.from_bytes(content, Kind.KEY, 1, MOST_CIPHERTEXT_BYTES)
        link.check(transcript, links[-1].digest if links else FIRST)
        if link.hospital != member.hospital:
            raise FederationError(
                f"The key at this place must be that of {member.hospital}, and is that of {link.hospital}; nothing is "
                "sent. Relay the keys in the transcript's order."
            )
        links.append(link)
    return links


def check_ring(transcript: Transcript) -> None:
    """Refuses every ring but 2^64: of numbers modulo 2^b, the sum modulo p would also show which had wrapped around.

    Numbers of the ring 2^64 are the whole numbers themselves, and reducing those modulo p keeps sums.
    """
    if transcript.terms.ring != WIDEST:
        raise FederationError(
            f"A threshold sum must be of whole numbers in the ring 2^64, got 2^{transcript.terms.ring.bits}; take that "
            "ring, or masks."
        )


def unreadable(message: SignedParts) -> FederationError:
    """What to raise where OpenFHE cannot read a message that was signed."""
    return FederationError(
        f"The {message.kind.name.lower()} of {message.hospital} must be readable by this version of OpenFHE and under "
        "this round's parameters, and is not; nothing is added. Compare versions, then begin a new attempt."
    )

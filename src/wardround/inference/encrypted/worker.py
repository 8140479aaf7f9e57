"""One encrypted request in a process of its own, under limits of memory and time: its bytes come from outside.

Standard input and output are frames: weights, biases, the public key and ciphertexts; the answers. A library that falls
over foreign bytes ends this process and nothing else. It imports no torch, so that it starts in a moment.
"""

import resource
import subprocess
import sys
from collections.abc import Sequence

import numpy as np

from wardround.errors import DataError
from wardround.inference.encrypted.frames import framed, no_ciphertext, unframed
from wardround.inference.encrypted.scheme import Head, Rows

MOST_ROWS = 64
"""Rows of one request."""

_MOST_MEMORY = 4 << 30
_SECONDS = 60
_REFUSED = 2


def answered(weights: Rows, biases: Rows, public: bytes, rows: Sequence[bytes]) -> list[bytes]:
    """Returns the answers of `Head.answers`, computed in a process of its own.

    Raises:
        DataError: the key or a row is none of the scheme's (code `data-ciphertext`).
    """
    given = framed([weights.tobytes(), biases.tobytes(), public, *rows])
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__], input=given, capture_output=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        done = None
    if done is None or done.returncode:
        raise no_ciphertext("they cannot be computed with")
    return unframed(done.stdout, len(biases) * MOST_ROWS)


def main() -> int:
    """Answers one request; 2 for one that is refused."""
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    weights, biases, public, *rows = unframed(sys.stdin.buffer.read(), 3 + MOST_ROWS)
    offsets = np.frombuffer(biases)
    try:
        head = Head(np.frombuffer(weights).reshape(len(offsets), -1), offsets)
        sys.stdout.buffer.write(framed(head.answers(public, rows)))
    except (DataError, MemoryError):
        return _REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())

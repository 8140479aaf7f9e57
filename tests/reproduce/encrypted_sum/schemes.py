"""Schemes that the steps of a threshold sum are tested with."""

from itertools import count

import numpy as np
import pytest

from wardround.errors import FederationError
from wardround.reproduce.encrypted_sum.bfv import SLOTS, Bfv, num_blocks

_WORD = 8
_SEEDS = count()


class InTheClear:
    """The interface of `Bfv` with nothing encrypted: the steps around it need no OpenFHE.

    A public key is the sum of the secrets, and a sum opens if the partial decryptions are those of these secrets.
    """

    def __init__(self, parties):
        self.parties, self._random = parties, np.random.default_rng(next(_SEEDS))

    def new_part(self, before):
        secret = int(self._random.integers(1, 2**40))
        return _word(secret + (0 if before is None else _number(before, _WORD))), secret

    def encrypt(self, public, values):
        _number(public, _WORD)
        padded = np.zeros(num_blocks(values.size) * SLOTS, np.int64)
        padded[: values.size] = values
        return [public + block.tobytes() for block in np.split(padded, num_blocks(values.size))]

    def added(self, total, ciphertexts):
        read = [(_number(one, _WORD * (SLOTS + 1)), np.frombuffer(one[_WORD:], np.int64)) for one in ciphertexts]
        return [(key, one + other) for (key, one), (_, other) in zip(total, read, strict=True)] if total else read

    def partial(self, total, secret, leads):
        return [_word(secret) + (_word(key) + numbers.tobytes() if leads else b"") for key, numbers in total]

    def fuse(self, partials):
        blocks = []
        for lead, *others in zip(*partials, strict=True):
            secrets = _number(lead, _WORD * (SLOTS + 2)) + sum(_number(other, _WORD) for other in others)
            is_whole = secrets == _number(lead[_WORD:], _WORD * (SLOTS + 1))
            blocks.append(np.frombuffer(lead[2 * _WORD :], np.int64) + (0 if is_whole else 12345))
        return np.concatenate(blocks)


def _word(number):
    return number.to_bytes(_WORD, "big")


def _number(content, num_bytes):
    if len(content) != num_bytes:
        raise FederationError("What a hospital sent must be readable, and is not.")
    return int.from_bytes(content[:_WORD], "big")


def with_openfhe():
    pytest.importorskip("openfhe", reason="OpenFHE has no wheel for this Python")
    return Bfv

"""One client of each peer that `benchmarks.secure_sum` asks for.

    python -m benchmarks.secure_sum_peers flower|tenseal|shared_key|openfhe|opendp LENGTH HOSPITALS

Runs in whatever Python has the peer; needs NumPy, and nothing of Wardround but two files of `reproduce.encrypted_sum`:
`shared_key`, the published sum of Dopamine by TenSEAL's BFV, and for OpenFHE the arithmetic of threshold sums, `bfv`,
which the Python 3.10 of OpenFHE's wheel reads too. Prints one line of JSON.
Flower: the functions of its own client mod and, for the sum, those that its workflow calls, with its defaults; before
anything is timed, ten small clients must give the mean. TenSEAL: polynomials of degree 8192, moduli of 60, 40 and 60
bits, one thread; above `WHOLE` parameters a piece is measured and multiplied by the number of ciphertexts. So for
OpenFHE, with hashes and without signatures; a hospital's seconds have the sum that every hospital forms for itself.
OpenDP: the discrete Gaussian of parameter 2^20 on `SAMPLES` coordinates, multiplied. None but OpenDP adds noise here.
"""

import hashlib
import json
import math
import sys
import time
from collections.abc import Callable
from importlib import import_module, metadata
from typing import Any, ParamSpec, TypeVar

import numpy as np

_P = ParamSpec("_P")
_T = TypeVar("_T")
WHOLE = 725_061
SAMPLES = 20_000
SHARE_STD = float(1 << 20)
SLOTS = 4096
FLOWER = {"clipping_range": 8.0, "target_range": 1 << 22, "mod_range": 1 << 32, "max_weight": 1000.0}
EXAMPLES = 100


def timed(work: Callable[_P, _T], *arguments: _P.args, **named: _P.kwargs) -> tuple[_T, float]:
    started = time.perf_counter()
    return work(*arguments, **named), time.perf_counter() - started


def vectors(length: int, count: int) -> list[Any]:
    """Updates in single precision."""
    source = np.random.default_rng(0)
    return [1e-2 * source.standard_normal(length, dtype=np.float32) for _ in range(count)]


def flower(length: int, hospitals: int) -> dict[str, Any]:
    """The first client's key exchange and masked vector, and the server's sum of ten of that size."""
    _flower_check(hospitals)
    (update,) = vectors(length, 1)
    states, keys_seconds, ciphertexts = _flower_keys(hospitals)
    sent, seconds = timed(_flower_upload, states[0], ciphertexts, update)
    quantize = import_module("flwr.common.secure_aggregation.quantization").quantize
    _, quantise_seconds = timed(quantize, [update], FLOWER["clipping_range"], FLOWER["target_range"])
    _, sum_seconds = timed(_flower_sum, [sent] * hospitals, states)
    return {
        "hospital_seconds": keys_seconds + seconds,
        "keys_seconds": keys_seconds,
        "quantise_seconds": quantise_seconds,
        "mask_and_serialise_seconds": seconds - quantise_seconds,
        "sum_seconds": sum_seconds,
        "upload_bytes": sum(map(len, sent)),
        "version": metadata.version("flwr"),
    }


def _flower_keys(hospitals: int) -> tuple[list[Any], float, dict[int, tuple[list[int], list[bytes]]]]:
    """Everybody's state after the exchange, the first client's seconds, and what each receives."""
    mod = import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")
    key = mod.Key
    asked = {
        key.SAMPLE_NUMBER: hospitals, key.SHARE_NUMBER: hospitals, key.THRESHOLD: 2 * hospitals // 3 + 1,
        key.CLIPPING_RANGE: FLOWER["clipping_range"], key.TARGET_RANGE: FLOWER["target_range"],
        key.MOD_RANGE: FLOWER["mod_range"], key.MAX_WEIGHT: FLOWER["max_weight"],
    }  # fmt: skip
    states = [mod.SecAggPlusState() for _ in range(hospitals)]
    public: dict[str, list[bytes]] = {}
    seconds = 0.0
    for number, state in enumerate(states):
        state.nid = number
        answer, taken = timed(mod._setup, state, asked)
        public[str(number)] = [answer[key.PUBLIC_KEY_1], answer[key.PUBLIC_KEY_2]]
        seconds += taken * (number == 0)
    received: dict[int, tuple[list[int], list[bytes]]] = {number: ([], []) for number in range(hospitals)}
    for number, state in enumerate(states):
        answer, taken = timed(mod._share_keys, state, dict(public))
        seconds += taken * (number == 0)
        for to, content in zip(answer[key.DESTINATION_LIST], answer[key.CIPHERTEXT_LIST], strict=True):
            received[to][0].append(number)
            received[to][1].append(content)
    return states, seconds, received


def _flower_upload(state: Any, received: dict[int, tuple[list[int], list[bytes]]], update: Any) -> list[bytes]:
    mod = import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")
    parameters = import_module("flwr.common").ndarrays_to_parameters([update])
    sources, contents = received[state.nid]
    told = {mod.Key.CIPHERTEXT_LIST: contents, mod.Key.SOURCE_LIST: sources}
    sent: list[bytes] = mod._collect_masked_vectors(state, told, EXAMPLES, parameters)[mod.Key.MASKED_PARAMETERS]
    return sent


def _flower_sum(sent: list[list[bytes]], states: list[Any]) -> Any:
    """The weighted mean, when nobody dropped out; seeds are taken from the clients, so shares are not put together."""
    common, arithmetic = import_module("flwr.common"), "flwr.common.secure_aggregation."
    act = import_module(arithmetic + "ndarrays_arithmetic")
    random = import_module(arithmetic + "secaggplus_utils").pseudo_rand_gen
    dequantize = import_module(arithmetic + "quantization").dequantize
    total: Any = None
    for content in sent:
        arrays = [common.bytes_to_ndarray(one) for one in content]
        total = arrays if total is None else act.parameters_addition(total, arrays)
    total = act.parameters_mod(total, FLOWER["mod_range"])
    shapes = act.get_parameters_shape(total)
    for state in states:
        total = act.parameters_subtraction(total, random(state.rd_seed, FLOWER["mod_range"], shapes))
    weight, total = act.factor_extract(act.parameters_mod(total, FLOWER["mod_range"]))
    (mean,) = dequantize(total, FLOWER["clipping_range"], FLOWER["target_range"])
    return (mean - (len(sent) - 1) * FLOWER["clipping_range"]) * (FLOWER["target_range"] / weight)


def _flower_check(hospitals: int) -> None:
    """Ten small clients give the mean of their vectors, or nothing is timed."""
    updates = vectors(1000, hospitals)
    states, _, received = _flower_keys(hospitals)
    sent = [_flower_upload(state, received, update) for state, update in zip(states, updates, strict=True)]
    error = np.abs(_flower_sum(sent, states) - np.mean(updates, axis=0)).max()
    if not error < 1e-3:
        raise SystemExit(f"Flower's sum is off by {error:g}; the benchmark uses it wrongly")


def tenseal(length: int, hospitals: int) -> dict[str, Any]:
    """Encrypting and serialising one vector; reading and adding all of them; decrypting the sum."""
    ts = import_module("tenseal")
    measured = min(length, WHOLE)
    factor = math.ceil(length / SLOTS) / math.ceil(measured / SLOTS)
    context = ts.context(ts.SCHEME_TYPE.CKKS, 2 * SLOTS, coeff_mod_bit_sizes=[60, 40, 60], n_threads=1)
    context.global_scale = 2**40
    update = vectors(measured, 1)[0].astype(np.float64)
    content, hospital_seconds = timed(lambda: ts.ckks_vector(context, update).serialize())

    def added() -> Any:
        total = ts.ckks_vector_from(context, content)
        for _ in range(hospitals - 1):
            total += ts.ckks_vector_from(context, content)
        return total

    total, sum_seconds = timed(added)
    opened, open_seconds = timed(total.decrypt)
    error = np.abs(np.asarray(opened) - hospitals * update).max()
    if not error < 1e-4:
        raise SystemExit(f"TenSEAL's sum is off by {error:g}; the benchmark uses it wrongly")
    return {
        "hospital_seconds": factor * hospital_seconds,
        "sum_seconds": factor * sum_seconds,
        "open_seconds": factor * open_seconds,
        "upload_bytes": round(factor * len(content)),
        "measured_parameters": measured,
        "version": metadata.version("tenseal"),
    }


def shared_key(length: int, hospitals: int) -> dict[str, Any]:
    """The published sum: encrypting one vector and decrypting the sum, at a hospital; adding all of them."""
    scheme = import_module("wardround.reproduce.encrypted_sum.shared_key")
    measured = min(length, WHOLE)
    factor = math.ceil(length / scheme.SLOTS) / math.ceil(measured / scheme.SLOTS)
    key = scheme.SharedKey.new()
    values = np.random.default_rng(0).integers(-200, 201, measured)
    sent, encrypt_seconds = timed(scheme.encrypted, key.server, values)
    total, sum_seconds = timed(scheme.added, key.server, [sent] * hospitals)
    opened, open_seconds = timed(scheme.opened, key.hospitals, total)
    if not np.array_equal(opened, hospitals * values):
        raise SystemExit("TenSEAL's sum is not exact; the benchmark uses it wrongly")
    return {
        "hospital_seconds": factor * (encrypt_seconds + open_seconds),
        "sum_seconds": factor * sum_seconds,
        "open_seconds": factor * open_seconds,
        "upload_bytes": round(factor * sum(map(len, sent))),
        "measured_parameters": measured,
        "version": metadata.version("tenseal"),
    }


def openfhe(length: int, hospitals: int) -> dict[str, Any]:
    """One hospital's link, encryption, sum of all and partial decryption; fusion. Every upload is the same one."""
    bfv = import_module("wardround.reproduce.encrypted_sum.bfv")
    measured = min(length, WHOLE)
    blocks = math.ceil(length / bfv.SLOTS)
    factor = blocks / math.ceil(measured / bfv.SLOTS)
    scheme, secrets, public, links = bfv.Bfv(hospitals), [], None, []
    for _ in range(hospitals):
        (public, secret), seconds = timed(scheme.new_part, public)
        secrets.append(secret)
        links.append(seconds)
    values = np.random.default_rng(0).integers(-(1 << 24), 1 << 24, measured)

    def hashed(parts: list[bytes]) -> list[bytes]:
        content = hashlib.sha256()
        for part in parts:
            content.update(part)
        return parts

    sent, encrypt_seconds = timed(lambda: hashed(scheme.encrypt(public, values)))

    def added() -> list[Any]:
        total: list[Any] = []
        for _ in range(hospitals):
            total = scheme.added(total, hashed(sent))
        return total

    total, add_seconds = timed(added)
    lead, partial_seconds = timed(lambda: hashed(scheme.partial(total, secrets[0], True)))
    partials = [lead, *(scheme.partial(total, secret, False) for secret in secrets[1:])]
    opened, fuse_seconds = timed(lambda: scheme.fuse([hashed(part) for part in partials]))
    if not np.array_equal(opened[:measured], hospitals * values):
        raise SystemExit("OpenFHE's sum is not exact; the benchmark uses it wrongly")
    up, opening = sum(map(len, sent)), sum(map(len, lead))
    return {
        "hospital_seconds": links[-1] + factor * (encrypt_seconds + add_seconds + partial_seconds),
        "sum_seconds": factor * (add_seconds + fuse_seconds),
        "keys_seconds": links[-1],
        "encrypt_seconds": factor * encrypt_seconds,
        "add_seconds": factor * add_seconds,
        "partial_seconds": factor * partial_seconds,
        "fuse_seconds": factor * fuse_seconds,
        "upload_bytes": round(factor * (up + opening)),
        "ciphertext_bytes": round(factor * up),
        "partial_bytes": round(factor * opening),
        "download_bytes": round(factor * up) * hospitals,
        "ciphertexts": blocks,
        "measured_parameters": measured,
        "version": _version("openfhe"),
    }


def _version(package: str) -> str:
    """Of the installed package; what was built from source without one says so."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "from source"


def opendp(length: int, hospitals: int) -> dict[str, Any]:
    """The share of noise of one hospital, by the vector sampler."""
    del hospitals
    dp = import_module("opendp.prelude")
    dp.enable_features("contrib")
    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T=float)
    sampler = dp.m.make_gaussian(*space, scale=SHARE_STD)
    zeros = [0] * SAMPLES
    _, seconds = timed(sampler, zeros)
    return {
        "noise_seconds": seconds / SAMPLES * length,
        "microseconds_a_sample": 1e6 * seconds / SAMPLES,
        "measured_parameters": SAMPLES,
        "version": metadata.version("opendp"),
    }


PEERS = {"flower": flower, "tenseal": tenseal, "shared_key": shared_key, "openfhe": openfhe, "opendp": opendp}

if __name__ == "__main__":
    name, asked_length, asked_hospitals = sys.argv[1:4]
    print(json.dumps(PEERS[name](int(asked_length), int(asked_hospitals))))
